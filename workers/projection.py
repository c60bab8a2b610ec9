"""One step towards wanted mel amplitudes, sixteen columns at a time.

Owns the compiled loops between a signal and its columns: frames of the signal → spectrum → scaled to the wanted mel
energy → frames → overlapped and added. A tile of 16 columns stays in the processor's cache from end to end; what a step
leaves in memory is the signal alone. Leaves out which steps are taken (`workers.phase_engine`) and the transform
(`workers.fourier`).

A signal lies as (sample of hop, hop), so that one sample of 16 frames that begin a hop apart is one load. Spectra and
mel amplitudes lie as (bin, column). Columns fill whole lanes; what is wanted of those that only fill up is nothing at
all. All arrays are float32, contiguous, and passed flat.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.fourier import transform
from workers.lanes import LANES, aligned_zeros, compiled, everywhere, load, root, store

Floats = NDArray[np.float32]


class Filters(NamedTuple):
    """A sparse matrix whose rows are runs: row i holds `weights[begin[i]:begin[i + 1]]` from column `first[i]` on."""

    first: NDArray[np.int64]
    begin: NDArray[np.int64]
    weights: Floats


def filters_from_matrix(matrix: NDArray[np.float64]) -> Filters:
    """The runs from each row's first to its last value that is not zero."""
    first, begin, runs = [], [0], [np.zeros(0)]
    for row in matrix:
        used = np.flatnonzero(row)
        start, stop = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
        first.append(start)
        begin.append(begin[-1] + stop - start)
        runs.append(row[start:stop])
    weights = np.concatenate(runs).astype(np.float32)
    return Filters(np.array(first, np.int64), np.array(begin, np.int64), weights)


@compiled
def weighted(filters: Any, row: int, values: Any) -> Any:
    """Row `row` of `filters` times the rows of `values`, 16 columns wide."""
    begin, stop, at = filters.begin[row], filters.begin[row + 1], filters.first[row] * LANES
    total = everywhere(0.0)
    for index in range(begin, stop):
        total = total + load(values, at) * filters.weights[index]
        at += LANES
    return total


@compiled
def frames_from_signal(signal: Floats, hops: int, start: int, hop: int, window: Floats, re: Floats, im: Floats) -> None:
    """Windowed frames that begin at hops start..start + 15, as packed rows: even samples real, odd ones imaginary.

    Rows after the window's are left as they are.
    """
    sample, at = 0, start
    for row in range(window.size):
        part = im if row % 2 else re
        store(part, row // 2 * LANES, load(signal, at + sample * hops) * window[row])
        sample += 1
        if sample == hop:
            sample, at = 0, at + 1


@compiled
def add_frames(signal: Floats, hops: int, start: int, hop: int, window: Floats, re: Floats, im: Floats) -> None:
    """The way back from `frames_from_signal`: windowed again, and added where the frames lie."""
    sample, at = 0, start
    for row in range(window.size):
        part = im if row % 2 else re
        place = at + sample * hops
        store(signal, place, load(signal, place) + load(part, row // 2 * LANES) * window[row])
        sample += 1
        if sample == hop:
            sample, at = 0, at + 1


@compiled
def real_from_packed(re: Floats, im: Floats, turn_re: Floats, turn_im: Floats, amplitudes: Floats) -> None:
    """Transforms of packed rows → bins of the real frames, in place, and their amplitudes.

    Bin 0 and the last one, both real, share the first row.
    """
    half = np.float32(0.5)
    last = re.size // LANES
    total_re, total_im = load(re, 0), load(im, 0)
    store(re, 0, total_re + total_im)
    store(im, 0, total_re - total_im)
    store(amplitudes, 0, root((total_re + total_im) * (total_re + total_im)))
    store(amplitudes, last * LANES, root((total_re - total_im) * (total_re - total_im)))
    for bin_ in range(1, last // 2 + 1):
        a, b = bin_ * LANES, (last - bin_) * LANES
        a_re, a_im, b_re, b_im = load(re, a), load(im, a), load(re, b), load(im, b)
        even_re, even_im = (a_re + b_re) * half, (a_im - b_im) * half
        odd_re, odd_im = (a_im + b_im) * half, (b_re - a_re) * half
        w_re, w_im = turn_re[bin_], turn_im[bin_]
        t_re, t_im = odd_re * w_re - odd_im * w_im, odd_re * w_im + odd_im * w_re
        a_re, a_im, b_re, b_im = even_re + t_re, even_im + t_im, even_re - t_re, t_im - even_im
        store(re, a, a_re)
        store(im, a, a_im)
        store(re, b, b_re)
        store(im, b, b_im)
        store(amplitudes, a, root(a_re * a_re + a_im * a_im))
        store(amplitudes, b, root(b_re * b_re + b_im * b_im))


@compiled
def packed_from_real(re: Floats, im: Floats, turn_re: Floats, turn_im: Floats) -> None:
    """The way back from `real_from_packed`, in place and without its halves: the result is twice as large."""
    last = re.size // LANES
    total_re, total_im = load(re, 0), load(im, 0)
    store(re, 0, total_re + total_im)
    store(im, 0, total_re - total_im)
    for bin_ in range(1, last // 2 + 1):
        a, b = bin_ * LANES, (last - bin_) * LANES
        a_re, a_im, b_re, b_im = load(re, a), load(im, a), load(re, b), load(im, b)
        even_re, even_im = a_re + b_re, a_im - b_im
        t_re, t_im = a_re - b_re, a_im + b_im
        w_re, w_im = turn_re[bin_], turn_im[bin_]
        odd_re, odd_im = t_re * w_re + t_im * w_im, t_im * w_re - t_re * w_im
        store(re, a, even_re - odd_im)
        store(im, a, even_im + odd_re)
        store(re, b, even_re + odd_im)
        store(im, b, odd_re - even_im)


@compiled
def scale_to_mel(
    re: Floats,
    im: Floats,
    amplitudes: Floats,
    ratios: Floats,
    wanted: Floats,
    stride: int,
    start: int,
    floor: Any,
    mel_from_linear: Any,
    linear_from_mel: Any,
) -> None:
    """Scale a tile's bins so that their mel amplitudes come near `wanted`, which has `floor` added where it counts."""
    for row in range(ratios.size // LANES):
        found = weighted(mel_from_linear, row, amplitudes) + floor
        store(ratios, row * LANES, load(wanted, row * stride + start) / found)
    last = re.size // LANES
    store(re, 0, load(re, 0) * weighted(linear_from_mel, 0, ratios))
    store(im, 0, load(im, 0) * weighted(linear_from_mel, last, ratios))
    for bin_ in range(1, last):
        scale = weighted(linear_from_mel, bin_, ratios)
        at = bin_ * LANES
        store(re, at, load(re, at) * scale)
        store(im, at, load(im, at) * scale)


class Tile(NamedTuple):
    """Room for 16 columns on their way: packed rows twice, amplitudes (bin), ratios (mel bin)."""

    re: Floats
    im: Floats
    other_re: Floats
    other_im: Floats
    amplitudes: Floats
    ratios: Floats


def tile_for(length: int, mel_bins: int) -> Tile:
    """Room for frames of `length` samples."""
    rows = length // 2
    return Tile(*(aligned_zeros(size * LANES) for size in (rows, rows, rows, rows, rows + 1, mel_bins)))


@compiled
def _scaled_tile(
    signal: Floats, hops: int, start: int, first: int, goal: Any, filters: Any, frame: Any, tile: Any
) -> bool:
    """16 columns of `signal` from column `first` on, scaled to the wanted mel energy; True if in the other arrays."""
    hop, window, _, plan = frame
    wanted, stride, floor = goal
    frames_from_signal(signal, hops, start + first, hop, window, tile.re, tile.im)
    is_other = transform(
        tile.re, tile.im, tile.other_re, tile.other_im, plan.radices, plan.twiddle_re, plan.twiddle_im, plan.is_half
    )
    re, im = (tile.other_re, tile.other_im) if is_other else (tile.re, tile.im)
    real_from_packed(re, im, plan.turn_re, plan.turn_im, tile.amplitudes)
    scale_to_mel(re, im, tile.amplitudes, tile.ratios, wanted, stride, first, floor, filters[0], filters[1])
    return bool(is_other)


@compiled
def _add_tile(
    result: Floats, hops: int, start: int, frame: Any, re: Floats, im: Floats, other_re: Floats, other_im: Floats
) -> None:
    """Add the frames of the bins in `re` and `im`; the others are room."""
    hop, _, window, plan = frame
    packed_from_real(re, im, plan.turn_re, plan.turn_im)
    if transform(im, re, other_im, other_re, plan.radices, plan.twiddle_re, plan.twiddle_im, False):
        add_frames(result, hops, start, hop, window, other_re, other_im)
    else:
        add_frames(result, hops, start, hop, window, re, im)


@compiled
def add_projected(
    signal: Floats, result: Floats, hops: int, start: int, goal: Any, filters: Any, frame: Any, tile: Any
) -> None:
    """Add to `result` the frames of `signal` with the wanted mel energy.

    `signal` and `result` have `hops` hops; columns begin at hop `start`. `goal` is (wanted, its columns, floor),
    `filters` (mel from linear, linear from mel), `frame` (hop, window, window on the way back, plan).
    """
    for first in range(0, goal[1], LANES):
        if _scaled_tile(signal, hops, start, first, goal, filters, frame, tile):
            _add_tile(result, hops, start + first, frame, tile.other_re, tile.other_im, tile.re, tile.im)
        else:
            _add_tile(result, hops, start + first, frame, tile.re, tile.im, tile.other_re, tile.other_im)


@compiled
def projected_columns(
    signal: Floats,
    hops: int,
    start: int,
    goal: Any,
    filters: Any,
    frame: Any,
    tile: Any,
    spectrum_re: Floats,
    spectrum_im: Floats,
) -> None:
    """Like `add_projected`, but the columns themselves, (bin, column)."""
    last, stride = spectrum_re.size // goal[1] - 1, goal[1]
    for first in range(0, stride, LANES):
        is_other = _scaled_tile(signal, hops, start, first, goal, filters, frame, tile)
        re, im = (tile.other_re, tile.other_im) if is_other else (tile.re, tile.im)
        for bin_ in range(last):
            store(spectrum_re, bin_ * stride + first, load(re, bin_ * LANES))
            store(spectrum_im, bin_ * stride + first, load(im, bin_ * LANES))
        store(spectrum_re, last * stride + first, load(im, 0))
        store(spectrum_im, last * stride + first, everywhere(0.0))
        store(spectrum_im, first, everywhere(0.0))


@compiled
def add_columns(
    spectrum_re: Floats, spectrum_im: Floats, stride: int, result: Floats, hops: int, start: int, frame: Any, tile: Any
) -> None:
    """Add the frames of columns (bin, column) to `result`.

    A transform with more bins than the columns have takes the rest as zeros.
    """
    bins, rows = spectrum_re.size // stride, tile.re.size // LANES
    for first in range(0, stride, LANES):
        for bin_ in range(min(bins, rows)):
            store(tile.re, bin_ * LANES, load(spectrum_re, bin_ * stride + first))
            store(tile.im, bin_ * LANES, load(spectrum_im, bin_ * stride + first))
        tile.re[bins * LANES :] = 0.0
        tile.im[bins * LANES :] = 0.0
        store(tile.im, 0, everywhere(0.0))
        if bins > rows:
            store(tile.im, 0, load(spectrum_re, rows * stride + first))
        _add_tile(result, hops, start + first, frame, tile.re, tile.im, tile.other_re, tile.other_im)
