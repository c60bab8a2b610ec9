"""The tiny checkpoint, loaded, and the recipe of a training of seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.tiny_frames import COLUMNS, PREDICTIONS, ROWS
from tests.tiny_training import TINY_TOML
from workers.diffusion import FramePipeline
from workers.training.recipe import Recipe, read_recipe


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny checkpoint for each kind of prediction."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: write_tiny_checkpoint(root / kind, ROWS, kind) for kind in PREDICTIONS}


@pytest.fixture(scope="module")
def pipelines(folders: dict[str, Path]) -> Iterator[dict[str, FramePipeline]]:
    """A pipeline for each kind of prediction, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield {kind: FramePipeline.from_source(str(folder), device="cpu") for kind, folder in folders.items()}
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pipeline(pipelines: dict[str, FramePipeline]) -> FramePipeline:
    """A pipeline as most checkpoints are: epsilon prediction and a PNDM scheduler."""
    return pipelines["epsilon"]


@pytest.fixture(scope="session")
def seed_image() -> Image.Image:
    """A picture of the frame's own size with structure in every corner."""
    y, x = np.mgrid[0:ROWS, 0:COLUMNS]
    grey = 128 + 80 * np.sin(x / 5) * np.cos(y / 7)
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


@pytest.fixture(scope="module")
def toml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own file for a training of seconds."""
    path = tmp_path_factory.mktemp("toml") / "tiny.toml"
    path.write_text(TINY_TOML)
    return path


@pytest.fixture(scope="module")
def tiny(toml: Path) -> Recipe:
    """The recipe of that file."""
    return read_recipe(toml)
