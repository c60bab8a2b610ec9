"""Pictures from a model folder for its evaluation: generated ones, the same from finished sound, and round trips.

Owns sampling settings and how pictures are kept. Leaves out what is read off the pictures.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from shared.contracts import ClipRequest, Sampler
from shared.frames import Frame, frame_hash
from shared.plan import Plan, Sources
from shared.spectrogram_params import SpectrogramParams
from workers.checkpoint import load_checkpoint
from workers.diffusion import FramePipeline
from workers.phase import waveform_from_mel_amplitudes
from workers.spectrogram import (
    Array,
    image_from_mel_amplitudes,
    mel_amplitudes_from_image,
    mel_amplitudes_from_waveform,
)
from workers.training.dataset import Pixels, pixels_from_tensor, tensor_from_pixels

GUIDANCE_SCALE: Final = 5.0
NUM_INFERENCE_STEPS: Final = 16
SAMPLER: Final[Sampler] = "dpmpp_2m_karras"
GRID: Final = SpectrogramParams()


class Kind(StrEnum):
    """The weights a picture is made with: as they are, or each tensor of the denoiser shuffled."""

    WHOLE = "whole"
    SHUFFLED = "shuffled"


@dataclass(frozen=True, slots=True)
class Order:
    """One picture to generate with the model in `model`, whose content `revision` names."""

    model: Path
    revision: str
    prompt: str
    seed: int
    steps: int = NUM_INFERENCE_STEPS
    kind: Kind = Kind.WHOLE


@dataclass(frozen=True, slots=True)
class KeptOrder:
    """An order, the folder its picture is kept in, and whether its sound is wanted too."""

    order: Order
    folder: Path
    is_sounded: bool = False


def generated(item: KeptOrder) -> Pixels:
    """The picture of an order (512, 512), or the two of picture and finished sound (2, 512, 512); made once."""
    frame = frame_from_order(item.order)
    name = f"{frame_hash(frame)}-{item.order.kind}"
    drawn = _kept(item.folder / f"{name}.png", lambda: _rendered(item.order, frame))
    if not item.is_sounded:
        return drawn
    return np.stack([drawn, _kept(item.folder / f"{name}-sound.png", lambda: sounded(drawn))])


def _kept(path: Path, make: Any) -> Pixels:
    """The grey picture in `path`, made and written first if need be."""
    if path.exists():
        return np.asarray(Image.open(path))
    pixels: Pixels = make()
    partial = path.with_suffix(f".{os.getpid()}.partial")
    Image.fromarray(pixels).save(partial, "PNG")
    os.replace(partial, path)
    return pixels


def _rendered(order: Order, frame: Frame) -> Pixels:
    picture = pipeline_from_folder(order.model, order.kind).render([frame])[0]
    grey: Pixels = np.asarray(picture.convert("L"))
    return grey


def frame_from_order(order: Order) -> Frame:
    """The frame that a job of one clip would render for an order; no job may ask without a word, an order may."""
    request = ClipRequest(
        prompt=order.prompt or "nothing",
        seed=order.seed,
        sampler=SAMPLER,
        num_inference_steps=order.steps,
        guidance_scale=GUIDANCE_SCALE,
    )
    frame = Plan(request, Sources(model_revision=order.revision)).frame(0)
    return frame.model_copy(update={"start": frame.start.model_copy(update={"prompt": order.prompt})})


def waveform_from_pixels(pixels: Pixels) -> Array:
    """The sound of a grey picture (512, column), shape (1, sample), made as a job's is."""
    mel = mel_amplitudes_from_image(Image.fromarray(pixels), GRID)
    return waveform_from_mel_amplitudes(mel, GRID)[0]


def pixels_from_waveform(waveform: Array) -> Pixels:
    """The picture of finished sound (1, sample), shape (512, column)."""
    picture = image_from_mel_amplitudes(mel_amplitudes_from_waveform(waveform, GRID), GRID)
    grey: Pixels = np.asarray(picture.convert("L"))
    return grey


def sounded(pixels: Pixels) -> Pixels:
    """A picture heard: made into sound, and the sound drawn again, shape (512, 512)."""
    return pixels_from_waveform(waveform_from_pixels(pixels))


def redrawn(item: tuple[Path, Pixels]) -> Pixels:
    """A picture (512, 512) drawn again by the autoencoder of a model folder."""
    model, picture = item
    vae = _autoencoder(model)
    with torch.no_grad():
        latents = vae.encode(tensor_from_pixels(picture[None])).latent_dist.mode()
        pixels: Pixels = pixels_from_tensor(vae.decode(latents).sample)[0]
    return pixels


def clip_seconds(order: Order) -> float:
    """Seconds of one core that a clip takes from prompt to sound, by a loaded model."""
    pipeline = pipeline_from_folder(order.model, order.kind)
    frame = frame_from_order(order)
    started_s = time.process_time()
    picture = pipeline.render([frame])[0]
    waveform_from_pixels(np.asarray(picture.convert("L")))
    return time.process_time() - started_s


@lru_cache(maxsize=1)
def _autoencoder(model: Path) -> Any:
    return AutoencoderKL.from_pretrained(model / "vae", torch_dtype=torch.float32).eval()


@lru_cache(maxsize=2)
def pipeline_from_folder(model: Path, kind: Kind = Kind.WHOLE) -> FramePipeline:
    """The model in a folder, in full precision on the CPU."""
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
