"""One loop for every training: a budget of minutes, a log, and checkpoints to go on from.

Owns time, the log's form and what a checkpoint holds. Leaves out what a step does: that is the trainee's.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any, Protocol

import torch

Log = dict[str, float | int | str]


class Trainee(Protocol):
    """Something that learns step by step; `share` is how much of the budget is spent, 0..1."""

    name: str

    def step(self, share: float) -> dict[str, float]:
        """One optimiser step; the figures to log."""

    def check(self) -> dict[str, float]:
        """A slower measure of quality, taken now and then."""

    def state(self) -> dict[str, Any]:
        """All that is needed to go on, random generators included."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""


def train(
    trainee: Trainee,
    folder: Path,
    minutes: float,
    check_minutes: float = math.inf,
    checkpoint_minutes: float = 3.0,
) -> None:
    """Train until `minutes` of this trainee's own time are spent, going on from a checkpoint in `folder`.

    Time spent in steps and checks counts over all runs; time between runs does not.
    """
    checkpoint = folder / f"{trainee.name}.checkpoint.pt"
    steps, spent_s = _resume(trainee, checkpoint)
    budget_s = minutes * 60
    started = time.monotonic() - spent_s
    saved_s, checked_s, recent = spent_s, spent_s, []
    while (spent_s := time.monotonic() - started) < budget_s:
        figures = trainee.step(spent_s / budget_s)
        steps += 1
        recent.append(figures)
        if steps % 50 == 0:
            means = {name: sum(f[name] for f in recent) / len(recent) for name in figures}
            append_log(folder, {"part": trainee.name, "step": steps, "seconds": round(spent_s), **means})
            recent = []
        if spent_s - checked_s > check_minutes * 60:
            checked_s = spent_s
            append_log(folder, {"part": trainee.name, "step": steps, "seconds": round(spent_s), **trainee.check()})
        if spent_s - saved_s > checkpoint_minutes * 60:
            saved_s = spent_s
            _save(trainee, checkpoint, steps, spent_s)
    _save(trainee, checkpoint, steps, max(spent_s, budget_s))


def append_log(folder: Path, line: Log) -> None:
    """Add one line to the training log in `folder`."""
    rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()}
    with (folder / "training_log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(rounded) + "\n")


def _resume(trainee: Trainee, checkpoint: Path) -> tuple[int, float]:
    if not checkpoint.exists():
        return 0, 0.0
    saved = torch.load(checkpoint, weights_only=True)
    torch.set_rng_state(saved["torch_rng"])
    trainee.restore(saved["state"])
    return int(saved["steps"]), float(saved["spent_s"])


def _save(trainee: Trainee, checkpoint: Path, steps: int, spent_s: float) -> None:
    """Write a checkpoint that is either whole or absent."""
    partial = checkpoint.with_suffix(".partial")
    content = {"steps": steps, "spent_s": spent_s, "torch_rng": torch.get_rng_state(), "state": trainee.state()}
    torch.save(content, partial)
    os.replace(partial, checkpoint)


def learning_rate(peak: float, share: float, step: int, decay_share: float) -> float:
    """A warm-up over 60 steps, then `peak`, then a cosine to zero over the last `decay_share` of the budget."""
    falling = max(0.0, (share - 1 + decay_share) / decay_share)
    return peak * min(1.0, (step + 1) / 60) * (0.5 + 0.5 * math.cos(math.pi * min(falling, 1.0))) + 1e-6


def device() -> torch.device:
    """The device to train on: CUDA when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
