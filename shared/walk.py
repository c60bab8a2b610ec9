"""Where each frame of a part stands: between which keyframes, and at which noise.

Owns the walk from keyframe to keyframe and the path of the noise, which keeps going where nothing else moves. Pure;
leaves out how many frames there are and how long they last (`shared.plan`).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from shared.contracts import MAX_SEED, PowerCurve
from shared.frames import FrameEnd, Noise

NOISE_STEP: Final = 0.5
"""How far the noise goes from one frame to the next, in quarter turns: a quarter turn leads to noise that shares
nothing with the first. Neighbours keep something in common, and nothing comes back."""
_SEED_STEP: Final = 0x9E37_79B9
"""Odd and near 2^32 over the golden ratio: its multiples fill the range of seeds evenly and only then repeat."""
_LEAST_CIRCLE: Final = 3
"""Noises that make a circle; two would lead there and back the same way."""


class Span(NamedTuple):
    """A frame between two keyframes: their indexes, `alpha` of the way from the first to the second, and how far apart
    they are in frames. On, before or after a keyframe both are the same; then `beyond` is how many frames it is away,
    negative before it."""

    start: int
    end: int
    alpha: float
    frames: int
    beyond: int


@dataclass(frozen=True, slots=True)
class Walk:
    """A part's keyframes by the frame they lie on, in order.

    places: frame numbers, increasing, 0 <= place < frames.
    ends, seeds: what each keyframe gives.
    """

    places: Sequence[int]
    ends: Sequence[FrameEnd]
    seeds: Sequence[int]
    frames: int
    is_loop: bool = False
    curve: str | PowerCurve = "linear"

    def ends_at(self, frame: int) -> tuple[FrameEnd, FrameEnd | None, float]:
        """The frame's start, end and alpha as a `Frame` has them: end is None where nothing moves."""
        span = self._span(frame)
        start, end = self.ends[span.start], self.ends[span.end]
        if span.alpha in (0, 1) or start == end:
            return (end if span.alpha == 1 else start), None, 0.0
        return start, end, span.alpha

    def noise_at(self, frame: int) -> Noise:
        """The frame's noise, on a path of one speed: NOISE_STEP a frame.

        Between keyframes of one seed it stands still, between two others it leads from one to the other, by way of
        more noises the farther they are apart, and beyond the outermost keyframes it goes on.
        """
        span = self._span(frame)
        first, last = self.seeds[span.start], self.seeds[span.end]
        if span.beyond:
            return _on_path(first, abs(span.beyond) * NOISE_STEP, -1 if span.beyond < 0 else 1)
        is_circle = span.frames > 0 and len(self.places) == 1
        if first == last and not is_circle:
            return Noise(seed=first)
        turns = max(1, round(span.frames * NOISE_STEP))
        if is_circle:
            turns = min(span.frames, max(_LEAST_CIRCLE, turns))
        return _on_path(first, span.alpha * turns, 1, turns, last)

    def shared_noise_at(self, frame: int, first_column: int) -> Noise:
        """The frame's noise where noise belongs to places in time, and so keeps going by itself."""
        span = self._span(frame)
        first, last = self.seeds[span.start], self.seeds[span.end]
        seed = last if span.alpha == 1 else first
        is_between = 0 < span.alpha < 1 and first != last
        return Noise(
            seed=seed,
            end_seed=last if is_between else None,
            alpha=span.alpha if is_between else 0.0,
            first_column=first_column,
        )

    def _span(self, frame: int) -> Span:
        last = len(self.places) - 1
        index = bisect_right(self.places, frame) - 1
        following = index + 1
        if self.is_loop:
            start = self.places[index] - (self.frames if index < 0 else 0)
            stop = self.places[following % (last + 1)] + (self.frames if following > last else 0)
        elif 0 <= index < last:
            start, stop = self.places[index], self.places[following]
        else:
            nearest = max(index, 0)
            return Span(nearest, nearest, 0.0, 0, frame - self.places[nearest])
        alpha = curved_alpha((frame - start) / (stop - start), self.curve)
        return Span(index % (last + 1), following % (last + 1), alpha, stop - start, 0)


@dataclass(frozen=True, slots=True)
class Standpoint:
    """Where a clip stands, `alpha` of the way from one end to another: from frame to frame its noise alone goes on."""

    start: FrameEnd
    end: FrameEnd
    seeds: tuple[int, int]
    alpha: float

    def ends_at(self, frame: int) -> tuple[FrameEnd, FrameEnd | None, float]:
        """As `Walk.ends_at`; the same for every frame."""
        if self.alpha in (0, 1) or self.start == self.end:
            return (self.end if self.alpha == 1 else self.start), None, 0.0
        return self.start, self.end, self.alpha

    def noise_at(self, frame: int) -> Noise:
        """The frame's noise, on the path from the first seed by way of the second, NOISE_STEP a frame."""
        first, last = self.seeds
        if first == last:
            return _on_path(first, frame * NOISE_STEP, 1)
        return _on_path(first, self.alpha + frame * NOISE_STEP, 1, 1, last)


def _on_path(first: int, position: float, way: int, turns: int | None = None, last: int = 0) -> Noise:
    """The noise this many quarter turns along; the path ends at `last` after `turns` of them, or never."""

    def seed(index: int) -> int:
        return last if index == turns else (first + way * index * _SEED_STEP) % (MAX_SEED + 1)

    at = math.floor(position)
    alpha = position - at
    return Noise(seed=seed(at), end_seed=seed(at + 1), alpha=alpha) if alpha else Noise(seed=seed(at))


def curved_alpha(alpha: float, curve: str | PowerCurve) -> float:
    """alpha 0..1 along the curve; 0 and 1 stay exactly where they are."""
    if isinstance(curve, PowerCurve):
        return float(math.pow(alpha, curve.power))
    return alpha * alpha * (3 - 2 * alpha) if curve == "smooth" else alpha
