"""A first phase for amplitudes without one, going on from columns that have theirs.

Owns real-time phase gradient heap integration (Průša and Søndergaard 2016): for a Gauss-like window the logarithm's
slope over frequency tells how phase moves with time, and its slope over time how phase moves with frequency. Phase
spreads from the loudest bins outwards, from the column before or from a neighbour in the same column, whichever is
reached over louder ground. Which way that is depends on amplitudes alone, and the widest way from below is the widest
way to the bin below, narrowed by that bin's ground: so two scans over the bins, for sixteen columns at once, find
what the paper finds with a heap. Leaves out how the phase is improved afterwards (`workers.phase_engine`).

Phases are counted in cycles. Spectra lie as (bin, column), flat, as in `workers.projection`.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.lanes import (
    LANES,
    aligned_zeros,
    compiled,
    everywhere,
    floor,
    greatest,
    least,
    load,
    store,
    where_greater,
)

_FLOOR: Final = 1e-7
_UNREACHED: Final = np.float32(1e-12)
"""How much a bin weighs as a start of its own against being reached from the past."""
_LEAD: Final = 1e-3
"""How much of all channels' past is in the phase that each one starts from."""

Floats = NDArray[np.float32]


class Gradient(NamedTuple):
    """How slopes become turns. A slope is a difference of logarithms over two bins or columns.

    per_hop: cycles each bin turns in a hop by its frequency alone.
    from_bins: cycles in a hop per slope over frequency; from_columns: cycles in a bin per slope over time.
    middle: cycles by which a column's phase, counted in the middle of its frame, is ahead of the transform's.
    """

    per_hop: Floats
    from_bins: float
    from_columns: float
    middle: Floats


def gradient_for(bins: int, span_hops: int, fft_hops: float, gamma_hops: float) -> Gradient:
    """For frames that begin `span_hops / 2` before their column and a transform `fft_hops` long.

    `gamma_hops` is the width of the Gauss window most like the one used, in square hops.
    """
    index = np.arange(bins)
    cycle = 1 / (2 * np.pi)
    return Gradient(
        (index / fft_hops % 1).astype(np.float32),
        fft_hops / gamma_hops / 2 * cycle,
        -gamma_hops / fft_hops / 2 * cycle,
        (index * (span_hops / 2 / fft_hops) % 1).astype(np.float32),
    )


def first_phase(
    amplitudes: list[Floats], past: NDArray[np.complex64], columns: int, stride: int, gradient: Gradient
) -> list[Floats]:
    """Phases in cycles (bin * stride + column) of each channel's `amplitudes`, which lie alike.

    `past` (channel, bin) is the complex column before them, all zeros at a track's start. All channels go the same
    ways by the same steps, found in their mean, so what is in the middle of a stereo picture, or a fixed way off it,
    stays there.
    """
    bins = past.shape[1]
    width = stride + LANES
    ground = aligned_zeros(bins, width)
    ground[:, 0] = np.abs(past).mean(axis=0)
    for channel in amplitudes:
        ground[:, 1 : columns + 1] += channel.reshape(bins, stride)[:, :columns] * np.float32(1 / len(amplitudes))
    lowest = max(_FLOOR * float(ground.max()), float(np.finfo(np.float32).tiny))
    heights = np.maximum(ground, np.float32(lowest))
    np.log(heights, out=heights)
    # A slope at the last column goes on as it came.
    heights[:, columns + 1] = 2 * heights[:, columns] - heights[:, columns - 1]
    # Where a channel is silent its phase is chance: there it goes with the others.
    led = past + np.complex64(_LEAD) * past.sum(axis=0)
    start = (np.angle(led) / (2 * np.pi)).astype(np.float32) + gradient.middle
    phases = np.zeros((len(amplitudes), bins * stride), np.float32)
    room = tuple(aligned_zeros(bins * LANES) for _ in range(4))
    _spread(ground.ravel(), heights.ravel(), width, columns, stride, gradient, start, phases, room)
    return list(phases)


@compiled
def _spread(
    ground: Floats,
    heights: Floats,
    width: int,
    columns: int,
    stride: int,
    gradient: Any,
    phase: Floats,
    phases: Floats,
    room: Any,
) -> None:
    """Fill `phases`; `phase` (channel, bin) is that of the column before and is overwritten."""
    source, reach, across, forward = room
    channels, bins = phase.shape
    came = np.empty(bins, np.float32)
    for first in range(0, columns, LANES):
        _find_sources(ground, width, first, source, reach)
        _find_steps(heights, width, first, gradient, across, forward)
        for channel in range(channels):
            now, out = phase[channel], phases[channel]
            for column in range(min(LANES, columns - first)):
                came[:] = now
                for bin_ in range(bins):
                    at = bin_ * LANES + column
                    origin = int(source[at])
                    cycles = came[origin] + forward[origin * LANES + column] + across[at]
                    cycles -= np.floor(cycles)
                    now[bin_] = cycles
                    out[bin_ * stride + first + column] = cycles - gradient.middle[bin_]


@compiled
def _find_sources(ground: Floats, width: int, first: int, source: Floats, reach: Floats) -> None:
    """For 16 columns, the bin of the column before that each bin's phase comes from.

    A way is as wide as its narrowest place: its start and the ground of all bins it crosses. `offered` is how wide the
    next bin is reached over the ones before.
    """
    bins = source.size // LANES
    offered = everywhere(0.0)
    origin = offered
    for bin_ in range(bins):
        at = bin_ * width + first
        now = load(ground, at + 1)
        start = greatest(load(ground, at), now * _UNREACHED)
        origin = where_greater(offered, start, origin, np.float32(bin_))
        widest = greatest(offered, start)
        offered = least(widest, now)
        store(source, bin_ * LANES, origin)
        store(reach, bin_ * LANES, widest)
    offered = everywhere(0.0)
    for bin_ in range(bins - 1, -1, -1):
        at = bin_ * width + first
        now = load(ground, at + 1)
        start = greatest(load(ground, at), now * _UNREACHED)
        origin = where_greater(offered, start, origin, np.float32(bin_))
        widest = greatest(offered, start)
        offered = least(widest, now)
        best = where_greater(widest, load(reach, bin_ * LANES), origin, load(source, bin_ * LANES))
        store(source, bin_ * LANES, best)


@compiled
def _find_steps(heights: Floats, width: int, first: int, gradient: Any, across: Floats, forward: Floats) -> None:
    """For 16 columns: `across` from bin 0 to each bin, and from each bin of the column before to bin 0, in cycles."""
    bins = across.size // LANES
    passed = everywhere(0.0)
    for bin_ in range(bins):
        at, below, above = bin_ * width + first, max(bin_ - 1, 0), min(bin_ + 1, bins - 1)
        low, high = below * width + first, above * width + first
        slopes = load(heights, high) - load(heights, low) + load(heights, high + 1) - load(heights, low + 1)
        share = np.float32(gradient.from_bins / max(above - below, 1))
        turn = (load(heights, at + 2) - load(heights, at)) * np.float32(gradient.from_columns)
        here = passed + turn * np.float32(0.5)
        passed = passed + turn
        passed = passed - floor(passed)
        store(across, bin_ * LANES, here)
        store(forward, bin_ * LANES, slopes * share + gradient.per_hop[bin_] - here)


@compiled
def columns_from_polar(amplitudes: Floats, phases: Floats, re: Floats, im: Floats) -> None:
    """Complex numbers of amplitudes and phases in cycles, 16 at a time; to 1e-6 of the amplitude."""
    for at in range(0, amplitudes.size, LANES):
        phase, amplitude = load(phases, at), load(amplitudes, at)
        store(im, at, amplitude * _sine(phase))
        store(re, at, amplitude * _sine(phase + np.float32(0.25)))


@compiled
def _sine(cycles: Any) -> Any:
    """The sine of a phase in cycles: folded to a quarter either way, then its series."""
    place = cycles - floor(cycles + np.float32(0.5))
    place = greatest(
        least(place, place * np.float32(-1.0) + np.float32(0.5)), place * np.float32(-1.0) - np.float32(0.5)
    )
    square = place * place
    total = square * np.float32(-15.094643) + np.float32(42.058693)
    total = total * square - np.float32(76.705859)
    total = total * square + np.float32(81.605249)
    total = total * square - np.float32(41.341702)
    total = total * square + np.float32(6.2831853)
    return total * place
