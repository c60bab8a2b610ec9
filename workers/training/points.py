"""What a set of pictures must show: that it follows its prompts, keeps time and key, and is as regular and as varied
as real clips.

Owns points 2 to 4 of the proof, with their targets, for any pictures: generated, heard again, or made without words or
with shuffled weights. Leaves out where pictures come from and the other points (`workers.training.evaluate`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from workers.training.captions import TEMPO_WORDS
from workers.training.crossing import Sweep
from workers.training.dataset import Pixels
from workers.training.features import Features, features_from_many
from workers.training.listeners import ATTRIBUTES, CLASSES, Listeners, labels_from_pieces
from workers.training.musicality import (
    chroma_from_pixels,
    key_margin,
    measured_tempo_bpm,
    onset_periodicity,
    tempo_error_bpm,
)
from workers.training.score import BAR_BEATS, FRAME_S, Piece
from workers.training.statistics import bootstrap_interval, p_value, permuted_accuracies, wilson_interval

Figures = dict[str, Any]

STEERING_TARGETS: Final = {"genre": 0.80, "drums": 0.80, "instrument": 0.60}
MOST_P: Final = 0.001
MOST_TEMPO_ERROR_BPM: Final = 8.0
LEAST_KEY_MARGIN: Final = 0.05
LEAST_PERIODICITY: Final = 0.70
LEAST_SPREAD: Final = 0.80
_TEMPO_BPM: Final = {TEMPO_WORDS[beats]: beats * 60 / FRAME_S for beats in BAR_BEATS}
_SPREAD_RESAMPLINGS: Final = 200


@dataclass(frozen=True)
class Shown:
    """Pictures (picture, 512, 512), the pieces they were asked as, and their features (picture, feature)."""

    pieces: list[Piece]
    pixels: Pixels
    features: Features

    @classmethod
    def of(cls, pieces: list[Piece], pixels: Pixels) -> Shown:
        """Pictures with their features read."""
        return cls(pieces, pixels, features_from_many(pixels))

    def part(self, start: int, stop: int) -> Shown:
        """The pictures from `start` to before `stop`."""
        return Shown(self.pieces[start:stop], self.pixels[start:stop], self.features[start:stop])


def music_points(
    listeners: Listeners, crossed: Shown, swept: list[tuple[Sweep, Shown]], real: Shown
) -> dict[str, Figures]:
    """Points 2, 3 and 4 for crossed prompts beside real clips; each with `ok`. Without sweeps none are asked for."""
    return {
        "steering": steering(listeners, crossed, swept),
        "tempo_and_key": tempo_and_key(listeners, crossed),
        "rhythm_and_spread": rhythm_and_spread(crossed, real),
    }


def steering(listeners: Listeners, crossed: Shown, swept: list[tuple[Sweep, Shown]]) -> Figures:
    """How often each attribute is heard as asked, over crossed prompts and with all others held fixed."""
    rows = {name: _steered(listeners, name, crossed) for name in ATTRIBUTES}
    for name in {sweep.attribute for sweep, _ in swept}:
        rows[name] |= _held_fixed(listeners, name, [shown for sweep, shown in swept if sweep.attribute == name])
    return {"ok": all(_is_steered(rows[name], target) for name, target in STEERING_TARGETS.items()), **rows}


def _is_steered(row: Figures, target: float) -> bool:
    """Whether an attribute follows its word, everywhere it was tried, and does not without it."""
    is_followed = row["accuracy"] >= target and row["p_value"] < MOST_P
    is_at_chance = row["shuffled_low"] <= row["chance"] <= row["shuffled_high"]
    is_held = row.get("fixed_accuracy", 1.0) >= target and row.get("fixed_p_value", 0.0) < MOST_P
    return bool(is_followed and is_at_chance and is_held)


def _steered(listeners: Listeners, name: str, shown: Shown) -> Figures:
    wanted, heard = labels_from_pieces(name, shown.pieces), listeners.heard(name, shown.features)
    permuted = permuted_accuracies(wanted, heard, np.zeros_like(wanted), seed=5)
    low, high = np.percentile(permuted, (2.5, 97.5))
    figures = share(wanted == heard)
    return {
        **{key: figures[key] for key in ("accuracy", "low", "high")},
        "chance": 1 / len(CLASSES[name]),
        "target": STEERING_TARGETS.get(name),
        "shuffled_prompts": float(permuted.mean()),
        "shuffled_low": float(low),
        "shuffled_high": float(high),
        "p_value": p_value(figures["accuracy"], permuted),
    }


def _held_fixed(listeners: Listeners, name: str, shown: list[Shown]) -> Figures:
    """Accuracy where this attribute's word alone changes; what was asked is shuffled within each sweep."""
    wanted = np.concatenate([labels_from_pieces(name, one.pieces) for one in shown])
    heard = np.concatenate([listeners.heard(name, one.features) for one in shown])
    groups = np.repeat([str(index) for index in range(len(shown))], [len(one.pieces) for one in shown])
    figures = share(wanted == heard)
    permuted = permuted_accuracies(wanted, heard, groups, seed=6)
    return {
        "fixed_prompts": len(wanted),
        "fixed_accuracy": figures["accuracy"],
        "fixed_low": figures["low"],
        "fixed_high": figures["high"],
        "fixed_p_value": p_value(figures["accuracy"], permuted),
    }


def share(hits: NDArray[np.bool_]) -> Figures:
    """The share of hits with its 95 % interval."""
    low, high = wilson_interval(int(hits.sum()), len(hits))
    return {"accuracy": float(hits.mean()), "low": low, "high": high}


def tempo_and_key(listeners: Listeners, shown: Shown) -> Figures:
    """Errors of tempo, as listeners hear it and as onsets repeat, and how much of the sound lies in the asked key."""
    ours = _tempo_and_key(listeners, shown)
    is_in_time = ours["heard_error_bpm"]["mean"] <= MOST_TEMPO_ERROR_BPM
    is_measured = ours["measured_error_bpm"]["median"] <= MOST_TEMPO_ERROR_BPM
    is_in_key = ours["key_margin"]["mean"] >= LEAST_KEY_MARGIN
    return {"ok": bool(is_in_time and is_measured and is_in_key), **ours}


def _tempo_and_key(listeners: Listeners, shown: Shown) -> Figures:
    asked = np.array([piece.tempo_bpm for piece in shown.pieces])
    heard = np.array([_TEMPO_BPM[str(word)] for word in listeners.heard("tempo", shown.features)])
    drummed = [index for index, piece in enumerate(shown.pieces) if piece.drums != "no drums"]
    measured = [tempo_error_bpm(measured_tempo_bpm(shown.pixels[index]), asked[index]) for index in drummed]
    margins = [
        key_margin(chroma_from_pixels(pixels), piece.root, piece.mode)
        for piece, pixels in zip(shown.pieces, shown.pixels, strict=True)
    ]
    return {
        "heard_error_bpm": mean_figures(np.abs(heard - asked)),
        "measured_error_bpm": _median_figures(np.array(measured)),
        "key_margin": mean_figures(np.array(margins)),
    }


def mean_figures(values: NDArray[np.float64]) -> Figures:
    """The mean of values with its 95 % interval."""
    low, high = bootstrap_interval(values, lambda drawn: float(drawn.mean()))
    return {"mean": float(values.mean()), "low": low, "high": high}


def _median_figures(values: NDArray[np.float64]) -> Figures:
    low, high = bootstrap_interval(values, lambda drawn: float(np.median(drawn)))
    return {"median": float(np.median(values)), "low": low, "high": high, "pictures": len(values)}


def plain_figures(listeners: Listeners, shown: Shown, real: Shown) -> dict[str, float]:
    """The figures of points 2 to 4 alone, without intervals: for floors and ceilings."""
    told = _tempo_and_key(listeners, shown)
    ours, theirs = (np.mean([onset_periodicity(pixels) for pixels in one.pixels]) for one in (shown, real))
    return {
        **{name: listeners.accuracy(name, shown.pieces, shown.features) for name in ATTRIBUTES},
        "heard_error_bpm": told["heard_error_bpm"]["mean"],
        "measured_error_bpm": told["measured_error_bpm"]["median"],
        "key_margin": told["key_margin"]["mean"],
        "periodicity_ratio": float(ours / theirs),
        "spread_ratio": spread_ratio(shown.features, real.features),
    }


def rhythm_and_spread(shown: Shown, real: Shown) -> Figures:
    """Regularity of onsets and variety, as shares of those of real clips of the same attributes."""
    ours = np.array([onset_periodicity(pixels) for pixels in shown.pixels])
    theirs = np.array([onset_periodicity(pixels) for pixels in real.pixels])
    ratio = float(ours.mean() / theirs.mean())
    spread = spread_ratio(shown.features, real.features)
    return {
        "ok": ratio >= LEAST_PERIODICITY and spread >= LEAST_SPREAD,
        "periodicity": mean_figures(ours),
        "periodicity_real": mean_figures(theirs),
        "periodicity_ratio": ratio_figures(ours, theirs),
        "spread_ratio": _spread_figures(shown.features, real.features),
    }


def ratio_figures(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> Figures:
    """The ratio of two means, and the 95 % interval when each is drawn again."""
    rng = np.random.default_rng(4)
    drawn = [_redrawn(ours, rng).mean() / _redrawn(theirs, rng).mean() for _ in range(2_000)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return {"ratio": float(ours.mean() / theirs.mean()), "low": float(low), "high": float(high)}


def _redrawn(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    return values[rng.integers(0, len(values), len(values))]


def spread_ratio(features: Features, real: Features) -> float:
    """The middle one, over all features that vary in real clips, of the standard deviation over that of real clips."""
    theirs = real.std(axis=0)
    varies = theirs > 1e-3 * (np.abs(real).mean(axis=0) + 1e-6)
    return float(np.median(features.std(axis=0)[varies] / theirs[varies]))


def _spread_figures(features: Features, real: Features) -> Figures:
    low, high = bootstrap_interval(features, lambda drawn: spread_ratio(drawn, real), resamplings=_SPREAD_RESAMPLINGS)
    return {"ratio": spread_ratio(features, real), "low": low, "high": high}
