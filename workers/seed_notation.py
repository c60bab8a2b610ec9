"""The text notation of seed images: drums as a row of marks, bass, lead and chords as words.

Owns its grammar and the sentence, with the place, for everything that is wrong. Leaves out the grid
(`workers.seed_grid`) and the sounds (`workers.training.voices`, `workers.training.drum_sounds`).

    kick:x...x...x...x... snare:....x.......x... bass:C2 . G2 - | A1 . E2 - chords/organ:C | Am

A part is a name, a colon and its steps; `|` parts measures, each divided evenly into its steps; what is shorter than
the frame is repeated. `bass`, `lead` and `chords` may name a voice after a slash.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from workers.seed_grid import BeatGrid, SeedImageError
from workers.training.drum_sounds import ACOUSTIC
from workers.training.drums import Stroke
from workers.training.harmony import Note
from workers.training.timbres import TIMBRES

Score = tuple[list[Note], list[Stroke]]

LEVELS: Final = {"x": 0.8, "X": 1.0, "o": 0.45}
"""Marks of a stroke and how loud it is."""
REST: Final = "."
HOLD: Final = "-"
BAR: Final = "|"
DRUMS: Final = {name.replace(" ", "-"): name for name in ACOUSTIC} | {"hat": "closed hat"}
PITCHED: Final = {"bass": ("picked bass", 1.0), "lead": ("synth", 0.9), "chords": ("electric piano", 0.6)}
"""The voice and level of each pitched part."""
VOICES: Final = {name.replace(" ", "-"): name for name in TIMBRES}
CHORDS: Final = {
    "": (0, 4, 7),
    "m": (0, 3, 7),
    "5": (0, 7, 12),
    "6": (0, 4, 7, 9),
    "7": (0, 4, 7, 10),
    "9": (0, 4, 10, 14),
    "m6": (0, 3, 7, 9),
    "m7": (0, 3, 7, 10),
    "m9": (0, 3, 10, 14),
    "maj7": (0, 4, 7, 11),
    "dim": (0, 3, 6),
    "aug": (0, 4, 8),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
}
"""Semitones above the root."""
_CHORD_FLOOR: Final = 54
"""Every tone of a chord lies in the octave from here, so that one chord leads to the next."""
_LOWEST, _HIGHEST = 24, 96
_MAX_STEPS: Final = 64
_SOUNDED: Final = 0.95
"""Share of its steps that a note sounds."""
_HEAD: Final = re.compile(r"(?:(?<=\s)|^)([^\s:|]*):")
_NOTE: Final = re.compile(r"([A-G])([#b]?)(\d)")
_CHORD: Final = re.compile(r"([A-G])([#b]?)(.*)")
_PITCH_CLASSES: Final = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_ACCIDENTALS: Final = {"": 0, "#": 1, "b": -1}


@dataclass(frozen=True, slots=True)
class _Step:
    """A mark or word, where it stands in the text (1 is the first character), and where on the grid, in beats."""

    text: str
    place: int
    start: float
    length: float


def score_from_notation(text: str, grid: BeatGrid) -> Score:
    """The notes and strokes of a pattern on a grid. Raises SeedImageError with the place of what is wrong."""
    heads = [*_HEAD.finditer(text)]
    before = text[: heads[0].start()] if heads else text
    if before.strip():
        place = len(before) - len(before.lstrip()) + 1
        raise _wrong(f"{before.split()[0]!r} at character {place} belongs to no part; a part is kick:x...x...")
    if not heads:
        raise _wrong("it is empty; a part is kick:x...x...")
    notes: list[Note] = []
    strokes: list[Stroke] = []
    ends = [*(head.start() for head in heads[1:]), len(text)]
    for head, end in zip(heads, ends, strict=True):
        name, _, voice = head[1].partition("/")
        if name in PITCHED:
            notes += _notes(name, _voice(name, voice, head.start(1) + 1), _steps(text, head, end, grid))
        else:
            strokes += _strokes(head[1], head.start(1) + 1, _steps(text, head, end, grid))
    if not notes and not strokes:
        raise _wrong("it is silent; a stroke is x, a note C2, a chord Am")
    return notes, strokes


def _steps(text: str, head: re.Match[str], end: int, grid: BeatGrid) -> list[_Step]:
    """The steps of a part, measure by measure, repeated until the frame is full."""
    name, is_pitched = head[1], head[1].partition("/")[0] in PITCHED
    token = r"\||[^\s|]+" if is_pitched else r"\S"
    found = [(one[0], one.start() + 1) for one in re.compile(token).finditer(text, head.end(), end)]
    if not found:
        raise _wrong(f"{name} at character {head.start(1) + 1} has no steps")
    measures = [*_measures(name, found)]
    if len(measures) > grid.measures:
        raise _wrong(f"{name} has {len(measures)} measures, and only {grid.measures} fit at {grid.tempo_bpm:.2f} bpm")
    beats = grid.meter.beats
    return [
        _Step(word, place, (number + step / len(steps)) * beats, beats / len(steps))
        for number in range(grid.measures)
        for steps in [measures[number % len(measures)]]
        for step, (word, place) in enumerate(steps)
    ]


def _measures(name: str, found: list[tuple[str, int]]) -> Iterator[list[tuple[str, int]]]:
    bars = [-1, *(index for index, (word, _) in enumerate(found) if word == BAR), len(found)]
    for number, (before, after) in enumerate(pairwise(bars)):
        steps = found[before + 1 : after]
        if len(steps) > _MAX_STEPS:
            raise _wrong(f"{name} has a measure of {len(steps)} steps; {_MAX_STEPS} are taken; {BAR} begins the next")
        if steps:
            yield steps
        elif 0 < number < len(bars) - 2:
            raise _wrong(f"{name} has an empty measure at character {found[after][1]}; a silent one is {REST}")
        elif len(found) == 1:
            raise _wrong(f"{name} has no steps, only {BAR} at character {found[0][1]}")


def _strokes(name: str, place: int, steps: list[_Step]) -> list[Stroke]:
    if name not in DRUMS:
        known = ", ".join([*PITCHED, *DRUMS])
        raise _wrong(f"{name!r} at character {place} is no part; there are {known}")
    for step in steps:
        if step.text not in LEVELS and step.text not in (REST, HOLD):
            right = f"x (a stroke), X (a loud one), o (a soft one), {REST} or {HOLD} (none), {BAR} (the next measure)"
            raise _wrong(f"{name} has {step.text!r} at character {step.place}; it must be {right}")
    return [Stroke(step.start, DRUMS[name], LEVELS[step.text]) for step in steps if step.text in LEVELS]


def _voice(part: str, voice: str, place: int) -> str:
    if not voice:
        return PITCHED[part][0]
    if voice not in VOICES:
        raise _wrong(f"{part}/{voice} at character {place} names no voice; there are {', '.join(VOICES)}")
    return VOICES[voice]


def _notes(part: str, voice: str, steps: list[_Step]) -> list[Note]:
    notes: list[Note] = []
    sounding: list[Note] = []
    for step in steps:
        if step.text == HOLD:
            sounding = [_longer(note, step.length) for note in sounding]
            continue
        notes += sounding
        pitches = () if step.text == REST else _pitches(part, step)
        level = PITCHED[part][1]
        sounding = [
            Note(step.start, _SOUNDED * step.length, voice, pitch, level, is_bass=part == "bass") for pitch in pitches
        ]
    return notes + sounding


def _longer(note: Note, beats: float) -> Note:
    return Note(note.start, note.length + beats, note.voice, note.pitch, note.level, note.is_bass)


def _pitches(part: str, step: _Step) -> tuple[int, ...]:
    """MIDI pitches of a word: one of a note, several of a chord."""
    if part == "chords":
        chord = _CHORD.fullmatch(step.text)
        if not chord or chord[3] not in CHORDS:
            right = f"A to G, then # or b if need be, then one of {', '.join(filter(None, CHORDS))} or nothing"
            raise _wrong(f"chords has {step.text!r} at character {step.place}; a chord is {right}")
        root = _pitch_class(chord)
        return tuple(_CHORD_FLOOR + (root + tone - _CHORD_FLOOR) % 12 for tone in CHORDS[chord[3]])
    note = _NOTE.fullmatch(step.text)
    pitch = 12 * (int(note[3]) + 1) + _pitch_class(note) if note else -1
    if not _LOWEST <= pitch <= _HIGHEST:
        right = f"C1 to C7 such as F#2 or Bb3, {REST} (none), {HOLD} (the last one goes on) or {BAR} (the next measure)"
        raise _wrong(f"{part} has {step.text!r} at character {step.place}; it must be {right}")
    return (pitch,)


def _pitch_class(found: re.Match[str]) -> int:
    return _PITCH_CLASSES[found[1]] + _ACCIDENTALS[found[2]]


def _wrong(what: str) -> SeedImageError:
    return SeedImageError(f"--pattern: {what}")
