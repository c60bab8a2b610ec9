"""Loops: the end of a track runs into its start."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contracts import Quality
from shared.spectrogram_params import SpectrogramParams
from tests.unit.workers.test_phase import MONO, SMALL, drawn, noise_picture, tones
from tests.unit.workers.test_phase import one_thread as one_thread
from workers.phase import LOOK_AHEAD_COLUMNS, StreamState, loop_overlap_columns, waveform_from_mel_amplitudes
from workers.spectrogram import Array, mel_amplitudes_from_waveform

SHORTEST = 2 * loop_overlap_columns(SMALL)


def loop(mel: Array, params: SpectrogramParams, edges: tuple[int, ...] = (), quality: Quality = "standard") -> Array:
    """The loop's waveform, made in chunks that begin at these columns, its first samples put in their place."""
    columns = mel.shape[-1]
    around = np.concatenate([mel, mel[..., :LOOK_AHEAD_COLUMNS]], axis=-1)
    state, waveforms = None, []
    for start, stop in itertools.pairwise([0, *edges, columns]):
        waveform, state = waveform_from_mel_amplitudes(
            around[..., start : stop + LOOK_AHEAD_COLUMNS],
            params,
            quality=quality,
            state=StreamState.from_bytes(state.to_bytes()) if state else None,
            is_last=stop == columns,
            is_loop=True,
        )
        waveforms.append(waveform)
    assert state is None
    whole = np.concatenate(waveforms, axis=-1)
    overlap = loop_overlap_columns(params) * params.hop_length
    assert whole.shape[-1] == columns * params.hop_length + overlap
    return np.concatenate([whole[:, -overlap:], whole[:, overlap:-overlap]], axis=-1)


def looping_picture(columns: int) -> Array:
    """Mel amplitudes of steady tones with a beat every 32 columns, the same before the first as after the last."""
    # Whole cycles between beats: all beats look alike.
    samples = np.arange(3 * columns * MONO.hop_length)
    beat_s = samples % (32 * MONO.hop_length) / MONO.sample_rate_hz
    sound = tones([218.75, 275, 331.25, 1_100], len(samples) / MONO.sample_rate_hz) * (0.3 + np.exp(-6 * beat_s))
    return np.ascontiguousarray(drawn(sound.astype(np.float32))[..., columns : 2 * columns])


def errors_by_column(turns: Array, mel: Array) -> Array:
    """Error of logarithmic mel amplitudes in each column of three turns of a loop, (column,)."""
    found = mel_amplitudes_from_waveform(turns, MONO)
    wanted = np.tile(mel, (1, 1, 3))
    floor = 1e-4 * mel.max()
    errors: Array = np.abs(np.log(found + floor) - np.log(wanted + floor)).mean(axis=(0, 1))
    return errors


@settings(max_examples=15, deadline=None)
@given(columns=st.integers(SHORTEST, 400), cut=st.integers(1, 2), quality=st.sampled_from(["fast", "griffin_lim"]))
def test_a_loop_keeps_its_length(columns: int, cut: int, quality: Quality) -> None:
    """As many samples as columns and hops make, and those of the overlap, whatever the length and the cut."""
    edges = (128 * cut,) if columns >= 128 * cut + SHORTEST // 2 else ()
    waveform = loop(noise_picture(columns, SMALL), SMALL, edges, quality)
    assert waveform.shape == (1, columns * SMALL.hop_length)
    assert np.isfinite(waveform).all()


@pytest.mark.parametrize("columns", [64, 128, 512])
def test_the_end_runs_into_the_start(columns: int) -> None:
    """The wrap is no worse than the same place in a track that goes on and on, and its level holds."""
    mel = looping_picture(columns)
    wrap = slice(columns - 5, columns + 5)
    turns = np.tile(loop(mel, MONO), (1, 3))
    endless, _ = waveform_from_mel_amplitudes(np.tile(mel, (1, 1, 3)), MONO)
    assert errors_by_column(turns, mel)[wrap].mean() <= 1.2 * errors_by_column(endless, mel)[wrap].mean()
    found = mel_amplitudes_from_waveform(turns, MONO)[..., wrap]
    wanted = np.tile(mel, (1, 1, 3))[..., wrap]
    assert abs(20 * np.log10(np.linalg.norm(found) / np.linalg.norm(wanted))) < 0.5


def test_samples_go_on_at_both_ends_of_the_overlap() -> None:
    """No step at the wrap, nor where the old samples take over from the new ones."""
    waveform = loop(looping_picture(256), MONO)[0]
    steps = np.abs(np.diff(np.append(waveform, waveform[0])))
    overlap = loop_overlap_columns(MONO) * MONO.hop_length
    assert steps[-1] <= np.quantile(steps, 0.99)
    assert steps[overlap - 1] <= np.quantile(steps, 0.99)
    # A change of slope would be heard too.
    bends = np.abs(np.diff(steps))
    assert bends[overlap - 2 : overlap + 1].max() <= np.quantile(bends, 0.999)


def test_a_loop_is_the_same_however_it_is_cut() -> None:
    """In chunks of whole blocks, bit for bit."""
    mel = looping_picture(400)
    assert (loop(mel, MONO, (128,)) == loop(mel, MONO)).all()
    assert (loop(mel, MONO, (128, 256)) == loop(mel, MONO)).all()


def test_a_loop_that_cannot_close_is_refused() -> None:
    """Too short, or with a last chunk whose first ones knew of no loop."""
    mel = noise_picture(SHORTEST + LOOK_AHEAD_COLUMNS, SMALL)
    with pytest.raises(ValueError, match=f"needs {SHORTEST} columns"):
        waveform_from_mel_amplitudes(mel[..., 1:], SMALL, is_loop=True)
    _, state = waveform_from_mel_amplitudes(mel, SMALL, is_last=False)
    with pytest.raises(ValueError, match="made for a loop"):
        waveform_from_mel_amplitudes(mel, SMALL, state=state, is_loop=True)
