"""Frames for the tiny checkpoint, and how to compare their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from shared.frames import Frame, FrameEnd, Noise
from workers.diffusion import FramePipeline

ROWS = COLUMNS = 64
STEPS = 6
LATENTS = (1, 4, ROWS // 8, COLUMNS // 8)
PREDICTIONS = ("epsilon", "v_prediction")


def an_end(**changes: Any) -> FrameEnd:
    """What a keyframe gives to a frame."""
    plain = {
        "prompt": "a slow piano",
        "negative_prompt": "",
        "denoising_strength": 0.5,
        "guidance_scale": 5.0,
    }
    return FrameEnd(**(plain | changes))


def a_frame(
    end: FrameEnd | None = None, alpha: float = 0.0, *, seed: int = 1, end_seed: int | None = None, **changes: Any
) -> Frame:
    """A frame; changes that are no frame's own field go to its start."""
    own = {name: changes.pop(name) for name in tuple(changes) if name in Frame.model_fields}
    plain = {
        "model": "tiny",
        "model_revision": "1",
        "sampler": "dpmpp_2m",
        "num_inference_steps": STEPS,
        "columns": COLUMNS,
        "is_loop": True,
        "seed_image": None,
        "mask_image": None,
        "noise": Noise(seed=seed, end_seed=end_seed, alpha=0.0 if end_seed is None else alpha),
        "start": an_end(**changes),
        "end": end,
        "alpha": alpha,
    }
    return Frame(**(plain | own))


def pixels(image: Image.Image) -> np.ndarray:
    """Grey levels as floats, shape (row, column, channel)."""
    return np.asarray(image, np.float64)


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean difference in grey levels."""
    return float(np.abs(pixels(one) - pixels(other)).mean())


def render_all(
    pipeline: FramePipeline,
    frames: Sequence[Frame],
    seed_image: Image.Image | None = None,
    mask_image: Image.Image | None = None,
    **options: Any,
) -> list[Image.Image]:
    """The pictures of frames that share a seed image and a mask."""
    count = len(frames)
    return pipeline.render(frames, [seed_image] * count, [mask_image] * count, **options)


def render_one(pipeline: FramePipeline, frame: Frame, *images: Image.Image) -> Image.Image:
    """The picture of a single frame."""
    (picture,) = render_all(pipeline, [frame], *images)
    return picture


@torch.inference_mode()
def redrawn(pipeline: FramePipeline, image: Image.Image) -> Image.Image:
    """The image as the pipeline's autoencoder draws it, a loop."""
    autoencoder = pipeline._autoencoder
    canvas = autoencoder.canvas((COLUMNS, ROWS), image, None, is_loop=True)
    return autoencoder.developed(canvas.latents, None, is_loop=True).picture()


def noise_from_seed(seed: int) -> torch.Tensor:
    """The noise that a seed stands for."""
    return torch.randn(LATENTS, generator=torch.Generator("cpu").manual_seed(seed))


def mixed_frames() -> list[Frame]:
    """Frames that differ in prompt, guidance, alpha, strength, steps and columns."""
    other = an_end(prompt="techno drums", denoising_strength=0.9, guidance_scale=2.0)
    alphas = [a_frame(other, alpha, end_seed=9) for alpha in (0.0, 0.2, 0.4, 0.9)]
    return [*alphas, a_frame(columns=128), a_frame(seed=3), a_frame(num_inference_steps=9), *alphas]
