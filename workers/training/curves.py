"""The training's curves as one picture.

Owns how the log's figures are laid out and smoothed. Leaves out the log itself (`workers.training.loop`).
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

_HIDDEN: Final = frozenset({"part", "step", "seconds", "sha256"})
_SMOOTH: Final = 9
"""Lines of the log that a curve's point is the mean of."""

Curves = dict[tuple[str, str], tuple[list[int], list[float]]]


def draw_curves(log: Path, picture: Path) -> None:
    """Draw every figure of a training log over its steps, one panel each; the picture is replaced as a whole."""
    curves = _curves(log)
    if not curves:
        return
    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.5 * rows), layout="constrained")
    for index, ((part, name), (steps, values)) in enumerate(curves.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.set_title(f"{part}: {name.replace('_', ' ')}", fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        axes.plot(steps, values, color="#9db4c0", linewidth=0.8, marker="." if len(steps) < 40 else "")
        axes.plot(steps, _smooth(values), color="#14557b", linewidth=1.4)
    partial = picture.with_suffix(".partial.png")
    figure.savefig(partial, dpi=110)
    os.replace(partial, picture)


def _curves(log: Path) -> Curves:
    """Values over steps; after a line that says from what a training went on, its steps count on from the last."""
    curves: Curves = defaultdict(lambda: ([], []))
    before = last = 0
    for line in log.read_text(encoding="utf-8").splitlines():
        figures = json.loads(line)
        if figures["part"] == "from":
            before = last
        if "step" not in figures:
            continue
        last = before + figures["step"]
        for name, value in figures.items():
            if name not in _HIDDEN and isinstance(value, int | float):
                steps, values = curves[figures["part"], name]
                steps.append(last)
                values.append(value)
    return curves


def _smooth(values: list[float]) -> list[float]:
    """Means of each value and those around it; few values stay as they are."""
    reach = min(_SMOOTH // 2, len(values) // 20)
    windows = (values[max(0, index - reach) : index + reach + 1] for index in range(len(values)))
    return [sum(window) / len(window) for window in windows]
