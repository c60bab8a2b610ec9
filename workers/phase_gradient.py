"""A first phase for amplitudes without one, going on from columns that have theirs.

Owns real-time phase gradient heap integration (Průša and Søndergaard 2016): for a Gauss-like window the logarithm's
slope over frequency tells how phase moves with time, and its slope over time how phase moves with frequency. Phase
spreads from the loudest bins outwards, from the column before or from a neighbour in the same column, whichever is
reached over louder ground. Which path that is depends on amplitudes alone, so it is found for all columns at once by
prefix scans instead of a heap. Leaves out how the phase is improved afterwards (`workers.phase`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_FLOOR: Final = 1e-7
_UNREACHED: Final = 1e-12
"""How much a bin weighs as a start of its own against being reached from the past."""

Floats = NDArray[np.float32]


def first_phase(
    amplitudes: Floats, past: NDArray[np.complex64], span_hops: int, fft_hops: float, gamma_hops: float
) -> Floats:
    """Phases in radians (channel, column, bin) for `amplitudes` of that shape.

    `past` (channel, column, bin) holds the complex columns before them, none at a track's start. A frame begins
    `span_hops / 2` before its column; the Fourier transform is `fft_hops` long; `gamma_hops` is the width of the
    Gauss window most like the one used, in square hops. All channels go the same ways, so that what is in the middle
    of a stereo picture stays there.
    """
    if past.shape[1]:
        before, phase = np.abs(past[:, -1:]).mean(axis=0), np.angle(past[:, -1]).astype(np.float64)
    else:
        before, phase = np.zeros_like(amplitudes[0, :1]), np.zeros_like(amplitudes[:, 0], np.float64)
    ground = np.concatenate([before, amplitudes.mean(axis=0)])
    source = _sources(ground)
    steps = _steps(ground, source, fft_hops, gamma_hops)
    # A transform counts phase from its frame's beginning, the gradient from the column in its middle.
    turn = np.pi * span_hops / fft_hops * np.arange(ground.shape[1])
    phase += turn
    phases = np.empty(amplitudes.shape)
    for column, (where, step) in enumerate(zip(source, steps, strict=True)):
        phase = phase[:, where] + step
        phases[:, column] = phase
    phases -= turn
    return (phases % (2 * np.pi)).astype(np.float32)


def _steps(ground: Floats, source: NDArray[np.intp], fft_hops: float, gamma_hops: float) -> NDArray[np.float64]:
    """How far phase moves from bin `source` of one column to each bin of the next, (column, bin)."""
    lowest = max(_FLOOR * float(ground.max()), float(np.finfo(np.float32).tiny))
    heights = np.log(np.maximum(ground, lowest))
    by_time = np.gradient(heights, axis=1) * (fft_hops / gamma_hops)
    by_time += 2 * np.pi / fft_hops * np.arange(ground.shape[1])
    by_frequency = np.gradient(heights, axis=0)[1:] * (-gamma_hops / fft_hops)
    across = np.cumsum(by_frequency, axis=1, dtype=np.float64)
    across -= by_frequency / 2
    forward = (by_time[:-1] + by_time[1:]) / 2
    steps: NDArray[np.float64] = across + np.take_along_axis(forward - across, source, axis=1)
    return steps


def _sources(ground: Floats) -> NDArray[np.intp]:
    """For every bin of each column but the first, the bin of the column before that its phase comes from."""
    before, now = ground[:-1], ground[1:]
    start = np.maximum(before, _UNREACHED * now)
    up, from_below = _widest_from_below(start, now)
    down, from_above = _widest_from_below(start[:, ::-1], now[:, ::-1])
    from_above = now.shape[1] - 1 - from_above[:, ::-1]
    return np.where(up >= down[:, ::-1], from_below, from_above)


def _widest_from_below(start: Floats, ground: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """The widest way to each bin from a start at or below it, and that start's bin; (column, bin) both.

    A way is as wide as its narrowest place: its start and the ground of all bins it crosses. Bins ask one bin below,
    then two, four, ...: each time the ways asked for have doubled their length.
    """
    width, way = start.copy(), np.roll(ground, 1, axis=1)
    way[:, 0] = 0.0
    source = np.broadcast_to(np.arange(ground.shape[1]), ground.shape).copy()
    distance = 1
    while distance < ground.shape[1]:
        offered = np.minimum(width[:, :-distance], way[:, distance:])
        source[:, distance:] = np.where(offered > width[:, distance:], source[:, :-distance], source[:, distance:])
        width[:, distance:] = np.maximum(width[:, distance:], offered)
        way[:, distance:] = np.minimum(way[:, distance:], way[:, :-distance].copy())
        distance *= 2
    return width, source
