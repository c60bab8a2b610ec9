"""Noise: what a frame's denoising begins with, and the ways between two values.

Owns drawing noise from seeds, slerp for noise and lerp for all else; both are exact at their ends. Leaves out which
noise a frame has (`shared.walk`) and what is made of it (`workers.diffusion`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, TypeVar

import torch

from shared.contracts import MAX_SEED
from shared.frames import Noise
from shared.plan import LATENT_COLUMNS

Mixable = TypeVar("Mixable", float, torch.Tensor)

_PARALLEL: Final = 0.9995
"""Cosine above which two noises span no plane to turn in."""
_COLUMN_SEED_STEP: Final = 0x85EB_CA6B
"""Odd, and no multiple of the step between a walk's seeds: columns of one seed meet no other seed's."""


def noises_from(noise: Noise, shape: tuple[int, int, int]) -> Iterator[torch.Tensor]:
    """A frame's noise (1, channel, latent row, latent column), then fresh ones for the steps of some samplers.

    `shape` is that of one noise without the 1. It never ends.
    """
    start = _draws(noise.seed, noise.first_column, shape)
    if noise.end_seed is None:
        return start
    end = _draws(noise.end_seed, noise.first_column, shape)
    return (slerp(one, other, noise.alpha) for one, other in zip(start, end, strict=True))


def _draws(seed: int, first_column: int | None, shape: tuple[int, int, int]) -> Iterator[torch.Tensor]:
    """Noises (1, channel, latent row, latent column) of a seed, one after the other, without end.

    Always drawn on the CPU: every device then starts from the same numbers. With a first column, each latent column
    has a seed of its own, by its place in time.
    """
    if first_column is None:
        generator = torch.Generator("cpu").manual_seed(seed)
        while True:
            yield torch.randn((1, *shape), generator=generator)
    channels, rows, columns = shape
    first = first_column // LATENT_COLUMNS
    own = [(seed + (first + column) * _COLUMN_SEED_STEP) % (MAX_SEED + 1) for column in range(columns)]
    generators = [torch.Generator("cpu").manual_seed(one) for one in own]
    while True:
        yield torch.stack([torch.randn((1, channels, rows), generator=one) for one in generators], dim=-1)


def lerp(start: Mixable, end: Mixable, alpha: float) -> Mixable:
    """The straight way from start to end; exact at both."""
    if alpha in (0, 1):
        return end if alpha else start
    return start + alpha * (end - start)


def slerp(start: torch.Tensor, end: torch.Tensor, alpha: float) -> torch.Tensor:
    """The way along the arc from start to end, which keeps noise as strong as noise; exact at both ends.

    Parallel and opposite noises have no arc of their own: they go the straight way.
    """
    cosine: float = torch.nn.functional.cosine_similarity(
        start.double().flatten(), end.double().flatten(), dim=0
    ).item()
    if alpha in (0, 1) or abs(cosine) > _PARALLEL:
        return lerp(start, end, alpha)
    angle = math.acos(cosine)
    return (math.sin((1 - alpha) * angle) * start + math.sin(alpha * angle) * end) / math.sin(angle)
