"""Loudness and true peak: what the standard says, whatever the pieces; None where there is no loudness."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyloudnorm
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.loudness import KERNEL_REACH, Array, LoudnessMeter, TruePeakMeter, cell_peaks


def music(rate_hz: int, duration_s: float, channels: int) -> Array:
    """A chord under a beat of noise, with two quiet seconds in every five, (channel, sample)."""
    rng = np.random.default_rng(7)
    time_s = np.arange(round(rate_hz * duration_s)) / rate_hz
    chord = sum(np.sin(2 * np.pi * tone_hz * time_s) for tone_hz in (65.4, 261.6, 329.6, 3_000.0))
    beat = rng.standard_normal((channels, len(time_s))) * np.exp(-(time_s % 0.5) * 20)
    level = np.where(time_s % 5 < 3, 0.2, 0.002) * np.arange(1, channels + 1)[:, None] / channels
    return ((0.3 * chord + beat) * level).astype(np.float32)


def pieces(waveform: Array, longest: int, seed: int = 0) -> Iterator[Array]:
    """The waveform in pieces of 0 to `longest` samples."""
    rng = np.random.default_rng(seed)
    start = 0
    while start < waveform.shape[1]:
        length = int(rng.integers(0, longest + 1))
        yield waveform[:, start : start + length]
        start += length


def loudness_lufs(waveform: Array, rate_hz: int, longest: int | None = None) -> float | None:
    """What the meter says of a waveform, whole or in pieces."""
    meter = LoudnessMeter(rate_hz, len(waveform))
    for piece in [waveform] if longest is None else pieces(waveform, longest):
        meter.add(piece)
    return meter.loudness_lufs()


def true_peak(waveform: Array, longest: int | None = None) -> float:
    """The highest point of a waveform, whole or in pieces."""
    meter = TruePeakMeter(len(waveform))
    for piece in [waveform] if longest is None else pieces(waveform, longest):
        meter.add(piece)
    return meter.peak()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate_hz", [22_050, 44_100, 48_000])
def test_loudness_is_the_reference_implementations(rate_hz: int, channels: int) -> None:
    """Within 0.01 LU of pyloudnorm with the standard's own filters, gates included."""
    waveform = music(rate_hz, 12, channels)
    reference = pyloudnorm.Meter(rate_hz, filter_class="DeMan").integrated_loudness(waveform.T.astype(np.float64))
    assert loudness_lufs(waveform, rate_hz) == pytest.approx(reference, abs=0.01)


@pytest.mark.parametrize("rate_hz", [44_100, 48_000])
def test_a_full_scale_tone_of_997_hz_in_one_channel_is_minus_3_01(rate_hz: int) -> None:
    """The standard's own calibration."""
    tone = np.sin(2 * np.pi * 997 * np.arange(20 * rate_hz) / rate_hz)[None].astype(np.float32)
    assert loudness_lufs(tone, rate_hz) == pytest.approx(-3.01, abs=0.01)


@pytest.mark.parametrize("rate_hz", [11_025, 44_100])
def test_pieces_change_neither_loudness_nor_peak(rate_hz: int) -> None:
    """Equal to the last bit, also where 100 ms are no whole number of samples."""
    waveform = music(rate_hz, 4, 2)
    for longest in (3_000, 60_000):
        assert loudness_lufs(waveform, rate_hz, longest) == loudness_lufs(waveform, rate_hz)
        assert true_peak(waveform, longest) == true_peak(waveform)


def test_a_gain_moves_loudness_by_as_much_and_the_absolute_gate_along() -> None:
    """Ten times less is 20 LU less; ten thousand times less is silence, unless a gain brings it back."""
    waveform = music(44_100, 6, 1)
    lufs = loudness_lufs(waveform, 44_100)
    assert lufs is not None
    meter = LoudnessMeter(44_100, 1)
    meter.add(waveform * np.float32(1e-4))
    assert meter.loudness_lufs() is None
    assert meter.loudness_lufs(1e3) == pytest.approx(lufs - 20, abs=0.02)
    assert meter.loudness_lufs(1e4) == pytest.approx(lufs, abs=1e-4)


def test_what_has_no_loudness_is_none() -> None:
    """Nothing, silence, DC, and anything shorter than 400 ms; 400 ms have one."""
    assert LoudnessMeter(44_100, 1).loudness_lufs() is None
    assert loudness_lufs(np.zeros((2, 88_200), np.float32), 44_100) is None
    assert loudness_lufs(np.full((2, 88_200), 0.5, np.float32), 44_100) is None
    assert loudness_lufs(music(44_100, 1, 1)[:, : 4 * 4_410 - 1], 44_100) is None
    assert loudness_lufs(music(44_100, 1, 1)[:, : 4 * 4_410], 44_100) is not None


@pytest.mark.parametrize("tone_hz", [997.0, 5_000.0, 10_000.0, 11_025.0, 14_700.0, 19_000.0, 20_000.0])
def test_a_tones_true_peak_is_its_amplitude_at_any_phase(tone_hz: float) -> None:
    """Within 0.15 dB, where samples alone miss up to 3 dB at a quarter of the sample rate."""
    for phase in np.linspace(0, np.pi, 7):
        time_s = np.arange(8_820) / 44_100
        tone = (0.5 * np.sin(2 * np.pi * tone_hz * time_s + phase) * np.hanning(8_820) ** 0.1)[None].astype(np.float32)
        assert 20 * np.log10(true_peak(tone) / 0.5) == pytest.approx(0, abs=0.15)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), channels=st.integers(1, 2), samples=st.integers(100, 800))
def test_true_peak_is_what_another_resampler_finds(seed: int, channels: int, samples: int) -> None:
    """Noise under 15 kHz, swelling and fading: within 0.15 dB of 16 times the rate, and never under the samples."""
    rng = np.random.default_rng(seed)
    noise = soxr.resample(rng.standard_normal((samples + 400, channels)), 30_000, 44_100, "VHQ")[:samples]
    waveform = np.pad(noise * np.hanning(samples)[:, None] ** 2, ((100, 100), (0, 0))).T.astype(np.float32)
    fine = np.abs(soxr.resample(waveform.T, 44_100, 16 * 44_100, "VHQ")).max()
    peak = true_peak(waveform)
    assert peak >= np.abs(waveform).max()
    assert abs(peak - fine) <= 0.018 * fine + 1e-6


def test_cells_that_cannot_exceed_the_floor_are_skipped_and_no_others() -> None:
    """With a floor, every peak above it is found as it is without one."""
    waveform = music(44_100, 1, 2)
    edges = np.arange(KERNEL_REACH, 44_000, 33)
    every, above = cell_peaks(waveform, edges, 0.0), cell_peaks(waveform, edges, 0.2)
    assert (every > 0.2).any()
    assert (every < 0.2).any()
    assert (above[every > 0.2] == every[every > 0.2]).all()
    assert (above[every <= 0.2] <= 0.2).all()
