"""A small measure of steering, taken while the denoiser trains.

Owns its prompts and classifiers. Leaves out the full proof (`workers.training.evaluate`).
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from workers.training.crossing import prompt_from_piece
from workers.training.dataset import Pixels, clips, draw_pieces, pixels_from_tensor, tensor_from_pixels
from workers.training.features import features_from_many
from workers.training.listeners import ATTRIBUTES, Listeners, taught
from workers.training.loop import device
from workers.training.networks import pipeline
from workers.training.recipe import DataRecipe
from workers.training.score import Piece

_PROMPTS: Final = 24
_LESSONS: Final = 1_200
_ROUND_TRIPS: Final = 60


class SteeringCheck:
    """Generates a few pictures and asks classifiers what they hear in them."""

    def __init__(self, recipe: DataRecipe, vae: AutoencoderKL, tokenizer: CLIPTokenizer, folder: Path) -> None:
        self._vae, self._tokenizer = vae.to(device()).eval(), tokenizer
        self._recipe, self._folder = recipe, folder
        self._pieces = draw_pieces(_PROMPTS, seed=77)

    def __call__(self, unet: UNet2DConditionModel, text: CLIPTextModel) -> dict[str, float]:
        """Share of attributes heard rightly over the fixed prompts."""
        parts = pipeline(self._vae, unet, text, self._tokenizer)
        parts.set_progress_bar_config(disable=True)
        features = features_from_many(np.concatenate([_generated(parts, p) for p in self._pieces]))
        return {name: self._listeners.accuracy(name, self._pieces, features) for name in ATTRIBUTES}

    @cached_property
    def _listeners(self) -> Listeners:
        """Taught at the first check, so that a training starts at once."""
        data = self._recipe
        pieces, pixels = clips(data.held_out_clips, data.held_out_seed, self._folder, data.processes)
        drawn = round_trip(self._vae, pixels[:_ROUND_TRIPS])
        features = np.concatenate([features_from_many(pixels[:_LESSONS]), features_from_many(drawn)])
        return taught([*pieces[:_LESSONS], *pieces[:_ROUND_TRIPS]], features)


def round_trip(vae: AutoencoderKL, pixels: Pixels) -> Pixels:
    """Pictures drawn again by the autoencoder, one at a time, shape (picture, 512, 512)."""
    where = next(vae.parameters()).device
    drawn = []
    with torch.no_grad(), torch.autocast(where.type, torch.bfloat16):
        for picture in pixels:
            latents = vae.encode(tensor_from_pixels(picture[None]).to(where)).latent_dist.mode()
            drawn.append(pixels_from_tensor(vae.decode(latents).sample.float().cpu()))
    return np.concatenate(drawn)


def _generated(parts: Any, piece: Piece) -> Pixels:
    """The picture of one fixed prompt and seed, shape (1, 512, 512)."""
    noise = torch.Generator().manual_seed(piece.seed)
    where = next(parts.unet.parameters()).device
    with torch.no_grad(), torch.autocast(where.type, torch.bfloat16):
        drawn = parts(
            prompt_from_piece(piece), num_inference_steps=10, guidance_scale=3.0, generator=noise, output_type="pt"
        ).images
    return pixels_from_tensor(drawn.float().cpu() * 2 - 1)
