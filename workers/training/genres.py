"""How each genre plays a bar: its chords, its rhythm, its bass, its register and its sense of time.

Owns styles. Leaves out drums, which are drawn apart from the genre (`workers.training.drums`), and sound.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from workers.training.harmony import Harmony, Note

Bar = Callable[[Harmony, int, random.Random], Iterator[Note]]
Progressions = dict[str, tuple[tuple[int, ...], ...]]
SWUNG: Final = 2 / 3
"""Where the second of two swung eighths falls within its beat."""

_POP: Final[Progressions] = {
    "major": ((0, 4, 3), (0, 3, 4), (0, 5, 3), (0, 2, 3)),
    "minor": ((0, 5, 6), (0, 3, 6), (0, 6, 5), (0, 2, 5)),
}
_CADENCES: Final[Progressions] = {
    "major": ((0, 4, 0), (0, 3, 4), (0, 1, 4), (0, 5, 4)),
    "minor": ((0, 4, 0), (0, 3, 4), (0, 5, 4), (0, 6, 2)),
}
_TURNS: Final[Progressions] = {"major": ((0, 1, 4), (0, 5, 1), (1, 4, 0)), "minor": ((0, 3, 6), (0, 5, 1), (1, 4, 0))}
_STILL: Final[Progressions] = {"major": ((0, 0, 3), (0, 3, 3), (0, 0, 5)), "minor": ((0, 0, 5), (0, 5, 5), (0, 0, 6))}


@dataclass(frozen=True, slots=True)
class Genre:
    """One style: how it plays a bar, what chords it goes through, and how far off the grid its players are."""

    play: Bar
    progressions: Progressions
    looseness_ms: float


def _ambient(harmony: Harmony, bar: int, rng: random.Random) -> Iterator[Note]:
    """Held open chords, one slow note above, a drone below."""
    whole = float(harmony.bar_beats)
    yield from harmony.chord(bar, 0, whole, (0, 4, 8), level=0.7)
    yield harmony.melody(bar, rng.choice((1.0, 2.0)), whole / 2, level=0.6)
    yield harmony.bass(bar, 0, whole, 0, "drone bass")


def _classical(harmony: Harmony, bar: int, rng: random.Random) -> Iterator[Note]:
    """A melody over broken chords in even eighths, a bowed bass."""
    turn = (0, 4, 2, 4)
    for eighth in range(2 * harmony.bar_beats):
        yield harmony.lead(bar, eighth / 2, 0.45, turn[eighth % 4], level=0.55)
    beat = 0.0
    while beat < harmony.bar_beats:
        length = rng.choice((0.5, 1.0, 1.0))
        yield harmony.melody(bar, beat, 0.95 * length)
        beat += length
    yield harmony.bass(bar, 0, harmony.bar_beats * 0.95, 0, "bowed bass")


def _jazz(harmony: Harmony, bar: int, rng: random.Random) -> Iterator[Note]:
    """Sevenths struck off the beat, a swung line, a walking bass."""
    for start in (0.0, 1 + SWUNG) if bar % 2 == 0 else (SWUNG, 2 + SWUNG):
        yield from harmony.chord(bar, start, 0.6, (0, 2, 4, 6), level=0.75)
    for beat in range(harmony.bar_beats):
        if rng.random() < 0.6:
            yield harmony.melody(bar, beat, 0.6, level=0.8)
        yield harmony.melody(bar, beat + SWUNG, 0.3, level=0.9)
        yield harmony.bass(bar, beat, 0.9, (0, 2, 4, 5)[beat], "upright bass")


def _rock(harmony: Harmony, bar: int, rng: random.Random) -> Iterator[Note]:
    """Driving fifths in eighths with the bass, one long note above."""
    for eighth in range(2 * harmony.bar_beats):
        level = 0.75 if eighth % 2 else 1.0
        yield from harmony.chord(bar, eighth / 2, 0.4, (0, 4, 7), octave=0, level=level)
        yield harmony.bass(bar, eighth / 2, 0.4, 0, "picked bass")
    yield harmony.melody(bar, rng.choice((0, 1)), 1.9, level=0.9)


def _techno(harmony: Harmony, bar: int, rng: random.Random) -> Iterator[Note]:
    """Sixteenths that turn on themselves, stabs and bass between the beats."""
    for beat in range(harmony.bar_beats):
        yield from harmony.chord(bar, beat + 0.5, 0.2, (0, 2, 4))
        for quarter, step in enumerate((0, 7, 4, 9)):
            yield harmony.lead(bar, beat + quarter / 4, 0.16, step, level=0.6)
        for quarter in (1, 2, 3):
            yield harmony.bass(bar, beat + quarter / 4, 0.2, 0, "synth bass")


def _funk(harmony: Harmony, bar: int, rng: random.Random) -> Iterator[Note]:
    """Short ninths in sixteenths that dodge the beat, a slapped bass."""
    for start in (0.25, 0.75, 1.5, 2.25, 2.75, 3.25, 3.5):
        if start < harmony.bar_beats:
            yield from harmony.chord(bar, start, 0.14, (2, 4, 6, 8), level=0.9)
    for start, octave in ((0.0, -1), (0.75, 0), (1.25, -1), (2.0, -1), (2.75, 0), (3.25, -1)):
        if start < harmony.bar_beats:
            yield harmony.bass(bar, start, 0.2, 0, "slapped bass", octave)


def _reggae(harmony: Harmony, bar: int, rng: random.Random) -> Iterator[Note]:
    """Short chords on every second eighth alone, a round bass that leaves the one out."""
    for beat in range(harmony.bar_beats):
        yield from harmony.chord(bar, beat + 0.5, 0.18, (0, 2, 4), level=1.0)
    for start, step in ((0.5, 0), (1.0, 0), (1.5, 2), (2.0, 4), (3.0, 2)):
        if start < harmony.bar_beats:
            yield harmony.bass(bar, start, 0.45, step, "round bass")
    if rng.random() < 0.6:
        yield harmony.melody(bar, harmony.bar_beats - 1.0, 0.8, level=0.7)


def _bossa_nova(harmony: Harmony, bar: int, rng: random.Random) -> Iterator[Note]:
    """Soft chords in the clave's rhythm, root and fifth below, a melody with an upbeat."""
    for start in (0.0, 1.5, 3.0) if bar % 2 == 0 else (1.0, 2.5):
        if start < harmony.bar_beats:
            yield from harmony.chord(bar, start, 0.9, (0, 2, 4, 6), level=0.7)
    for start, length in ((0.5, 0.45), (1.0, 0.9), (2.0, 0.9)):
        yield harmony.melody(bar, start, length, level=0.85)
    for start, step in ((0.0, 0), (1.5, 4), (2.0, 4), (3.5, 0)):
        if start < harmony.bar_beats:
            yield harmony.bass(bar, start, 0.9 if step == 0 else 0.45, step, "round bass")


def _folk(harmony: Harmony, bar: int, rng: random.Random) -> Iterator[Note]:
    """Picked eighths up and down high chords, a simple tune, the bass on one and three."""
    turn = (0, 2, 4, 7, 4, 2, 7, 4)
    for eighth in range(2 * harmony.bar_beats):
        yield harmony.lead(bar, eighth / 2, 0.9, turn[eighth % 8], octave=2, level=0.6)
    for beat in range(harmony.bar_beats):
        if rng.random() < 0.5:
            yield harmony.melody(bar, beat, 0.9, octave=2, level=1.0)
    for start in range(0, harmony.bar_beats, 2):
        yield harmony.bass(bar, start, 0.9, 4 if start else 0, "upright bass", octave=0)


def _hip_hop(harmony: Harmony, bar: int, rng: random.Random) -> Iterator[Note]:
    """A low chord that is cut off, a short lick, long notes below."""
    yield from harmony.chord(bar, 0, 1.4, (0, 2, 6), octave=0, level=0.9)
    for start in (1.75, 2.0, 2.75) if bar % 2 == 0 else (2.0, 2.25):
        yield harmony.melody(bar, start, 0.24, octave=1, level=0.8)
    yield harmony.bass(bar, 0, 1.6, 0, "sub bass")
    yield harmony.bass(bar, 1.75, harmony.bar_beats - 1.85, 0, "sub bass")


STYLES: Final[dict[str, Genre]] = {
    "ambient": Genre(_ambient, _STILL, looseness_ms=8),
    "classical": Genre(_classical, _CADENCES, looseness_ms=6),
    "jazz": Genre(_jazz, _TURNS, looseness_ms=7),
    "rock": Genre(_rock, _POP, looseness_ms=4),
    "techno": Genre(_techno, _STILL, looseness_ms=0),
    "funk": Genre(_funk, _STILL, looseness_ms=3),
    "reggae": Genre(_reggae, _POP, looseness_ms=5),
    "bossa nova": Genre(_bossa_nova, _TURNS, looseness_ms=5),
    "folk": Genre(_folk, _POP, looseness_ms=5),
    "hip hop": Genre(_hip_hop, _TURNS, looseness_ms=3),
}
