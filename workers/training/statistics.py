"""How sure a figure is: Wilson and bootstrap intervals, and permutation tests.

Owns the formulas. Leaves out what is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.str_]
Numbers = NDArray[np.float64]
PERMUTATIONS: Final = 5_000
RESAMPLINGS: Final = 2_000
_Z95: Final = 1.959964


def wilson_interval(hits: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share of `hits` in `trials`. Raises ValueError without trials."""
    if trials <= 0:
        raise ValueError("an interval needs at least one trial")
    share, square = hits / trials, _Z95**2
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    reach = _Z95 * np.sqrt(share * (1 - share) / trials + square / (4 * trials**2)) / (1 + square / trials)
    return float(centre - reach), float(centre + reach)


def bootstrap_interval(
    rows: NDArray[Any], statistic: Callable[[NDArray[Any]], float], seed: int = 3, resamplings: int = RESAMPLINGS
) -> tuple[float, float]:
    """The 95 % interval of a statistic of rows, by drawing as many of them again. Raises ValueError without rows."""
    if not len(rows):
        raise ValueError("an interval needs at least one value")
    rng = np.random.default_rng(seed)
    drawn = [statistic(rows[rng.integers(0, len(rows), len(rows))]) for _ in range(resamplings)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(low), float(high)


def permuted_accuracies(wanted: Labels, heard: Labels, groups: Labels, seed: int) -> Numbers:
    """Accuracies after shuffling `wanted` within each group of equal `groups`, shape (PERMUTATIONS,)."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    hits = np.zeros(PERMUTATIONS)
    for index in members:
        order = rng.permuted(np.tile(index, (PERMUTATIONS, 1)), axis=1)
        hits += (wanted[order] == heard[index]).sum(axis=1)
    return hits / len(wanted)


def p_value(accuracy: float, permuted: Numbers) -> float:
    """The chance of an accuracy at least this high if labels meant nothing; never below 1 / (permutations + 1)."""
    return float((1 + np.count_nonzero(permuted >= accuracy - 1e-12)) / (1 + len(permuted)))
