"""Training of the image autoencoder, and the latents it makes of the clips.

Owns the autoencoder's losses and scale. Leaves out the denoiser and keeping latents (`workers.training.latents`).
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from diffusers import AutoencoderKL

from workers.training.dataset import Pixels, tensor_from_pixels
from workers.training.loop import device, learning_rate
from workers.training.networks import autoencoder
from workers.training.recipe import VaeRecipe

WARM_UP_STEPS: Final = 60
HELD_OUT_CLIPS: Final = 64
"""Clips that fidelity and scale are measured on."""


class VaeTraining:
    """The autoencoder learns to draw crops of clips again."""

    name = "vae"

    def __init__(self, recipe: VaeRecipe, pixels: Pixels, held_out: Pixels) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.device = device()
        self.model = autoencoder(recipe).to(self.device).train()
        self._pixels, self._held_out = pixels, held_out
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-4)
        self._rng = np.random.default_rng(recipe.seed)
        self._steps = 0

    def step(self, share: float) -> dict[str, float]:
        """One step on crops of full height."""
        rate = learning_rate(self.recipe.learning_rate, share, self._steps, WARM_UP_STEPS, decay_share=1.0)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss, figures = self._loss(self._crops())
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._steps += 1
        return {**figures, "learning_rate": rate}

    def check(self) -> dict[str, float]:
        """Fidelity on held-out clips in dB."""
        return {"psnr_db": psnr_db(self.model, self._held_out[:16])}

    def _crops(self) -> torch.Tensor:
        width = self.recipe.crop_columns
        picks = self._rng.integers(0, len(self._pixels), self.recipe.batch)
        starts = self._rng.integers(0, 512 - width + 1, self.recipe.batch)
        crops = [self._pixels[i, :, x : x + width] for i, x in zip(picks, starts, strict=True)]
        return tensor_from_pixels(np.stack(crops)).to(self.device)

    def _loss(self, pictures: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        with torch.autocast(self.device.type, torch.bfloat16):
            posterior = self.model.encode(pictures).latent_dist
            drawn = self.model.decode(posterior.sample()).sample
        error = drawn.float() - pictures
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        spread = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float())
        pixel, square, divergence = error.abs().mean(), error.square().mean(), spread.mean()
        recipe = self.recipe
        loss = pixel + recipe.gradient_weight * edges + recipe.square_weight * square + recipe.kl_weight * divergence
        return loss, {"l1": pixel.item(), "edges": edges.item(), "kl": divergence.item()}

    def state(self) -> dict[str, Any]:
        """Weights, optimiser, generators and step."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "rng": self._rng.bit_generator.state,
            "steps": self._steps,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._rng.bit_generator.state = state["rng"]
        self._steps = state["steps"]

    def finished(self) -> AutoencoderKL:
        """The trained autoencoder; its scaling factor makes latents of unit deviation."""
        model = self.model.eval()
        model.register_to_config(scaling_factor=1.0)
        deviation = latents_from_pixels(model, self._held_out).astype(np.float32).std()
        model.register_to_config(scaling_factor=float(1 / deviation))
        return model


def latents_from_pixels(model: AutoencoderKL, pixels: Pixels, batch: int = 4) -> np.ndarray[Any, Any]:
    """Scaled latents (frame, channel, 64, 64) in half precision."""
    where = next(model.parameters()).device
    parts = []
    with torch.no_grad(), torch.autocast(where.type, torch.bfloat16):
        for start in range(0, len(pixels), batch):
            pictures = tensor_from_pixels(pixels[start : start + batch]).to(where)
            latents = model.encode(pictures).latent_dist.mode().float() * model.config.scaling_factor
            parts.append(latents.half().cpu().numpy())
    return np.concatenate(parts)


def psnr_db(model: AutoencoderKL, pixels: Pixels) -> float:
    """Peak signal-to-noise ratio of pictures drawn again, in dB, over all of their pixels."""
    where = next(model.parameters()).device
    errors = []
    with torch.no_grad(), torch.autocast(where.type, torch.bfloat16):
        for start in range(0, len(pixels), 4):
            pictures = tensor_from_pixels(pixels[start : start + 4]).to(where)
            drawn = model.decode(model.encode(pictures).latent_dist.mode()).sample.float().clamp(-1, 1)
            errors += (drawn - pictures).square().mean((1, 2, 3)).tolist()
    return -10 * math.log10(sum(errors) / len(errors) / 4)
