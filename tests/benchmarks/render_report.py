"""The rendering benchmark's figures as tables for a terminal and as Markdown.

Owns layout alone. Leaves out what the figures are (`render`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.benchmarks.sound_targets import Target

PAGE: Final = Path("docs/benchmarks.md")
FIGURES: Final = Path("docs/benchmarks/render.json")
BEGIN: Final = "<!-- written by: make bench-render ARGS=--write -->"
END: Final = "<!-- end of what rendering wrote -->"
NO_CUDA: Final = "There was no CUDA device. `make bench-render` measures one wherever it finds it, without further ado."
_WAYS: Final = {"farm": "the farm", "stock": "stock pipeline"}
_PARTS: Final = {"unet": "UNet", "decode": "decoding", "encode": "encoding", "text": "prompts", "rest": "rest"}
Results = dict[str, Any]
Rows = list[tuple[str, ...]]


def show(console: Console, results: Results, targets: Sequence[Target]) -> None:
    """Print all tables."""
    for head, rows in _tables(results, targets):
        shown = Table(*head)
        for row in rows:
            shown.add_row(*row)
        console.print(shown)
    if results["cuda"] is None:
        console.print(NO_CUDA)


def write(results: Results, targets: Sequence[Target], page: Path = PAGE, figures: Path = FIGURES) -> None:
    """Put all tables into the page, between BEGIN and END, and the figures beside it."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    tables = "\n".join(_markdown(head, rows) for head, rows in _tables(results, targets))
    note = f"\n{NO_CUDA}\n" if results["cuda"] is None else f"\nThe CUDA device: {results['cuda']['device']}.\n"
    page.write_text(f"{before}{BEGIN}\n\n{tables}{note}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    figures.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _tables(results: Results, targets: Sequence[Target]) -> Iterator[tuple[Sequence[str], Rows]]:
    yield ("CPU seconds a frame", *_PARTS.values(), "all", "frames a CPU second"), _cpu_rows(results["cpu"])
    if results["cuda"] is not None:
        yield (
            ("on CUDA", "frames a second", "UNet's share of the card's rate", "memory, MiB"),
            _cuda_rows(results["cuda"]),
        )
    yield ("figure", "is", "must", ""), [_target_row(target, results) for target in targets]


def _cpu_rows(cpu: Results) -> Rows:
    rows = []
    for way, name in _WAYS.items():
        seconds = [f"{cpu[way].get(f'{part}_s', 0.0):.3f}" for part in (*_PARTS, "all")]
        rows.append((name, *seconds, f"{cpu[way]['frames_per_cpu_s']:.3f}"))
    return rows


def _cuda_rows(cuda: Results) -> Rows:
    ways = {
        "the origin's way": "origin_frames_per_s",
        "stock pipeline, the farm's steps": "stock_frames_per_s",
        f"the farm, batches of {cuda['measured_batch']} at most": "farm_frames_per_s",
        "no faster than": "roofline_frames_per_s",
    }
    batches = [
        (
            f"the farm, batches of {one['frames']}",
            f"{one['frames_per_s']:.2f}",
            f"{one['unet_rate_share']:.3f}",
            "–" if one["memory_mib"] is None else str(one["memory_mib"]),
        )
        for one in cuda["batches"]
    ]
    return [*((name, f"{cuda[figure]:.2f}", "", "") for name, figure in ways.items()), *batches]


def _target_row(target: Target, results: Results) -> tuple[str, ...]:
    value, sign = target.value(results), "≥" if target.is_at_least else "≤"
    return target.figure, f"{value:.4g}", f"{sign} {target.must:.3g}", target.verdict(value, target.must)


def _markdown(head: Sequence[str], rows: Rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
