"""What teaches the evaluation's listeners: clips of seeds of their own, and some of them redrawn by the autoencoder.

Owns which clips, and how their features and the taught listeners are kept. Leaves out the listeners themselves
(`workers.training.listeners`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import numpy as np

from workers.training.crew import Crew, sources_sha256
from workers.training.dataset import Pixels, draw_pieces
from workers.training.features import Features, features_from_pixels
from workers.training.listeners import Listeners, taught
from workers.training.musicality import small_picture
from workers.training.renders import redrawn
from workers.training.score import Piece
from workers.training.synthesise import pixels_from_piece

LESSONS_SEED: Final = 930_001
"""Neither a training's clips nor those it is measured on are drawn from it."""
LESSONS: Final = 3_000
REDRAWN_LESSONS: Final = 240
"""Listeners must know the autoencoder's blur."""
DATA_VERSION: Final = sources_sha256("workers.training.synthesise")[:12]
"""What clips are made by, so that kept ones are of today's sounds."""
_FEATURES_VERSION: Final = sources_sha256("workers.training.features")[:12]


def taught_listeners(model: Path, folder: Path, crew: Crew) -> Listeners:
    """Listeners for the pictures of a model, taught on the first call and then read from `folder`."""
    pieces = draw_pieces(LESSONS, LESSONS_SEED)
    kept = f"{DATA_VERSION}-{_FEATURES_VERSION}-{LESSONS}"
    blur = f"{autoencoder_sha256(model)[:12]}-{REDRAWN_LESSONS}"
    code = sources_sha256("workers.training.listeners")[:12]
    path = folder / f"listeners-{kept}-{blur}-{code}.npz"
    if not path.exists():
        real = crew.kept(folder / f"lessons-{kept}.npy", "lessons", features_of_piece, pieces)
        again = [(model, piece) for piece in pieces[:REDRAWN_LESSONS]]
        trips = crew.kept(folder / f"lessons-{kept}-{blur}.npy", "redrawn", features_redrawn, again)
        learnt = taught([*pieces, *pieces[:REDRAWN_LESSONS]], np.concatenate([real, trips]))
        learnt.save(path)
    return Listeners.load(path)


def autoencoder_sha256(model: Path) -> str:
    """The hash of a model folder's autoencoder."""
    return hashlib.sha256((model / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()).hexdigest()


def features_of_piece(piece: Piece) -> Features:
    """Features of a piece's own clip."""
    return features_from_pixels(pixels_from_piece(piece))


def features_redrawn(item: tuple[Path, Piece]) -> Features:
    """Features of a piece's clip redrawn by the autoencoder of a model folder."""
    model, piece = item
    return features_from_pixels(redrawn((model, pixels_from_piece(piece))))


def small_of_piece(piece: Piece) -> Features:
    """The small picture of a piece's clip."""
    return small_picture(pixels_from_piece(piece))


def picture_of_piece(piece: Piece) -> Pixels:
    """The picture of a piece's clip."""
    return pixels_from_piece(piece)
