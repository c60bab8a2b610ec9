"""Compiled loops of a model's layers on a CPU: attention over narrow heads, group normalisation.

Owns the arithmetic, on flat float32 arrays, over `workers.lanes`. Leaves out which layers call it and how their
tensors lie (`workers.cpu_layers`). Everything here calls nothing but this file and `workers.lanes`, whose state its
compiled form is kept under.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic
from numpy.typing import NDArray

from workers.lanes import LANES, compiled, everywhere, floor, greatest, least, load, store

Floats = NDArray[np.float32]

DIMS_TOGETHER: Final = 8
"""Dimensions of a head that stay in registers; heads are filled up to a multiple with zeros."""
_KEYS_TOGETHER: Final = 64
_PIXELS_TOGETHER: Final = 512
"""So many are summed in single precision."""
_LOG2_E: Final = np.float32(math.log2(math.e))


@intrinsic  # type: ignore[untyped-decorator]
def _power_of_two(_typing: Any, whole: Any) -> Any:
    """2 to the power of whole numbers from -126 to 127, as lanes."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        numbers = ir.VectorType(ir.IntType(32), LANES)
        biased = builder.add(builder.fptosi(arguments[0], numbers), ir.Constant(numbers, [127] * LANES))
        return builder.bitcast(builder.shl(biased, ir.Constant(numbers, [23] * LANES)), arguments[0].type)

    return whole(whole), generate


@compiled
def _power(exponent: Any) -> Any:
    """2 to the power of each lane, to a rounding or two; within ±126, beyond which it stays there."""
    exponent = least(greatest(exponent, -126.0), 126.0)
    whole = floor(exponent + 0.5)
    rest = exponent - whole
    # The series of exp(ln 2 * rest), which is at most 0.5 either way.
    value = rest * np.float32(1.5403530e-4) + np.float32(1.3333558e-3)
    value = value * rest + np.float32(9.6181291e-3)
    value = value * rest + np.float32(5.5504109e-2)
    value = value * rest + np.float32(2.4022651e-1)
    value = value * rest + np.float32(6.9314718e-1)
    return (value * rest + 1.0) * _power_of_two(whole)


@compiled
def attend(query: Floats, key: Floats, value: Floats, out: Floats, size: tuple[int, int, int, int]) -> None:
    """out = softmax(query · key) · value, head by head, its softmax in powers of two.

    `size` is (heads, dims, queries, keys), dims a multiple of DIMS_TOGETHER and queries of LANES. query and out lie
    as (head, dim, query), key and value as (head, key, dim); out begins as zeros. Tiles of keys with a running
    maximum and sum, as in FlashAttention (Dao et al. 2022), 16 queries at a time.
    """
    heads, dims, queries, keys = size
    scores = np.empty(_KEYS_TOGETHER * LANES, np.float32)
    for head in range(heads):
        for at in range(head * dims * queries, head * dims * queries + queries, LANES):
            top, total = everywhere(np.float32(-1e30)), everywhere(np.float32(0))
            for tile in range(0, keys, _KEYS_TOGETHER):
                count = min(_KEYS_TOGETHER, keys - tile)
                first = (head * keys + tile) * dims
                tile_top = greatest(top, _score(query, key, scores, at, queries, first, dims, count))
                fading = _power(top - tile_top)
                total = total * fading + _weigh(scores, tile_top, count)
                _mix(scores, value, out, at, queries, first, dims, count, fading)
                top = tile_top
            for place in range(at, at + dims * queries, queries):
                store(out, place, load(out, place) / total)


@compiled
def _score(query: Floats, key: Floats, scores: Floats, at: int, queries: int, first: int, dims: int, count: int) -> Any:
    """The products of 16 queries with a tile's keys, and the greatest for each query."""
    top = everywhere(np.float32(-1e30))
    for dim in range(0, dims, DIMS_TOGETHER):
        place = at + dim * queries
        q0, q1, q2 = load(query, place), load(query, place + queries), load(query, place + 2 * queries)
        q3, q4, q5 = (
            load(query, place + 3 * queries),
            load(query, place + 4 * queries),
            load(query, place + 5 * queries),
        )
        q6, q7 = load(query, place + 6 * queries), load(query, place + 7 * queries)
        for index in range(count):
            k = first + index * dims + dim
            even = q0 * key[k] + q2 * key[k + 2] + q4 * key[k + 4] + q6 * key[k + 6]
            score = even + (q1 * key[k + 1] + q3 * key[k + 3] + q5 * key[k + 5] + q7 * key[k + 7])
            if dim:
                score = score + load(scores, index * LANES)
            store(scores, index * LANES, score)
            if dim + DIMS_TOGETHER >= dims:
                top = greatest(top, score)
    return top


@compiled
def _weigh(scores: Floats, top: Any, count: int) -> Any:
    """Scores become weights, in place; their sum."""
    total = everywhere(np.float32(0))
    for place in range(0, count * LANES, LANES):
        weight = _power(load(scores, place) - top)
        store(scores, place, weight)
        total = total + weight
    return total


@compiled
def _mix(
    weights: Floats,
    value: Floats,
    out: Floats,
    at: int,
    queries: int,
    first: int,
    dims: int,
    count: int,
    fading: Any,
) -> None:
    """out * fading + weights · value for a tile's keys."""
    for dim in range(0, dims, DIMS_TOGETHER):
        p0 = at + dim * queries
        p1, p2, p3 = p0 + queries, p0 + 2 * queries, p0 + 3 * queries
        p4, p5, p6, p7 = p0 + 4 * queries, p0 + 5 * queries, p0 + 6 * queries, p0 + 7 * queries
        o0, o1, o2, o3 = load(out, p0) * fading, load(out, p1) * fading, load(out, p2) * fading, load(out, p3) * fading
        o4, o5, o6, o7 = load(out, p4) * fading, load(out, p5) * fading, load(out, p6) * fading, load(out, p7) * fading
        for index in range(count):
            v = first + index * dims + dim
            weight = load(weights, index * LANES)
            o0, o1 = o0 + weight * value[v], o1 + weight * value[v + 1]
            o2, o3 = o2 + weight * value[v + 2], o3 + weight * value[v + 3]
            o4, o5 = o4 + weight * value[v + 4], o5 + weight * value[v + 5]
            o6, o7 = o6 + weight * value[v + 6], o7 + weight * value[v + 7]
        store(out, p0, o0)
        store(out, p1, o1)
        store(out, p2, o2)
        store(out, p3, o3)
        store(out, p4, o4)
        store(out, p5, o5)
        store(out, p6, o6)
        store(out, p7, o7)


@compiled
def normalise(
    picture: Floats,
    bias: Floats,
    scale: Floats,
    shift: Floats,
    out: Floats,
    size: tuple[int, int, int, int],
    groups: int,
    epsilon: float,
    wrapped: int,
    has_silu: bool,
) -> None:
    """Group normalisation (Wu and He 2018) of picture + bias, and x * sigmoid(x) after it where wanted.

    `size` is (pictures, rows, columns, channels), channels a multiple of LANES. picture lies so, bias as (picture,
    channel), out with `wrapped` columns more on each side: those of the other end.
    """
    pictures, rows, columns, channels = size
    gain, offset = np.empty(channels, np.float32), np.empty(channels, np.float32)
    wide = columns + 2 * wrapped
    for number in range(pictures):
        first = number * rows * columns * channels
        own = bias[number * channels : (number + 1) * channels]
        means, spreads = _moments(picture, first, rows * columns, channels)
        _fold(means + own, spreads, rows * columns, groups, epsilon, own, scale, shift, gain, offset)
        for row in range(rows):
            source = first + row * columns * channels
            to = (number * rows + row) * wide * channels
            _scale_row(picture, source, out, to + wrapped * channels, columns, gain, offset, has_silu)
            for index in range(wrapped * channels):
                out[to + index] = out[to + columns * channels + index]
                out[to + (wrapped + columns) * channels + index] = out[to + wrapped * channels + index]


@compiled
def _moments(picture: Floats, first: int, pixels: int, channels: int) -> Any:
    """Each channel's mean, and the sum of squared deviations from it, in double precision."""
    sums, squares = np.zeros(channels), np.zeros(channels)
    block_sums, block_squares = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for begin in range(0, pixels, _PIXELS_TOGETHER):
        end = min(pixels, begin + _PIXELS_TOGETHER)
        for channel in range(0, channels, LANES):
            # Deviations from the first pixel: squares of what is far from zero would lose what they differ by.
            origin = load(picture, first + channel)
            total, square = everywhere(np.float32(0)), everywhere(np.float32(0))
            for place in range(first + begin * channels + channel, first + end * channels, channels):
                apart = load(picture, place) - origin
                total = total + apart
                square = square + apart * apart
            store(block_sums, channel, total)
            store(block_squares, channel, square)
        sums += block_sums
        squares += block_squares
    return picture[first : first + channels] + sums / pixels, squares - sums * sums / pixels


@compiled
def _fold(
    means: Any,
    spreads: Any,
    pixels: int,
    groups: int,
    epsilon: float,
    bias: Floats,
    scale: Floats,
    shift: Floats,
    gain: Floats,
    offset: Floats,
) -> None:
    """What each channel is multiplied by and what is added, from the moments of all channels of its group."""
    each = len(means) // groups
    for begin in range(0, len(means), each):
        mine = slice(begin, begin + each)
        mean = means[mine].mean()
        apart = means[mine] - mean
        variance = (spreads[mine].sum() + pixels * (apart * apart).sum()) / (pixels * each)
        for channel in range(begin, begin + each):
            gain[channel] = scale[channel] / math.sqrt(variance + epsilon)
            offset[channel] = shift[channel] + (bias[channel] - mean) * gain[channel]


@compiled
def _scale_row(
    picture: Floats, source: int, out: Floats, to: int, columns: int, gain: Floats, offset: Floats, has_silu: bool
) -> None:
    channels = len(gain)
    for channel in range(0, channels, LANES):
        factor, addend = load(gain, channel), load(offset, channel)
        for place in range(channel, columns * channels, channels):
            value = load(picture, source + place) * factor + addend
            if has_silu:
                value = value / (_power(value * -_LOG2_E) + 1.0)
            store(out, to + place, value)
