"""Classifiers that hear attributes in pictures; learnt from real clips, used on generated ones.

Owns what counts as an attribute and how well it can be told. Leaves out statistics on generated pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from workers.training.captions import TEMPO_WORDS
from workers.training.features import Features
from workers.training.score import Piece

ATTRIBUTES: Final[dict[str, Callable[[Piece], str]]] = {
    "genre": lambda piece: piece.genre,
    "drums": lambda piece: piece.drums,
    "instrument": lambda piece: piece.instrument,
    "tempo": lambda piece: TEMPO_WORDS[piece.beats],
}


class Listeners:
    """One linear classifier per attribute."""

    def __init__(self, pieces: list[Piece], features: Features) -> None:
        self._models: dict[str, Pipeline] = {}
        for name, label in ATTRIBUTES.items():
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=400))
            self._models[name] = model.fit(features, [label(piece) for piece in pieces])

    def heard(self, attribute: str, features: Features) -> NDArray[np.str_]:
        """What the classifier of `attribute` hears in each row of features."""
        answers: NDArray[np.str_] = self._models[attribute].predict(features)
        return answers

    def accuracy(self, attribute: str, pieces: list[Piece], features: Features) -> float:
        """Share of pieces whose attribute is heard rightly."""
        wanted = np.array([ATTRIBUTES[attribute](piece) for piece in pieces])
        return float(np.mean(self.heard(attribute, features) == wanted))
