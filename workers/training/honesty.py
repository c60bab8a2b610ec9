"""Checks that the proof proves what it says: nothing is copied from the training, and nothing heard where nothing is.

Owns point 5 and its bounds. Leaves out which pictures are made for it (`workers.training.evaluate`).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from workers.training.dataset import Pixels, draw_pieces
from workers.training.features import Features
from workers.training.listeners import CLASSES, Listeners, labels_from_pieces
from workers.training.musicality import nearness, small_picture
from workers.training.points import STEERING_TARGETS, Figures, Shown, music_points, share
from workers.training.score import Piece

LEAST_SEED_DIFFERENCE: Final = 0.5
"""Of the difference between two real clips that were asked alike."""
MOST_NEAR: Final = 0.05
"""The share of pictures that may be nearer to a training clip than all but 1 % of the held-out clips are."""


def training_pieces(seed: int, count: int) -> list[Piece]:
    """The first pieces of the training's own seed."""
    return draw_pieces(count, seed)


def other_seeds(drawn: tuple[Pixels, Pixels], real: tuple[Pixels, Pixels]) -> Figures:
    """How far pictures of the same prompts and other seeds differ, beside real clips of the same attributes."""
    ours, theirs = _differences(*drawn), _differences(*real)
    ratio = float(ours.mean() / theirs.mean())
    return {
        "ok": ratio >= LEAST_SEED_DIFFERENCE and bool((ours > 0).all()),
        "prompts": len(ours),
        "difference": float(ours.mean()),
        "difference_real": float(theirs.mean()),
        "ratio": ratio,
    }


def _differences(one: Pixels, other: Pixels) -> NDArray[np.float64]:
    """The mean difference in grey levels of each pair of pictures."""
    differences: NDArray[np.float64] = np.abs(one.astype(np.float64) - other).mean(axis=(1, 2))
    return differences


def nearest(drawn: Pixels, real: Pixels, training: Features) -> Figures:
    """Whether generated pictures are nearer to one training clip than clips are that no training saw."""
    ours, theirs = (
        nearness(np.stack([small_picture(picture) for picture in pictures]), training) for pictures in (drawn, real)
    )
    bound = float(np.percentile(theirs, 1))
    nearer = share(ours < bound)
    ratio = float(np.median(ours) / np.median(theirs))
    return {
        "ok": bool(nearer["low"] <= MOST_NEAR and ratio >= 0.9),
        "nearness": float(np.median(ours)),
        "nearness_real": float(np.median(theirs)),
        "ratio": ratio,
        "nearest": float(ours.min()),
        "nearest_real": float(theirs.min()),
        "nearer_than_99_of_100_real": nearer["accuracy"],
    }


def wordless(listeners: Listeners, shown: Shown) -> Figures:
    """Whether pictures of no prompt are heard as what others asked no more often than by chance."""
    rows = {}
    for name in STEERING_TARGETS:
        hits = listeners.heard(name, shown.features) == labels_from_pieces(name, shown.pieces)
        rows[name] = {**share(hits), "chance": 1 / len(CLASSES[name])}
    return {"ok": all(row["low"] <= row["chance"] for row in rows.values()), **rows}


def shuffled(listeners: Listeners, shown: Shown, real: Shown) -> Figures:
    """Whether the denoiser with shuffled weights fails points 2, 3 and 4, as it must."""
    points = music_points(listeners, shown, [], real)
    return {"ok": not any(point["ok"] for point in points.values()), **points}


def logged(lines: list[dict[str, Any]], sha256: str) -> Figures:
    """Whether the last model in the training log is the one with these weights."""
    saved = [line["sha256"] for line in lines if line.get("part") == "model"]
    return {"ok": bool(saved) and saved[-1] == sha256, "sha256": saved[-1] if saved else None}
