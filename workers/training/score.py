"""What is played: attributes of a clip drawn independently, and the notes and strokes that follow from them.

Owns harmony, rhythm and form. Leaves out sound (`workers.training.timbres`) and words (`workers.training.captions`).
Every clip is whole bars long, so it is a loop.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from workers.training.timbres import INSTRUMENTS

GENRES: Final = ("ambient", "classical", "jazz", "rock", "techno", "funk")
DRUM_PATTERNS: Final = ("no drums", "swing drums", "rock drums", "four on the floor drums", "funk drums")
INSTRUMENT_NAMES: Final = tuple(INSTRUMENTS)
ROOTS: Final = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
MODES: Final = ("major", "minor")
BAR_BEATS: Final = {6: 3, 8: 4, 12: 4}
"""Beats in a bar, by the beats in a clip of 5.12 s: slow 3/4, medium 4/4, fast 4/4."""
FRAME_S: Final = 5.12

_SCALES: Final = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
_PROGRESSIONS: Final = {
    "major": ((0, 4, 3), (0, 3, 4), (0, 5, 3), (5, 4, 0), (0, 0, 4)),
    "minor": ((0, 5, 6), (0, 3, 4), (0, 6, 5), (0, 0, 3), (3, 4, 0)),
}
_SWUNG: Final = 2 / 3


@dataclass(frozen=True, slots=True)
class Piece:
    """The attributes of one clip; all that its sound and its caption depend on."""

    genre: str
    instrument: str
    drums: str
    root: int
    mode: str
    beats: int
    seed: int

    @property
    def tempo_bpm(self) -> float:
        """Beats per minute of `beats` beats in 5.12 s."""
        return self.beats * 60 / FRAME_S


@dataclass(frozen=True, slots=True)
class Note:
    """A pitched note: start and length in beats, MIDI pitch, level in 0..1, part `lead` or `bass`."""

    start: float
    length: float
    voice: str
    pitch: int
    level: float
    is_bass: bool = False


@dataclass(frozen=True, slots=True)
class Stroke:
    """A drum stroke: start in beats, level in 0..1."""

    start: float
    drum: str
    level: float


def draw_piece(rng: random.Random) -> Piece:
    """A piece whose attributes are drawn independently and uniformly."""
    return Piece(
        genre=rng.choice(GENRES),
        instrument=rng.choice(INSTRUMENT_NAMES),
        drums=rng.choice(DRUM_PATTERNS),
        root=rng.randrange(12),
        mode=rng.choice(MODES),
        beats=rng.choice(tuple(BAR_BEATS)),
        seed=rng.randrange(2**31),
    )


class Harmony:
    """Chords and pitches of a piece, bar by bar."""

    def __init__(self, piece: Piece, rng: random.Random) -> None:
        self.voice = piece.instrument
        self.bar_beats = BAR_BEATS[piece.beats]
        self.bars = piece.beats // self.bar_beats
        self._scale = _SCALES[piece.mode]
        self._base = 48 + piece.root - (12 if piece.root > 6 else 0)
        self._degrees = rng.choice(_PROGRESSIONS[piece.mode])

    def pitch(self, bar: int, step: int, octave: int = 0) -> int:
        """MIDI pitch `step` scale steps above the root of the bar's chord."""
        degree = self._degrees[bar % len(self._degrees)] + step
        return self._base + 12 * (octave + degree // 7) + self._scale[degree % 7]

    def lead(self, bar: int, beat: float, length: float, step: int, octave: int = 1, level: float = 1) -> Note:
        """A note of the piece's own instrument at `beat` of `bar`."""
        return Note(bar * self.bar_beats + beat, length, self.voice, self.pitch(bar, step, octave), level)

    def bass(self, bar: int, beat: float, length: float, step: int, voice: str, octave: int = -1) -> Note:
        """A note of the bass at `beat` of `bar`."""
        start = bar * self.bar_beats + beat
        return Note(start, length, voice, self.pitch(bar, step, octave), 1.0, is_bass=True)


def _ambient(harmony: Harmony, bar: int, rng: random.Random) -> Iterator[Note]:
    whole = float(harmony.bar_beats)
    for step in (0, 2, 4):
        yield harmony.lead(bar, 0, whole, step, level=0.7)
    yield harmony.lead(bar, whole / 2, whole / 2, rng.choice((7, 9, 11)), level=0.6)
    yield harmony.bass(bar, 0, whole, 0, "drone bass")


def _classical(harmony: Harmony, bar: int, rng: random.Random) -> Iterator[Note]:
    turn = rng.choice(((0, 4, 2, 4), (0, 2, 4, 2), (0, 4, 7, 4)))
    for eighth in range(2 * harmony.bar_beats):
        yield harmony.lead(bar, eighth / 2, 0.45, turn[eighth % 4], level=0.7)
    for beat in range(harmony.bar_beats):
        yield harmony.lead(bar, beat, 0.95, rng.choice((7, 8, 9, 11)), level=0.9)
    yield harmony.bass(bar, 0, harmony.bar_beats * 0.95, 0, "bowed bass")


def _jazz(harmony: Harmony, bar: int, rng: random.Random) -> Iterator[Note]:
    for start in (0.0, 1 + _SWUNG) if bar % 2 == 0 else (_SWUNG, 2 + _SWUNG):
        for step in (0, 2, 4, 6):
            yield harmony.lead(bar, start, 0.6, step, level=0.75)
    for beat in range(harmony.bar_beats):
        if rng.random() < 0.7:
            yield harmony.lead(bar, beat + _SWUNG, 0.3, rng.choice((7, 8, 9, 10, 11)), level=0.9)
        yield harmony.bass(bar, beat, 0.9, (0, 2, 4, 5)[beat], "upright bass")


def _rock(harmony: Harmony, bar: int, rng: random.Random) -> Iterator[Note]:
    for eighth in range(2 * harmony.bar_beats):
        for step in (0, 4, 7):
            yield harmony.lead(bar, eighth / 2, 0.42, step, level=0.8 if eighth % 2 else 1.0)
        yield harmony.bass(bar, eighth / 2, 0.4, 0, "picked bass")
    yield harmony.lead(bar, rng.choice((0, 1)), 1.9, rng.choice((9, 11)), level=0.8)


def _techno(harmony: Harmony, bar: int, rng: random.Random) -> Iterator[Note]:
    turn = [rng.choice((0, 0, 4, 7, 9)) for _ in range(4)]
    for beat in range(harmony.bar_beats):
        for step in (0, 2, 4):
            yield harmony.lead(bar, beat + 0.5, 0.2, step, level=1.0)
        for quarter in range(4):
            yield harmony.lead(bar, beat + quarter / 4, 0.16, turn[quarter], octave=2, level=0.6)
        yield harmony.bass(bar, beat + 0.5, 0.4, 0, "synth bass")


def _funk(harmony: Harmony, bar: int, rng: random.Random) -> Iterator[Note]:
    chords = rng.choice(((0.75, 1.5, 2.25, 2.75), (0.0, 0.75, 1.75, 2.5), (0.25, 0.75, 1.5, 2.75)))
    for start in chords + ((3.25, 3.5) if harmony.bar_beats == 4 else ()):
        for step in (2, 4, 6, 8):
            yield harmony.lead(bar, start, 0.16, step, level=0.9)
    for start, octave in ((0.0, -1), (0.75, 0), (1.25, -1), (2.0, -1), (2.75, 0)):
        yield harmony.bass(bar, start, 0.2, 0, "slapped bass", octave)


_STYLES: Final[dict[str, Callable[[Harmony, int, random.Random], Iterator[Note]]]] = {
    "ambient": _ambient,
    "classical": _classical,
    "jazz": _jazz,
    "rock": _rock,
    "techno": _techno,
    "funk": _funk,
}


def notes_from_piece(piece: Piece) -> list[Note]:
    """All notes of a piece; the same for the same piece."""
    rng = random.Random(piece.seed)
    harmony = Harmony(piece, rng)
    return [note for bar in range(harmony.bars) for note in _STYLES[piece.genre](harmony, bar, rng)]


def strokes_from_piece(piece: Piece) -> list[Stroke]:
    """All drum strokes of a piece; they depend on its drum pattern and beats alone."""
    bar_beats = BAR_BEATS[piece.beats]
    pattern = _PATTERNS[piece.drums]
    bars = range(piece.beats // bar_beats)
    return [
        Stroke(bar * bar_beats + start, drum, level)
        for bar in bars
        for beat in range(bar_beats)
        for start, drum, level in pattern(beat)
    ]


Beat = list[tuple[float, str, float]]


def _swing(beat: int) -> Beat:
    off = [(beat + _SWUNG, "ride", 0.6), (float(beat), "closed hat", 0.8)] if beat % 2 else []
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


_PATTERNS: Final[dict[str, Callable[[int], Beat]]] = {
    "no drums": lambda beat: [],
    "swing drums": _swing,
    "rock drums": _backbeat,
    "four on the floor drums": _four_on_the_floor,
    "funk drums": _breakbeat,
}
