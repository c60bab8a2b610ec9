"""The waveform of mel amplitudes: exact lengths, one stream however it is cut, and the sound that was drawn."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.spectrogram_params import SpectrogramParams
from workers.phase import BLOCK_COLUMNS, LOOK_AHEAD_COLUMNS, StreamState, waveform_from_mel_amplitudes
from workers.phase_gradient import first_phase, gradient_for
from workers.spectrogram import (
    Array,
    image_from_mel_amplitudes,
    mel_amplitudes_from_image,
    mel_amplitudes_from_waveform,
)

MONO = SpectrogramParams()
SMALL = SpectrogramParams(
    sample_rate_hz=8_000, hop_length=80, win_length=400, n_fft=1_600, mel_bins=32, f_max_hz=3_000.0
)
ODD = SpectrogramParams(
    sample_rate_hz=22_050, hop_length=225, win_length=1_501, n_fft=4_096, mel_bins=64, f_min_hz=20.0, f_max_hz=11_025.0
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More threads than cores, in tests side by side, take ten times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tones(frequencies_hz: list[float], seconds: float, params: SpectrogramParams = MONO) -> Array:
    """Sines of one level, (1, sample)."""
    time_s = np.arange(round(seconds * params.sample_rate_hz)) / params.sample_rate_hz
    return sum(0.2 * np.sin(2 * np.pi * hz * time_s) for hz in frequencies_hz)[None].astype(np.float32)


def drums(seconds: float, params: SpectrogramParams = MONO) -> Array:
    """A falling thump or a burst of filtered noise every quarter second, (1, sample)."""
    rng = np.random.default_rng(11)
    time_s = np.arange(round(seconds * params.sample_rate_hz)) / params.sample_rate_hz
    beat_s = time_s % 0.25
    thump = np.sin(2 * np.pi * (60 * beat_s + 4 * (1 - np.exp(-beat_s * 30)))) * np.exp(-beat_s * 12)
    low = scipy.signal.butter(4, 0.4, output="sos")
    burst = scipy.signal.sosfilt(low, rng.standard_normal(len(time_s))) * np.exp(-beat_s * 25)
    return np.where(time_s % 0.5 < 0.25, thump, 0.5 * burst)[None].astype(np.float32)


def drawn(waveform: Array, params: SpectrogramParams = MONO) -> Array:
    """The mel amplitudes of a waveform after it was a picture of 8 bits."""
    mel = mel_amplitudes_from_waveform(waveform, params)
    return mel_amplitudes_from_image(image_from_mel_amplitudes(mel, params), params, float(mel.max()))


def noise_picture(columns: int, params: SpectrogramParams, channels: int = 1) -> Array:
    """Mel amplitudes that no waveform has."""
    return np.random.default_rng(columns).random((channels, params.mel_bins, columns), dtype=np.float32)


def in_chunks(mel: Array, params: SpectrogramParams, edges: list[int]) -> Array:
    """The whole track's waveform, made in chunks that begin at these columns; the state travels as bytes."""
    columns = mel.shape[-1]
    state, waveforms = None, []
    for start, stop in itertools.pairwise([0, *edges, columns]):
        is_last = stop == columns
        seen = mel[..., start : stop + (0 if is_last else LOOK_AHEAD_COLUMNS)]
        waveform, state = waveform_from_mel_amplitudes(seen, params, state=state, is_last=is_last)
        assert waveform.shape[-1] == (stop - start) * params.hop_length
        waveforms.append(waveform)
        state = StreamState.from_bytes(state.to_bytes()) if state else None
    return np.concatenate(waveforms, axis=-1)


def convergence_db(waveform: Array, mel: Array, params: SpectrogramParams = MONO) -> float:
    """How far the waveform's mel amplitudes are from the wanted ones: 20 log10 of the relative error."""
    found = mel_amplitudes_from_waveform(waveform, params)
    return float(20 * np.log10(np.linalg.norm(found - mel) / np.linalg.norm(mel)))


@settings(max_examples=25, deadline=None)
@given(columns=st.integers(1, 2 * BLOCK_COLUMNS + 10), channels=st.integers(1, 2))
def test_a_column_is_a_hop_of_samples(columns: int, channels: int) -> None:
    """Any number of columns gives columns * hop_length finite samples of 32 bits."""
    waveform, state = waveform_from_mel_amplitudes(noise_picture(columns, SMALL, channels), SMALL)
    assert waveform.shape == (channels, columns * SMALL.hop_length)
    assert waveform.dtype == np.float32
    assert np.isfinite(waveform).all()
    assert state is None


def test_a_frame_is_five_seconds_and_twelve_hundredths() -> None:
    """512 columns on the default grid are 225,792 samples."""
    waveform, _ = waveform_from_mel_amplitudes(noise_picture(512, MONO), MONO)
    assert waveform.shape == (1, 225_792)


@settings(max_examples=10, deadline=None)
@given(
    blocks=st.integers(2, 5),
    rest=st.integers(LOOK_AHEAD_COLUMNS, BLOCK_COLUMNS),
    cuts=st.sets(st.integers(1, 4)),
    channels=st.integers(1, 2),
)
def test_chunks_leave_no_trace(blocks: int, rest: int, cuts: set[int], channels: int) -> None:
    """Cut at any multiples of the block, the track is the same bit for bit as made at once."""
    mel = noise_picture(blocks * BLOCK_COLUMNS + rest, SMALL, channels)
    edges = sorted(cut * BLOCK_COLUMNS for cut in cuts if cut <= blocks)
    whole, _ = waveform_from_mel_amplitudes(mel, SMALL)
    assert (in_chunks(mel, SMALL, edges) == whole).all()


@pytest.mark.parametrize("params", [MONO, ODD])
def test_chunks_leave_no_trace_on_other_grids(params: SpectrogramParams) -> None:
    """On the default grid, and on one where nothing divides."""
    mel = drawn(drums(400 * params.hop_length / params.sample_rate_hz, params), params)
    whole, _ = waveform_from_mel_amplitudes(mel, params)
    assert (in_chunks(mel, params, [BLOCK_COLUMNS]) == whole).all()


def test_a_chunk_may_end_inside_a_block() -> None:
    """Other cuts than multiples of the block change the phase a little, neither the length nor the sound."""
    mel = drawn(tones([440, 660], 3))
    waveform = in_chunks(mel, MONO, [100, 200])
    assert waveform.shape == (1, mel.shape[-1] * MONO.hop_length)
    assert convergence_db(waveform, mel) < -20


def test_the_same_picture_gives_the_same_bits() -> None:
    """No chance, and nothing kept from call to call."""
    mel = noise_picture(150, MONO)
    first, _ = waveform_from_mel_amplitudes(mel, MONO)
    waveform_from_mel_amplitudes(noise_picture(30, MONO), MONO)
    second, _ = waveform_from_mel_amplitudes(mel, MONO)
    assert (first == second).all()


def test_silence_stays_silent() -> None:
    """No amplitudes, no sound, before and after sound as well as alone."""
    silent, _ = waveform_from_mel_amplitudes(np.zeros((2, 512, 200), np.float32), MONO)
    assert silent.shape == (2, 200 * 441)
    assert not silent.any()
    mel = noise_picture(600, SMALL)
    mel[..., :200] = 0
    mel[..., 400:] = 0
    waveform, _ = waveform_from_mel_amplitudes(mel, SMALL)
    peak = np.abs(waveform).max()
    assert np.isfinite(waveform).all()
    assert np.abs(waveform[:, : 150 * 80]).max() < 1e-3 * peak
    assert np.abs(waveform[:, 450 * 80 :]).max() < 1e-3 * peak


@pytest.mark.parametrize("frequency_hz", [110.0, 440.0, 1_234.5, 4_000.0])
def test_a_tone_keeps_its_pitch(frequency_hz: float) -> None:
    """Within 5 cents of what was drawn."""
    waveform, _ = waveform_from_mel_amplitudes(drawn(tones([frequency_hz], 1.4)), MONO)
    middle = waveform[0, 8_820:52_920] * np.hanning(44_100)
    spectrum = np.abs(np.fft.rfft(middle, 1_048_576))
    found_hz = spectrum.argmax() * 44_100 / 1_048_576
    assert abs(1_200 * np.log2(found_hz / frequency_hz)) < 5


@pytest.mark.parametrize(("sound", "at_most_db"), [(tones([220, 277, 330, 440], 2.56), -25), (drums(2.56), -24)])
def test_the_sound_has_the_amplitudes_that_were_drawn(sound: Array, at_most_db: float) -> None:
    """Chord and drums come back closer than 32 plain Griffin-Lim iterations bring them."""
    mel = drawn(sound)
    waveform, _ = waveform_from_mel_amplitudes(mel, MONO)
    assert convergence_db(waveform, mel) < at_most_db


def test_a_beat_stays_in_its_place() -> None:
    """The loudest moment of a click is where its column is, also behind a block's end."""
    waveform = np.zeros((1, 300 * 441), np.float32)
    for column in (40, BLOCK_COLUMNS, 250):
        waveform[0, column * 441] = 1.0
    made, _ = waveform_from_mel_amplitudes(drawn(waveform), MONO)
    for column in (40, BLOCK_COLUMNS, 250):
        around = made[0, (column - 20) * 441 : (column + 20) * 441]
        assert abs(int(np.abs(around).argmax()) - 20 * 441) < 60


def test_both_channels_are_made_alike() -> None:
    """Equal channels stay equal, and a channel half as loud is the same sound half as loud."""
    mel = drawn(tones([300, 450], 1))
    waveform, _ = waveform_from_mel_amplitudes(np.concatenate([mel, mel, mel / 2]), MONO)
    np.testing.assert_allclose(waveform[1], waveform[0], atol=1e-6)
    np.testing.assert_allclose(waveform[2], waveform[0] / 2, atol=1e-3)


def test_progress_is_told_block_by_block() -> None:
    """Rising fractions that end at 1, one a block."""
    told: list[float] = []
    waveform_from_mel_amplitudes(noise_picture(3 * BLOCK_COLUMNS, SMALL), SMALL, on_block=told.append)
    assert told == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0]


def test_what_on_block_raises_ends_the_work() -> None:
    """A canceled job stops after the block at hand."""
    told: list[float] = []

    def cancel(fraction: float) -> None:
        told.append(fraction)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        waveform_from_mel_amplitudes(noise_picture(3 * BLOCK_COLUMNS, SMALL), SMALL, on_block=cancel)
    assert len(told) == 1


def test_the_state_survives_as_bytes() -> None:
    """What goes to storage comes back bit for bit, small and without pickle; anything else is refused."""
    mel = noise_picture(BLOCK_COLUMNS + LOOK_AHEAD_COLUMNS, MONO)
    _, state = waveform_from_mel_amplitudes(mel, MONO, is_last=False)
    assert state is not None
    data = state.to_bytes()
    again = StreamState.from_bytes(data)
    assert len(data) < 300_000
    assert again.columns_done == BLOCK_COLUMNS
    assert (again.spectrum == state.spectrum).all()
    assert (again.tail == state.tail).all()
    for broken in (b"", b"no state", data[: len(data) // 2]):
        with pytest.raises(ValueError, match="no stream state"):
            StreamState.from_bytes(broken)


def test_impossible_requests_are_refused() -> None:
    """No columns, no look-ahead, a last chunk within the look-ahead of the one before, a window without end."""
    mel = noise_picture(200, SMALL)
    with pytest.raises(ValueError, match="column of its own"):
        waveform_from_mel_amplitudes(mel[..., :0], SMALL)
    with pytest.raises(ValueError, match="column of its own"):
        waveform_from_mel_amplitudes(mel[..., :LOOK_AHEAD_COLUMNS], SMALL, is_last=False)
    _, state = waveform_from_mel_amplitudes(mel, SMALL, is_last=False)
    with pytest.raises(ValueError, match="shorter than the look-ahead"):
        waveform_from_mel_amplitudes(mel[..., :3], SMALL, state=state)
    endless = SpectrogramParams(hop_length=50)
    with pytest.raises(ValueError, match="window"):
        waveform_from_mel_amplitudes(noise_picture(4, endless), endless)


def test_the_first_phase_of_a_tone_turns_at_its_frequency() -> None:
    """Between two columns the loudest bin turns by the tone's cycles in one hop."""
    hop, length, bin_ = 100, 1_000, 37.3
    window = np.hanning(length + 1)[:-1]
    frames = np.exp(2j * np.pi * bin_ / length * (np.arange(length) + hop * np.arange(12)[:, None])) * window
    columns = np.fft.rfft(frames.real, axis=1).astype(np.complex64).T
    amplitudes = np.zeros((501, 16), np.float32)
    amplitudes[:, :8] = np.abs(columns[:, 4:])
    (cycles,) = first_phase([amplitudes.ravel()], columns[None, :, 3], 8, 16, gradient_for(501, 10, 10, 0.25645 * 100))
    turned = np.exp(2j * np.pi * np.diff(cycles.reshape(501, 16)[37, :8]))
    assert np.abs(np.angle(turned * np.exp(-2j * np.pi * bin_ * hop / length))).max() < 0.05


def test_sound_needs_no_torch() -> None:
    """A worker for sound alone is spared half a gigabyte: nothing on its way imports torch."""
    code = """
import sys
import numpy as np
from shared.spectrogram_params import SpectrogramParams
from workers import tasks
from workers.phase import waveform_from_mel_amplitudes
waveform_from_mel_amplitudes(np.ones((1, 512, 20), np.float32), SpectrogramParams())
print(sorted({"torch", "torchaudio", "diffusers"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
