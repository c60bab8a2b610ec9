"""Dither: triangular, of the right power, independent of the sound, tied to the place in the track."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.dither import int16_from_samples

STEP = 1 / 32_768


def noise_of(level: float, samples: int = 200_000) -> NDArray[np.float64]:
    """The error, in steps of 16 bits, of a sound of this constant level."""
    sound = np.full((samples, 1), level, np.float32)
    return (int16_from_samples(sound, 0) - sound.astype(np.float64) / STEP)[:, 0]


def test_the_error_is_the_same_wherever_the_sound_lies_between_two_steps() -> None:
    """Mean 0 and variance 1/4 of a step squared (1/6 dither, 1/12 rounding), at any place between two steps."""
    for part in (0.001, 0.25, 0.5, 0.77):
        error = noise_of((100 + part) * STEP)
        assert abs(error.mean()) < 0.005
        assert abs(error.var() - 0.25) < 0.005
        assert np.abs(error).max() <= 1.5


def test_the_noise_is_flat_and_each_channel_has_its_own() -> None:
    """No octave of the error is louder than another, and left knows nothing of right."""
    errors = int16_from_samples(np.full((2**17, 2), 1000.3 * STEP, np.float32), 0) - 1000.3
    spectrum = np.abs(np.fft.rfft(errors - errors.mean(axis=0), axis=0)) ** 2
    octaves = [spectrum[2**k : 2 ** (k + 1)].mean() for k in range(8, 16)]
    assert max(octaves) / min(octaves) < 1.2
    assert abs(np.corrcoef(errors.T)[0, 1]) < 0.01


def test_the_error_does_not_follow_the_sound() -> None:
    """A tone of half a step, which plain rounding would drop or distort, is there and has no harmonics."""
    samples = 2**16
    tone = (0.5 * STEP * np.sin(2 * np.pi * 64 * np.arange(samples) / samples + 0.1)).astype(np.float32)[:, None]
    spectrum = np.abs(np.fft.rfft(int16_from_samples(tone, 0)[:, 0])) / samples * 2
    assert abs(spectrum[64] - 0.5) < 0.02
    assert spectrum[[128, 192, 256, 320, 448]].max() < 0.02


@settings(max_examples=40, deadline=None)
@given(edges=st.lists(st.integers(0, 1_000), max_size=6), channels=st.integers(1, 2))
def test_noise_depends_on_the_place_in_the_track_alone(edges: list[int], channels: int) -> None:
    """However the samples are cut, the integers are the same."""
    sound = np.random.default_rng(0).standard_normal((1_000, channels)).astype(np.float32) * 0.2
    cuts = [0, *sorted(edges), 1_000]
    parts = [int16_from_samples(sound[a:b], a) for a, b in pairwise(cuts)]
    assert (np.concatenate(parts) == int16_from_samples(sound, 0)).all()


def test_silence_is_silent_and_full_scale_does_not_wrap() -> None:
    """Zeros stay zeros; what is too loud ends at the rail and not at the other one."""
    assert not int16_from_samples(np.zeros((5_000, 2), np.float32), 77).any()
    loud = int16_from_samples(np.array([[1.5], [-1.5], [1.0], [-1.0]], np.float32).repeat(50, axis=0), 0)
    assert (loud[:50] == 32_767).all()
    assert (loud[50:100] == -32_768).all()
    assert (np.sign(loud[:, 0]) == np.repeat([1, -1, 1, -1], 50)).all()
