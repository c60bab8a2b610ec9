"""Convolutions that see time as a circle, and a pipeline whose frames are loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from shared.contracts import Frame, FrameEnd
from tests.tiny_checkpoint import write_tiny_checkpoint
from workers.checkpoint import load_checkpoint
from workers.diffusion import FramePipeline
from workers.seamless import TimeCircle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("model"))


def frame(columns: int, steps: int = 4) -> Frame:
    end = FrameEnd(prompt="a", negative_prompt="", seed=3, denoising_strength=1.0, guidance_scale=3.0)
    return Frame(
        model="tiny",
        model_revision="1",
        sampler="dpmpp_2m",
        num_inference_steps=steps,
        columns=columns,
        seed_image=None,
        mask_image=None,
        start=end,
        end=None,
        alpha=0.0,
    )


@torch.inference_mode()
def test_turning_the_latents_turns_the_picture(folder: Path) -> None:
    """On a circle no column is special: what is decoded later is drawn later."""
    vae = load_checkpoint(str(folder), None, torch.float32).vae
    circle = TimeCircle(vae)
    latents = torch.randn((1, 4, 8, 16), generator=torch.Generator().manual_seed(1))
    with circle.closed():
        plain, turned = (vae.decode(one).sample for one in (latents, latents.roll(5, dims=-1)))
    torch.testing.assert_close(plain.roll(5 * 8, dims=-1), turned, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(vae.decode(latents).sample[..., 64:-64], plain[..., 64:-64], atol=1, rtol=1)
    assert not torch.allclose(vae.decode(latents).sample[..., :8], plain[..., :8], atol=1e-4)


@torch.inference_mode()
def test_an_open_circle_changes_no_bit(folder: Path) -> None:
    """Outside of the block, and after one that failed, models compute what they always did."""
    vae = load_checkpoint(str(folder), None, torch.float32).vae
    latents = torch.randn((1, 4, 8, 16), generator=torch.Generator().manual_seed(1))
    before = vae.decode(latents).sample
    circle = TimeCircle(vae)
    with pytest.raises(RuntimeError, match="broken"), circle.closed():
        raise RuntimeError("broken off")
    assert torch.equal(before, vae.decode(latents).sample)


def test_a_frame_leads_from_its_last_column_to_its_first(folder: Path) -> None:
    """The step over the wrap is no larger than steps elsewhere."""
    pipeline = FramePipeline.from_source(str(folder), device="cpu")
    pixels = np.asarray(pipeline.render([frame(256)])[0].convert("L"), np.float64)
    steps = np.abs(np.diff(np.concatenate([pixels, pixels[:, :1]], axis=1), axis=1)).mean(axis=0)
    assert steps[-1] <= np.percentile(steps, 99)
