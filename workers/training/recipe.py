"""All numbers of the built-in model's making, for a CPU and for a CUDA device.

Owns sizes, seeds, widths, steps and rates. Leaves out the code that obeys them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """Clips: how many, and from which seeds; the two sets never share a seed."""

    train_clips: int = 6_400
    train_seed: int = 1
    held_out_clips: int = 1_600
    held_out_seed: int = 900_001


@dataclass(frozen=True, slots=True)
class VaeRecipe:
    """The image autoencoder and its training on crops of full height."""

    widths: tuple[int, ...] = (16, 32, 64, 96)
    latent_channels: int = 4
    norm_groups: int = 8
    minutes: float = 12.0
    batch: int = 2
    crop_columns: int = 64
    learning_rate: float = 3e-3
    gradient_weight: float = 0.5
    kl_weight: float = 2e-4
    seed: int = 11


@dataclass(frozen=True, slots=True)
class UnetRecipe:
    """The denoiser, its text encoder and their joint training."""

    widths: tuple[int, ...] = (32, 64, 96, 160)
    norm_groups: int = 16
    heads: int = 8
    text_width: int = 128
    text_layers: int = 2
    vocabulary: int = 512
    clips: int = 3_200
    """Clips it learns from: the first of the training clips."""
    minutes: float = 72.0
    batch: int = 8
    learning_rate: float = 1.5e-3
    half_width_share: float = 0.93
    """The first share of the training sees frames of half the width: twice as many for the same work."""
    decay_share: float = 0.1
    """The last share of the training, over which the learning rate falls to zero along a cosine."""
    caption_dropout: float = 0.1
    noise_bias: float = 0.6
    """Exponent on the evenly drawn share of the noise schedule: below 1 shows high noise more often."""
    ema_decay: float = 0.99
    seed: int = 12
    check_minutes: float = 24.0
    """Minutes between two measures of steering while training."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One whole making of the model."""

    data: DataRecipe = field(default_factory=DataRecipe)
    vae: VaeRecipe = field(default_factory=VaeRecipe)
    unet: UnetRecipe = field(default_factory=UnetRecipe)
    torch_threads: int = 2
    checkpoint_minutes: float = 3.0


RECIPES: Final = {
    "cpu": Recipe(),
    "cuda": Recipe(
        data=DataRecipe(train_clips=24_000),
        vae=replace(VaeRecipe(), widths=(16, 32, 64, 128), minutes=5.0, batch=32, crop_columns=128),
        unet=replace(
            UnetRecipe(),
            widths=(48, 96, 128, 160),
            clips=24_000,
            minutes=17.0,
            batch=256,
            ema_decay=0.999,
            check_minutes=4.0,
        ),
        torch_threads=8,
    ),
}
