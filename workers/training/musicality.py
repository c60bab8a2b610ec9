"""Measures of music in pictures that need no listener: pulse, tempo, key, and how near one picture is to others.

Owns the measures. Leaves out what they should be (`workers.training.points`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.spectrogram_params import SpectrogramParams
from workers.training.features import Features, autocorrelation, loudness_from_pixels, onsets_from_loudness

Pixels = NDArray[np.uint8]
_GRID: Final = SpectrogramParams()
_LEAST_LAG: Final = 20
"""Columns; what repeats sooner than every 0.2 s is no beat."""
_LEAST_BPM: Final = 60.0
_MOST_BPM: Final = 160.0
_PITCH_HZ: Final = (110.0, 2_000.0)
"""Where chroma is read: lines of neighbouring semitones lie apart below, and hats and claps above."""
_SCALES: Final = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
_SMALL: Final = 64
"""Rows and columns of a small picture."""


def onset_envelope(pixels: Pixels) -> Features:
    """How much a picture (512, 512) rises from column to column, shape (column,)."""
    envelope: Features = onsets_from_loudness(loudness_from_pixels(pixels)).mean(axis=0)
    return envelope


def onset_periodicity(pixels: Pixels) -> float:
    """How regular the onsets of a picture are: the highest autocorrelation past 0.2 s, at most 1."""
    correlation = autocorrelation(onset_envelope(pixels))
    return float(correlation[_LEAST_LAG : len(correlation) // 2 + 1].max())


def measured_tempo_bpm(pixels: Pixels) -> float:
    """The tempo 60..160 bpm whose beats, halves and bars onsets repeat at best; no listener is asked.

    A tempo is scored by the autocorrelation of the onsets at one, two, three and four of its beats and at half of one,
    less what lies between the beats.
    """
    correlation = autocorrelation(onset_envelope(pixels))
    tempos = np.arange(_LEAST_BPM, _MOST_BPM, 0.25)
    lags = 60 * _GRID.columns_per_s / tempos
    at = np.arange(len(correlation))

    def heard(beats: float) -> NDArray[np.float64]:
        return np.asarray(np.interp(beats * lags, at, correlation))

    score = heard(1) + heard(2) + 0.5 * heard(3) + 0.5 * heard(4) + 0.5 * heard(0.5) - 0.5 * (heard(0.75) + heard(1.25))
    return float(tempos[int(np.argmax(score))])


def tempo_error_bpm(measured_bpm: float, asked_bpm: float) -> float:
    """How far a measured tempo is from the asked one; half and double of it count as the same pulse."""
    return min(abs(measured_bpm * octave - asked_bpm) for octave in (0.5, 1.0, 2.0))


def chroma_from_pixels(pixels: Pixels) -> Features:
    """How much of the sound lies in each pitch class, shape (12,), C first, adding up to 1; of silence all the same.

    Rows count by the root of their amplitude, the square of their loudness: soft notes count too, and so does noise.
    """
    rows, weights = _pitch_classes()
    chroma = weights.T @ np.square(loudness_from_pixels(pixels)[rows]).mean(axis=1)
    total = chroma.sum()
    return np.full(12, 1 / 12, np.float32) if total <= 0 else (chroma / total).astype(np.float32)


@lru_cache(maxsize=1)
def _pitch_classes() -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Rows where pitches are read, and the pitch class each belongs to, shape (row, 12)."""
    top_mel = 2595 * np.log10(1 + _GRID.f_max_hz / 700)
    centres_hz = 700 * (10 ** (np.arange(1, _GRID.mel_bins + 1) / (_GRID.mel_bins + 1) * top_mel / 2595) - 1)
    rows = np.flatnonzero((centres_hz >= _PITCH_HZ[0]) & (centres_hz <= _PITCH_HZ[1]))
    pitches = 69 + 12 * np.log2(centres_hz[rows] / 440)
    away = (pitches[:, None] - np.arange(12) + 6) % 12 - 6
    return rows, np.maximum(0, 1 - np.abs(away)).astype(np.float32)


def key_margin(chroma: Features, root: int, mode: str) -> float:
    """How much more of the chroma lies in a key's scale than in those of all twelve keys of its mode on average."""
    masses = [sum(float(chroma[(key + step) % 12]) for step in _SCALES[mode]) for key in range(12)]
    return masses[root] - float(np.mean(masses))


def small_picture(pixels: Pixels) -> Features:
    """A picture's loudness in 64 x 64 fields, as one row of numbers, shape (field,)."""
    fields: Features = loudness_from_pixels(pixels).reshape(_SMALL, 8, _SMALL, 8).mean(axis=(1, 3)).ravel()
    return fields


def nearness(small: Features, others: Features) -> NDArray[np.float64]:
    """For each small picture (picture, field) its least distance to the others over its usual one: 0 for a copy.

    A soft picture is nearer to everything; what is compared is whether it is nearer to one than to the rest.
    """
    squares = (small**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * small @ others.T
    distances = np.sqrt(np.maximum(squares.astype(np.float64), 0))
    shares: NDArray[np.float64] = distances.min(axis=1) / np.median(distances, axis=1)
    return shares
