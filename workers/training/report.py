"""The evaluation as files: report.json, report.md and its pictures.

Owns their form. Leaves out every figure in them (`workers.training.evaluate`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from workers.training.captions import TEMPO_WORDS
from workers.training.evaluate import Evaluation, prompt_from_piece
from workers.training.listeners import ATTRIBUTES
from workers.training.score import DRUM_PATTERNS, GENRES, INSTRUMENT_NAMES, Piece

Picture = NDArray[np.uint8]
_CLASSES = {
    "genre": GENRES,
    "drums": DRUM_PATTERNS,
    "instrument": INSTRUMENT_NAMES,
    "tempo": tuple(TEMPO_WORDS.values()),
}


def write_report(evaluation: Evaluation, folder: Path) -> None:
    """Write the report into `folder`; the loss curve is drawn from the training log if it lies there."""
    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(evaluation.figures, indent=2) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(_markdown(evaluation.figures), encoding="utf-8")
    _draw_genres(evaluation, folder / "genres.png")
    _draw_instruments(evaluation, folder / "instruments.png")
    _draw_round_trips(evaluation, folder / "round_trips.png")
    _draw_confusion(evaluation, folder / "confusion.png")
    if (folder / "training_log.jsonl").exists():
        _draw_training(folder / "training_log.jsonl", folder / "training.png")


def _markdown(figures: dict[str, Any]) -> str:
    settings, music, ceiling = figures["settings"], figures["music"], figures["ceiling"]
    rows = [_steering_row(name, row) for name, row in figures["steering"].items()]
    floors = [
        f"| {name} | {figures['floors']['empty_prompt'][name]:.2f} | {figures['floors']['shuffled_weights'][name]:.2f} "
        f"| {ceiling['real'][name]:.3f} | {ceiling['round_trip'][name]:.3f} |"
        for name in ATTRIBUTES
    ]
    return "\n".join(
        [
            "# The built-in model's report",
            "",
            f"Weights `{figures['model']['sha256']}`. {settings['prompts']} prompts, every genre with every drum "
            f"pattern and instrument, such as “{settings['example_prompt']}”; guidance {settings['guidance_scale']}, "
            f"{settings['num_inference_steps']} steps. Written by `riffarm evaluate`, which gives these figures again.",
            "",
            "## Does it follow the prompt?",
            "",
            "| attribute | heard as asked | 95 % interval | chance | shuffled prompts | p | p, others held fixed |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            "Classifiers learn from real clips of other seeds and from the autoencoder's redrawing of them, "
            "then hear the generated pictures.",
            "",
            "## Floors and ceilings",
            "",
            f"Floors over {figures['floors']['prompts']} prompts; ceilings over real clips the classifiers never met.",
            "",
            "| attribute | empty prompt | shuffled weights | real clips | redrawn clips |",
            "|---|---|---|---|---|",
            *floors,
            "",
            "## Is it music?",
            "",
            f"- Autoencoder: {ceiling['psnr_db']:.1f} dB on held-out clips.",
            f"- Regularity of onsets: {music['onset_periodicity']:.2f}, real clips "
            f"{music['onset_periodicity_real']:.2f} (ratio {music['onset_periodicity_ratio']:.2f}).",
            f"- Spread of features: {music['feature_spread_ratio']:.2f} of that of real clips.",
            "",
            "![Generated pictures by genre and drums](genres.png)",
            "![Generated and real pictures by instrument](instruments.png)",
            "![Held-out clips and their redrawing](round_trips.png)",
            "![What was heard for what was asked](confusion.png)",
            "![Losses and steering while training](training.png)",
            "",
        ]
    )


def _steering_row(name: str, row: dict[str, Any]) -> str:
    return (
        f"| {name} | {row['accuracy']:.3f} | {row['low']:.3f} – {row['high']:.3f} | {row['chance']:.3f} "
        f"| {row['shuffled_prompts']:.3f} | {row['p_value']:.5f} | {row['p_value_others_held_fixed']:.5f} |"
    )


def _grid(rows: list[list[tuple[str, Picture | None]]], path: Path) -> None:
    """Pictures in rows, each under its title; a missing one stays blank."""
    figure = Figure(figsize=(2.1 * len(rows[0]), 2.3 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        for (title, picture), axis in zip(row, line, strict=True):
            axis.set_axis_off()
            axis.set_title(title, fontsize=7)
            if picture is not None:
                axis.imshow(picture[::2, ::2], cmap="gray", vmin=0, vmax=255)
    figure.savefig(path, dpi=70)


def _found(evaluation: Evaluation, **wanted: str) -> Picture | None:
    """The first generated picture whose piece has the wanted attributes."""
    for piece, picture in zip(evaluation.pieces, evaluation.pictures, strict=True):
        if all(getattr(piece, name) == value for name, value in wanted.items()):
            return np.asarray(picture)
    return None


def _draw_genres(evaluation: Evaluation, path: Path) -> None:
    rows = [
        [(f"{genre}, {drums}", _found(evaluation, genre=genre, drums=drums, instrument="piano")) for genre in GENRES]
        for drums in DRUM_PATTERNS
    ]
    _grid(rows, path)


def _draw_instruments(evaluation: Evaluation, path: Path) -> None:
    """Generated pictures over real ones, by instrument."""
    pieces, pixels = evaluation.real
    drawn: list[tuple[str, Picture | None]] = []
    real: list[tuple[str, Picture | None]] = []
    for name in INSTRUMENT_NAMES:
        drawn.append((name, _found(evaluation, genre="classical", drums="no drums", instrument=name)))
        index = next(i for i, p in enumerate(pieces) if p.instrument == name and p.drums == "no drums")
        real.append((f"real {name}, {pieces[index].genre}", np.asarray(pixels[index])))
    _grid([drawn, real], path)


def _draw_round_trips(evaluation: Evaluation, path: Path) -> None:
    pieces, pixels = evaluation.real
    shown = range(min(6, len(evaluation.trips)))
    real: list[tuple[str, Picture | None]] = [(_title(pieces[i]), np.asarray(pixels[i])) for i in shown]
    drawn: list[tuple[str, Picture | None]] = [("redrawn", evaluation.trips[i]) for i in shown]
    _grid([real, drawn], path)


def _title(piece: Piece) -> str:
    return prompt_from_piece(piece).replace(", ", ",\n")


def _draw_confusion(evaluation: Evaluation, path: Path) -> None:
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    for axis, (name, classes) in zip(figure.subplots(1, len(_CLASSES)), _CLASSES.items(), strict=True):
        wanted = [ATTRIBUTES[name](piece) for piece in evaluation.pieces]
        counts = np.zeros((len(classes), len(classes)))
        for asked, heard in zip(wanted, evaluation.heard[name], strict=True):
            counts[classes.index(asked), classes.index(str(heard))] += 1
        axis.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Greys", vmin=0, vmax=1)
        axis.set_title(f"{name}: asked (down), heard (across)", fontsize=8)
        axis.set_xticks(range(len(classes)), classes, rotation=90, fontsize=6)
        axis.set_yticks(range(len(classes)), classes, fontsize=6)
    figure.savefig(path, dpi=80)


def _draw_training(log: Path, path: Path) -> None:
    """Losses of both trainings, and the small steering measure."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(11, 3), layout="constrained")
    panels = (("vae", ("l1", "edges")), ("unet", ("loss",)), ("unet", ("genre", "drums", "instrument", "tempo")))
    for axis, (part, names) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if line["part"] == part and name in line]
            axis.plot(*zip(*points, strict=True), label=name, marker="o" if part == "unet" and name != "loss" else "")
        axis.set_title(f"{part}: {', '.join(names)}", fontsize=8)
        axis.set_xlabel("step", fontsize=7)
        axis.legend(fontsize=6)
    figure.savefig(path, dpi=80)
