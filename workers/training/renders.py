"""Pictures from a model folder for its evaluation: generated ones, and clips drawn again by its autoencoder.

Owns sampling settings and the spreading over processes. Leaves out what is read off the pictures.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers import AutoencoderKL
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from shared.contracts import ClipRequest, Sampler
from shared.frames import Frame
from shared.plan import Plan, Sources
from workers.checkpoint import load_checkpoint
from workers.diffusion import FramePipeline
from workers.training.dataset import Pixels, pixels_from_tensor, tensor_from_pixels
from workers.training.make import weights_sha256

GUIDANCE_SCALE: Final = 5.0
NUM_INFERENCE_STEPS: Final = 12
SAMPLER: Final[Sampler] = "dpmpp_2m"
PROCESSES: Final = 2


class Kind(StrEnum):
    """The weights a picture is made with: as they are, or each tensor of the denoiser shuffled."""

    WHOLE = "whole"
    SHUFFLED = "shuffled"


@dataclass(frozen=True, slots=True)
class Order:
    """One picture to generate."""

    prompt: str
    seed: int
    kind: Kind


def generated(model: Path, orders: list[Order]) -> Pixels:
    """One picture per order, shape (order, 512, 512); the same whatever the number of processes."""
    return _spread(_generate, [(model, order) for order in orders])


def round_trips(model: Path, pixels: Pixels, picks: list[int], folder: Path) -> Pixels:
    """The picked pictures drawn again by the model's autoencoder; kept in `folder` by the weights' hash."""
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    kept = folder / f"round-trips-{weights_sha256(weights.parent)[:12]}-{len(picks)}.npy"
    if not kept.exists():
        np.save(kept, _spread(_redraw, [(model, pixels[pick]) for pick in picks]))
    drawn: Pixels = np.load(kept)
    return drawn


def _spread(work: Callable[[Any], Pixels], items: Iterable[Any]) -> Pixels:
    """Do independent work in processes of one thread each; results in order."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return np.stack(list(pool.map(work, items, chunksize=4)))


def _generate(item: tuple[Path, Order]) -> Pixels:
    model, order = item
    with threadpool_limits(1):
        picture = _pipeline(model, order.kind).render([_frame(order)])[0]
    grey: Pixels = np.asarray(picture.convert("L"))
    return grey


def _frame(order: Order) -> Frame:
    """The frame that a job of one clip would render for an order."""
    request = ClipRequest(
        prompt=order.prompt,
        seed=order.seed,
        sampler=SAMPLER,
        num_inference_steps=NUM_INFERENCE_STEPS,
        guidance_scale=GUIDANCE_SCALE,
    )
    return Plan(request, Sources(model_revision="under evaluation")).frame(0)


def _redraw(item: tuple[Path, Pixels]) -> Pixels:
    model, picture = item
    vae = _autoencoder(model)
    with torch.no_grad():
        latents = vae.encode(tensor_from_pixels(picture[None])).latent_dist.mode()
        pixels: Pixels = pixels_from_tensor(vae.decode(latents).sample)[0]
    return pixels


@lru_cache(maxsize=1)
def _autoencoder(model: Path) -> Any:
    return AutoencoderKL.from_pretrained(model / "vae", torch_dtype=torch.float32).eval()


@lru_cache(maxsize=1)
def _pipeline(model: Path, kind: Kind) -> FramePipeline:
    parts = load_checkpoint(str(model), None, torch.float32)
    if kind is Kind.SHUFFLED:
        _shuffle(parts.unet)
    return FramePipeline(parts, torch.device("cpu"))


def _shuffle(network: torch.nn.Module) -> None:
    """Put the values of every tensor in another order: the same statistics, nothing learnt."""
    order = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for weight in network.parameters():
            flat = weight.flatten()
            weight.copy_(flat[torch.randperm(len(flat), generator=order)].view_as(weight))
