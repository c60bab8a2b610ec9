"""The whole making of the built-in model, stage by stage; a finished stage is never repeated.

Owns the order: clips, autoencoder, latents, denoiser with text encoder, the model's folder. Leaves out how each is done.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL

from workers.training.dataset import clips
from workers.training.loop import train
from workers.training.recipe import Recipe
from workers.training.train_vae import VaeTraining


def trained_autoencoder(recipe: Recipe, folder: Path) -> AutoencoderKL:
    """The autoencoder kept in `folder`, trained there first if need be."""
    kept = folder / "vae"
    if not kept.exists():
        _, pixels = clips(recipe.data.train_clips, recipe.data.train_seed, folder)
        _, held_out = clips(recipe.data.held_out_clips, recipe.data.held_out_seed, folder)
        torch.set_num_threads(recipe.torch_threads)
        trainee = VaeTraining(recipe.vae, pixels, held_out)
        train(trainee, folder, recipe.vae.minutes, 3.0, recipe.checkpoint_minutes)
        trainee.finished().save_pretrained(kept)
    return AutoencoderKL.from_pretrained(kept)
