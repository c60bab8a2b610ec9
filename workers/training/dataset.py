"""Sets of clips: pieces drawn from a seed, and their pictures kept in a folder.

Owns how clips are made once, by several processes, and read back. Leaves out what they are used for, and clips that
are made while a training goes on (`workers.training.latents`).
"""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from workers.training.score import Piece, draw_piece
from workers.training.synthesise import TRAINING_GRID, pixels_from_piece

Pixels = NDArray[np.uint8]


def draw_pieces(count: int, seed: int) -> list[Piece]:
    """The first `count` pieces of a seed; more from the same seed begin with the same ones."""
    rng = random.Random(seed)
    return [draw_piece(rng) for _ in range(count)]


def clips(
    count: int,
    seed: int,
    folder: Path,
    processes: int = 2,
    tell: Callable[[str, int, int, str], None] | None = None,
) -> tuple[list[Piece], Pixels]:
    """Pieces and their pictures (count, 512, 512), made on the first call and then read from `folder`.

    The pictures are mapped from the file, not loaded. `tell` hears how many there are while they are made.
    """
    pieces = draw_pieces(count, seed)
    path = clips_path(folder, count, seed)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _make(pieces, path, processes, tell)
    return pieces, np.load(path, mmap_mode="r")


def clips_path(folder: Path, count: int, seed: int) -> Path:
    """The file of a set of pictures."""
    return folder / f"clips-{seed}-{count}.npy"


def _make(pieces: list[Piece], path: Path, processes: int, tell: Callable[[str, int, int, str], None] | None) -> None:
    """Synthesise all pictures into `path`, which appears only when it is whole."""
    partial = path.with_suffix(".partial.npy")
    shape = (len(pieces), TRAINING_GRID.mel_bins, 512)
    pictures = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)
    # Spawned: a fork of a process whose threads or CUDA have begun may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(pieces)), context, initializer=be_single_threaded) as pool:
        for index, pixels in enumerate(pool.map(pixels_from_piece, pieces, chunksize=4)):
            pictures[index] = pixels
            if tell:
                tell("clips", index + 1, len(pieces), "")
    pictures.flush()
    os.replace(partial, path)


def be_single_threaded() -> None:
    """Let this process compute with one thread: several, each with threads for every core, are slower by far."""
    torch.set_num_threads(1)
    threadpool_limits(1)


def tensor_from_pixels(pixels: Pixels) -> torch.Tensor:
    """Pictures (frame, row, column) of 0..255 as model input (frame, 3, row, column) of -1..1."""
    grey = torch.from_numpy(np.array(pixels)).float().div(127.5).sub(1)
    return grey[:, None].expand(-1, 3, -1, -1).contiguous()


def pixels_from_tensor(images: torch.Tensor) -> Pixels:
    """Model output (frame, 3, row, column) of about -1..1 as grey pictures (frame, row, column) of 0..255."""
    grey: Pixels = images.mean(1).add(1).mul(127.5).round().clamp(0, 255).byte().numpy()
    return grey
