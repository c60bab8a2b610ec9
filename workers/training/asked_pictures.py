"""All pictures of one model that the evaluation asks for by prompts, drawn and from their sound.

Owns which are asked for, with which seeds. Leaves out the prompts' design (`workers.training.crossing`), how a picture
is made and kept (`workers.training.renders`) and what is heard in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from workers.training.crew import Crew
from workers.training.crossing import Sweep, crossed_pieces, prompt_from_piece, sweeps
from workers.training.dataset import Pixels
from workers.training.points import Shown
from workers.training.renders import KeptOrder, Kind, Order, generated
from workers.training.score import Piece

FLOOR_PROMPTS: Final = 24
"""Prompts whose pictures are also made without words, and with shuffled weights."""
SEED_PROMPTS: Final = 8
"""Prompts whose pictures are also made from another seed."""
_OTHER_SEED: Final = 1_000


@dataclass(frozen=True)
class Setting:
    """What is evaluated, with how many prompts and steps, where things are kept, and who does the work."""

    model: Path
    revision: str
    folder: Path
    prompts: int
    steps: int
    crew: Crew


class AskedPictures:
    """All pictures of one model that are asked by prompts: as drawn, from their sound, and those for honesty."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        pieces = crossed_pieces(setting.prompts)
        swept = sweeps()
        both = self._generated("pictures", [*pieces, *(piece for sweep in swept for piece in sweep.pieces)], True)
        first = len(pieces)
        self.crossed = Shown.of(pieces, both[:first, 0])
        self.crossed_sound = Shown.of(pieces, both[:first, 1])
        self.swept: list[tuple[Sweep, Shown]] = []
        self.swept_sound: list[tuple[Sweep, Shown]] = []
        for sweep in swept:
            stop = first + len(sweep.pieces)
            for kind, shown in enumerate((self.swept, self.swept_sound)):
                shown.append((sweep, Shown.of(list(sweep.pieces), both[first:stop, kind])))
            first = stop
        few = pieces[:FLOOR_PROMPTS]
        self.wordless = Shown.of(few, self._generated("no words", few, prompt=""))
        self.shuffled = Shown.of(few, self._generated("shuffled weights", few, kind=Kind.SHUFFLED))
        self.reseeded = self._generated("other seeds", other_seeds(pieces))

    def _generated(
        self,
        what: str,
        pieces: list[Piece],
        is_sounded: bool = False,
        prompt: str | None = None,
        kind: Kind = Kind.WHOLE,
    ) -> Pixels:
        setting = self._setting
        orders = [
            Order(
                setting.model,
                setting.revision,
                prompt_from_piece(piece) if prompt is None else prompt,
                piece.seed,
                setting.steps,
                kind,
            )
            for piece in pieces
        ]
        kept = [KeptOrder(order, setting.folder / "pictures", is_sounded) for order in orders]
        return np.stack(setting.crew.done(what, generated, kept))


def other_seeds(pieces: list[Piece]) -> list[Piece]:
    """The first few pieces with another seed each."""
    return [replace(piece, seed=piece.seed + _OTHER_SEED) for piece in pieces[:SEED_PROMPTS]]
