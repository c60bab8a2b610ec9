"""The sound benchmark's figures as tables for a terminal, as Markdown, and as a plot.

Owns layout alone. Leaves out what the figures are (`sound`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.benchmarks.sound_quality import LEVELS, Mean
from tests.benchmarks.sound_targets import TARGETS

Means = Mapping[tuple[str, str], Mean]
PAGE: Final = Path("docs/benchmarks.md")
PLOT: Final = Path("docs/benchmarks/sound.png")
BEGIN: Final = "<!-- written by: make bench-sound ARGS=--write -->"
END: Final = "<!-- end of what is written -->"
_QUALITY_HEAD: Final = ("pictures", "method", "sc, dB", "pix", "mr", "lsd, dB", "CPU s a frame", "times as fast")
_TARGET_HEAD: Final = ("figure", "is", "must", "", "aim", "")


def show(console: Console, results: Mapping[str, Any], table: Means) -> None:
    """Print both tables."""
    for head, rows in ((_QUALITY_HEAD, _quality_rows(table)), (_TARGET_HEAD, _target_rows(results))):
        shown = Table(*head)
        for row in rows:
            shown.add_row(*row)
        console.print(shown)


def write(results: Mapping[str, Any], table: Means, tracks: Sequence[Mapping[str, Any]]) -> None:
    """Put both tables into PAGE, between BEGIN and END, and the plot beside it. Anybody's own audio stays out."""
    table = {key: mean for key, mean in table.items() if key[0] != "your audio"}
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    tables = "\n".join([_markdown(_QUALITY_HEAD, _quality_rows(table)), _markdown(_TARGET_HEAD, _target_rows(results))])
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    draw(results, tracks, PLOT)


def _quality_rows(table: Means) -> list[tuple[str, ...]]:
    return [
        (
            kind,
            method,
            f"{mean.quality.sc:.2f}",
            f"{mean.quality.pix:.2f}",
            _known(mean.quality.mr, ".3f"),
            _known(mean.quality.lsd, ".2f"),
            f"{mean.cpu_s:.3f}",
            f"{mean.speed_ratio:.1f}",
        )
        for (kind, method), mean in table.items()
    ]


def _target_rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for target in TARGETS:
        value, sign = target.value(results), "≥" if target.is_at_least else "≤"
        must, aim = (f"{sign} {bound:.3g}" if bound is not None else "" for bound in (target.must, target.aim))
        rows.append(
            (
                target.figure,
                f"{value:.4g}",
                must,
                target.verdict(value, target.must),
                aim,
                target.verdict(value, target.aim),
            )
        )
    return rows


def _known(value: float, form: str) -> str:
    return "–" if np.isnan(value) else format(value, form)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(results: Mapping[str, Any], tracks: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Error against speed for every method with the targets, and memory over the long tracks."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6))
    _draw_quality(left, results)
    for track in tracks:
        hours = track["chunks"] * 61.44 / 3_600
        right.plot(*zip(*track["rss_mib"], strict=True), label=f"{hours:.1f} hours of sound")
    right.axhline(tracks[0]["libraries_mib"], color="grey", linestyle=":", label="libraries alone")
    for mib, word in ((1024, "must"), (500, "aim")):
        right.axhline(mib, color="black", linestyle="--", linewidth=0.8)
        right.annotate(word, (0, mib), textcoords="offset points", xytext=(2, 3), fontsize=8)
    right.set(xlabel="CPU seconds", ylabel="resident memory, MiB", ylim=(0, 1150), title="Making and mastering a track")
    right.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_quality(axes: Any, results: Mapping[str, Any]) -> None:
    measures = {
        "pix_ratio": "picture (pix)",
        "pix_ratio_true_sound": "picture, true sounds (pix)",
        "mr_ratio": "spectra (mr)",
        "lsd_ratio": "log spectra (lsd)",
    }
    speeds = [1.0, *(results[level]["speed_ratio"] for level in reversed(LEVELS))]
    for (name, label), marker in zip(measures.items(), "osD^", strict=True):
        axes.plot(speeds, [1.0, *(results[level][name] for level in reversed(LEVELS))], marker + "-", label=label)
    for level in LEVELS:
        axes.annotate(level, (results[level]["speed_ratio"], 1.09), ha="center", fontsize=9)
    axes.annotate("baseline", (1.0, 1.09), ha="left", fontsize=9)
    # What standard and high must reach, and what they aim at.
    targets = ((50, 1, "standard must"), (150, 1, "standard aim"), (10, 0.4, "high must"), (20, 1 / 3, "high aim"))
    for speed, error, word in targets:
        axes.plot(speed, error, "k+", markersize=12)
        axes.annotate(word, (speed, error), textcoords="offset points", xytext=(-7, -10), ha="right", fontsize=8)
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set(
        xscale="log", xlabel="times as fast as the baseline (CPU time)", ylabel="error, baseline = 1", ylim=(0, 1.2)
    )
    ticks = (1, 3, 10, 30, 100, 300)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_title("Error and speed; lower and further right is better")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize=8)
