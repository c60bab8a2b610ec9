"""One loop for every training: so many steps, a log, and checkpoints to go on from.

Owns the log's form, what a checkpoint holds and when things are done. Leaves out what a step does: that is the
trainee's; and how progress is shown (`workers.training.progress`).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import torch

from workers.training.curves import draw_curves

Log = dict[str, float | int | str]
Tell = Callable[[str, int, int, str], None]
"""Is told a part's name, how much of it is done, how much there is, and its last figures in words."""

LOG_NAME: Final = "training_log.jsonl"
LOG_STEPS: Final = 50
"""Steps of which one line of the log holds the means."""


class Trainee(Protocol):
    """Something that learns step by step; `share` is how much of all steps is done, 0..1."""

    name: str

    def step(self, share: float) -> dict[str, float]:
        """One optimiser step; the figures to log."""

    def check(self) -> dict[str, float]:
        """A slower measure of quality, taken now and then."""

    def state(self) -> dict[str, Any]:
        """All that is needed to go on, its own random generators included."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""


@dataclass
class _Run:
    """How far a training is."""

    steps: int = 0
    spent_s: float = 0.0
    recent: list[dict[str, float]] = field(default_factory=list)
    """Figures that no line of the log holds yet."""


def untold(part: str, done: int, total: int, figures: str) -> None:
    """Show no progress."""


def train(
    trainee: Trainee,
    folder: Path,
    steps: int,
    check_steps: int,
    checkpoint_minutes: float,
    tell: Tell = untold,
) -> None:
    """Train until `steps` steps are done, going on from a checkpoint in `folder` if there is one.

    The log is cut back to the checkpoint's step, so it holds each step once however often a training was stopped.
    The seconds in it count over all runs; time between runs does not.
    """
    checkpoint = folder / f"{trainee.name}.checkpoint.pt"
    run = _resume(trainee, checkpoint)
    cut_log(folder, trainee.name, run.steps)
    saved = began = time.monotonic() - run.spent_s
    saved += run.spent_s
    while run.steps < steps:
        figures = trainee.step(run.steps / steps)
        run.steps += 1
        run.recent.append(figures)
        run.spent_s = time.monotonic() - began
        tell(trainee.name, run.steps, steps, _words(figures))
        is_last = run.steps == steps
        if is_last or run.steps % LOG_STEPS == 0:
            _log(trainee, folder, run, _means(run.recent))
            run.recent = []
        if is_last or run.steps % check_steps == 0:
            _log(trainee, folder, run, trainee.check())
            draw_curves(folder / LOG_NAME, folder / "curves.png")
        if is_last or time.monotonic() - saved >= checkpoint_minutes * 60:
            _save(trainee, checkpoint, run)
            saved = time.monotonic()


def _means(figures: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(one[name] for one in figures) / len(figures) for name in figures[-1]}


def _words(figures: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())


def _log(trainee: Trainee, folder: Path, run: _Run, figures: dict[str, float]) -> None:
    append_log(folder, {"part": trainee.name, "step": run.steps, "seconds": round(run.spent_s), **figures})


def append_log(folder: Path, line: Log) -> None:
    """Add one line to the training log in `folder`."""
    rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()}
    with (folder / LOG_NAME).open("a", encoding="utf-8") as log:
        log.write(json.dumps(rounded) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """All lines of a training log; a last one that was cut off while it was written is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def cut_log(folder: Path, part: str, steps: int) -> None:
    """Take from the log in `folder` what it says of `part` after `steps` steps, or of no step."""
    path = folder / LOG_NAME
    kept = [line for line in read_log(path) if line["part"] != part or line.get("step", math.inf) <= steps]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    os.replace(partial, path)


def _resume(trainee: Trainee, checkpoint: Path) -> _Run:
    if not checkpoint.exists():
        return _Run()
    saved = torch.load(checkpoint, weights_only=True, map_location="cpu")
    trainee.restore(saved["state"])
    torch.set_rng_state(saved["torch_rng"])
    if torch.cuda.is_available() and "cuda_rng" in saved:
        torch.cuda.set_rng_state(saved["cuda_rng"])
    return _Run(saved["steps"], saved["spent_s"], saved["recent"])


def _save(trainee: Trainee, checkpoint: Path, run: _Run) -> None:
    """Write a checkpoint that is either whole or absent."""
    content = {
        "steps": run.steps,
        "spent_s": run.spent_s,
        "recent": run.recent,
        "torch_rng": torch.get_rng_state(),
        "state": trainee.state(),
    }
    if torch.cuda.is_available():
        content["cuda_rng"] = torch.cuda.get_rng_state()
    partial = checkpoint.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, checkpoint)


def learning_rate(peak: float, share: float, step: int, warm_up_steps: int, decay_share: float) -> float:
    """A warm-up over the first steps, then `peak`, then a cosine to nearly zero over the last `decay_share`."""
    falling = max(0.0, (share - 1 + decay_share) / decay_share) if decay_share else 0.0
    return peak * min(1.0, (step + 1) / warm_up_steps) * (0.5 + 0.5 * math.cos(math.pi * min(falling, 1.0))) + 1e-6


def device() -> torch.device:
    """The device to train on: CUDA when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
