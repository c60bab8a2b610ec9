"""The denoiser's clips as latents, made by processes of their own while it trains.

Owns which clips there are at a step, how latents are made ahead and kept, and the waiting for them. Leaves out how a
clip is drawn (`workers.training.synthesise`) and encoded (`workers.training.train_vae`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
from diffusers import AutoencoderKL

from workers.training.dataset import Pixels, be_single_threaded, clips_path, draw_pieces
from workers.training.loop import Tell, device, untold
from workers.training.recipe import DataRecipe
from workers.training.score import Piece
from workers.training.synthesise import pixels_from_piece
from workers.training.train_vae import latents_from_pixels

Latents = np.ndarray[Any, Any]

POLL_S: Final = 0.2
NICENESS: Final = 5
"""The training itself comes first."""


def clips_at(data: DataRecipe, step: int) -> int:
    """How many of the training clips step `step` draws from: ever more, until it is all of them."""
    return min(data.train_clips, data.first_clips + int(data.clips_per_step * step))


class LatentPool:
    """Scaled latents of the training clips by their index; those not yet there are waited for.

    As a context it keeps processes that make them, in the clips' order, each file of latents whole or absent. What is
    there already, from a training that was stopped, is not made again.
    """

    def __init__(self, data: DataRecipe, vae: Path, folder: Path, tell: Tell = untold) -> None:
        """vae: the folder of the autoencoder; folder: where the latents go; other folders hold clips made before."""
        self._data, self._vae, self._folder, self._tell = data, vae, folder, tell
        self._shards: dict[int, Latents] = {}
        self._makers: list[BaseProcess] = []

    def __enter__(self) -> LatentPool:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Spawned: a fork of a process whose threads or CUDA have begun may hang.
        context = multiprocessing.get_context("spawn")
        count = self._data.processes_beside
        for index in range(count):
            own = [shard for shard in range(index, _shards(self._data), count) if not self._path(shard).exists()]
            if own:
                settings = (self._data, self._vae, self._folder, own)
                self._makers.append(context.Process(target=_work, args=settings, daemon=True))
                self._makers[-1].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for maker in self._makers:
            maker.terminate()
            maker.join()
        self._makers = []

    def __getitem__(self, picks: Sequence[int]) -> Latents:
        """Latents (clip, channel, row, column) of the clips of these indexes, in half precision."""
        size = self._data.shard_clips
        return np.stack([self._shard(pick // size)[pick % size] for pick in picks])

    def wait(self, count: int) -> None:
        """Return when the latents of the first `count` clips are there."""
        size = self._data.shard_clips
        for shard in range(-(-count // size)):
            self._shard(shard)
            self._tell("latents", min((shard + 1) * size, count), count, "")

    def _shard(self, shard: int) -> Latents:
        if shard not in self._shards:
            path = self._path(shard)
            while not path.exists():
                self._check_makers()
                time.sleep(POLL_S)
            self._shards[shard] = np.load(path, mmap_mode="r")
        return self._shards[shard]

    def _check_makers(self) -> None:
        failed = [maker.exitcode for maker in self._makers if maker.exitcode]
        if failed or not self._makers:
            raise RuntimeError(f"latents are missing and nobody makes them; exit codes of their makers: {failed}")

    def _path(self, shard: int) -> Path:
        return shard_path(self._folder, shard)


def shard_path(folder: Path, shard: int) -> Path:
    """The file of a run of clips' latents."""
    return folder / f"{shard:05}.npy"


def _shards(data: DataRecipe) -> int:
    return -(-data.train_clips // data.shard_clips)


def _work(data: DataRecipe, vae: Path, folder: Path, shards: Sequence[int]) -> None:
    """What a process of the pool does."""
    # Ctrl-C is for the training, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    be_single_threaded()
    os.nice(NICENESS)
    make_shards(data, vae, folder, shards)


def make_shards(data: DataRecipe, vae: Path, folder: Path, shards: Sequence[int]) -> None:
    """Make these files of latents one after the other; ends early when the process that began this one is gone."""
    model = AutoencoderKL.from_pretrained(vae).eval().to(device())
    pieces = draw_pieces(data.train_clips, data.train_seed)
    drawn = _drawn_before(data, folder.parent)
    size = data.shard_clips
    for shard in shards:
        run = range(shard * size, min((shard + 1) * size, len(pieces)))
        pixels = []
        for index in run:
            if _is_orphan():
                return
            pixels.append(_pixels(index, pieces, drawn))
        partial = shard_path(folder, shard).with_suffix(".partial.npy")
        np.save(partial, latents_from_pixels(model, np.stack(pixels)))
        os.replace(partial, shard_path(folder, shard))


def _pixels(index: int, pieces: list[Piece], drawn: Pixels | None) -> Pixels:
    return drawn[index] if drawn is not None and index < len(drawn) else pixels_from_piece(pieces[index])


def _drawn_before(data: DataRecipe, folder: Path) -> Pixels | None:
    """The pictures that the autoencoder learnt from, the first of the training clips, if they are kept in `folder`."""
    path = clips_path(folder, data.vae_clips, data.train_seed)
    return np.load(path, mmap_mode="r") if path.exists() else None


def _is_orphan() -> bool:
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()
