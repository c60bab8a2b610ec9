"""Frames against diffusers' own pipelines: the same parts, prompts and noise draw the same pictures.

diffusers' pipelines know no circle, so these frames are no loops; `test_seamless` is about the circle.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from PIL import Image

from shared.contracts import Sampler
from tests.tiny_frames import COLUMNS, PREDICTIONS, ROWS, STEPS, a_frame, distance, pixels, render_one
from workers.diffusion import FramePipeline
from workers.samplers import new_scheduler

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is letting go.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")

SAMPLERS: tuple[Sampler, ...] = ("dpmpp_2m", "dpmpp_2m_karras", "ddim", "unipc")
"""Those whose scheduler walks the same points in time in one of diffusers' own pipelines."""


def own_scheduler(pipeline: FramePipeline, sampler: Sampler) -> Any:
    scheduler = new_scheduler(sampler, pipeline._parts.scheduler.config)
    # Its pipelines insist on this offset, which these points in time do not have.
    return type(scheduler).from_config(scheduler.config, steps_offset=1)


def draw(stock: Any, pipeline: FramePipeline, scheduler: Any, seed: int, **options: Any) -> Image.Image:
    """What one of diffusers' own pipelines draws of the plain frame's prompt."""
    drawing = stock(**pipeline._parts.components | {"scheduler": scheduler}, requires_safety_checker=False)
    drawing.set_progress_bar_config(disable=True)
    plain = {"prompt": "a slow piano", "guidance_scale": 5.0, "num_inference_steps": STEPS}
    generator = torch.Generator("cpu").manual_seed(seed)
    (picture,) = drawing(**(plain | options), generator=generator).images
    return picture


@torch.inference_mode()
def mean_latents(pipeline: FramePipeline, image: Image.Image) -> torch.Tensor:
    """A picture's latents without the draw that diffusers' pipeline would make of it."""
    parts = pipeline._parts
    latents = parts.vae.encode(parts.image_processor.preprocess(image)).latent_dist.mode()
    return latents * parts.vae.config.scaling_factor


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", [*SAMPLERS, "lcm"])
def test_a_frame_without_a_seed_image_is_what_diffusers_own_pipeline_draws(pipelines, prediction, sampler):
    """Text to picture agrees for the same noise, also that of each step, prompts and guidance."""
    pipeline = pipelines[prediction]
    frame = a_frame(sampler=sampler, negative_prompt="noise", guidance_scale=6.5, is_loop=False)
    ours = render_one(pipeline, frame)
    options = {"negative_prompt": "noise", "guidance_scale": 6.5, "height": ROWS, "width": COLUMNS}
    theirs = draw(StableDiffusionPipeline, pipeline, own_scheduler(pipeline, sampler), 1, **options)
    assert ours.size == (COLUMNS, ROWS)
    assert np.abs(pixels(ours) - pixels(theirs)).max() <= 1


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("strength", [0.2, 0.5, 0.84])
def test_a_frame_from_a_seed_image_is_what_diffusers_own_pipeline_draws(
    pipelines, seed_image, prediction, sampler, strength
):
    """Picture to picture agrees, which starts in the middle of the walk."""
    pipeline = pipelines[prediction]
    ours = render_one(pipeline, a_frame(sampler=sampler, denoising_strength=strength, is_loop=False), seed_image)
    options = {"image": mean_latents(pipeline, seed_image), "strength": strength}
    theirs = draw(StableDiffusionImg2ImgPipeline, pipeline, own_scheduler(pipeline, sampler), 1, **options)
    assert np.abs(pixels(ours) - pixels(theirs)).max() <= 1


@pytest.mark.parametrize(
    ("sampler", "stock", "options"),
    [
        ("pndm", PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": True, "timestep_spacing": "trailing"}),
        ("euler", EulerDiscreteScheduler, {"timestep_spacing": "linspace"}),
        ("euler_a", EulerAncestralDiscreteScheduler, {"timestep_spacing": "linspace"}),
    ],
)
def test_samplers_of_our_own_making_draw_what_diffusers_draws(pipeline, sampler, stock, options):
    """Where both can walk the same points in time; diffusers' Euler begins a quarter of a percent below full noise."""
    ours = render_one(pipeline, a_frame(sampler=sampler, num_inference_steps=10, is_loop=False))
    scheduler = stock.from_config(own_scheduler(pipeline, "ddim").config, **options)
    theirs = draw(StableDiffusionPipeline, pipeline, scheduler, 1, num_inference_steps=10, height=ROWS, width=COLUMNS)
    assert distance(ours, theirs) < 0.5
    other = draw(StableDiffusionPipeline, pipeline, scheduler, 2, num_inference_steps=10, height=ROWS, width=COLUMNS)
    assert distance(ours, other) > 5
