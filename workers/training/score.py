"""What is played: attributes of a clip drawn independently, and the notes and strokes that follow from them.

Owns pieces and the human hand: timing and dynamics. Leaves out styles (`workers.training.genres`), drum patterns
(`workers.training.drums`), sound (`workers.training.synthesise`) and words (`workers.training.captions`). Every clip is
whole bars long, so it is a loop.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final

from workers.training import drums
from workers.training.drums import Stroke
from workers.training.genres import STYLES
from workers.training.harmony import MODES, Harmony, Note
from workers.training.timbres import INSTRUMENTS, RANGES

__all__ = [
    "BAR_BEATS",
    "DRUM_PATTERNS",
    "GENRES",
    "INSTRUMENT_NAMES",
    "KITS",
    "MODES",
    "ROOTS",
    "SPACES",
    "TONES",
    "Note",
    "Piece",
    "Stroke",
    "draw_piece",
    "notes_from_piece",
    "strokes_from_piece",
]

GENRES: Final = tuple(STYLES)
DRUM_PATTERNS: Final = tuple(drums.PATTERNS)
INSTRUMENT_NAMES: Final = tuple(INSTRUMENTS)
KITS: Final = ("acoustic", "electronic")
TONES: Final = ("warm", "plain", "bright")
SPACES: Final = ("dry", "room", "hall")
ROOTS: Final = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
"""Pitch classes of the tonics that pieces are in."""
BAR_BEATS: Final = {6: 3, 8: 4, 12: 4}
"""Beats in a bar, by the beats in a clip of 5.12 s: slow 3/4, medium 4/4, fast 4/4."""
FRAME_S: Final = 5.12
_LEVEL_SPREAD: Final = 0.08


@dataclass(frozen=True, slots=True)
class Piece:
    """The attributes of one clip; all that its sound and its caption depend on. `root` is a pitch class 0..11."""

    genre: str
    instrument: str
    drums: str
    kit: str
    root: int
    mode: str
    beats: int
    tone: str
    space: str
    seed: int

    @property
    def tempo_bpm(self) -> float:
        """Beats per minute of `beats` beats in 5.12 s."""
        return self.beats * 60 / FRAME_S


def draw_piece(rng: random.Random) -> Piece:
    """A piece whose attributes are drawn independently and uniformly."""
    return Piece(
        genre=rng.choice(GENRES),
        instrument=rng.choice(INSTRUMENT_NAMES),
        drums=rng.choice(DRUM_PATTERNS),
        kit=rng.choice(KITS),
        root=rng.choice(tuple(ROOTS.values())),
        mode=rng.choice(MODES),
        beats=rng.choice(tuple(BAR_BEATS)),
        tone=rng.choice(TONES),
        space=rng.choice(SPACES),
        seed=rng.randrange(2**31),
    )


def notes_from_piece(piece: Piece) -> list[Note]:
    """All notes of a piece, as its players would place them; the same for the same piece."""
    rng = random.Random(piece.seed)
    style, bar_beats = STYLES[piece.genre], BAR_BEATS[piece.beats]
    degrees = rng.choice(style.progressions[piece.mode])
    harmony = Harmony(piece.instrument, piece.root, piece.mode, bar_beats, degrees, rng)
    written = [note for bar in range(piece.beats // bar_beats) for note in style.play(harmony, bar, rng)]
    looseness_beats = style.looseness_ms / 1_000 * piece.tempo_bpm / 60
    late = {start: rng.gauss(0, looseness_beats) for start in sorted({note.start for note in written})}
    return [
        replace(
            note,
            start=note.start + _at_most(late[note.start], 2 * looseness_beats),
            pitch=_in_range(note.pitch, note.voice),
            level=_touched(note.level, rng),
        )
        for note in written
    ]


def strokes_from_piece(piece: Piece) -> list[Stroke]:
    """All drum strokes of a piece; which and when depends on its drum pattern, its beats and its fill alone."""
    rng = random.Random(piece.seed + 1)
    struck = drums.strokes(piece.drums, piece.beats, BAR_BEATS[piece.beats], rng)
    return [replace(stroke, level=_touched(stroke.level, rng)) for stroke in struck]


def _in_range(pitch: int, voice: str) -> int:
    """A written pitch in the octave nearest to it that an instrument has; basses have them all."""
    if voice not in RANGES:
        return pitch
    low, high = (bound - 12 * INSTRUMENTS[voice].octave for bound in RANGES[voice])
    return pitch - 12 * max(0, -(-(pitch - high) // 12)) + 12 * max(0, -(-(low - pitch) // 12))


def _at_most(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)


def _touched(level: float, rng: random.Random) -> float:
    """A level as a hand would give it."""
    return min(1.0, max(0.1, level * (1 + rng.gauss(0, _LEVEL_SPREAD))))
