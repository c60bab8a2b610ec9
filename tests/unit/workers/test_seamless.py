"""Convolutions that see time as a circle, and a pipeline whose frames are loops."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shared.errors import JobCanceled
from tests.tiny_frames import STEPS, a_frame, pixels, redrawn, render_one
from workers.checkpoint import load_checkpoint
from workers.diffusion import FramePipeline
from workers.seamless import TimeCircle

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is letting go.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")

Run = Callable[[Any, torch.Tensor], torch.Tensor]


def decoded(parts: Any, latents: torch.Tensor) -> torch.Tensor:
    return parts.vae.decode(latents).sample


def encoded(parts: Any, picture: torch.Tensor) -> torch.Tensor:
    return parts.vae.encode(picture).latent_dist.mode()


def denoised(parts: Any, latents: torch.Tensor) -> torch.Tensor:
    width = parts.unet.config.cross_attention_dim
    words = torch.randn((1, 5, width), generator=torch.Generator().manual_seed(2)).to(latents.dtype)
    return parts.unet(latents, torch.tensor(400), encoder_hidden_states=words).sample


# What runs, the shape it is given, by how many columns that is turned, and by how many what comes out must be.
RUNS = [
    pytest.param(decoded, (1, 4, 8, 16), 5, 40, id="decoder"),
    pytest.param(encoded, (1, 3, 64, 128), 40, 5, id="encoder"),
    pytest.param(denoised, (1, 4, 8, 16), 8, 8, id="denoiser"),
]


def noise(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def parts_and_circle(folder: Path) -> tuple[Any, TimeCircle]:
    parts = load_checkpoint(str(folder), None, torch.float32)
    return parts, TimeCircle(parts.unet, parts.vae)


@pytest.mark.parametrize(("run", "shape", "turn", "turned"), RUNS)
@torch.inference_mode()
def test_what_is_turned_going_in_is_turned_coming_out(
    folders: dict[str, Path], run: Run, shape: tuple[int, ...], turn: int, turned: int
) -> None:
    """On a circle no column is special, through strides and lopsided padding too; with zeros the edges are."""
    parts, circle = parts_and_circle(folders["epsilon"])
    given = noise(shape)
    errors = []
    for time in (circle.closed, nullcontext):
        with time():
            straight, other = run(parts, given), run(parts, given.roll(turn, dims=-1))
        errors.append((straight.roll(turned, dims=-1) - other).abs().max().item() / straight.std().item())
    on_circle, with_zeros = errors
    assert on_circle < 1e-4
    assert with_zeros > 0.05


@pytest.mark.parametrize(("run", "shape"), [pytest.param(*one.values[:2], id=one.id) for one in RUNS])
@torch.inference_mode()
def test_an_open_circle_changes_no_bit(folders: dict[str, Path], run: Run, shape: tuple[int, ...]) -> None:
    """Before a block and after one that broke off, models compute what those without a circle do."""
    parts, circle = parts_and_circle(folders["epsilon"])
    expected = run(load_checkpoint(str(folders["epsilon"]), None, torch.float32), noise(shape))
    assert torch.equal(run(parts, noise(shape)), expected)
    with circle.closed():
        assert not torch.equal(run(parts, noise(shape)), expected)
    with pytest.raises(JobCanceled), circle.closed():
        raise JobCanceled
    assert torch.equal(run(parts, noise(shape)), expected)


@pytest.mark.parametrize("columns", [1, 9])
@torch.inference_mode()
def test_widths_that_can_not_be_halved_evenly_still_close(folders: dict[str, Path], columns: int) -> None:
    """The shape is what it is with zeros; a single latent column is its own neighbour."""
    parts, circle = parts_and_circle(folders["epsilon"])
    given = noise((1, 4, 8, columns))
    with circle.closed():
        assert denoised(parts, given).shape == given.shape
        assert decoded(parts, given).shape == (1, 3, 64, 8 * columns)


@torch.inference_mode()
def test_half_precision_closes_too(folders: dict[str, Path]) -> None:
    """Weights and results stay in float16, and a turned picture is the picture turned but for rounding."""
    parts = load_checkpoint(str(folders["epsilon"]), None, torch.float16)
    latents = noise((1, 4, 8, 16)).to(torch.float16)
    with TimeCircle(parts.vae).closed():
        straight, turned = decoded(parts, latents), decoded(parts, latents.roll(5, dims=-1))
    assert straight.dtype == torch.float16
    assert (straight.roll(40, dims=-1) - turned).abs().mean() < 0.02 * straight.std()


@pytest.mark.parametrize(
    ("changes", "has_seed_image", "expected"),
    [
        ({}, False, [False] * 3 + [True] * 3),
        ({"num_inference_steps": 7}, False, [False] * 4 + [True] * 3),
        ({"denoising_strength": 0.5}, True, [True] * 3),
        ({"denoising_strength": 0.7}, True, [False] + [True] * 3),
    ],
    ids=["all steps", "an odd number", "half the strength", "more than half"],
)
def test_the_schedules_second_half_sees_a_circle(
    folders: dict[str, Path],
    seed_image: Image.Image,
    changes: dict[str, Any],
    has_seed_image: bool,
    expected: list[bool],
) -> None:
    """Steps are counted on the full schedule, also where a seed image lets the first ones out."""
    parts = load_checkpoint(str(folders["epsilon"]), None, torch.float32)
    pipeline = FramePipeline(parts, torch.device("cpu"))
    seen: list[bool] = []
    parts.unet.register_forward_pre_hook(lambda unet, _: seen.append(unet.conv_in.padding[1] == 0))
    pipeline.render([a_frame(**({"num_inference_steps": STEPS} | changes))], [seed_image if has_seed_image else None])
    assert seen == expected


def test_a_turned_seed_image_is_drawn_turned(pipeline: FramePipeline, seed_image: Image.Image) -> None:
    """A loop may begin anywhere: from encoder to decoder its first column is like any other."""
    turned = Image.fromarray(np.roll(np.asarray(seed_image), 24, axis=1))
    straight, other = (pixels(redrawn(pipeline, one)) for one in (seed_image, turned))
    assert np.abs(np.roll(straight, 24, axis=1) - other).max() <= 1


def test_a_frame_leads_from_its_last_column_to_its_first(pipeline: FramePipeline) -> None:
    """The step over the wrap is no larger than steps elsewhere."""
    picture = pixels(render_one(pipeline, a_frame(columns=256)))[..., 0]
    steps = np.abs(picture - np.roll(picture, 1, axis=1)).mean(axis=0)
    assert steps[0] <= np.percentile(steps, 99)
