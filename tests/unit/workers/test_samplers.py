"""Samplers: the same pictures as diffusers' own pipelines draw, and exactly the steps asked for.

diffusers' pipelines know no circle, so time stays a line here; `test_seamless` is about the circle.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image

from tests.tiny_frames import (
    COLUMNS,
    PREDICTIONS,
    ROWS,
    STEPS,
    a_frame,
    distance,
    noise_from_seed,
    pixels,
    render_one,
)
from workers.diffusion import FramePipeline
from workers.samplers import new_scheduler, steps_from_strength
from workers.seamless import TimeCircle

SAMPLERS = ("dpmpp_2m", "ddim")
# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is letting go.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")


@pytest.fixture(autouse=True)
def time_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TimeCircle, "closed", lambda self: nullcontext())


def stock_parts(pipeline: FramePipeline, sampler: Any) -> dict[str, Any]:
    """The same parts for one of diffusers' own pipelines."""
    parts = pipeline._parts.components
    scheduler = new_scheduler(sampler, parts["scheduler"].config)
    # Its pipelines insist on this offset, which this spacing does not use.
    return parts | {"scheduler": type(scheduler).from_config(scheduler.config, steps_offset=1)}


def draw(stock: Any, parts: dict[str, Any], **options: Any) -> Image.Image:
    """What one of diffusers' own pipelines draws of the plain frame's prompt."""
    drawing = stock(**parts, requires_safety_checker=False)
    drawing.set_progress_bar_config(disable=True)
    plain = {"prompt": "a slow piano", "guidance_scale": 5.0, "num_inference_steps": STEPS}
    (picture,) = drawing(**(plain | options)).images
    return picture


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_frame_without_a_seed_image_is_what_diffusers_own_pipeline_draws(pipelines, prediction, sampler):
    """Text to picture agrees with StableDiffusionPipeline for the same noise, prompts and guidance."""
    pipeline = pipelines[prediction]
    ours = render_one(pipeline, a_frame(sampler=sampler, negative_prompt="noise", guidance_scale=6.5))
    theirs = draw(
        StableDiffusionPipeline,
        stock_parts(pipeline, sampler),
        guidance_scale=6.5,
        negative_prompt="noise",
        latents=noise_from_seed(1),
    )
    assert ours.size == (COLUMNS, ROWS)
    assert np.abs(pixels(ours) - pixels(theirs)).max() <= 1


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("strength", [0.2, 0.5, 0.84])
def test_a_frame_from_a_seed_image_is_what_diffusers_own_pipeline_draws(
    pipelines, seed_image, prediction, sampler, strength
):
    """Picture to picture agrees with StableDiffusionImg2ImgPipeline, which starts in the middle of the walk."""
    pipeline = pipelines[prediction]
    ours = render_one(pipeline, a_frame(sampler=sampler, denoising_strength=strength, seed=7), seed_image)
    theirs = draw(
        StableDiffusionImg2ImgPipeline,
        stock_parts(pipeline, sampler),
        image=pipeline._seed_latents(seed_image.tobytes(), COLUMNS).clone(),
        strength=strength,
        generator=torch.Generator("cpu").manual_seed(7),
    )
    assert np.abs(pixels(ours) - pixels(theirs)).max() <= 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_sampler_walks_exactly_the_steps_asked_for(pipeline, sampler):
    """Any allowed number of steps begins at full noise and ends above zero, each step lower than the last."""
    for steps in range(1, 151):
        scheduler = new_scheduler(sampler, pipeline._parts.scheduler.config)
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps.tolist()
        assert len(timesteps) == steps
        assert timesteps[0] == 999
        assert timesteps[-1] >= 0
        assert all(after < before for before, after in pairwise(timesteps))


def test_the_noise_schedule_is_the_checkpoints_own(pipelines):
    """A sampler takes what the model was trained on from the checkpoint and its spacing from the table."""
    config = new_scheduler("dpmpp_2m", pipelines["v_prediction"]._parts.scheduler.config).config
    assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert config.prediction_type == "v_prediction"
    assert config.timestep_spacing == "linspace"


def test_ddim_is_diffusers_own_ddim(pipeline):
    """Where the number of steps divides 1000 both draw the same picture, but for one time step's rounding."""
    ours = render_one(pipeline, a_frame(sampler="ddim", num_inference_steps=10))
    parts = stock_parts(pipeline, "ddim")
    config = parts["scheduler"].config | {"timestep_spacing": "trailing", "clip_sample": False}
    parts["scheduler"] = DDIMScheduler.from_config(config)
    theirs = draw(StableDiffusionPipeline, parts, num_inference_steps=10, latents=noise_from_seed(1))
    assert distance(ours, theirs) < 1


@pytest.mark.parametrize(
    ("strength", "steps", "walked"), [(0.0, 20, 0), (0.01, 20, 1), (0.29, 100, 29), (0.5, 25, 12), (1.0, 7, 7)]
)
def test_strength_is_the_share_of_steps_that_are_walked(strength, steps, walked):
    """Rounded down, but never to none above 0 and never off by a floating-point hair."""
    assert steps_from_strength(strength, steps) == walked
