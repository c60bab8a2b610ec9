"""Keys, chords and the walk of a melody: pitches of a piece, bar by bar.

Owns harmony and register. Leaves out rhythm, which differs by genre (`workers.training.genres`), and sound.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

MODES: Final = ("major", "minor")
_SCALES: Final = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
_MELODY_STEPS: Final = (-2, -1, -1, 1, 1, 2)
_MELODY_TOP: Final = 9
"""Scale steps above the tonic that a melody may reach; below zero it does not go."""


@dataclass(frozen=True, slots=True)
class Note:
    """A pitched note: start and length in beats, MIDI pitch, level in 0..1, played by the instrument or the bass."""

    start: float
    length: float
    voice: str
    pitch: int
    level: float
    is_bass: bool = False


class Harmony:
    """Chords and pitches of a piece; the melody remembers where it stands."""

    def __init__(
        self, voice: str, root: int, mode: str, bar_beats: int, degrees: tuple[int, ...], rng: random.Random
    ) -> None:
        """`root` is a pitch class 0..11, `degrees` the chords' scale degrees, 0 the tonic, one a bar and over again."""
        self.voice = voice
        self.bar_beats = bar_beats
        self._scale = _SCALES[mode]
        self._base = 48 + root - (12 if root > 6 else 0)
        self._degrees = degrees
        self._rng = rng
        self._place = rng.choice((2, 4, 7))

    def pitch(self, bar: int, step: int, octave: int = 0) -> int:
        """MIDI pitch `step` scale steps above the root of the bar's chord."""
        return self._scale_pitch(self._degrees[bar % len(self._degrees)] + step, octave)

    def _scale_pitch(self, degree: int, octave: int) -> int:
        return self._base + 12 * (octave + degree // 7) + self._scale[degree % 7]

    def lead(self, bar: int, beat: float, length: float, step: int, octave: int = 1, level: float = 1) -> Note:
        """A note of the piece's own instrument at `beat` of `bar`."""
        return Note(bar * self.bar_beats + beat, length, self.voice, self.pitch(bar, step, octave), level)

    def chord(
        self, bar: int, beat: float, length: float, steps: tuple[int, ...], octave: int = 1, level: float = 1
    ) -> list[Note]:
        """Notes of the bar's chord, struck together."""
        return [self.lead(bar, beat, length, step, octave, level) for step in steps]

    def melody(self, bar: int, beat: float, length: float, octave: int = 2, level: float = 1) -> Note:
        """The melody's next note: a step or a third away; on whole beats the nearest tone of the chord."""
        self._place = min(max(self._place + self._rng.choice(_MELODY_STEPS), 0), _MELODY_TOP)
        if beat == int(beat):
            degree = self._degrees[bar % len(self._degrees)]
            tones = [step for step in range(_MELODY_TOP + 1) if (step - degree) % 7 in (0, 2, 4)]
            self._place = min(tones, key=lambda step: (abs(step - self._place), step))
        pitch = self._scale_pitch(self._place, octave)
        return Note(bar * self.bar_beats + beat, length, self.voice, pitch, level)

    def bass(self, bar: int, beat: float, length: float, step: int, voice: str, octave: int = -1) -> Note:
        """A note of the bass at `beat` of `bar`."""
        start = bar * self.bar_beats + beat
        return Note(start, length, voice, self.pitch(bar, step, octave), 1.0, is_bass=True)
