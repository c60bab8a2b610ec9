"""Samplers: the ways down from noise to a picture.

Owns the names, the method and the points in time behind each, and how many steps a denoising strength is. Leaves out
the model, guidance, masks, and where noise comes from (`workers.diffusion`): nothing random happens here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, LCMScheduler, UniPCMultistepScheduler

from shared.contracts import MAX_LCM_STEPS, Sampler
from shared.errors import RenderError

# Of diffusers' spacings the only one that begins at full noise and gives any number of steps exactly as asked for.
_LINSPACE: Final[dict[str, object]] = {"timestep_spacing": "linspace"}
_FIRST_ORDER: Final[dict[str, object]] = {"solver_order": 1}
_SCHEDULERS: Final[dict[Sampler, tuple[Any, dict[str, object]]]] = {
    "dpmpp_2m": (DPMSolverMultistepScheduler, _LINSPACE | {"solver_order": 2}),
    "dpmpp_2m_karras": (DPMSolverMultistepScheduler, {"solver_order": 2, "use_karras_sigmas": True}),
    # DDIM without noise and Euler's method both are DPM-Solver++ of first order, Euler a is its stochastic twin: only
    # their points in time differ. Diffusers' own DDIMScheduler strays from its points where their number does not
    # divide 1000, its Euler methods do not begin at full noise when asked for one step, and its Euler a draws noise.
    "ddim": (DPMSolverMultistepScheduler, _LINSPACE | _FIRST_ORDER),
    "euler": (DPMSolverMultistepScheduler, _FIRST_ORDER),
    "euler_a": (DPMSolverMultistepScheduler, _FIRST_ORDER | {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": (UniPCMultistepScheduler, _LINSPACE | {"solver_order": 2}),
    "lcm": (LCMScheduler, {"original_inference_steps": MAX_LCM_STEPS}),
}
"""Name → diffusers' scheduler and its options. PNDM is not among them: diffusers' own strays from its points in time
where their number does not divide 1000, and takes those after a truncated start for one later than they are."""
_STOCHASTIC: Final[frozenset[Sampler]] = frozenset({"euler_a", "lcm"})

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
_PREDICTIONS: Final = ("epsilon", "v_prediction", "sample")


class _Level(NamedTuple):
    """How latents are mixed at a point in time: `clean` parts of the picture and `noise` parts of noise."""

    clean: float
    noise: float


_CLEAN: Final = _Level(1.0, 0.0)
_Solve = Callable[[torch.Tensor, int, torch.Tensor, torch.Tensor | None], torch.Tensor]


class Descent:
    """The way of one batch from noise down to pictures. Multistep methods remember: each batch needs a fresh one.

    Latents of every sampler are about as strong as noise all the way, so they go into the model as they are, and a
    descent from the very top begins with the frames' noise itself.

    timesteps: the model's points in time to visit, int64, on the device; one call of the model and of `step` for each.
    needs_step_noise: whether every step wants fresh noise.
    """

    def __init__(
        self,
        timesteps: torch.Tensor,
        levels: list[_Level],
        solve: _Solve,
        *,
        prediction: str,
        is_whole: bool,
        needs_step_noise: bool,
    ) -> None:
        self.timesteps = timesteps
        self.needs_step_noise = needs_step_noise
        self._levels = levels
        self._prediction = prediction
        self._solve = solve
        self._is_whole = is_whole

    def noised(self, clean: torch.Tensor, noise: torch.Tensor, index: int) -> torch.Tensor:
        """Latents of a finished picture as noisy as where step `index` begins.

        That is the noise alone at the very top, and the picture's own latents at `index == len(timesteps)`.
        """
        if index == len(self.timesteps):
            return clean
        if index == 0 and self._is_whole:
            return noise
        level = self._levels[index]
        return level.clean * clean + level.noise * noise

    def clean(self, predicted: torch.Tensor, index: int, latents: torch.Tensor) -> torch.Tensor:
        """The picture's latents as the model sees them through the noise where step `index` begins."""
        return _clean_from_prediction(self._prediction, predicted, latents, self._levels[index])

    def step(
        self, predicted: torch.Tensor, index: int, latents: torch.Tensor, step_noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The latents where step `index + 1` begins, from the model's prediction at step `index`; float32.

        Steps are taken in order, from 0. `step_noise` is standard normal noise shaped like the latents, a draw of its
        own for every step. Raises ValueError when it is needed and missing.
        """
        if self.needs_step_noise and step_noise is None:
            raise ValueError("This sampler needs noise at every step.")
        return self._solve(predicted, index, latents, step_noise)


def new_descent(
    sampler: Sampler, trained: Mapping[str, Any], num_inference_steps: int, first_step: int, device: torch.device
) -> Descent:
    """The steps from `first_step` on of `num_inference_steps`; none are left where both are equal.

    `trained` is the checkpoint's own scheduler configuration. Raises RenderError for noise that no sampler here knows
    and for more steps than the sampler can take.
    """
    if trained.get("prediction_type", "epsilon") not in _PREDICTIONS:
        raise RenderError(f"The model predicts {trained['prediction_type']!r}, which no sampler here understands.")
    if sampler == "pndm":
        return _pndm_descent(trained, num_inference_steps, first_step, device)
    if sampler == "lcm":
        return _lcm_descent(trained, num_inference_steps, first_step, device)
    return _multistep_descent(sampler, trained, num_inference_steps, first_step, device)


def new_scheduler(sampler: Sampler, trained: Mapping[str, Any]) -> Any:
    """A fresh diffusers scheduler of any sampler but PNDM; `trained` is the checkpoint's own settings."""
    scheduler_class, options = _SCHEDULERS[sampler]
    noise_schedule = {name: trained[name] for name in _NOISE_SCHEDULE if trained.get(name) is not None}
    try:
        return scheduler_class(**noise_schedule, **options)
    except NotImplementedError as error:
        raise RenderError(f"The model's noise schedule {trained['beta_schedule']!r} is not known here.") from error


def steps_from_strength(denoising_strength: float, num_inference_steps: int) -> int:
    """How many of the steps are walked: none at strength 0, at least one above it, all at 1."""
    # A hair is added because 0.29 * 100 is 28.999…
    return max(1, int(denoising_strength * num_inference_steps + 1e-6)) if denoising_strength > 0 else 0


def model_calls(sampler: Sampler, steps: int) -> int:
    """How often the model is asked on `steps` steps: PNDM mends its first one, where another follows."""
    return steps + 1 if sampler == "pndm" and steps > 1 else steps


def _multistep_descent(
    sampler: Sampler, trained: Mapping[str, Any], num_inference_steps: int, first_step: int, device: torch.device
) -> Descent:
    scheduler = new_scheduler(sampler, trained)
    if sampler in ("euler", "euler_a"):
        last = scheduler.config.num_train_timesteps - 1
        points = np.linspace(last, 0, num_inference_steps).round().astype(int).tolist()
        scheduler.set_timesteps(timesteps=points, device=device)
    else:
        scheduler.set_timesteps(num_inference_steps, device=device)
    scheduler.set_begin_index(first_step)
    timesteps = scheduler.timesteps[first_step:]
    needs_step_noise = sampler in _STOCHASTIC

    def solve(
        predicted: torch.Tensor, index: int, latents: torch.Tensor, step_noise: torch.Tensor | None
    ) -> torch.Tensor:
        noise = {"variance_noise": step_noise} if needs_step_noise else {}
        stepped: torch.Tensor = scheduler.step(predicted, timesteps[index], latents, return_dict=False, **noise)[0]
        return stepped

    levels = [_level_from_sigma(sigma) for sigma in scheduler.sigmas[first_step:].tolist()]
    return Descent(
        timesteps,
        levels,
        solve,
        prediction=scheduler.config.prediction_type,
        is_whole=first_step == 0,
        needs_step_noise=needs_step_noise,
    )


def _lcm_descent(
    trained: Mapping[str, Any], num_inference_steps: int, first_step: int, device: torch.device
) -> Descent:
    """Latent consistency (Luo et al. 2023): each step guesses the clean picture and puts fresh noise over it."""
    if num_inference_steps > MAX_LCM_STEPS:
        raise RenderError(f"The sampler lcm takes at most {MAX_LCM_STEPS} steps; {num_inference_steps} were asked for.")
    scheduler = new_scheduler("lcm", trained)
    scheduler.set_timesteps(num_inference_steps)
    points = scheduler.timesteps[first_step:].tolist()
    levels = _levels_from_points(points, scheduler.alphas_cumprod)

    def solve(
        predicted: torch.Tensor, index: int, latents: torch.Tensor, step_noise: torch.Tensor | None
    ) -> torch.Tensor:
        kept, guessed = map(float, scheduler.get_scalings_for_boundary_condition_discrete(points[index]))
        guess = _clean_from_prediction(scheduler.config.prediction_type, predicted, latents, levels[index])
        clean = guessed * guess + kept * latents
        following = levels[index + 1]
        if step_noise is None or following == _CLEAN:
            return clean
        return following.clean * clean + following.noise * step_noise

    timesteps = torch.tensor(points, dtype=torch.int64, device=device)
    return Descent(
        timesteps,
        levels,
        solve,
        prediction=scheduler.config.prediction_type,
        is_whole=first_step == 0,
        needs_step_noise=True,
    )


def _pndm_descent(
    trained: Mapping[str, Any], num_inference_steps: int, first_step: int, device: torch.device
) -> Descent:
    """As a truncated start begins with a first step too, it is mended like that of a whole descent."""
    scheduler = new_scheduler("ddim", trained)
    count = scheduler.config.num_train_timesteps
    points = [round(count - step * count / num_inference_steps) - 1 for step in range(first_step, num_inference_steps)]
    visited = [*points[:2], *points[1:]]
    levels = _levels_from_points(visited, scheduler.alphas_cumprod)
    solve = _LinearMultistep(levels, scheduler.config.prediction_type)
    timesteps = torch.tensor(visited, dtype=torch.int64, device=device)
    return Descent(
        timesteps,
        levels,
        solve,
        prediction=scheduler.config.prediction_type,
        is_whole=first_step == 0,
        needs_step_noise=False,
    )


class _LinearMultistep:
    """PNDM without Runge-Kutta steps (Liu et al. 2022), as Stable Diffusion came with.

    DDIM's step along a noise extrapolated from those before it. The first step is taken twice, the second time along
    the mean of the noises at its two ends.
    """

    _WEIGHTS: Final = (
        (1.0,),
        (-1 / 2, 3 / 2),
        (5 / 12, -16 / 12, 23 / 12),
        (-9 / 24, 37 / 24, -59 / 24, 55 / 24),
    )
    """Of Adams and Bashforth: for as many noises as there are, the oldest first."""

    def __init__(self, levels: list[_Level], prediction: str) -> None:
        self._levels = levels
        self._prediction = prediction
        self._noises: list[torch.Tensor] = []
        self._start: torch.Tensor | None = None

    def __call__(
        self, predicted: torch.Tensor, index: int, latents: torch.Tensor, step_noise: torch.Tensor | None
    ) -> torch.Tensor:
        noise = _noise_from_prediction(self._prediction, predicted, latents, self._levels[index])
        if index == 0:
            self._start = latents
        if index == 1 and self._start is not None:
            mean = (self._noises[0] + noise) / 2
            return _moved(self._start, mean, self._levels[0], self._levels[2])
        self._noises = [*self._noises[-3:], noise]
        weights = self._WEIGHTS[len(self._noises) - 1]
        mixed = torch.stack([weight * past for weight, past in zip(weights, self._noises, strict=True)]).sum(0)
        return _moved(latents, mixed, self._levels[index], self._levels[index + 1])


def _moved(latents: torch.Tensor, noise: torch.Tensor, here: _Level, there: _Level) -> torch.Tensor:
    """Latents taken from one level to another, their noise being this."""
    return there.clean * (latents - here.noise * noise) / here.clean + there.noise * noise


def _clean_from_prediction(
    prediction: str, predicted: torch.Tensor, latents: torch.Tensor, level: _Level
) -> torch.Tensor:
    if prediction == "epsilon":
        return (latents - level.noise * predicted) / level.clean
    if prediction == "v_prediction":
        return level.clean * latents - level.noise * predicted
    return predicted


def _noise_from_prediction(
    prediction: str, predicted: torch.Tensor, latents: torch.Tensor, level: _Level
) -> torch.Tensor:
    if prediction == "epsilon":
        return predicted
    if prediction == "v_prediction":
        return level.clean * predicted + level.noise * latents
    return (latents - level.clean * predicted) / level.noise


def _level_from_sigma(sigma: float) -> _Level:
    """`sigma` is noise per part of picture, as schedulers of the multistep kind count."""
    clean = (1 + sigma**2) ** -0.5
    return _Level(clean, sigma * clean)


def _levels_from_points(points: list[int], alphas_cumprod: torch.Tensor) -> list[_Level]:
    """The level at each of the model's points in time, and the clean end."""
    shares = [float(alphas_cumprod[point]) for point in points]
    return [*(_Level(share**0.5, (1 - share) ** 0.5) for share in shares), _CLEAN]
