"""The prompts of the evaluation, fixed beforehand: attributes crossed with each other, and each swept alone.

Owns the design and its seeds, which choose nothing in training. Leaves out pictures (`workers.training.renders`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from workers.training.captions import full_prompt
from workers.training.score import (
    BAR_BEATS,
    DRUM_PATTERNS,
    GENRES,
    INSTRUMENT_NAMES,
    KITS,
    MODES,
    ROOTS,
    SPACES,
    TONES,
    Piece,
)

MAX_PROMPTS: Final = 240
FIRST_SEED: Final = 52_000
_SWEEP_SEED: Final = 53_000
_DESIGN_SEED: Final = 2_401
_SWAPS: Final = 60_000
_KEYS: Final = tuple((root, mode) for root in ROOTS.values() for mode in MODES)
_LEVELS: Final[dict[str, tuple[Any, ...]]] = {
    "genre": GENRES,
    "drums": DRUM_PATTERNS,
    "instrument": INSTRUMENT_NAMES,
    "beats": tuple(BAR_BEATS),
    "key": _KEYS,
}
_SWEEPS: Final = {"genre": 3, "drums": 4, "instrument": 2}
"""How often each attribute is swept over all its values, each time beside other fixed words."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Prompts with one seed that differ in one attribute alone."""

    attribute: str
    pieces: tuple[Piece, ...]


def prompt_from_piece(piece: Piece) -> str:
    """The prompt a piece is asked by: genre, instrument, drums, tempo and key."""
    return full_prompt(piece.genre, piece.instrument, piece.drums, piece.beats, piece.root, piece.mode)


def crossed_pieces(count: int = MAX_PROMPTS) -> list[Piece]:
    """The first `count` pieces of one fixed design of MAX_PROMPTS; raises ValueError outside 2..MAX_PROMPTS.

    In the whole design every value of an attribute is as frequent as any other, give or take one, and every pair of
    values of two attributes nearly so. What prompts do not name (kit, tone, space) goes round.
    """
    if not 2 <= count <= MAX_PROMPTS:
        raise ValueError(f"prompts must be 2 to {MAX_PROMPTS}, not {count}")
    return list(_design()[:count])


def sweeps() -> list[Sweep]:
    """Prompts that hold all attributes fixed but one, for genre, drums and instrument."""
    rng = random.Random(_DESIGN_SEED + 1)
    bases = rng.sample(_design(), sum(_SWEEPS.values()))
    found: list[Sweep] = []
    for attribute, times in _SWEEPS.items():
        for _ in range(times):
            base = replace(bases.pop(), seed=_SWEEP_SEED + len(found))
            pieces = tuple(replace(base, **{attribute: value}) for value in _LEVELS[attribute])
            found.append(Sweep(attribute, pieces))
    return found


@lru_cache(maxsize=1)
def _design() -> tuple[Piece, ...]:
    rows = balanced_rows([len(values) for values in _LEVELS.values()], MAX_PROMPTS, random.Random(_DESIGN_SEED))
    return tuple(_piece(place, row.tolist()) for place, row in enumerate(rows))


def _piece(place: int, row: list[int]) -> Piece:
    said: dict[str, Any] = {name: values[level] for (name, values), level in zip(_LEVELS.items(), row, strict=True)}
    root, mode = said.pop("key")
    unsaid: dict[str, Any] = {"kit": KITS[place % 2], "tone": TONES[place % 3], "space": SPACES[place // 3 % 3]}
    return Piece(**said, **unsaid, root=root, mode=mode, seed=FIRST_SEED + place)


def balanced_rows(levels: list[int], count: int, rng: random.Random) -> NDArray[np.intp]:
    """`count` rows of one level 0..levels[k] - 1 per attribute, shape (row, attribute).

    Levels are as frequent as can be; then values are swapped between rows as long as that evens out the pairs.
    """
    columns = [[place % size for place in range(count)] for size in levels]
    for levels_in_order in columns:
        rng.shuffle(levels_in_order)
    rows = np.array(columns, dtype=np.intp).T
    pairs = {(a, b): _pair_counts(rows, levels, a, b) for a, b in combinations(range(len(levels)), 2)}
    for _ in range(_SWAPS):
        column, first, second = rng.randrange(len(levels)), rng.randrange(count), rng.randrange(count)
        _swap_if_evener(rows, pairs, column, first, second)
    return rows


def _pair_counts(rows: NDArray[np.intp], levels: list[int], a: int, b: int) -> NDArray[np.intp]:
    counts = np.zeros((levels[a], levels[b]), np.intp)
    np.add.at(counts, (rows[:, a], rows[:, b]), 1)
    return counts


def _swap_if_evener(
    rows: NDArray[np.intp], pairs: dict[tuple[int, int], NDArray[np.intp]], column: int, first: int, second: int
) -> None:
    """Swap two rows' values of a column unless some pairs of values would become less evenly frequent in all."""
    one, other = int(rows[first, column]), int(rows[second, column])
    moves = []
    for (a, b), counts in pairs.items():
        if column not in (a, b):
            continue
        table, beside = (counts, b) if column == a else (counts.T, a)
        x, y = int(rows[first, beside]), int(rows[second, beside])
        if x != y:
            moves.append((table, x, y))
    if one == other:
        return
    # Of n things in a cell, one more adds 2n + 1 to the sum of squares, one less takes 2n - 1 away.
    gain = sum(int(table[other, x] - table[one, x] + table[one, y] - table[other, y]) + 2 for table, x, y in moves)
    if gain > 0:
        return
    for table, x, y in moves:
        table[one, x] -= 1
        table[other, y] -= 1
        table[other, x] += 1
        table[one, y] += 1
    rows[first, column], rows[second, column] = other, one
