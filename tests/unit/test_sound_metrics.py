"""The measures of sound can fail: a known error gives the known figure, and a seam put in on purpose is found."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.spectrogram_params import SpectrogramParams
from tests.benchmarks import sound_metrics as metrics
from tests.benchmarks.sound_targets import Target, unmet

PARAMS = SpectrogramParams()
RATE_HZ = PARAMS.sample_rate_hz
COLUMNS = 300
JOINT = 150
Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def tones() -> Array:
    """Three seconds of a chord in a little noise, (1, sample)."""
    time_s = np.arange(COLUMNS * PARAMS.hop_length) / RATE_HZ
    chord = sum(np.sin(2 * np.pi * pitch_hz * time_s) for pitch_hz in (220, 277.2, 329.6, 1760, 5000))
    noise = np.random.default_rng(1).standard_normal(len(time_s))
    return (0.1 * chord + 0.01 * noise).astype(np.float32)[None]


@pytest.fixture(scope="module")
def copy(tones: Array) -> Array:
    """The chord as a faithful but not perfect reconstruction has it."""
    noise = np.random.default_rng(2).standard_normal(tones.shape)
    return (0.5 * tones + 0.002 * noise).astype(np.float32)


def _amplitudes() -> Array:
    return np.random.default_rng(0).random((1, 16, 100), dtype=np.float32) + np.float32(0.1)


def _errors(waveform: Array, wanted: Array) -> Array:
    mel = metrics.heard(wanted, PARAMS, COLUMNS)
    return metrics.column_errors(metrics.heard(waveform, PARAMS, COLUMNS), mel)


def test_spectral_convergence_of_a_known_error() -> None:
    """An error at right angles, a third as large, leaves 10 % of the power when gains match: -10 dB."""
    wanted = np.zeros((1, 2, 50), np.float32)
    wanted[0, 0] = 3
    found = wanted.copy()
    found[0, 1] = 1
    assert metrics.sc_db(found, wanted) == pytest.approx(-10, abs=1e-4)


def test_level_changes_no_measure(tones: Array, copy: Array) -> None:
    """What is made at another level is as good: gains are matched first."""
    wanted = metrics.heard(tones, PARAMS, COLUMNS)
    one, louder = (metrics.quality(waveform, wanted, tones, PARAMS) for waveform in (copy, 7 * copy))
    assert one == pytest.approx(louder, rel=1e-3)


def test_pix_counts_shades() -> None:
    """Three shades off in 99 of 100 places is a mean distance of 2.97."""
    wanted, found = (np.full((1, 1, 100), (shade / 255) ** 4, np.float32) for shade in (10, 13))
    wanted[..., 0] = found[..., 0] = 1
    assert metrics.pix(found, wanted) == pytest.approx(2.97, abs=1e-3)


def test_measures_against_the_true_sound_are_zero_for_itself(tones: Array) -> None:
    """The true sound has no distance from itself, nor upside down, which nobody hears."""
    for waveform in (tones, -tones):
        assert metrics.mr(waveform, tones, PARAMS) == pytest.approx(0, abs=1e-5)
        assert metrics.lsd_db(waveform, tones, PARAMS) == pytest.approx(0, abs=1e-4)


def test_silence_is_as_far_as_can_be(tones: Array) -> None:
    """Nothing instead of something misses all of it."""
    assert metrics.mr(np.zeros_like(tones), tones, PARAMS) == pytest.approx(1)


def test_log_spectral_distance_of_a_known_filter() -> None:
    """Half the band at half the amplitude: g = 1.5 / 1.25, so 1.58 dB up and 4.44 down, 3.01 on average."""
    wanted = np.random.default_rng(3).standard_normal((1, 2 * RATE_HZ)).astype(np.float32)
    spectrum = np.fft.rfft(wanted)
    spectrum[:, : round(0.475 * PARAMS.f_max_hz * 2)] /= 2
    found = np.fft.irfft(spectrum, wanted.shape[-1]).astype(np.float32)
    assert metrics.lsd_db(found, wanted, PARAMS) == pytest.approx(3.01, abs=0.1)


def test_measures_tell_a_better_sound_from_a_worse_one(tones: Array, copy: Array) -> None:
    """More noise is worse by each measure."""
    wanted = metrics.heard(tones, PARAMS, COLUMNS)
    noisier = copy + np.float32(0.02) * np.random.default_rng(4).standard_normal(copy.shape).astype(np.float32)
    better, worse = (metrics.quality(waveform, wanted, tones, PARAMS) for waveform in (copy, noisier))
    assert all(good < bad for good, bad in zip(better, worse, strict=True))


def test_a_picture_without_a_true_sound_has_no_measure_against_it(tones: Array, copy: Array) -> None:
    """What cannot be known is NaN, not zero."""
    figures = metrics.quality(copy, metrics.heard(tones, PARAMS, COLUMNS), None, PARAMS)
    assert np.isnan([figures.mr, figures.lsd]).all()
    assert np.isfinite([figures.sc, figures.pix]).all()


def test_joint_ratio_of_known_errors() -> None:
    """Errors three times as large within 50 ms of a joint are a ratio of 3; what lies beside counts for nothing."""
    errors = np.ones(COLUMNS, np.float32)
    errors[JOINT - 20 : JOINT + 20] = 9
    errors[JOINT - 5 : JOINT + 5] = 3
    assert metrics.joint_ratio(errors, [JOINT]) == pytest.approx(3)


@pytest.mark.parametrize("joints", [[], [COLUMNS + 10]])
def test_joint_ratio_needs_a_joint(joints: list[int]) -> None:
    """Without a joint inside the track there is no ratio."""
    with pytest.raises(ValueError, match="needs a joint"):
        metrics.joint_ratio(np.ones(COLUMNS, np.float32), joints)


def test_a_seam_raises_the_joint_ratio(tones: Array, copy: Array) -> None:
    """Where the phase of everything jumps, the joint is found; where nothing was cut, it is not."""
    cut = copy.copy()
    cut[:, JOINT * PARAMS.hop_length :] *= -1
    assert metrics.joint_ratio(_errors(copy, tones), [JOINT]) == pytest.approx(1, abs=0.15)
    assert metrics.joint_ratio(_errors(cut, tones), [JOINT]) > 2


def test_seam_ratio_sees_the_seam_and_not_the_content(tones: Array, copy: Array) -> None:
    """What is hard to make at the joint is hard elsewhere too: only a cut raises the ratio between the two."""
    turn = 60
    hard = copy.copy()
    hard[:, (JOINT - 5) * PARAMS.hop_length : (JOINT + 5) * PARAMS.hop_length] *= 1.2
    there = _errors(*(np.roll(waveform, turn * PARAMS.hop_length) for waveform in (hard, tones)))
    cut = hard.copy()
    cut[:, JOINT * PARAMS.hop_length :] *= -1
    smooth, seamy = (_errors(waveform, tones) for waveform in (hard, cut))
    assert metrics.joint_ratio(smooth, [JOINT]) > 1.3
    assert metrics.seam_ratio(smooth, [JOINT], there, [JOINT + turn]) == pytest.approx(1, abs=0.1)
    assert metrics.seam_ratio(seamy, [JOINT], there, [JOINT + turn]) > 1.3


def test_a_dip_is_seen_in_db() -> None:
    """Half the amplitude within 50 ms of a joint is a dip of 6 dB; the worst of two joints counts."""
    wanted = _amplitudes()
    found = 4 * wanted
    found[..., 65:75] *= 0.5
    assert metrics.energy_dip_db(found, wanted, [30]) == pytest.approx(0, abs=0.5)
    assert metrics.energy_dip_db(found, wanted, [30, 70]) == pytest.approx(6.02, abs=0.5)


def test_clipping_is_counted() -> None:
    """Every sample at the rail counts, on either side; what is one step of 16 bits below does not."""
    waveform = np.array([[0.5, 1.0, -1.0, 32767 / 32768, -32766 / 32768, 1.3]], np.float32)
    assert metrics.clipped_samples(waveform) == 4


@pytest.mark.parametrize("shift", [-441, -1, 0, 7])
def test_a_late_beat_is_found_to_the_sample(shift: int) -> None:
    """Clicks over a slow tone that come later by so many samples."""
    clicks = np.zeros((1, RATE_HZ), np.float32)
    clicks[:, 5_000::11_025] = 1
    tone = np.sin(np.arange(RATE_HZ, dtype=np.float32) / 70)[None]
    assert metrics.late_samples(clicks + tone, np.roll(clicks, shift) + tone[:, ::-1]) == shift


def test_drift_is_the_trend_and_not_the_jitter() -> None:
    """One sample every 36 s is 100 an hour; early and late in turns is none."""
    assert metrics.drift_samples_per_hour(list(range(100)), 99 * 36) == pytest.approx(100, rel=0.02)
    assert metrics.drift_samples_per_hour([-1, 0, 1, 0] * 25, 3_600) == 0


def test_targets_say_by_how_much_they_are_missed() -> None:
    """A bound is met or missed from its own side, and a figure that is no number meets none."""
    quick = Target("standard.speed_ratio", 50, is_at_least=True)
    assert quick.value({"standard": {"speed_ratio": 48.5}}) == 48.5
    assert quick.verdict(48.5, 50) == "missed by 1.5"
    assert quick.verdict(50, 50) == "met"
    assert not Target("joint_ratio", 1.1).is_met(float("nan"), 1.1)
    with pytest.raises(KeyError):
        unmet({})
