"""The built-in seed images' patterns: what each plays, its meter, its kit and its room.

Owns the scores. Leaves out the notation that most of them are written in (`workers.seed_notation`) and their pictures
(`workers.seed_images`). Every pattern is whole measures that fill one frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from shared.spectrogram_params import SpectrogramParams
from workers.seed_grid import BeatGrid, Meter
from workers.seed_notation import Score, score_from_notation
from workers.training.drums import Stroke
from workers.training.harmony import Note
from workers.training.synthesise import Array, loop_from_score


@dataclass(frozen=True, slots=True)
class Pattern:
    """One seed image: its words, its measures, the score that makes it and how that sounds.

    `written` is a pattern in the notation, or what gives the notes and strokes.
    """

    title: str
    description: str
    meter: str
    measures: int
    written: str | Callable[[], Score]
    kit: str = "acoustic"
    tone: str = "plain"
    space: str = "dry"

    @property
    def grid(self) -> BeatGrid:
        """Its measures in one frame."""
        return BeatGrid(Meter.from_text(self.meter), self.measures)

    def score(self) -> Score:
        """Its notes and strokes."""
        return score_from_notation(self.written, self.grid) if isinstance(self.written, str) else self.written()

    def loop(self, params: SpectrogramParams) -> Array:
        """Its sound, one frame, shape (sample,), peak 0.9; its end runs into its start."""
        notes, strokes = self.score()
        return loop_from_score(notes, strokes, self.grid.beats, params, kit=self.kit, tone=self.tone, space=self.space)


def _chord(start: float, length: float, voice: str, pitches: Iterable[int], level: float = 1.0) -> list[Note]:
    return [Note(start, length, voice, pitch, level) for pitch in pitches]


def _og_beat() -> Score:
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


def _agile() -> Score:
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


def _marim() -> Score:
    turn = (60, 67, 72, 67, 64, 72, 76, 72, 60, 69, 72, 69, 62, 67, 74, 67)
    notes = [Note(eighth / 2, 0.45, "marimba", pitch, 0.9) for eighth, pitch in enumerate(turn)]
    notes += [Note(beat, 0.9, "marimba", pitch - 12, 1.0) for beat, pitch in ((0, 60), (2, 64), (4, 57), (6, 55))]
    notes += [Note(beat + 0.75, 0.2, "marimba", 79, 0.5) for beat in (1, 3, 5, 7)]
    return notes, []


def _motorway() -> Score:
    roots = (40, 40, 45)
    eighths = [(bar, k) for bar in range(3) for k in range(8)]
    notes = [Note(4 * bar + k / 2, 0.42, "picked bass", roots[bar], 1.0, is_bass=True) for bar, k in eighths]
    notes += [Note(4 * bar + k / 2, 0.4, "synth", roots[bar] + 24 + 12 * (k % 2), 0.7) for bar, k in eighths]
    strokes = [Stroke(beat, "snare" if beat % 2 else "kick", 0.9) for beat in range(12)]
    strokes += [Stroke(beat + 0.5, "kick", 0.6) for beat in range(0, 12, 2)]
    return notes, strokes + [Stroke(eighth / 2, "closed hat", 0.6) for eighth in range(24)]


def _vibes() -> Score:
    notes = _chord(0, 2.9, "vibraphone", (48, 52, 55, 59)) + _chord(3, 2.9, "vibraphone", (45, 48, 52, 55))
    melody = ((1, 62), (2, 64), (2.5, 67), (4, 60), (5, 64))
    notes += [Note(start, 0.9, "vibraphone", pitch, 0.8) for start, pitch in melody]
    bass = (Note(0, 2.8, "upright bass", 36, 1.0, is_bass=True), Note(3, 2.8, "upright bass", 33, 1.0, is_bass=True))
    return [*notes, *bass], []


_FOUR_ON_THE_FLOOR: Final = """
    kick:X...X...X...X... clap:....x.......x... open-hat:..x...x...x...x. hat:o.ooo.ooo.ooo.oo
    bass/synth-bass:. . A1 . . . A1 . . . A1 . . A1 C2 . | . . A1 . . . A1 . . . A1 . . A1 E1 .
        | . . F1 . . . F1 . . . G1 . . G1 G1 .
    chords/synth:. . . Am . . Am . | . . . Am . . Am . | . . . F . . G .
"""

_BOOM_BAP: Final = """
    kick:X....x..x... | X....x.x..o. snare:...X.....X.. hat:x.xx.xx.xx.x
    bass/round-bass:D2 - - - . D2 . . F2 - . . | Bb1 - - - . Bb1 . . A1 - C2 .
    chords/electric-piano:Dm9 - - . | Bbmaj7 - A7 -
"""

_ONE_DROP: Final = """
    kick:........X....... rim:........X....... hat:x.o.x.o.x.o.x.oo
    bass/sub-bass:A1 - . A1 . C2 E2 . | G1 - . G1 . B1 D2 .
    chords/organ:. Am . Am . Am . Am | . G . G . G . G
"""

_BOSSA: Final = """
    rim:x..x..x...x..x.. kick:o..oo..oo..oo..o shaker:x.ooxoo.x.ooxoo.
    bass/upright-bass:D2 - - D2 A1 - - A1 | G1 - - G1 D2 - - C#2
    chords/acoustic-guitar:Dm9 - . Dm9 . . Dm9 . . Dm9 - . . Dm9 . . | G9 - . G9 . . G9 . . G9 - . . A7 . .
"""

_WALTZ: Final = """
    bass/upright-bass:C2 . . | A1 . . | F1 . . | G1 . .
    chords/piano:. C C | . Am Am | . F F | . G7 G7
    lead/accordion:G5 - - - E5 - | A5 - - - G5 E5 | F5 - - - A5 - | G5 - F5 - D5 -
"""

_SWING: Final = """
    ride:X..x.xX..x.x hat:...x.....x.. kick:o.....o.....
    bass/upright-bass:D2 F2 A2 G#2 | G2 F2 D2 B1 | C2 E2 G2 A2
    chords/piano:. . Dm9 . . . Dm9 - . . . . | . . G9 . . . . . . . . G9 | . . . . . Cmaj7 - - . . . .
"""

_SLAP: Final = """
    kick:X..x..x...X..... snare:....X..o.o..X..o hat:xoxoxoxoxoxoxoxo
    bass/slapped-bass:E1 . . E2 . . D2 . E1 . . G1 . A1 . B1
    chords/electric-guitar:. . E9 . . . . E9 . . E9 . . . . .
"""

_JIG: Final = """
    conga:X.ox.o shaker:xooxoo
    bass/picked-bass:D2 . . A1 . . | D2 . . A1 . . | G1 . . D2 . . | A1 . . E2 . .
    chords/acoustic-guitar:D . D D . D | D . D D . D | G . G G . G | A . A A . A
    lead/accordion:D5 F#5 A5 F#5 D5 F#5 | A5 F#5 D5 E5 F#5 A5 | B5 - G5 B5 A5 G5 | E5 C#5 E5 A5 G5 E5
"""

_BALLAD: Final = """
    kick:X....o snare:...x.. hat:xooxoo
    bass/round-bass:C2 - - - - G1 | A1 - - - - E1
    chords/organ:C | Am
    lead/electric-guitar:C4 G4 C5 E5 C5 G4 | A3 E4 A4 C5 A4 E4
"""

_FIVE: Final = """
    ride:X.xxx.xxx. rim:......o... kick:X.....x...
    bass/upright-bass:D2 - . D2 - . A1 - C2 - | G1 - . G1 - . D2 - C2 -
    chords/piano:Dm7 . . Dm7 . . Am7 - Am7 . | G . . G . . Dm7 - Dm7 .
"""

_SEVEN: Final = """
    tom-low:X...x.. tom-high:..x...x rim:.x.x.xx
    bass/picked-bass:E2 - E2 - E2 - B1 | F2 - F2 - F2 - C2 | D2 - D2 - B1 - B1
    chords/accordion:. Em . Em . Em Em | . F . F . F F | . Dm . Dm . Bm Bm
    lead/clarinet:E5 G5 F5 E5 G5 - A5 | C5 E5 F5 G5 F5 - E5 | F5 E5 D5 F5 B4 - D5
"""

_TIDE: Final = """
    bass/drone-bass:A1 - - - F1 - - -
    chords/pad:Am9 - Fmaj7 -
    lead/harp:A3 E4 A4 B4 C5 B4 A4 E4 F3 C4 F4 A4 C5 A4 G4 E4
"""

PATTERNS: Final = {
    "og_beat": Pattern("OG beat", "Kick, snare and hats with a bass line and held organ", "4/4", 2, _og_beat),
    "agile": Pattern("Agile", "Quick plucked sixteenths over a drone", "4/4", 3, _agile),
    "marim": Pattern("Marim", "A rolling marimba in eighths, without drums", "4/4", 2, _marim),
    "motorway": Pattern("Motorway", "Driving eighths of bass, synth and drums", "4/4", 3, _motorway),
    "vibes": Pattern("Vibes", "Slow vibraphone chords in three, without drums", "3/4", 2, _vibes),
    "four_on_the_floor": Pattern(
        "Four on the floor",
        "A kick on every beat, open hats between, synth bass and stabs",
        "4/4",
        3,
        _FOUR_ON_THE_FLOOR,
        "electronic",
        "bright",
    ),
    "boom_bap": Pattern(
        "Boom bap",
        "Swung kick and snare under an electric piano and a round bass",
        "4/4",
        2,
        _BOOM_BAP,
        tone="warm",
        space="room",
    ),
    "one_drop": Pattern("One drop", "Organ off the beat, rim and kick on the third", "4/4", 2, _ONE_DROP, space="room"),
    "bossa": Pattern("Bossa", "Guitar chords around a rim's clave, with shaker", "4/4", 2, _BOSSA, tone="warm"),
    "waltz": Pattern("Waltz", "Accordion over bass and piano in three, without drums", "3/4", 4, _WALTZ, space="room"),
    "swing": Pattern("Swing", "Swung ride, walking bass and piano", "4/4", 3, _SWING, space="room"),
    "slap": Pattern("Slap", "Slapped bass, clipped guitar and busy drums", "4/4", 2, _SLAP, tone="bright"),
    "jig": Pattern("Jig", "A quick accordion tune in six, with guitar and hand drums", "6/8", 4, _JIG),
    "ballad": Pattern("Ballad", "Slow six with organ and broken guitar chords", "6/8", 2, _BALLAD, space="hall"),
    "five": Pattern("Five", "A piano vamp in five with ride and upright bass", "5/4", 2, _FIVE, space="room"),
    "seven": Pattern("Seven", "A limping clarinet tune in seven over toms", "7/8", 3, _SEVEN),
    "tide": Pattern("Tide", "A harp over a slow pad, one long measure, without drums", "4/4", 1, _TIDE, space="hall"),
}
