"""Drum patterns: which drum is struck when, beat by beat.

Owns patterns and fills. Leaves out how drums sound (`workers.training.timbres`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from workers.training.genres import SWUNG

Beat = list[tuple[float, str, float]]
_FILL_SHARE: Final = 0.3


@dataclass(frozen=True, slots=True)
class Stroke:
    """A drum stroke: start in beats, level in 0..1."""

    start: float
    drum: str
    level: float


def strokes(pattern: str, beats: int, bar_beats: int, rng: random.Random) -> list[Stroke]:
    """The strokes of `beats` beats of a pattern of PATTERNS; now and then a fill leads back to the start."""
    play = PATTERNS[pattern]
    struck = [
        Stroke(bar * bar_beats + start, drum, level)
        for bar in range(beats // bar_beats)
        for beat in range(bar_beats)
        for start, drum, level in play(beat)
    ]
    if struck and rng.random() < _FILL_SHARE:
        struck += [
            Stroke(beats - 1 + k / 4, drum, 0.6 + 0.1 * k)
            for k, drum in enumerate(("snare", "tom high", "tom high", "tom low"))
        ]
    return struck


def _swing(beat: int) -> Beat:
    off = [(beat + SWUNG, "ride", 0.6), (float(beat), "closed hat", 0.8)] if beat % 2 else []
    return [(float(beat), "ride", 0.9), *off, *([(0.0, "kick", 0.4)] if beat == 0 else [])]


def _backbeat(beat: int) -> Beat:
    main: Beat = [(float(beat), "snare" if beat % 2 else "kick", 1.0)]
    push: Beat = [(2.5, "kick", 0.9)] if beat == 2 else []
    return [*main, *push, (float(beat), "closed hat", 0.7), (beat + 0.5, "closed hat", 0.6)]


def _four_on_the_floor(beat: int) -> Beat:
    clap: Beat = [(float(beat), "clap", 0.8)] if beat % 2 else []
    return [(float(beat), "kick", 1.0), (beat + 0.5, "open hat", 0.8), *clap]


def _breakbeat(beat: int) -> Beat:
    hats: Beat = [(beat + k / 4, "closed hat", 0.8 if k == 0 else 0.5) for k in range(4)]
    kicks: Beat = {0: [(0.0, "kick", 1.0), (0.75, "kick", 0.9)], 2: [(2.5, "kick", 1.0)]}.get(beat, [])
    snares: Beat = {1: [(1.0, "snare", 1.0), (1.75, "snare", 0.4)], 3: [(3.0, "snare", 1.0)]}.get(beat, [])
    return [*hats, *kicks, *snares]


def _latin(beat: int) -> Beat:
    shaker: Beat = [(beat + k / 2, "shaker", 0.8 if k else 0.5) for k in range(2)]
    congas: Beat = [(beat + 0.5, "conga", 0.9), (beat + 0.75, "conga", 0.7)] if beat % 2 else []
    clave: Beat = {0: [(0.0, "clave", 0.8), (0.75, "clave", 0.7)], 1: [(1.5, "clave", 0.8)]}.get(beat, [])
    return [*shaker, *congas, *clave]


PATTERNS: Final[dict[str, Callable[[int], Beat]]] = {
    "no drums": lambda beat: [],
    "swing drums": _swing,
    "rock drums": _backbeat,
    "four on the floor drums": _four_on_the_floor,
    "funk drums": _breakbeat,
    "latin drums": _latin,
}
