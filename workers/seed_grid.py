"""Beat grids: meters, and which tempos make whole measures fill one frame exactly.

Owns the choice of tempo and the sentence for every meter, tempo or number of measures that cannot be. Leaves out what
is played on the grid (`workers.seed_notation`, `workers.seed_audio`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from shared.errors import RiffarmError
from shared.spectrogram_params import SpectrogramParams

FRAME_S: Final = SpectrogramParams().frame_s
MIN_TEMPO_BPM: Final = 20.0
MAX_TEMPO_BPM: Final = 400.0
MAX_OFF: Final = 0.1
"""How far a tempo may be from the one asked for unless the number of measures is given, as a share of it."""
_MAX_FACTOR: Final = 2.0
"""How many times faster or slower than asked it may become when the number of measures is given."""
_METER: Final = re.compile(r"(\d{1,2})/(2|4|8|16)")
_MAX_METER_BEATS: Final = 16
_USUAL_METERS: Final = ("2/4", "3/4", "4/4", "5/4", "6/8", "7/8")


class SeedImageError(RiffarmError):
    """The seed image cannot be made as asked."""


@dataclass(frozen=True, slots=True)
class Meter:
    """Beats of a measure and the note that is a beat: 7/8 has seven beats, each an eighth."""

    beats: int
    note: int

    @classmethod
    def from_text(cls, text: str) -> Meter:
        """`6/8` as a meter. Raises SeedImageError for anything else than 1 to 16 over 2, 4, 8 or 16."""
        found = _METER.fullmatch(text.strip())
        if not found or not 1 <= int(found[1]) <= _MAX_METER_BEATS:
            right = f"1 to {_MAX_METER_BEATS} over 2, 4, 8 or 16, such as {', '.join(_USUAL_METERS)}"
            raise SeedImageError(f"--meter {text!r} is no meter; it must be {right}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.beats}/{self.note}"


@dataclass(frozen=True, slots=True)
class BeatGrid:
    """Whole measures that fill one frame."""

    meter: Meter
    measures: int

    @property
    def beats(self) -> int:
        """Beats of the frame."""
        return self.measures * self.meter.beats

    @property
    def tempo_bpm(self) -> float:
        """Beats per minute; a beat is the lower number of the meter, so in 6/8 an eighth."""
        return self.beats * 60 / FRAME_S

    def told(self, asked_bpm: float | None) -> str:
        """The grid as a sentence, beside the tempo that was asked for."""
        asked = "" if asked_bpm is None else f"{asked_bpm:.6g} bpm asked, "
        return f"{asked}{self.tempo_bpm:.2f} bpm made: {self._length()}"

    def __str__(self) -> str:
        return f"{self.tempo_bpm:.2f} bpm, {self._length()}"

    def _length(self) -> str:
        measures = "1 measure" if self.measures == 1 else f"{self.measures} measures"
        return f"{self.beats} beats, {measures} of {self.meter}"


def fitting_grid(meter: Meter, tempo_bpm: float | None, measures: int | None) -> BeatGrid:
    """The grid whose tempo is nearest to the one asked for, or that of so many measures.

    Raises SeedImageError when neither is given, when one cannot be, or when the nearest is more than MAX_OFF off: then
    it names the nearest ones.
    """
    if tempo_bpm is not None and not MIN_TEMPO_BPM <= tempo_bpm <= MAX_TEMPO_BPM:
        right = f"a number of {MIN_TEMPO_BPM:g} to {MAX_TEMPO_BPM:g} beats per minute"
        raise SeedImageError(f"--tempo {tempo_bpm:.6g} is no tempo; it must be {right}")
    if measures is not None:
        return _grid_of(meter, tempo_bpm, measures)
    if tempo_bpm is None:
        raise SeedImageError("neither --tempo nor --measures is given; one of them must say how fast it is")
    exact = tempo_bpm * FRAME_S / 60 / meter.beats
    grid = min((BeatGrid(meter, max(1, count)) for count in _around(exact)), key=lambda one: _off(one, tempo_bpm))
    if _off(grid, tempo_bpm) > MAX_OFF:
        raise SeedImageError(_too_far(meter, tempo_bpm, exact))
    return grid


def _around(exact: float) -> tuple[int, int]:
    return math.floor(exact), math.floor(exact) + 1


def _off(grid: BeatGrid, tempo_bpm: float) -> float:
    return abs(grid.tempo_bpm / tempo_bpm - 1)


def _grid_of(meter: Meter, tempo_bpm: float | None, measures: int) -> BeatGrid:
    most = int(MAX_TEMPO_BPM * FRAME_S / 60 / meter.beats)
    if not 1 <= measures <= most:
        raise SeedImageError(f"--measures {measures} of {meter} do not fit {FRAME_S:g} s; it must be 1 to {most}")
    grid = BeatGrid(meter, measures)
    if tempo_bpm and not 1 / _MAX_FACTOR <= grid.tempo_bpm / tempo_bpm <= _MAX_FACTOR:
        nearest = BeatGrid(meter, max(1, round(tempo_bpm * FRAME_S / 60 / meter.beats)))
        raise SeedImageError(
            f"--measures {measures} makes {grid.tempo_bpm:.2f} bpm of --tempo {tempo_bpm:.6g}, which is too far; "
            f"nearest is {nearest.measures} ({nearest.tempo_bpm:.2f} bpm)"
        )
    return grid


def _too_far(meter: Meter, tempo_bpm: float, exact: float) -> str:
    near = [BeatGrid(meter, count) for count in _around(exact) if count]
    made = " and ".join(f"{one.tempo_bpm:.2f} (--measures {one.measures})" for one in near)
    beats = round(tempo_bpm * FRAME_S / 60)
    others = [
        text for text in _USUAL_METERS if beats and beats % Meter.from_text(text).beats == 0 and text != str(meter)
    ]
    other = f", or {beats * 60 / FRAME_S:.2f} in --meter {' or '.join(others)}" if others else ""
    return (
        f"--tempo {tempo_bpm:.6g} does not fill {FRAME_S:g} s with whole measures of {meter}; nearest are {made}{other}"
    )
