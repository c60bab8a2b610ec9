"""Seed images and masks: what is kept of them, and what is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from shared.errors import RenderError
from tests.tiny_frames import (
    COLUMNS,
    ROWS,
    a_frame,
    distance,
    pixels,
    redrawn,
    render_all,
    render_one,
)
from workers.diffusion import FramePipeline
from workers.spectrogram import rgb_from_image

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is letting go.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")


def test_strength_0_is_the_seed_image_itself(pipeline, seed_image):
    """Nothing is denoised and nothing goes through the autoencoder."""
    steps: list[int] = []
    picture = render_all(
        pipeline, [a_frame(denoising_strength=0.0)], seed_image, on_step=lambda step: steps.append(step.done)
    )
    assert picture[0].tobytes() == seed_image.tobytes()
    assert steps == []


def test_the_stronger_the_farther_from_the_seed_image(pipeline, seed_image):
    """The distance to the seed image, as the autoencoder draws it, grows with denoising strength."""
    kept = redrawn(pipeline, seed_image)
    frames = [a_frame(denoising_strength=s, num_inference_steps=10, seed=3) for s in (0.1, 0.3, 0.5, 0.7, 0.9)]
    distances = [distance(picture, kept) for picture in render_all(pipeline, frames, seed_image)]
    assert distances == sorted(distances)
    assert distances[-1] > 1.4 * distances[0]


def test_strength_1_ignores_the_seed_image(pipeline, seed_image):
    """Full strength is the same picture as no seed image."""
    frame = a_frame(denoising_strength=1.0)
    assert render_one(pipeline, frame, seed_image).tobytes() == render_one(pipeline, frame).tobytes()


def test_without_a_seed_image_the_strength_does_not_matter(pipeline):
    """There is nothing to keep, so all the steps are walked."""
    pictures = pipeline.render([a_frame(denoising_strength=strength) for strength in (0.0, 0.4, 1.0)])
    assert len({picture.tobytes() for picture in pictures}) == 1


def test_a_black_mask_keeps_the_seed_image_and_a_white_one_nothing(pipeline, seed_image):
    """All black is the seed image to the pixel whatever the prompt; all white is as without a mask."""
    black, white = (Image.new("L", (COLUMNS, ROWS), level) for level in (0, 255))
    frame, other = a_frame(denoising_strength=0.8), a_frame(denoising_strength=1.0, prompt="techno drums", seed=5)
    kept = render_one(pipeline, frame, seed_image, black)
    assert kept.tobytes() == render_one(pipeline, other, seed_image, black).tobytes() == seed_image.tobytes()
    free = render_one(pipeline, frame, seed_image)
    assert free.tobytes() == render_one(pipeline, frame, seed_image, white).tobytes()
    assert distance(kept, free) > 1


@pytest.mark.parametrize("strength", [0.8, 1.0])
def test_a_mask_repaints_its_white_side_and_keeps_its_black_side(pipeline, seed_image, strength, monkeypatch):
    """Left black, right white: the left is the seed image to the bit, latents and pixels, also from pure noise."""
    drawn: list[torch.Tensor] = []
    develop = pipeline._autoencoder.developed
    monkeypatch.setattr(
        pipeline._autoencoder,
        "developed",
        lambda latents, canvas, *, is_loop: drawn.append(latents) or develop(latents, canvas, is_loop=is_loop),
    )
    columns = 4 * COLUMNS
    half = np.zeros((ROWS, columns), np.uint8)
    half[:, columns // 2 :] = 255
    frame = a_frame(denoising_strength=strength, columns=columns)
    kept = pixels(render_one(pipeline, frame, seed_image, Image.new("L", (columns, ROWS), 0)))
    change = np.abs(pixels(render_one(pipeline, frame, seed_image, Image.fromarray(half))) - kept)
    all_kept, half_kept = drawn
    middle = columns // 8 // 2
    assert torch.equal(half_kept[..., :middle], all_kept[..., :middle])
    assert (half_kept[..., middle:] - all_kept[..., middle:]).abs().mean() > 0.1
    assert not change[:, : columns // 2 - 8].any()
    assert change[:, columns // 2 + 8 :].mean() > 10


def test_a_grey_mask_lies_between_black_and_white(pipeline, seed_image):
    """The greyer, the nearer to the seed image."""
    frame = a_frame(denoising_strength=1.0)
    pictures = [render_one(pipeline, frame, seed_image, Image.new("L", (8, 8), grey)) for grey in (0, 64, 160, 255)]
    distances = [distance(picture, pictures[0]) for picture in pictures]
    assert distances == sorted(distances)
    assert len(set(distances)) == 4


def test_a_mask_without_a_seed_image_is_refused(pipeline):
    """There would be nothing to keep."""
    with pytest.raises(RenderError, match="seed image"):
        render_all(pipeline, [a_frame()], None, Image.new("L", (8, 8)))


def test_a_seed_image_of_any_size_and_mode_is_taken(pipeline, seed_image):
    """Resampled to the frame's grid; the same picture in another form gives the same frame."""
    wide = seed_image.resize((200, 90))
    assert render_one(pipeline, a_frame(denoising_strength=0.0), wide).size == (COLUMNS, ROWS)
    deep = Image.fromarray(pixels(seed_image.convert("L")).astype(np.uint16) * 257)
    forms = [seed_image, seed_image.convert("RGBA"), seed_image.convert("L"), deep]
    assert len({render_one(pipeline, a_frame(), form).tobytes() for form in forms}) == 1


def test_transparency_is_silence():
    """What is transparent becomes white, and half transparent black becomes grey."""
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (0, 0, 0, 128))
    assert rgb_from_image(clear).getpixel((0, 0)) == (255, 255, 255)
    assert rgb_from_image(clear).getpixel((1, 0)) == (127, 127, 127)
    assert rgb_from_image(clear.quantize()).getpixel((0, 0)) == (255, 255, 255)


def test_a_seed_image_is_encoded_once(pipelines, seed_image):
    """All frames and calls of one job share the seed image's latents and the prompts' embeddings."""
    pipeline = FramePipeline(pipelines["epsilon"]._parts, torch.device("cpu"))
    for seed in range(3):
        render_all(pipeline, [a_frame(seed=seed), a_frame(seed=seed + 10)], seed_image.copy())
    assert pipeline._autoencoder._seed_latents.cache_info().misses == 1
    assert pipeline._prompts._kept.cache_info().misses == 2
