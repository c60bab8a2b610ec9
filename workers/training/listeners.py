"""Listeners that hear attributes in pictures; taught by real clips and their round trips, used on generated ones.

Owns what counts as an attribute, how listeners are taught and how they are kept. Leaves out which clips teach them
(`workers.training.school`) and statistics on generated pictures.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from workers.training.captions import TEMPO_WORDS
from workers.training.features import Features
from workers.training.score import BAR_BEATS, DRUM_PATTERNS, GENRES, INSTRUMENT_NAMES, Piece

ATTRIBUTES: Final[dict[str, Callable[[Piece], str]]] = {
    "genre": lambda piece: piece.genre,
    "drums": lambda piece: piece.drums,
    "instrument": lambda piece: piece.instrument,
    "tempo": lambda piece: TEMPO_WORDS[piece.beats],
}
CLASSES: Final[dict[str, tuple[str, ...]]] = {
    "genre": GENRES,
    "drums": DRUM_PATTERNS,
    "instrument": INSTRUMENT_NAMES,
    "tempo": tuple(TEMPO_WORDS[beats] for beats in BAR_BEATS),
}
Labels = NDArray[np.str_]

_WIDTH: Final = 384
_EPOCHS: Final = 30
_BATCH: Final = 128
_PEAK_RATE: Final = 2e-3


def labels_from_pieces(attribute: str, pieces: list[Piece]) -> Labels:
    """What each piece asks for in an attribute, shape (piece,)."""
    return np.array([ATTRIBUTES[attribute](piece) for piece in pieces])


@dataclass(frozen=True)
class Listeners:
    """One network of two layers with an answer for each attribute: features in, a score for each class out."""

    weights: dict[str, NDArray[np.float32]]

    def heard(self, attribute: str, features: Features) -> Labels:
        """What is heard of `attribute` in each row of features (picture, feature)."""
        scores = self._hidden(features) @ self.weights[attribute].T + self.weights[f"{attribute} bias"]
        answers: Labels = np.array(CLASSES[attribute])[scores.argmax(axis=1)]
        return answers

    def accuracy(self, attribute: str, pieces: list[Piece], features: Features) -> float:
        """Share of pieces whose attribute is heard rightly."""
        return float(np.mean(self.heard(attribute, features) == labels_from_pieces(attribute, pieces)))

    def save(self, path: Path) -> None:
        """Write the weights to an .npz file, whole or not at all."""
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, **self.weights)  # type: ignore[arg-type]
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> Listeners:
        """The listeners that `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            return cls({name: file[name] for name in file.files})

    def _hidden(self, features: Features) -> Features:
        standard = np.clip((features - self.weights["mean"]) / self.weights["scale"], -6, 6)
        hidden: Features = np.maximum(standard @ self.weights["hidden"].T + self.weights["hidden bias"], 0)
        return hidden


def taught(pieces: list[Piece], features: Features, seed: int = 21, epochs: int = _EPOCHS) -> Listeners:
    """Listeners that learnt from pieces and their features (piece, feature); the same for the same input."""
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-4
    inputs = torch.from_numpy(np.clip((features - mean) / scale, -6, 6))
    targets = {
        name: torch.tensor([CLASSES[name].index(ATTRIBUTES[name](piece)) for piece in pieces]) for name in ATTRIBUTES
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = torch.nn.Linear(inputs.shape[1], _WIDTH)
        heads = {name: torch.nn.Linear(_WIDTH, len(classes)) for name, classes in CLASSES.items()}
        _fit(hidden, heads, inputs, targets, epochs)
    weights = {"mean": mean, "scale": scale} | _as_arrays("hidden", hidden)
    for name, head in heads.items():
        weights |= _as_arrays(name, head)
    return Listeners(weights)


def _fit(
    hidden: torch.nn.Linear,
    heads: dict[str, torch.nn.Linear],
    inputs: torch.Tensor,
    targets: dict[str, torch.Tensor],
    epochs: int,
) -> None:
    """Adam with falling steps; dropout of features and of hidden units keeps single ones from deciding."""
    weights = [*hidden.parameters(), *(weight for head in heads.values() for weight in head.parameters())]
    optimizer = torch.optim.AdamW(weights, lr=_PEAK_RATE, weight_decay=0.02)
    batches = -(-len(inputs) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_RATE, total_steps=epochs * batches)
    for _ in range(epochs):
        for picks in torch.split(torch.randperm(len(inputs)), _BATCH):
            seen = torch.nn.functional.dropout(inputs[picks], 0.2)
            units = torch.nn.functional.dropout(torch.relu(hidden(seen)), 0.4)
            loss = torch.stack(
                [
                    torch.nn.functional.cross_entropy(head(units), targets[name][picks], label_smoothing=0.05)
                    for name, head in heads.items()
                ]
            ).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def _as_arrays(name: str, layer: torch.nn.Linear) -> dict[str, NDArray[np.float32]]:
    return {name: layer.weight.detach().numpy(), f"{name} bias": layer.bias.detach().numpy()}
