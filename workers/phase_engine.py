"""Columns that have wanted mel amplitudes, and their waveform: the compiled engine of `workers.phase`.

Owns one block of columns between a fixed past and, at a loop's end, a fixed future:

1. linear amplitudes by a regularised pseudo-inverse of the mel matrix;
2. a first phase that continues the past (`workers.phase_gradient`);
3. steps of Griffin-Lim with momentum (Perraudin, Balazs and Søndergaard 2013) that scale amplitudes to the wanted mel
   energy instead of forcing linear ones that nobody knows. The momentum is taken in the signal, so a step keeps no
   spectrum.

Leaves out the stream of blocks (`workers.phase`); the same on a GPU is `workers.phase_torch`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from workers.lanes import LANES, aligned_zeros, compiled, greatest, load, padded, store
from workers.phase_gradient import columns_from_polar, first_phase
from workers.phase_grid import Frame, Grid, PseudoInverse
from workers.projection import add_columns, add_projected, projected_columns, tile_for, weighted

_FLOOR: Final = 1e-6
"""Mel amplitudes this much below a channel's loudest are as good as none."""
_TINY: Final = 1e-20
_LEAST_WEIGHT: Final = 1e-3

Floats = NDArray[np.float32]
Columns = NDArray[np.complex64]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much work goes into a block: the transform's length over the window's, and steps with their momentum.

    coarse_steps come first, by a transform no longer than the window, at half the cost; then steps, at least one.
    """

    oversampling: int
    coarse_steps: int
    steps: int
    momentum: float


def solved_columns(wanted: Floats, past: Columns, future: Columns, grid: Grid, effort: Effort) -> Columns:
    """Complex columns (channel, bin, column) whose mel amplitudes come near `wanted` (channel, mel bin, column).

    They go on from the fixed columns `past` and run into the fixed columns `future`, (channel, bin, column) both,
    either of which may be none. All channels get the same first phase. The loudest of `wanted` is about 1.
    """
    columns = wanted.shape[-1]
    solved = np.empty((len(wanted), grid.bins, columns), np.complex64)
    for channel, (re, im) in enumerate(first_columns(wanted, past, future, grid)):
        stride = re.size // grid.bins
        base = _fixed_signal(past[channel], future[channel], columns, stride, grid)
        goal = _goal(wanted[channel], stride, floor_below(wanted[channel]))
        _improve(re, im, base, past.shape[-1], columns + future.shape[-1], goal, grid, effort)
        for part, values in ((solved.real, re), (solved.imag, im)):
            part[channel] = values.reshape(grid.bins, stride)[:, :columns]
    return solved


def floor_below(wanted: Floats) -> float:
    """What is added to a channel's mel amplitudes wherever they divide or are divided."""
    return max(_FLOOR * float(wanted.max(initial=0.0)), _TINY)


def first_columns(wanted: Floats, past: Columns, future: Columns, grid: Grid) -> list[tuple[Floats, Floats]]:
    """Each channel's columns to begin with: real and imaginary parts, flat (bin * stride + column), whole lanes."""
    # One column more than wanted: the seam's, where there is one.
    stride = padded(wanted.shape[-1] + (future.shape[-1] > 0))
    amplitudes = [_linear(channel, stride, grid) for channel in wanted]
    phases = _first_phases(amplitudes, past, future, wanted.shape[-1], grid)
    made = []
    for amplitude, phase in zip(amplitudes, phases, strict=True):
        re, im = aligned_zeros(amplitude.size), aligned_zeros(amplitude.size)
        columns_from_polar(amplitude, phase, re, im)
        made.append((re, im))
    return made


def signal_from_columns(columns: Columns, frame: Frame) -> Floats:
    """Overlapped and added frames (channel, sample) of complex columns (channel, bin, column).

    A sample's windows are not yet weighed out: `weight` does that.
    """
    stride, span = padded(columns.shape[-1]), frame.window.size // frame.hop
    hops = padded(stride + span)
    tile = tile_for(frame.plan.length, 1)
    signals = np.empty((len(columns), (columns.shape[-1] + span - 1) * frame.hop), np.float32)
    for signal, channel in zip(signals, columns, strict=True):
        result = aligned_zeros(frame.hop * hops)
        add_columns(*_parts(channel, stride), stride, result, hops, 0, frame.as_tuple, tile)
        used = result.reshape(frame.hop, hops)[:, : columns.shape[-1] + span - 1]
        signal[:] = used.T.ravel()
    return signals


@lru_cache(maxsize=32)
def weight(frame: Frame, columns: int) -> Floats:
    """What to multiply a sum of `columns` twice windowed frames by, (sample of hop, hop)."""
    squares = np.square(frame.window).reshape(-1, frame.hop).T
    span = squares.shape[1]
    total: Floats = np.zeros((frame.hop, columns + span - 1), np.float32)
    for lag in range(span):
        total[:, lag : lag + columns] += squares[:, lag, np.newaxis]
    return np.reciprocal(np.maximum(total, np.float32(_LEAST_WEIGHT)))


def _parts(columns: Columns, stride: int) -> tuple[Floats, Floats]:
    """Complex columns (bin, column) as flat real and imaginary parts with room for `stride` columns."""
    re, im = aligned_zeros(len(columns), stride), aligned_zeros(len(columns), stride)
    re[:, : columns.shape[1]], im[:, : columns.shape[1]] = columns.real, columns.imag
    return re.ravel(), im.ravel()


def _linear(wanted: Floats, stride: int, grid: Grid) -> Floats:
    """Linear amplitudes, flat (bin * stride + column), for mel amplitudes (mel bin, column)."""
    linear = aligned_zeros(grid.bins * stride)
    room = aligned_zeros(len(wanted) * LANES)
    _solve(_goal(wanted, stride, 0.0)[0], stride, grid.pseudo_inverse, linear, room)
    return linear


@compiled
def _solve(wanted: Floats, stride: int, pseudo_inverse: PseudoInverse, linear: Floats, room: Floats) -> None:
    """The pseudo-inverse times `wanted`, nothing below zero."""
    rows, bins = pseudo_inverse.scale.size, linear.size // stride
    for first in range(0, stride, LANES):
        for row in range(rows):
            store(room, row * LANES, load(wanted, row * stride + first) - weighted(pseudo_inverse.forth, row, room))
        for row in range(rows):
            store(room, row * LANES, load(room, row * LANES) * pseudo_inverse.scale[row])
        for row in range(rows - 1, -1, -1):
            store(room, row * LANES, load(room, row * LANES) - weighted(pseudo_inverse.back, row, room))
        for bin_ in range(bins):
            value = weighted(pseudo_inverse.linear_from_mel, bin_, room)
            store(linear, bin_ * stride + first, greatest(value, np.float32(0.0)))


def _goal(wanted: Floats, stride: int, floor: float) -> tuple[Floats, int, np.float32]:
    """`wanted` plus `floor`, flat (mel bin * stride + column), nothing in columns that only fill up."""
    goal = aligned_zeros(len(wanted), stride)
    goal[:, : wanted.shape[1]] = wanted + np.float32(floor)
    return goal.ravel(), stride, np.float32(floor)


def _first_phases(amplitudes: list[Floats], past: Columns, future: Columns, columns: int, grid: Grid) -> list[Floats]:
    before = past[..., -1] if past.shape[-1] else np.zeros(past.shape[:2], np.complex64)
    stride = amplitudes[0].size // grid.bins
    if not future.shape[-1]:
        return first_phase(amplitudes, before, columns, stride, grid.gradient)
    seam = future[..., 0]
    for channel, there in zip(amplitudes, seam, strict=True):
        channel.reshape(grid.bins, stride)[:, columns] = np.abs(there)
    phases = first_phase(amplitudes, before, columns + 1, stride, grid.gradient)
    ramp = np.arange(1, columns + 1, dtype=np.float32) / np.float32(columns + 1)
    for channel, phase, there in zip(amplitudes, phases, seam, strict=True):
        cycles = phase.reshape(grid.bins, stride)
        missed = (np.angle(there) / (2 * np.pi)).astype(np.float32) - cycles[:, columns]
        cycles[:, :columns] += _by_peaks(missed, np.abs(there))[:, np.newaxis] * ramp
        channel.reshape(grid.bins, stride)[:, columns] = 0.0
    return phases


def _by_peaks(cycles: Floats, amplitudes: Floats) -> Floats:
    """`cycles` less whole ones: the peaks' to within half a cycle, all other bins' to within half of their peak's.

    So all bins of a partial turn the same way.
    """
    lower, upper = np.pad(amplitudes, (1, 0))[:-1], np.pad(amplitudes, (0, 1))[1:]
    step = np.where(lower > np.maximum(amplitudes, upper), -1, np.where(upper > amplitudes, 1, 0))
    peak = np.arange(len(amplitudes)) + step
    for _ in range(len(amplitudes).bit_length()):
        peak = peak[peak]
    nearest = cycles - np.round(cycles)
    around = nearest[peak]
    return np.asarray(cycles - np.round(cycles - around), np.float32)


def _fixed_signal(past: Columns, future: Columns, columns: int, stride: int, grid: Grid) -> Floats:
    """What the columns before and after a block contribute to its signal, (sample of hop, hop)."""
    before = past.shape[-1]
    hops = padded(before + stride + padded(future.shape[-1]) + 2 * grid.half)
    base = aligned_zeros(grid.working.hop * hops)
    tile = tile_for(grid.working.plan.length, 1)
    for fixed, start in ((past, 0), (future, before + columns)):
        if fixed.shape[-1]:
            room = padded(fixed.shape[-1])
            add_columns(*_parts(fixed, room), room, base, hops, start, grid.working.as_tuple, tile)
    return base.reshape(grid.working.hop, hops)


def _improve(
    re: Floats,
    im: Floats,
    base: Floats,
    start: int,
    others: int,
    goal: tuple[Floats, int, np.float32],
    grid: Grid,
    effort: Effort,
) -> None:
    """Griffin-Lim with momentum on the columns in `re` and `im`, in place.

    They begin at hop `start` of the signal `base`, where that many columns are before and, with them, `others` after.
    """
    hops = base.shape[1]
    stages = [
        (
            (each.mel_from_linear, each.linear_from_mel),
            each.working.as_tuple,
            tile_for(each.working.plan.length, len(each.mel)),
        )
        for each in (grid.coarse, grid)
        if each
    ]
    weights = aligned_zeros(*base.shape)
    known = weight(grid.working, start + others)
    weights[:, : known.shape[1]] = known
    result, ahead, previous = (aligned_zeros(base.size) for _ in range(3))
    result[:] = base.ravel()
    add_columns(re, im, goal[1], result, hops, start, *stages[-1][1:])
    momentum = np.float32(0.0)
    for stage in [stages[0]] * effort.coarse_steps + [stages[-1]] * (effort.steps - 1):
        _extrapolate(result, weights.ravel(), previous, ahead, base.ravel(), momentum)
        add_projected(ahead, result, hops, start, goal, *stage)
        momentum = np.float32(effort.momentum)
    _extrapolate(result, weights.ravel(), previous, ahead, base.ravel(), momentum)
    projected_columns(ahead, hops, start, goal, *stages[-1], re, im)


@compiled
def _extrapolate(
    result: Floats, scale: Floats, previous: Floats, ahead: Floats, fixed: Floats, momentum: np.float32
) -> None:
    """`ahead` = the signal in `result`, and as far again from `previous` as momentum says; `result` begins anew."""
    for at in range(result.size):
        signal = result[at] * scale[at]
        ahead[at] = signal + momentum * (signal - previous[at])
        previous[at] = signal
        result[at] = fixed[at]
