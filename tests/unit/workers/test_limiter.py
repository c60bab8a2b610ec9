"""The limiter: the ceiling holds between samples, quiet sound passes as it is, pieces and wraps leave no trace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import firwin, lfilter, resample_poly

from workers.limiter import CEILING_DBTP, MARGIN_DB, TAIL_S, THRESHOLD, Array, limited

RATE_HZ = 44_100
TAIL = round(TAIL_S * RATE_HZ)


def drums(samples: int, channels: int = 1, seed: int = 0) -> Array:
    """Decaying noise at every quarter of a second over a bass, peaks far above full scale."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(samples) / RATE_HZ
    beat = rng.standard_normal((channels, samples)) * np.exp(-(time_s % 0.25) * 40)
    sound = beat + 0.3 * np.sin(2 * np.pi * 60 * time_s)
    return lfilter(firwin(201, 18_000, fs=RATE_HZ), 1, sound, axis=1).astype(np.float32)


def pieces(waveform: Array, longest: int, seed: int = 0) -> Iterator[Array]:
    """The waveform in pieces of 0 to `longest` samples."""
    rng = np.random.default_rng(seed)
    start = 0
    while start < waveform.shape[1]:
        length = int(rng.integers(0, longest + 1))
        yield waveform[:, start : start + length]
        start += length


def whole(waveform: Array, given_pieces: Iterable[Array] | None = None, **options: Any) -> Array:
    """All that the limiter makes of a waveform."""
    options = {"sample_rate_hz": RATE_HZ, "total_samples": waveform.shape[1]} | options
    parts = list(limited([waveform] if given_pieces is None else given_pieces, **options))
    return np.concatenate(parts, axis=1)


def true_peak_dbtp(waveform: Array) -> float:
    """The larger of what two resamplers find at 16 times the rate."""
    padded = np.pad(waveform, ((0, 0), (500, 500)))
    fine = (
        soxr.resample(padded.T, RATE_HZ, 16 * RATE_HZ, "VHQ"),
        resample_poly(padded.astype(np.float64), 16, 1, axis=1, window=firwin(2_049, 1 / 16, window=("kaiser", 6))),
    )
    return float(20 * np.log10(max(np.abs(one).max() for one in fine)))


def loud_signals() -> dict[str, Array]:
    """Everything that could slip through, up to 20 dB over."""
    rng = np.random.default_rng(1)
    samples = 40_000
    time = np.arange(samples)
    low_pass = firwin(401, 20_000, fs=RATE_HZ)
    noise = lfilter(low_pass, 1, rng.standard_normal((2, samples)), axis=1)
    fade = np.minimum(1, np.minimum(time, time[::-1]) / 300)
    return {
        "drums": drums(samples) * 4,
        "a quarter of the rate at 45 degrees": 2 * fade * np.sin(np.pi / 2 * time + np.pi / 4),
        "20 kHz": 1.9 * fade * np.sin(2 * np.pi * 20_000 / RATE_HZ * time),
        "noise": noise * 3,
        "noise switched on and off": lfilter(low_pass, 1, 3 * rng.standard_normal(samples) * (time // 3_000 % 2)),
        "single clicks": np.where(rng.random(samples) < 0.001, 8, 0) * rng.standard_normal(samples),
        "one channel only": noise * np.array([[6], [0.1]]),
        "just above": noise * 0.3,
        "DC": np.full(samples, 5) * fade,
    }


@pytest.mark.parametrize("name", loud_signals())
def test_the_ceiling_holds_between_samples(name: str) -> None:
    """Two other resamplers find no peak above -1 dBTP."""
    waveform = np.atleast_2d(loud_signals()[name]).astype(np.float32)
    assert np.abs(waveform).max() > THRESHOLD
    quiet = whole(waveform)
    assert quiet.shape == waveform.shape
    assert true_peak_dbtp(quiet) <= CEILING_DBTP


def test_a_loud_track_is_brought_to_the_ceiling_and_not_under_it() -> None:
    """The limiter takes what it must, no more."""
    assert true_peak_dbtp(whole(drums(60_000) * 4)) == pytest.approx(CEILING_DBTP - MARGIN_DB, abs=0.1)


def test_what_stays_under_the_threshold_passes_bit_for_bit() -> None:
    """No peak, no change; and around a peak, only the nearest tenth of a second."""
    waveform = drums(60_000, 2) * 0.1
    assert (whole(waveform) == waveform).all()
    waveform[:, 30_000] = 3
    changed = (whole(waveform) != waveform).any(axis=0)
    assert changed[30_000]
    assert not changed[: 30_000 - 600].any()
    assert not changed[30_000 + 3_000 :].any()


def test_gain_bends_and_never_jumps_and_channels_share_it() -> None:
    """From sample to sample the gain moves by less than a hundredth, and it is the same left and right."""
    waveform = drums(60_000, 2) * 2 + 2e-3
    gain = whole(waveform) / waveform
    assert gain.min() < 0.5
    assert np.abs(np.diff(gain, axis=1)).max() < 0.01
    assert np.abs(gain[0] - gain[1]).max() < 1e-5


@settings(max_examples=15, deadline=None)
@given(longest=st.sampled_from([7, 441, 5_000, 30_000]), seed=st.integers(0, 1_000), is_loop=st.booleans())
def test_pieces_change_nothing(longest: int, seed: int, is_loop: bool) -> None:
    """However the track is cut, the result is the same to the last bit."""
    waveform = drums(12_000, 2, seed=3) * 3
    tail = waveform[:, -TAIL:] if is_loop else None
    expected = whole(waveform, loop_tail=tail)
    assert (whole(waveform, pieces(waveform, longest, seed), loop_tail=tail) == expected).all()


@pytest.mark.parametrize("samples", [1, 2, 21, 500, 4_410])
def test_very_short_sounds_are_limited_too(samples: int) -> None:
    """From one sample on, as a track and as a loop."""
    waveform = np.full((2, samples), 4, np.float32)
    for tail in (None, waveform):
        short = whole(waveform, loop_tail=tail)
        assert short.shape == waveform.shape
        assert np.abs(short).max() <= THRESHOLD * 1.00001


def test_a_loop_is_limited_as_if_it_had_played_forever() -> None:
    """The loop alone equals a turn in the middle of many, and its gain goes over the wrap without a step."""
    waveform = drums(22_050) * 3  # a whole number of cells, so that they lie alike in both
    waveform[:, -300:-100] *= 4
    waveform += 1e-3
    loop = whole(waveform, loop_tail=waveform[:, -TAIL:])
    repeated = whole(np.tile(waveform, 5))[:, 2 * 22_050 : 3 * 22_050]
    assert (loop == repeated).all()
    gain = np.tile(loop / waveform, 2)[0, 22_000:22_100]
    assert gain.max() < 0.5
    assert np.abs(np.diff(gain)).max() < 0.01
    alone = whole(waveform) / waveform
    assert abs(alone[0, 0] - alone[0, -1]) > 0.1


def test_a_loops_lead_is_its_own_end_and_start() -> None:
    """What is given before the start and after the end is the limited loop itself, wrapped."""
    waveform = drums(30_011) * 3
    tail = waveform[:, -TAIL - 1_764 :]
    loop = whole(waveform, loop_tail=tail)
    led = whole(waveform, loop_tail=tail, lead_samples=1_764)
    assert (led == np.concatenate([loop[:, -1_764:], loop, loop[:, :1_764]], axis=1)).all()


def test_a_tail_that_is_too_short_is_refused() -> None:
    """Half the tail would be a step of gain at the wrap."""
    waveform = drums(30_000)
    with pytest.raises(ValueError, match="samples of a loop, not 1000"):
        whole(waveform, loop_tail=waveform[:, -1_000:])


def test_a_bass_note_under_the_limiter_stays_a_sine() -> None:
    """60 Hz, 4 dB over: all else together is 60 dB under the note."""
    note = (1.4 * np.sin(2 * np.pi * 60 * np.arange(3 * RATE_HZ) / RATE_HZ))[None].astype(np.float32)
    spectrum = np.abs(np.fft.rfft(whole(note)[0, RATE_HZ : 2 * RATE_HZ] * np.blackman(RATE_HZ))) ** 2
    at_note = spectrum[55:66].sum()
    assert 10 * np.log10((spectrum.sum() - at_note) / at_note) < -60


def test_nothing_gives_nothing() -> None:
    """No pieces, no samples."""
    assert list(limited([], sample_rate_hz=RATE_HZ, total_samples=1)) == []
