"""The built-in seed images: rhythm and chord patterns on an exact beat grid.

Owns the five patterns, their pictures and their index. Leaves out how they sound together with a prompt: that is
`workers.diffusion`. Every picture is one frame of whole bars whose end runs into its start.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared.spectrogram_params import FRAME_COLUMNS, SpectrogramParams
from workers.spectrogram import image_from_mel_amplitudes
from workers.training.score import Note, Stroke
from workers.training.synthesise import loop_from_score, loop_mel_amplitudes

GRID: Final = SpectrogramParams()
FOLDER: Final = Path(__file__).parents[1] / "shared" / "seed_images"


@dataclass(frozen=True, slots=True)
class Pattern:
    """One seed image: its words, its beats per frame and bar, and the score that makes it."""

    title: str
    description: str
    beats: int
    bar_beats: int
    score: Callable[[], tuple[list[Note], list[Stroke]]]

    @property
    def tempo_bpm(self) -> float:
        """Beats per minute."""
        return round(self.beats * 60 / GRID.frame_s, 4)


def _chord(start: float, length: float, voice: str, pitches: Iterable[int], level: float = 1.0) -> list[Note]:
    return [Note(start, length, voice, pitch, level) for pitch in pitches]


def _og_beat() -> tuple[list[Note], list[Stroke]]:
    strokes = [
        stroke
        for beat in range(8)
        for stroke in (
            Stroke(beat, "snare" if beat % 2 else "kick", 1.0),
            Stroke(beat, "closed hat", 0.7),
            Stroke(beat + 0.5, "closed hat", 0.6),
        )
    ]
    strokes += [Stroke(2.5, "kick", 0.9), Stroke(6.5, "kick", 0.9), Stroke(7.75, "kick", 0.6)]
    bass = ((0, 36), (0.75, 36), (1.5, 43), (2.5, 36), (4, 39), (4.75, 39), (5.5, 46), (6.5, 41), (7.5, 34))
    notes = [Note(start, 0.4, "picked bass", pitch, 1.0, is_bass=True) for start, pitch in bass]
    return notes + _chord(0, 3.8, "organ", (48, 55, 60, 63), 0.5) + _chord(
        4, 3.8, "organ", (51, 58, 63, 67), 0.5
    ), strokes


def _agile() -> tuple[list[Note], list[Stroke]]:
    turns = ((57, 64, 69, 72), (53, 60, 65, 69), (55, 62, 67, 71))
    notes = [
        Note(
            4 * bar + beat + quarter / 4, 0.22, "pluck", turns[bar][(quarter + beat) % 4], 1.0 if quarter == 0 else 0.7
        )
        for bar in range(3)
        for beat in range(4)
        for quarter in range(4)
    ]
    notes += [Note(4.0 * bar, 3.9, "drone bass", turns[bar][0] - 24, 1.0, is_bass=True) for bar in range(3)]
    return notes, [Stroke(beat, "closed hat", 0.4) for beat in range(12)]


def _marim() -> tuple[list[Note], list[Stroke]]:
    turn = (60, 67, 72, 67, 64, 72, 76, 72, 60, 69, 72, 69, 62, 67, 74, 67)
    notes = [Note(eighth / 2, 0.45, "marimba", pitch, 0.9) for eighth, pitch in enumerate(turn)]
    notes += [Note(beat, 0.9, "marimba", pitch - 12, 1.0) for beat, pitch in ((0, 60), (2, 64), (4, 57), (6, 55))]
    notes += [Note(beat + 0.75, 0.2, "marimba", 79, 0.5) for beat in (1, 3, 5, 7)]
    return notes, []


def _motorway() -> tuple[list[Note], list[Stroke]]:
    roots = (40, 40, 45)
    eighths = [(bar, k) for bar in range(3) for k in range(8)]
    notes = [Note(4 * bar + k / 2, 0.42, "picked bass", roots[bar], 1.0, is_bass=True) for bar, k in eighths]
    notes += [Note(4 * bar + k / 2, 0.4, "synth", roots[bar] + 24 + 12 * (k % 2), 0.7) for bar, k in eighths]
    strokes = [Stroke(beat, "snare" if beat % 2 else "kick", 0.9) for beat in range(12)]
    strokes += [Stroke(beat + 0.5, "kick", 0.6) for beat in range(0, 12, 2)]
    return notes, strokes + [Stroke(eighth / 2, "closed hat", 0.6) for eighth in range(24)]


def _vibes() -> tuple[list[Note], list[Stroke]]:
    notes = _chord(0, 2.9, "vibraphone", (48, 52, 55, 59)) + _chord(3, 2.9, "vibraphone", (45, 48, 52, 55))
    melody = ((1, 62), (2, 64), (2.5, 67), (4, 60), (5, 64))
    notes += [Note(start, 0.9, "vibraphone", pitch, 0.8) for start, pitch in melody]
    bass = (Note(0, 2.8, "upright bass", 36, 1.0, is_bass=True), Note(3, 2.8, "upright bass", 33, 1.0, is_bass=True))
    return [*notes, *bass], []


PATTERNS: Final = {
    "og_beat": Pattern("OG beat", "Kick, snare and hats with a bass line and held organ", 8, 4, _og_beat),
    "agile": Pattern("Agile", "Quick plucked sixteenths over a drone", 12, 4, _agile),
    "marim": Pattern("Marim", "A rolling marimba in eighths, without drums", 8, 4, _marim),
    "motorway": Pattern("Motorway", "Driving eighths of bass, synth and drums", 12, 4, _motorway),
    "vibes": Pattern("Vibes", "Slow vibraphone chords in three, without drums", 6, 3, _vibes),
}


def write_seed_images(folder: Path, names: Iterable[str] = tuple(PATTERNS)) -> list[Path]:
    """Draw the named seed images into `folder` and return their files; with all of them, the index too.

    Raises KeyError for a name that is not in PATTERNS.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [_write(name, PATTERNS[name], folder) for name in names]
    if len(files) == len(PATTERNS):
        entries = [_entry(name, PATTERNS[name], folder) for name in PATTERNS]
        (folder / "index.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    return files


def _write(name: str, pattern: Pattern, folder: Path) -> Path:
    """Draw one picture with its grid in the EXIF."""
    notes, strokes = pattern.score()
    loop = loop_from_score(notes, strokes, pattern.beats, GRID)
    image = image_from_mel_amplitudes(loop_mel_amplitudes(loop, GRID), GRID)
    path = folder / f"{name}.png"
    image.save(path, exif=image.getexif(), optimize=True)
    return path


def _entry(name: str, pattern: Pattern, folder: Path) -> dict[str, Any]:
    """One line of the index."""
    return {
        "id": name,
        "title": pattern.title,
        "description": pattern.description,
        "tempo_bpm": pattern.tempo_bpm,
        "beats": pattern.beats,
        "meter": f"{pattern.bar_beats}/4",
        "columns": FRAME_COLUMNS,
        "duration_s": GRID.frame_s,
        "sha256": hashlib.sha256((folder / f"{name}.png").read_bytes()).hexdigest(),
    }
