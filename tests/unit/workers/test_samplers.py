"""Samplers: each is the method its name says, ends at the picture, and takes exactly the steps asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final, get_args

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
)

from shared.contracts import Sampler
from shared.errors import RenderError
from workers.samplers import MAX_LCM_STEPS, Descent, model_calls, new_descent, new_scheduler, steps_from_strength

CPU: Final = torch.device("cpu")
SAMPLERS: Final = get_args(Sampler)
DETERMINISTIC: Final = [sampler for sampler in SAMPLERS if sampler not in ("euler_a", "lcm")]
PREDICTIONS: Final = ("epsilon", "v_prediction", "sample")
BETAS: Final = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
EPSILON: Final = BETAS | {"prediction_type": "epsilon"}
SHAPE: Final = (3, 4, 8, 8)
Model = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is letting go.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")


def draw(seed: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def level(timestep: torch.Tensor) -> tuple[float, float]:
    """Parts of picture and of noise in latents at a point in time."""
    share = DDPMScheduler(**BETAS).alphas_cumprod[int(timestep)].item()
    return math.sqrt(share), math.sqrt(1 - share)


def predict(kind: str, latents: torch.Tensor, clean: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """What a model says that takes these latents for the noisy form of this picture."""
    picture, noise = level(timestep)
    epsilon = (latents - picture * clean) / noise
    return {"epsilon": epsilon, "v_prediction": picture * epsilon - noise * clean, "sample": clean}[kind]


def some_model(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """A prediction that depends on the latents and on time in no simple way."""
    return latents + 0.3 * torch.tanh(2 * latents.flip(-1)) * torch.cos(timestep / 150)


def walked(descent: Descent, model: Model, latents: torch.Tensor, step_noises: list[torch.Tensor]) -> torch.Tensor:
    for index, timestep in enumerate(descent.timesteps):
        noise = step_noises[index] if descent.needs_step_noise else None
        latents = descent.step(model(latents, timestep), index, latents, noise)
    return latents


def step_noises(count: int) -> list[torch.Tensor]:
    return [draw(100 + index) for index in range(count)]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("steps", "first"), [(1, 0), (2, 0), (2, 1), (7, 0), (7, 3), (20, 0), (20, 19), (50, 11)])
def test_a_model_that_knows_the_picture_is_followed_to_it(sampler, prediction, steps, first):
    """From pure noise or from a noisy form of it, the picture is found, in exactly the calls announced."""
    clean, noise = draw(1), draw(2)
    descent = new_descent(sampler, BETAS | {"prediction_type": prediction}, steps, first, CPU)
    assert len(descent.timesteps) == model_calls(sampler, steps - first)
    start = descent.noised(clean, noise, 0)
    end = walked(descent, lambda at, time: predict(prediction, at, clean, time), start, step_noises(60))
    torch.testing.assert_close(end, clean, rtol=0, atol=5e-5)


def gaussian_model(mean: float, spread: float, is_consistent: bool = False) -> Model:
    """The exact denoiser of pictures drawn from a normal distribution, or the exact end of each one's way."""

    def model(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        picture, noise = level(timestep)
        variance = (picture * spread) ** 2 + noise**2
        gain = spread / math.sqrt(variance) if is_consistent else picture * spread**2 / variance
        return predict("epsilon", latents, mean + gain * (latents - picture * mean), timestep)

    return model


def noisy_pictures(mean: float, spread: float, shape: tuple[int, ...], timestep: torch.Tensor) -> torch.Tensor:
    picture, noise = level(timestep)
    return picture * (mean + spread * draw(3, shape)) + noise * draw(4, shape)


@pytest.mark.parametrize("sampler", DETERMINISTIC)
@pytest.mark.parametrize("first_share", [0.0, 0.5])
def test_more_steps_come_nearer_to_the_exact_way(sampler, first_share):
    """For normally distributed pictures the way's exact end is known, from the top and from the middle."""
    mean, spread = 0.7, 0.5

    def error(steps: int) -> float:
        first = int(first_share * steps)
        descent = new_descent(sampler, EPSILON, steps, first, CPU)
        picture, noise = level(descent.timesteps[0])
        start = draw(3)
        exact = mean + spread * (start - picture * mean) / math.sqrt((picture * spread) ** 2 + noise**2)
        return (walked(descent, gaussian_model(mean, spread), start, []) - exact).abs().mean().item()

    errors = [error(steps) for steps in (6, 24, 96)]
    assert all(after < before for before, after in pairwise(errors))
    assert errors[-1] < (0.02 if sampler in ("ddim", "euler") else 0.01)


def test_euler_a_draws_from_the_distribution_itself():
    """Many steps with fresh noise end with the mean and the spread of the pictures."""
    shape = (1, 4, 64, 64)
    descent = new_descent("euler_a", EPSILON, 100, 0, CPU)
    noises = [draw(100 + index, shape) for index in range(100)]
    end = walked(descent, gaussian_model(0.7, 0.5), draw(3, shape), noises)
    assert end.mean().item() == pytest.approx(0.7, abs=0.02)
    assert end.std().item() == pytest.approx(0.5, abs=0.03)


def test_lcm_draws_from_the_distribution_of_a_consistent_model():
    """A model that says where each way ends needs few steps, and none of them adds or takes spread."""
    shape = (1, 4, 64, 64)
    for steps in (1, 2, 4, 8):
        descent = new_descent("lcm", EPSILON, steps, 0, CPU)
        noises = [draw(100 + index, shape) for index in range(steps)]
        start = noisy_pictures(0.7, 0.5, shape, descent.timesteps[0])
        end = walked(descent, gaussian_model(0.7, 0.5, is_consistent=True), start, noises)
        assert end.mean().item() == pytest.approx(0.7, abs=0.02)
        assert end.std().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_euler_a_is_diffusers_own(prediction):
    """Step for step, with the noise that diffusers draws itself, at points in time both can take."""
    trained = BETAS | {"prediction_type": prediction}
    theirs = EulerAncestralDiscreteScheduler(**trained, timestep_spacing="linspace")
    generator = torch.Generator().manual_seed(7)
    twin = torch.Generator().manual_seed(7)
    noises = [torch.randn(SHAPE, generator=twin) for _ in range(10)]
    check_against_a_scheduler_in_sigmas("euler_a", trained, theirs, noises, generator=generator)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_euler_is_diffusers_own(prediction):
    """Step for step, at points in time both can take."""
    trained = BETAS | {"prediction_type": prediction}
    theirs = EulerDiscreteScheduler(**trained, timestep_spacing="linspace")
    check_against_a_scheduler_in_sigmas("euler", trained, theirs, [])


def check_against_a_scheduler_in_sigmas(
    sampler: Sampler, trained: dict[str, Any], theirs: Any, noises: list[torch.Tensor], **options: Any
) -> None:
    """Such schedulers' latents are not as strong as noise all the way, but hold the picture at full strength."""
    ours = new_descent(sampler, trained, 10, 0, CPU)
    theirs.set_timesteps(10)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    latents = draw(4)
    in_sigmas = latents * (theirs.sigmas[0] ** 2 + 1).sqrt()
    for index, timestep in enumerate(theirs.timesteps):
        predicted = some_model(theirs.scale_model_input(in_sigmas, timestep), timestep)
        in_sigmas = theirs.step(predicted, timestep, in_sigmas, return_dict=False, **options)[0]
        mine = some_model(latents, ours.timesteps[index])
        latents = ours.step(mine, index, latents, noises[index] if noises else None)
        torch.testing.assert_close(latents, in_sigmas / (theirs.sigmas[index + 1] ** 2 + 1).sqrt(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_lcm_is_diffusers_own(prediction):
    """Step for step, with the noise that diffusers draws itself."""
    trained = BETAS | {"prediction_type": prediction}
    theirs = LCMScheduler(**trained)
    theirs.set_timesteps(6)
    ours = new_descent("lcm", trained, 6, 0, CPU)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    generator, twin = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    latents = other = draw(4)
    for index, timestep in enumerate(theirs.timesteps):
        other = theirs.step(some_model(other, timestep), timestep, other, generator, return_dict=False)[0]
        step_noise = torch.randn(SHAPE, generator=twin)
        latents = ours.step(some_model(latents, timestep), index, latents, step_noise)
        torch.testing.assert_close(latents, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("first", [0, 1, 2, 11, 18, 19])
def test_pndm_is_diffusers_own_given_the_points_in_time_it_expects(first):
    """A whole descent is diffusers' to the letter; a truncated one is what diffusers does with the same points.

    Its own truncated pipeline cuts the first two calls off and so takes every later point for one too early.
    """
    theirs = PNDMScheduler(**EPSILON, skip_prk_steps=True, set_alpha_to_one=True, timestep_spacing="trailing")
    theirs.set_timesteps(20)
    ours = new_descent("pndm", EPSILON, 20, first, CPU)
    if first == 0:
        assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    latents = other = draw(4)
    for index, timestep in enumerate(ours.timesteps):
        other = theirs.step(some_model(other, timestep), int(timestep), other, return_dict=False)[0]
        latents = ours.step(some_model(latents, timestep), index, latents)
        torch.testing.assert_close(latents, other, rtol=0, atol=1e-4)


def test_ddim_is_diffusers_own():
    """Step for step up to the last, which here goes to the picture that diffusers' own foresees."""
    theirs = DDIMScheduler(**EPSILON, timestep_spacing="leading", steps_offset=37, clip_sample=False)
    theirs.set_timesteps(27)
    ours = new_descent("ddim", EPSILON, 27, 0, CPU)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    latents = other = draw(4)
    for index, timestep in enumerate(ours.timesteps):
        other, foreseen = theirs.step(some_model(other, timestep), timestep, other, return_dict=False)
        latents = ours.step(some_model(latents, timestep), index, latents)
        torch.testing.assert_close(latents, foreseen if index == 26 else other, rtol=0, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_any_number_of_steps_is_walked_exactly(sampler):
    """From full noise downwards, each point no higher than the last, and none asked for twice but PNDM's second."""
    for steps in range(1, MAX_LCM_STEPS + 1 if sampler == "lcm" else 151):
        timesteps = new_descent(sampler, EPSILON, steps, 0, CPU).timesteps.tolist()
        assert len(timesteps) == model_calls(sampler, steps)
        assert timesteps[0] == 999
        assert timesteps[-1] >= 0
        assert all(after <= before for before, after in pairwise(timesteps))
        if sampler != "dpmpp_2m_karras":  # its last points lie nearer together than the model's own
            assert len(set(timesteps)) == steps


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_picture_is_as_noisy_as_the_step_that_begins_there(sampler):
    """Noise alone at the very top, the picture itself at the end, and the model's own mixture between."""
    clean, noise = draw(1), draw(2)
    whole, half = (new_descent(sampler, EPSILON, 20, first, CPU) for first in (0, 10))
    assert torch.equal(whole.noised(clean, noise, 0), noise)
    for descent in (whole, half):
        assert torch.equal(descent.noised(clean, noise, len(descent.timesteps)), clean)
        for index, timestep in list(enumerate(descent.timesteps))[1:]:
            expected = DDPMScheduler(**BETAS).add_noise(clean, noise, timestep[None])
            # Karras' points lie between the model's own.
            atol = 0.02 if sampler == "dpmpp_2m_karras" else 1e-5
            torch.testing.assert_close(descent.noised(clean, noise, index), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_steps_keep_the_picture(sampler):
    """At strength 0 nothing is walked and the picture's latents are kept to the bit."""
    descent = new_descent(sampler, EPSILON, 20, 20 - steps_from_strength(0.0, 20), CPU)
    assert len(descent.timesteps) == 0
    assert torch.equal(descent.noised(draw(1), draw(2), 0), draw(1))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_frames_latents_do_not_know_their_company(sampler):
    """Three frames together and each alone end with the same bits, and nothing is drawn from the common generator."""
    noises = step_noises(21)
    before = torch.get_rng_state()
    together = walked(new_descent(sampler, EPSILON, 20, 4, CPU), some_model, draw(5), noises)
    assert torch.equal(torch.get_rng_state(), before)
    for frame in range(len(together)):
        own = [noise[frame : frame + 1] for noise in noises]
        alone = walked(new_descent(sampler, EPSILON, 20, 4, CPU), some_model, draw(5)[frame : frame + 1], own)
        assert torch.equal(alone[0], together[frame])


@pytest.mark.parametrize("sampler", ["euler_a", "lcm"])
def test_a_stochastic_sampler_wants_its_noise_from_outside(sampler):
    """Another step noise is another picture, and none at all is refused rather than drawn."""
    descents = [new_descent(sampler, EPSILON, 8, 0, CPU) for _ in range(3)]
    assert all(descent.needs_step_noise for descent in descents)
    noises = step_noises(8)
    one = walked(descents[0], some_model, draw(5), noises)
    other = walked(descents[1], some_model, draw(5), noises[::-1])
    assert (one - other).abs().mean() > 0.1
    with pytest.raises(ValueError, match="noise at every step"):
        descents[2].step(draw(6), 0, draw(5))


def test_noise_of_zero_terminal_strength_is_walked():
    """Checkpoints trained down to no signal at all begin there, and the picture is found."""
    trained = BETAS | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    clean = draw(1)
    for sampler in SAMPLERS:
        descent = new_descent(sampler, trained, 9, 0, CPU)
        latents = draw(2)
        for index in range(len(descent.timesteps)):
            picture, noise = descent._levels[index]
            predicted = picture * (latents - picture * clean) / noise - noise * clean
            latents = descent.step(predicted, index, latents, draw(9))
        # PNDM goes along the noise, and where all is noise, a rounding in it is much of the picture.
        torch.testing.assert_close(latents, clean, rtol=0, atol=0.1 if sampler == "pndm" else 1e-5)


def test_the_noise_schedule_is_the_checkpoints_own():
    """A sampler takes what the model was trained on from the checkpoint and its spacing from the table."""
    trained = BETAS | {"prediction_type": "v_prediction", "timestep_spacing": "leading", "beta_end": 0.02}
    config = new_scheduler("dpmpp_2m", trained).config
    assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.02, "scaled_linear")
    assert config.prediction_type == "v_prediction"
    assert config.timestep_spacing == "linspace"


@pytest.mark.parametrize(
    ("sampler", "trained", "steps", "message"),
    [
        ("lcm", EPSILON, 51, "at most 50 steps"),
        ("dpmpp_2m", BETAS | {"prediction_type": "flow_prediction"}, 20, "flow_prediction"),
        ("pndm", EPSILON | {"beta_schedule": "wavy"}, 20, "wavy"),
    ],
)
def test_what_no_sampler_can_walk_is_refused(sampler, trained, steps, message):
    """Too many steps, predictions and noise that are not known: a sentence for the job, not a stack trace."""
    with pytest.raises(RenderError, match=message):
        new_descent(sampler, trained, steps, 0, CPU)


@pytest.mark.parametrize(
    ("strength", "steps", "walked_steps"),
    [(0.0, 20, 0), (0.01, 20, 1), (0.29, 100, 29), (0.5, 25, 12), (1.0, 7, 7)],
)
def test_strength_is_the_share_of_steps_that_are_walked(strength, steps, walked_steps):
    """Rounded down, but never to none above 0 and never off by a floating-point hair."""
    assert steps_from_strength(strength, steps) == walked_steps
