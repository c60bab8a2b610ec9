"""Figures read off a picture, from which listeners tell genre, instrument, drums and tempo.

Owns the features. Leaves out the listeners (`workers.training.listeners`) and measures with a meaning of their own
(`workers.training.musicality`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
_BANDS: Final = ((0, 16), (16, 40), (40, 90), (90, 160), (160, 260), (260, 380), (380, 512))
"""Rows, low to high, whose rhythms are looked at apart: kicks, basses, voices, hats."""
_BARS: Final = (2, 3)
"""Bars in a clip: two of the slow and the medium tempo, three of the fast one."""
_SLOTS: Final = 48
"""Parts of a bar: sixteenths, triplets and swung notes of three and of four beats fall on them."""
_LAGS: Final = 176
"""Columns of autocorrelation kept: two beats of the slow tempo."""
_VOICE_BANDS: Final = ((24, 96), (96, 180), (180, 280), (280, 420))
"""Rows whose lines are followed after their onsets."""
_DELAYS: Final = (0, 1, 2, 3, 5, 8, 12, 18, 26, 36)
_LINE_DELAYS: Final = (1, 8, 26)
"""Columns after an onset."""
_LINE_REACH: Final = 4
"""Rows to either side that a line stands out from."""


def features_from_pixels(pixels: NDArray[np.uint8]) -> Features:
    """Features of one picture (512, 512): spectrum, movement, sharpness of lines, and rhythm by band."""
    loudness = loudness_from_pixels(pixels)
    rises = onsets_from_loudness(loudness)
    parts = _spectrum(loudness, rises)
    for low, high in _VOICE_BANDS:
        parts.append(_decay(loudness[low:high], rises[low:high]))
    for low, high in _BANDS:
        parts += _rhythm(rises[low:high].mean(axis=0), loudness[low:high].mean(axis=0))
    return np.concatenate(parts).astype(np.float32)


def features_from_many(pixels: NDArray[np.uint8]) -> Features:
    """Features of pictures (picture, 512, 512), shape (picture, feature)."""
    return np.stack([features_from_pixels(picture) for picture in pixels])


def loudness_from_pixels(pixels: NDArray[np.uint8]) -> Features:
    """Loudness 0..1 of a picture, shape (row, column), low frequencies first."""
    return (255 - pixels[::-1].astype(np.float32)) / np.float32(255)


def onsets_from_loudness(loudness: Features) -> Features:
    """How much louder each column is than the one before it, around the loop, shape (row, column)."""
    rises: Features = np.maximum(loudness - np.roll(loudness, 1, axis=1), 0)
    return rises


def autocorrelation(envelope: Features) -> Features:
    """Autocorrelation of an envelope (column,) around the loop, shape (column,), 1 at lag 0."""
    centred = envelope - envelope.mean()
    power = np.abs(np.fft.rfft(centred)) ** 2
    correlation = np.fft.irfft(power, len(envelope))
    shares: Features = (correlation / (correlation[0] + 1e-9)).astype(np.float32)
    return shares


def _spectrum(loudness: Features, rises: Features) -> list[Features]:
    rows = loudness.reshape(64, 8, -1)
    peaks, dips = rows.max(axis=1), rows.min(axis=1)
    coarse = rows.mean(axis=1)
    return [
        coarse.mean(axis=1),
        coarse.std(axis=1),
        (peaks - dips).mean(axis=1),
        peaks.mean(axis=1),
        rises.reshape(64, 8, -1).mean(axis=(1, 2)),
        rises.reshape(64, 8, -1).max(axis=1).mean(axis=1),
        np.percentile(loudness, (10, 50, 90), axis=1).reshape(3, 64, 8).mean(axis=2).ravel(),
    ]


def _decay(loudness: Features, rises: Features) -> Features:
    """What is heard of notes after they begin, how far they stand out then, and how they waver in time and pitch."""
    beside = np.minimum(np.roll(loudness, _LINE_REACH, axis=0), np.roll(loudness, -_LINE_REACH, axis=0))
    lines = loudness - beside
    told = [*((loudness, delay) for delay in _DELAYS), *((lines, delay) for delay in _LINE_DELAYS)]
    weight = rises.sum() + 1e-6
    after = [float((rises * np.roll(what, -delay, axis=1)).sum() / weight) for what, delay in told]
    wavers = [float(np.abs(np.diff(loudness, n=2, axis=axis)).mean()) for axis in (1, 0)]
    return np.array([*after, *wavers], np.float32)


def _rhythm(onsets: Features, envelope: Features) -> list[Features]:
    """One band's onsets and loudness by their place in the bar, for each count of bars, and its regularity."""
    parts = [autocorrelation(onsets)[4:_LAGS:3], np.array([onsets.std(), onsets.max(), envelope.std()])]
    for bars in _BARS:
        parts += [_folded(onsets, bars, _SLOTS), _folded(envelope, bars, _SLOTS // 2)]
    return parts


def _folded(envelope: Features, bars: int, slots: int) -> Features:
    """The mean of an envelope in each of `slots` parts of a bar."""
    whole = np.concatenate([[0], np.cumsum(envelope, dtype=np.float64)])
    edges = np.interp(np.linspace(0, len(envelope), bars * slots + 1), np.arange(len(whole)), whole)
    by_bar = np.diff(edges).reshape(bars, slots) * (bars * slots / len(envelope))
    mean: Features = by_bar.mean(axis=0).astype(np.float32)
    return mean
