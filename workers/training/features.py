"""Figures read off a picture, from which simple classifiers tell genre, instrument, drums and tempo.

Owns the features. Leaves out the classifiers (`workers.training.listeners`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
_BANDS: Final = (slice(0, 24), slice(24, 96), slice(96, 256), slice(256, 400), slice(400, 512))
_LAGS: Final = 176
"""Columns of autocorrelation kept: two beats of the slow tempo."""


def features_from_pixels(pixels: NDArray[np.uint8]) -> Features:
    """Features of one picture (512, 512): spectrum, movement, sharpness of lines and rhythm by band."""
    loudness = ((255 - pixels[::-1].astype(np.float32)) / 255).astype(np.float32)
    rows = loudness.reshape(64, 8, -1)
    coarse = rows.mean(axis=1)
    peaks, dips = rows.max(axis=1), rows.min(axis=1)
    steps = np.diff(loudness, axis=1)
    parts = [
        coarse.mean(axis=1),
        coarse.std(axis=1),
        (peaks - dips).mean(axis=1),
        peaks.mean(axis=1),
        np.maximum(steps, 0).reshape(64, 8, -1).mean(axis=(1, 2)),
        np.abs(steps).reshape(64, 8, -1).max(axis=1).mean(axis=1),
        np.percentile(loudness, (10, 50, 90), axis=1).reshape(3, 32, 16).mean(axis=2).ravel(),
    ]
    for band in _BANDS:
        envelope = loudness[band].mean(axis=0)
        onsets = np.maximum(steps[band], 0).mean(axis=0)
        parts += [_rhythm(onsets), _rhythm(envelope), np.array([onsets.std(), onsets.max(), envelope.std()])]
    return np.concatenate(parts).astype(np.float32)


def features_from_many(pixels: NDArray[np.uint8]) -> Features:
    """Features of pictures (picture, 512, 512), shape (picture, feature)."""
    return np.stack([features_from_pixels(picture) for picture in pixels])


def onset_periodicity(pixels: NDArray[np.uint8]) -> float:
    """How regular the onsets of a picture are: the highest autocorrelation past 0.2 s, at most 1."""
    loudness = (255 - pixels[::-1].astype(np.float32)) / 255
    onsets = np.maximum(np.diff(loudness, axis=1), 0).mean(axis=0)
    return float(_autocorrelation(onsets)[20:].max())


def _rhythm(envelope: Features) -> Features:
    """Autocorrelation of an envelope at every third lag."""
    return _autocorrelation(envelope)[4::3]


def _autocorrelation(envelope: Features) -> Features:
    """Autocorrelation around the loop at lags below _LAGS, 1 at lag 0."""
    centred = envelope - envelope.mean()
    power = np.abs(np.fft.rfft(centred)) ** 2
    correlation = np.fft.irfft(power, len(envelope))[:_LAGS]
    shares: Features = (correlation / (correlation[0] + 1e-9)).astype(np.float32)
    return shares
