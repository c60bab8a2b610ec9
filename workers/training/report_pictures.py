"""The report's pictures: generated, real and redrawn spectrograms, what was heard for what, and the training's curves.

Owns what they show and their size. Leaves out the report's words (`workers.training.report`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from workers.training.captions import TEMPO_WORDS
from workers.training.curves import draw_curves
from workers.training.evaluate import Evaluation
from workers.training.listeners import ATTRIBUTES, CLASSES
from workers.training.points import Shown
from workers.training.score import DRUM_PATTERNS, GENRES, INSTRUMENT_NAMES, Piece

Picture = NDArray[np.uint8]
Cell = tuple[str, Picture | None]

_SHOWN_TRIPS: Final = 6
_COLOURS: Final = 24
"""Greys and colours a picture is kept in: a page of spectrograms stays below 400 KB."""


def draw_pictures(evaluation: Evaluation, folder: Path, log: Path) -> dict[str, str]:
    """Draw all pictures into `folder`; their names and what they show."""
    mpl.use("Agg")
    _draw_genres(evaluation, folder / "genres.png")
    _draw_instruments(evaluation, folder / "instruments.png")
    _draw_round_trips(evaluation, folder / "round_trips.png")
    _draw_confusion(evaluation, folder / "confusion.png")
    shown = {
        "genres.png": "Generated pictures by genre and drums",
        "instruments.png": "Generated pictures over real clips, by instrument",
        "round_trips.png": "Held-out clips over their redrawing by the autoencoder",
        "confusion.png": "What was heard for what was asked",
    }
    if log.exists():
        draw_curves(log, folder / "training.png")
        _shrink(folder / "training.png")
        shown["training.png"] = "Figures while training"
    return shown


def _draw_genres(evaluation: Evaluation, path: Path) -> None:
    """A generated picture of each genre with each drum pattern, of whatever instrument and tempo."""
    crossed = evaluation.crossed
    rows = []
    for drums in DRUM_PATTERNS:
        found = [_first(crossed, genre=genre, drums=drums) for genre in GENRES]
        rows.append(
            [(_words(genre, drums, piece), picture) for genre, (piece, picture) in zip(GENRES, found, strict=True)]
        )
    _draw_grid(rows, path, 1.15)


def _words(genre: str, drums: str, piece: Piece | None) -> str:
    rest = f"\n{TEMPO_WORDS[piece.beats]}, {piece.instrument}" if piece else ""
    return f"{genre}, {drums.removesuffix(' drums')}{rest}"


def _draw_instruments(evaluation: Evaluation, path: Path) -> None:
    """One sweep of the instruments over real clips of the same words."""
    sweeps = [shown for sweep, shown in evaluation.swept if sweep.attribute == "instrument"]
    generated: list[Cell] = [(name, _first(sweeps[0], instrument=name)[1]) for name in INSTRUMENT_NAMES]
    real: list[Cell] = []
    for name in INSTRUMENT_NAMES:
        piece, picture = _first(evaluation.real, instrument=name)
        real.append((f"real {name}\n{piece.genre}" if piece else name, picture))
    half = len(INSTRUMENT_NAMES) // 2
    _draw_grid([generated[:half], real[:half], generated[half:], real[half:]], path, 1.25)


def _draw_round_trips(evaluation: Evaluation, path: Path) -> None:
    """Held-out clips over their redrawing."""
    shown = range(min(_SHOWN_TRIPS, len(evaluation.trips)))
    pieces, pixels = evaluation.real.pieces, evaluation.real.pixels
    real: list[Cell] = [(f"{pieces[index].genre} {pieces[index].instrument}", pixels[index]) for index in shown]
    _draw_grid([real, [("redrawn", evaluation.trips[index]) for index in shown]], path, 2.0)


def _first(shown: Shown, **wanted: str) -> tuple[Piece | None, Picture | None]:
    """The first piece with the wanted attributes and its picture, if there is one."""
    for piece, picture in zip(shown.pieces, shown.pixels, strict=True):
        if all(getattr(piece, name) == value for name, value in wanted.items()):
            return piece, np.asarray(picture)
    return None, None


def _draw_grid(rows: list[list[Cell]], path: Path, inches: float) -> None:
    """Pictures in rows, each under its title; a missing one stays blank."""
    figure = Figure(figsize=(inches * len(rows[0]), (inches + 0.3) * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        for (title, picture), axis in zip(row, line, strict=True):
            axis.set_axis_off()
            axis.set_title(title, fontsize=5)
            if picture is not None:
                axis.imshow(_halved(picture), cmap="gray", vmin=0, vmax=255)
    figure.savefig(path, dpi=110)
    _shrink(path)


def _halved(picture: Picture) -> NDArray[np.float64]:
    """A picture of half the size, each point the mean of four."""
    halved: NDArray[np.float64] = picture.reshape(256, 2, 256, 2).mean(axis=(1, 3))
    return halved


def _shrink(path: Path) -> None:
    """Keep a picture in few colours."""
    picture = Image.open(path).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


def _draw_confusion(evaluation: Evaluation, path: Path) -> None:
    figure = Figure(figsize=(11, 9), layout="constrained")
    for axis, name in zip(figure.subplots(2, 2).ravel(), ATTRIBUTES, strict=True):
        _draw_matrix(axis, name, confusion(evaluation, name))
    figure.savefig(path, dpi=70)
    _shrink(path)


def confusion(evaluation: Evaluation, attribute: str) -> NDArray[np.float64]:
    """How often each class was heard (across) of the times each was asked (down)."""
    classes = CLASSES[attribute]
    counts = np.zeros((len(classes), len(classes)))
    for piece, heard in zip(evaluation.crossed.pieces, evaluation.heard[attribute], strict=True):
        counts[classes.index(ATTRIBUTES[attribute](piece)), classes.index(str(heard))] += 1
    shares: NDArray[np.float64] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return shares


def _draw_matrix(axis: Axes, name: str, shares: NDArray[Any]) -> None:
    classes = CLASSES[name]
    axis.imshow(shares, cmap="Greys", vmin=0, vmax=1)
    axis.set_title(f"{name}: asked (down), heard (across)", fontsize=8)
    axis.set_xticks(range(len(classes)), classes, rotation=90, fontsize=6)
    axis.set_yticks(range(len(classes)), classes, fontsize=6)
