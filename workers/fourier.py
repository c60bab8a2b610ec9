"""Fourier transforms of sixteen columns at once, inside compiled loops.

Owns the transform between 16 real frames and their spectra as a mixed-radix Stockham transform over `workers.lanes`:
every butterfly handles 16 columns, so nothing is ever shuffled. On one core three times the speed of the libraries'
transform of frame after frame (docs/sound.md). Leaves out windows, overlap and what happens to a spectrum.

A real frame of n samples is n / 2 complex numbers (even samples and odd samples); `workers.projection` has the step
from there to the frame's spectrum. Arrays are flat: row * LANES + column.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.lanes import LANES, compiled, everywhere, load, store

Floats = NDArray[np.float32]
_RADICES: Final = (6, 5, 4, 3, 2)
"""What there are passes for; other lengths fall back on a slow one for any odd prime."""


class Plan(NamedTuple):
    """How frames of `length` samples are transformed: radices, twiddles (row, power), the turn from packed to real.

    is_half: frames are zeros from their middle on, and on the way back nobody asks what is there.
    """

    length: int
    is_half: bool
    radices: NDArray[np.int64]
    twiddle_re: Floats
    twiddle_im: Floats
    turn_re: Floats
    turn_im: Floats


@lru_cache(maxsize=16)
def plan(length: int, is_half: bool = False) -> Plan:
    """The plan for real frames of `length` samples, an even number; `is_half` when only the first half holds any.

    Raises ValueError for an odd number, or halves that cannot be told apart.
    """
    if length % (4 if is_half else 2):
        raise ValueError("a frame has an even number of samples, and so has its half")
    radices = [2, *_radices(length // 4)] if is_half else _radices(length // 2)
    most = max(radices, default=1)
    rows, rest = [np.zeros((0, most), np.complex128)], length // 2
    for radix in radices:
        powers = np.outer(np.arange(rest // radix), np.arange(most))
        rows.append(np.exp(-2j * np.pi * powers / rest))
        rest //= radix
    twiddles = np.concatenate(rows)
    turn = np.exp(-2j * np.pi * np.arange(length // 2 + 1) / length)
    parts = (twiddles.real, twiddles.imag, turn.real, turn.imag)
    return Plan(
        length, is_half, np.array(radices, np.int64), *(np.ascontiguousarray(part, np.float32) for part in parts)
    )


def _radices(length: int) -> list[int]:
    found = []
    for radix in (*_RADICES, *range(7, length + 1, 2)):
        while length % radix == 0:
            found.append(radix)
            length //= radix
        if length == 1:
            break
    return found


def is_quick(length: int) -> bool:
    """Whether frames of this many samples transform by the quick passes alone."""
    return length % 2 == 0 and all(radix in _RADICES for radix in _radices(length // 2))


@compiled
def transform(
    re: Floats,
    im: Floats,
    other_re: Floats,
    other_im: Floats,
    radices: NDArray[np.int64],
    twiddle_re: Floats,
    twiddle_im: Floats,
    is_half: bool,
) -> bool:
    """The transform of 16 columns of complex rows; True if it ends in the `other` pair of arrays.

    To transform back, give and take imaginary parts as real ones; nothing is divided by the length. With `is_half` the
    second half of the rows counts as zeros, whatever it holds; the first radix is 2 then.
    """
    rest, stride, row = re.size // LANES, 1, 0
    is_other = False
    for radix in radices:
        rest //= radix
        if is_half and stride == 1:
            _pass2_half(re, im, other_re, other_im, rest, twiddle_re, twiddle_im)
        elif radix == 6:
            _pass6(re, im, other_re, other_im, rest, stride, twiddle_re, twiddle_im, row)
        elif radix == 5:
            _pass5(re, im, other_re, other_im, rest, stride, twiddle_re, twiddle_im, row)
        elif radix == 4:
            _pass4(re, im, other_re, other_im, rest, stride, twiddle_re, twiddle_im, row)
        elif radix == 3:
            _pass3(re, im, other_re, other_im, rest, stride, twiddle_re, twiddle_im, row)
        elif radix == 2:
            _pass2(re, im, other_re, other_im, rest, stride, twiddle_re, twiddle_im, row)
        else:
            _pass_odd(re, im, other_re, other_im, rest, stride, twiddle_re, twiddle_im, row, radix)
        re, im, other_re, other_im = other_re, other_im, re, im
        is_other = not is_other
        row += rest
        stride *= radix
    return is_other


@compiled
def _put(re: Floats, im: Floats, at: int, value_re: Any, value_im: Any, turn_re: Any, turn_im: Any) -> None:
    store(re, at, value_re * turn_re - value_im * turn_im)
    store(im, at, value_re * turn_im + value_im * turn_re)


@compiled
def _pass2(
    re: Floats,
    im: Floats,
    to_re: Floats,
    to_im: Floats,
    rest: int,
    stride: int,
    twiddle_re: Floats,
    twiddle_im: Floats,
    row: int,
) -> None:
    step, hop = stride * rest * LANES, stride * LANES
    for place in range(rest):
        w_re, w_im = twiddle_re[row + place], twiddle_im[row + place]
        for k in range(stride):
            at, to = (k + stride * place) * LANES, (k + 2 * stride * place) * LANES
            a_re, a_im, b_re, b_im = load(re, at), load(im, at), load(re, at + step), load(im, at + step)
            store(to_re, to, a_re + b_re)
            store(to_im, to, a_im + b_im)
            _put(to_re, to_im, to + hop, a_re - b_re, a_im - b_im, w_re[1], w_im[1])


@compiled
def _pass2_half(
    re: Floats, im: Floats, to_re: Floats, to_im: Floats, rest: int, twiddle_re: Floats, twiddle_im: Floats
) -> None:
    for place in range(rest):
        at, to = place * LANES, 2 * place * LANES
        a_re, a_im = load(re, at), load(im, at)
        store(to_re, to, a_re)
        store(to_im, to, a_im)
        _put(to_re, to_im, to + LANES, a_re, a_im, twiddle_re[place, 1], twiddle_im[place, 1])


@compiled
def _three(a_re: Any, a_im: Any, b_re: Any, b_im: Any, c_re: Any, c_im: Any) -> tuple[Any, ...]:
    half, height = np.float32(0.5), np.float32(0.8660254037844386)
    sum_re, sum_im = b_re + c_re, b_im + c_im
    turn_re, turn_im = (b_re - c_re) * height, (b_im - c_im) * height
    mid_re, mid_im = a_re - sum_re * half, a_im - sum_im * half
    return a_re + sum_re, a_im + sum_im, mid_re + turn_im, mid_im - turn_re, mid_re - turn_im, mid_im + turn_re


@compiled
def _pass3(
    re: Floats,
    im: Floats,
    to_re: Floats,
    to_im: Floats,
    rest: int,
    stride: int,
    twiddle_re: Floats,
    twiddle_im: Floats,
    row: int,
) -> None:
    step, hop = stride * rest * LANES, stride * LANES
    for place in range(rest):
        w_re, w_im = twiddle_re[row + place], twiddle_im[row + place]
        for k in range(stride):
            at, to = (k + stride * place) * LANES, (k + 3 * stride * place) * LANES
            b, c = at + step, at + 2 * step
            x0, y0, x1, y1, x2, y2 = _three(
                load(re, at), load(im, at), load(re, b), load(im, b), load(re, c), load(im, c)
            )
            store(to_re, to, x0)
            store(to_im, to, y0)
            _put(to_re, to_im, to + hop, x1, y1, w_re[1], w_im[1])
            _put(to_re, to_im, to + 2 * hop, x2, y2, w_re[2], w_im[2])


@compiled
def _pass4(
    re: Floats,
    im: Floats,
    to_re: Floats,
    to_im: Floats,
    rest: int,
    stride: int,
    twiddle_re: Floats,
    twiddle_im: Floats,
    row: int,
) -> None:
    step, hop = stride * rest * LANES, stride * LANES
    for place in range(rest):
        w_re, w_im = twiddle_re[row + place], twiddle_im[row + place]
        for k in range(stride):
            at, to = (k + stride * place) * LANES, (k + 4 * stride * place) * LANES
            b, c, d = at + step, at + 2 * step, at + 3 * step
            even_re, even_im = load(re, at) + load(re, c), load(im, at) + load(im, c)
            odd_re, odd_im = load(re, b) + load(re, d), load(im, b) + load(im, d)
            left_re, left_im = load(re, at) - load(re, c), load(im, at) - load(im, c)
            turn_re, turn_im = load(im, b) - load(im, d), load(re, d) - load(re, b)
            store(to_re, to, even_re + odd_re)
            store(to_im, to, even_im + odd_im)
            _put(to_re, to_im, to + hop, left_re + turn_re, left_im + turn_im, w_re[1], w_im[1])
            _put(to_re, to_im, to + 2 * hop, even_re - odd_re, even_im - odd_im, w_re[2], w_im[2])
            _put(to_re, to_im, to + 3 * hop, left_re - turn_re, left_im - turn_im, w_re[3], w_im[3])


@compiled
def _pass5(
    re: Floats,
    im: Floats,
    to_re: Floats,
    to_im: Floats,
    rest: int,
    stride: int,
    twiddle_re: Floats,
    twiddle_im: Floats,
    row: int,
) -> None:
    cos1, cos2 = np.float32(0.30901699437494745), np.float32(-0.8090169943749475)
    sin1, sin2 = np.float32(0.9510565162951535), np.float32(0.5877852522924731)
    step, hop = stride * rest * LANES, stride * LANES
    for place in range(rest):
        w_re, w_im = twiddle_re[row + place], twiddle_im[row + place]
        for k in range(stride):
            at, to = (k + stride * place) * LANES, (k + 5 * stride * place) * LANES
            b, c, d, e = at + step, at + 2 * step, at + 3 * step, at + 4 * step
            a_re, a_im = load(re, at), load(im, at)
            out_re, out_im = load(re, b) + load(re, e), load(im, b) + load(im, e)
            in_re, in_im = load(re, c) + load(re, d), load(im, c) + load(im, d)
            far_re, far_im = load(re, b) - load(re, e), load(im, b) - load(im, e)
            near_re, near_im = load(re, c) - load(re, d), load(im, c) - load(im, d)
            store(to_re, to, a_re + out_re + in_re)
            store(to_im, to, a_im + out_im + in_im)
            u_re, u_im = a_re + out_re * cos1 + in_re * cos2, a_im + out_im * cos1 + in_im * cos2
            v_re, v_im = far_re * sin1 + near_re * sin2, far_im * sin1 + near_im * sin2
            _put(to_re, to_im, to + hop, u_re + v_im, u_im - v_re, w_re[1], w_im[1])
            _put(to_re, to_im, to + 4 * hop, u_re - v_im, u_im + v_re, w_re[4], w_im[4])
            u_re, u_im = a_re + out_re * cos2 + in_re * cos1, a_im + out_im * cos2 + in_im * cos1
            v_re, v_im = far_re * sin2 - near_re * sin1, far_im * sin2 - near_im * sin1
            _put(to_re, to_im, to + 2 * hop, u_re + v_im, u_im - v_re, w_re[2], w_im[2])
            _put(to_re, to_im, to + 3 * hop, u_re - v_im, u_im + v_re, w_re[3], w_im[3])


@compiled
def _pass6(
    re: Floats,
    im: Floats,
    to_re: Floats,
    to_im: Floats,
    rest: int,
    stride: int,
    twiddle_re: Floats,
    twiddle_im: Floats,
    row: int,
) -> None:
    step, hop = stride * rest * LANES, stride * LANES
    for place in range(rest):
        w_re, w_im = twiddle_re[row + place], twiddle_im[row + place]
        for k in range(stride):
            a, to = (k + stride * place) * LANES, (k + 6 * stride * place) * LANES
            b, c, d, e, f = a + step, a + 2 * step, a + 3 * step, a + 4 * step, a + 5 * step
            x0, y0, x1, y1, x2, y2 = _three(
                load(re, a), load(im, a), load(re, c), load(im, c), load(re, e), load(im, e)
            )
            u0, v0, u1, v1, u2, v2 = _three(
                load(re, d), load(im, d), load(re, f), load(im, f), load(re, b), load(im, b)
            )
            store(to_re, to, x0 + u0)
            store(to_im, to, y0 + v0)
            _put(to_re, to_im, to + hop, x1 - u1, y1 - v1, w_re[1], w_im[1])
            _put(to_re, to_im, to + 2 * hop, x2 + u2, y2 + v2, w_re[2], w_im[2])
            _put(to_re, to_im, to + 3 * hop, x0 - u0, y0 - v0, w_re[3], w_im[3])
            _put(to_re, to_im, to + 4 * hop, x1 + u1, y1 + v1, w_re[4], w_im[4])
            _put(to_re, to_im, to + 5 * hop, x2 - u2, y2 - v2, w_re[5], w_im[5])


@compiled
def _pass_odd(
    re: Floats,
    im: Floats,
    to_re: Floats,
    to_im: Floats,
    rest: int,
    stride: int,
    twiddle_re: Floats,
    twiddle_im: Floats,
    row: int,
    radix: int,
) -> None:
    """Any odd radix, by its sum: slow, for grids with a large prime in their hop."""
    angles = np.arange(radix) * (2 * np.pi / radix)
    cosines, sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    step, hop = stride * rest * LANES, stride * LANES
    for place in range(rest):
        w_re, w_im = twiddle_re[row + place], twiddle_im[row + place]
        for k in range(stride):
            at, to = (k + stride * place) * LANES, (k + radix * stride * place) * LANES
            for out in range(radix // 2 + 1):
                u_re, u_im = load(re, at), load(im, at)
                v_re, v_im = everywhere(0.0), everywhere(0.0)
                for one in range(1, radix // 2 + 1):
                    near, far = at + one * step, at + (radix - one) * step
                    cosine, sine = cosines[one * out % radix], sines[one * out % radix]
                    u_re = u_re + (load(re, near) + load(re, far)) * cosine
                    u_im = u_im + (load(im, near) + load(im, far)) * cosine
                    v_re = v_re + (load(re, near) - load(re, far)) * sine
                    v_im = v_im + (load(im, near) - load(im, far)) * sine
                _put(to_re, to_im, to + out * hop, u_re + v_im, u_im - v_re, w_re[out], w_im[out])
                if out:
                    back = radix - out
                    _put(to_re, to_im, to + back * hop, u_re - v_im, u_im + v_re, w_re[back], w_im[back])
