"""The proof that the built-in model makes music and follows its prompt.

Owns the prompts, fixed beforehand and fully crossed, and every figure of the report. Leaves out its form
(`workers.training.report`). The same weights give the same figures: full precision, one thread a process, one picture
at a time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from workers.training.captions import full_prompt
from workers.training.dataset import Pixels, clips
from workers.training.features import Features, features_from_many, onset_periodicity
from workers.training.listeners import ATTRIBUTES, Listeners
from workers.training.make import weights_sha256
from workers.training.recipe import DataRecipe
from workers.training.renders import GUIDANCE_SCALE, NUM_INFERENCE_STEPS, Kind, Order, generated, round_trips
from workers.training.score import DRUM_PATTERNS, GENRES, INSTRUMENT_NAMES, Piece
from workers.training.statistics import p_value, permuted_accuracies, wilson_interval

ALL_PROMPTS: Final = len(GENRES) * len(DRUM_PATTERNS) * len(INSTRUMENT_NAMES)
FLOOR_PROMPTS: Final = 20
LEARN, TEST = slice(0, 1_200), slice(1_200, 1_600)
"""Held-out clips the classifiers learn from, and those they are tested on."""
LEARN_TRIPS, TEST_TRIPS = 240, 80
"""How many of each are also drawn by the autoencoder: classifiers must know its blur."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures for report.json, and the pictures the report shows."""

    figures: dict[str, Any]
    pieces: list[Piece]
    pictures: Pixels
    heard: dict[str, np.ndarray[Any, Any]]
    real: tuple[list[Piece], Pixels]
    trips: Pixels


def crossed_pieces(count: int = ALL_PROMPTS) -> list[Piece]:
    """The first `count` of all genres x drums x instruments, each once, in one fixed shuffled order.

    Tempo and noise seed go by the place in that order. Raises ValueError outside 1..ALL_PROMPTS.
    """
    if not 1 <= count <= ALL_PROMPTS:
        raise ValueError(f"prompts must be 1..{ALL_PROMPTS}, not {count}")
    cells = list(product(GENRES, DRUM_PATTERNS, INSTRUMENT_NAMES))
    random.Random(4).shuffle(cells)
    tempos = (6, 8, 12)
    return [
        Piece(genre, instrument, drums, root=0, mode="major", beats=tempos[place % 3], seed=10_000 + place)
        for place, (genre, drums, instrument) in enumerate(cells[:count])
    ]


def prompt_from_piece(piece: Piece) -> str:
    """The prompt a crossed piece is asked by."""
    return full_prompt(piece.genre, piece.instrument, piece.drums, piece.beats)


def evaluate(model: Path, folder: Path, prompts: int = ALL_PROMPTS) -> Evaluation:
    """All figures of the model in `model`; real clips and their round trips are kept in `folder`."""
    data = DataRecipe()
    held = clips(data.held_out_clips, data.held_out_seed, folder)
    pieces = crossed_pieces(prompts)
    orders = _orders(pieces)
    pictures = generated(model, orders)
    with threadpool_limits(1):
        real = features_from_many(held[1])
        trips = round_trips(model, held[1], [*range(LEARN_TRIPS), *range(TEST.start, TEST.start + TEST_TRIPS)], folder)
        listeners, ceiling = _listeners(held[0], real, features_from_many(trips))
        features = features_from_many(pictures)
        count = len(pieces)
        figures = {
            "model": {"sha256": weights_sha256(model)},
            "settings": _settings(count),
            "ceiling": {**ceiling, "psnr_db": _psnr_db(held[1][TEST][:TEST_TRIPS], trips[LEARN_TRIPS:])},
            "steering": {name: _steering(listeners, name, pieces, features[:count]) for name in ATTRIBUTES},
            "floors": _floors(listeners, pieces, features[count:]),
            "music": _music(held[1][TEST], pictures[:count], real[TEST], features[:count]),
        }
        heard = {name: listeners.heard(name, features[:count]) for name in ATTRIBUTES}
    test = (held[0][TEST], held[1][TEST])
    return Evaluation(_rounded(figures), pieces, pictures[:count], heard, test, trips[LEARN_TRIPS:])


def _orders(pieces: list[Piece]) -> list[Order]:
    """What is generated: every prompt, then the first few without words, then with shuffled weights."""
    full = [Order(prompt_from_piece(piece), piece.seed, Kind.WHOLE) for piece in pieces]
    wordless = [replace(order, prompt="") for order in full[:FLOOR_PROMPTS]]
    return full + wordless + [replace(order, kind=Kind.SHUFFLED) for order in full[:FLOOR_PROMPTS]]


def _settings(prompts: int) -> dict[str, Any]:
    return {
        "prompts": prompts,
        "guidance_scale": GUIDANCE_SCALE,
        "num_inference_steps": NUM_INFERENCE_STEPS,
        "first_seed": 10_000,
        "example_prompt": prompt_from_piece(crossed_pieces(1)[0]),
    }


def _listeners(pieces: list[Piece], real: Features, trips: Features) -> tuple[Listeners, dict[str, Any]]:
    """Classifiers taught by real and redrawn clips, and how well they hear ones they never met."""
    taught = np.concatenate([real[LEARN], trips[:LEARN_TRIPS]])
    listeners = Listeners([*pieces[LEARN], *pieces[:LEARN_TRIPS]], taught)
    redrawn = pieces[TEST][:TEST_TRIPS]
    return listeners, {
        "real": {name: listeners.accuracy(name, pieces[TEST], real[TEST]) for name in ATTRIBUTES},
        "round_trip": {name: listeners.accuracy(name, redrawn, trips[LEARN_TRIPS:]) for name in ATTRIBUTES},
    }


def _steering(listeners: Listeners, name: str, pieces: list[Piece], features: Features) -> dict[str, Any]:
    """How often an attribute is heard as asked, and how likely that is by chance."""
    label = ATTRIBUTES[name]
    wanted = np.array([label(piece) for piece in pieces])
    heard = listeners.heard(name, features)
    hits = int(np.count_nonzero(wanted == heard))
    low, high = wilson_interval(hits, len(pieces))
    # Tempo is not crossed with all three of the others: each cell of those holds one prompt alone.
    others = ("genre", "drums") if name == "tempo" else set(ATTRIBUTES) - {name, "tempo"}
    cells = np.array(["|".join(ATTRIBUTES[other](piece) for other in sorted(others)) for piece in pieces])
    free = permuted_accuracies(wanted, heard, np.zeros_like(wanted), seed=5)
    held = permuted_accuracies(wanted, heard, cells, seed=6)
    return {
        "accuracy": hits / len(pieces),
        "low": low,
        "high": high,
        "chance": 1 / len(set(wanted)),
        "shuffled_prompts": float(free.mean()),
        "p_value": p_value(hits / len(pieces), free),
        "p_value_others_held_fixed": p_value(hits / len(pieces), held),
    }


def _floors(listeners: Listeners, pieces: list[Piece], features: Features) -> dict[str, Any]:
    """Accuracies where nothing should be heard: no prompt, and shuffled weights."""
    few = pieces[:FLOOR_PROMPTS]
    wordless, shuffled = features[: len(few)], features[len(few) :]
    return {
        "prompts": len(few),
        "empty_prompt": {name: listeners.accuracy(name, few, wordless) for name in ATTRIBUTES},
        "shuffled_weights": {name: listeners.accuracy(name, few, shuffled) for name in ATTRIBUTES},
    }


def _music(real: Pixels, pictures: Pixels, real_features: Features, features: Features) -> dict[str, float]:
    """Regularity of rhythm and variety, beside those of real clips."""
    ours = float(np.mean([onset_periodicity(picture) for picture in pictures]))
    theirs = float(np.mean([onset_periodicity(picture) for picture in real]))
    scale = real_features.std(axis=0) + 1e-6
    return {
        "onset_periodicity": ours,
        "onset_periodicity_real": theirs,
        "onset_periodicity_ratio": ours / theirs,
        "feature_spread_ratio": float(np.mean(features.std(axis=0) / scale)),
    }


def _psnr_db(real: Pixels, drawn: Pixels) -> float:
    """Fidelity of redrawn pictures over all of them, in dB."""
    error = np.mean((real.astype(np.float64) - drawn) ** 2)
    return float(10 * np.log10(255**2 / error))


def _rounded(figures: Any) -> Any:
    """Figures to five digits, all through."""
    if isinstance(figures, dict):
        return {name: _rounded(value) for name, value in figures.items()}
    return round(figures, 5) if isinstance(figures, float) else figures
