"""Samplers: the ways to walk from noise to a picture.

Owns the names, diffusers' scheduler behind each, and how many steps a denoising strength is. Leaves out the walk
itself (`workers.diffusion`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from diffusers import DPMSolverMultistepScheduler

from shared.contracts import Sampler

# Of diffusers' spacings the only one that begins at full noise and gives any number of steps exactly as asked for.
_LINSPACE: Final[dict[str, object]] = {"timestep_spacing": "linspace"}

SAMPLERS: Final[dict[Sampler, tuple[Any, dict[str, object]]]] = {
    "dpmpp_2m": (DPMSolverMultistepScheduler, _LINSPACE | {"solver_order": 2}),
    # DDIM without noise is DPM-Solver++ of first order. Diffusers' own DDIMScheduler strays from its time steps where
    # their number does not divide 1000.
    "ddim": (DPMSolverMultistepScheduler, _LINSPACE | {"solver_order": 1}),
}
"""Name → scheduler class and its options. A new sampler is a new line here and a name in the contract's `Sampler`."""
# What the model was trained on: the checkpoint says it, no sampler may change it.
_NOISE_SCHEDULE: Final = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)


def new_scheduler(sampler: Sampler, trained: Mapping[str, Any]) -> Any:
    """A fresh diffusers scheduler, since multistep methods remember; `trained` is the checkpoint's own settings."""
    scheduler_class, options = SAMPLERS[sampler]
    noise_schedule = {name: trained[name] for name in _NOISE_SCHEDULE if trained.get(name) is not None}
    return scheduler_class(**noise_schedule, **options)


def steps_from_strength(denoising_strength: float, num_inference_steps: int) -> int:
    """How many of the steps are walked: none at strength 0, at least one above it, all at 1."""
    # A hair is added because 0.29 * 100 is 28.999…
    return max(1, int(denoising_strength * num_inference_steps + 1e-6)) if denoising_strength > 0 else 0
