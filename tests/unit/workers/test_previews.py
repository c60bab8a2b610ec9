"""Previews: what the built-in model's decoder would draw, from a linear map alone."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from shared.catalogue import models
from workers.previews import MAX_DATA_URL_CHARACTERS, PreviewMaker, data_url_from_image
from workers.seed_images import FOLDER


@pytest.fixture(scope="module")
def vae() -> Any:
    """The built-in model's autoencoder."""
    folder = Path(models()["riffarm-mini"].source) / "vae"
    return AutoencoderKL.from_pretrained(folder, low_cpu_mem_usage=False).eval()


@pytest.fixture(scope="module")
def latents(vae: Any) -> torch.Tensor:
    """Latents of a seed image: notes, onsets and a beat, 512 x 512 pixels."""
    grey = np.asarray(Image.open(FOLDER / "og_beat.png").convert("L"), np.float32)
    picture = torch.from_numpy(grey / 127.5 - 1).expand(1, 3, -1, -1)
    with torch.inference_mode():
        found: torch.Tensor = vae.encode(picture).latent_dist.mode() * vae.config.scaling_factor
    return found


def decoded(vae: Any, latents: torch.Tensor) -> np.ndarray:
    """The decoder's picture, made as small as the latents; grey levels, shape (row, column)."""
    with torch.inference_mode():
        picture = vae.decode(latents / vae.config.scaling_factor).sample.clamp(-1, 1)
    return np.asarray(torch.nn.functional.avg_pool2d(picture, 8)[0].mean(0) * 127.5 + 127.5)


def test_a_preview_is_the_decoders_picture_made_small(vae: Any, latents: torch.Tensor) -> None:
    """One pixel a place, the same shapes, the same brightness."""
    preview = PreviewMaker(vae).preview(latents[0])
    assert (preview.mode, preview.size) == ("RGB", (64, 64))
    grey, wanted = np.asarray(preview, np.float64).mean(-1), decoded(vae, latents)
    assert np.corrcoef(grey.ravel(), wanted.ravel())[0, 1] > 0.95
    assert np.abs(grey - wanted).mean() < 16


def test_equal_latents_make_equal_bytes(vae: Any, latents: torch.Tensor) -> None:
    """Also with a map fitted anew."""
    one, other = (data_url_from_image(PreviewMaker(vae).preview(latents[0])) for _ in range(2))
    assert one == other


def test_a_preview_costs_next_to_nothing(vae: Any, latents: torch.Tensor) -> None:
    """The map is fitted in less than a second of CPU time, a preview is made in a few milliseconds."""
    started_s = time.process_time()
    maker = PreviewMaker(vae)
    fitted_s = time.process_time()
    for _ in range(20):
        data_url_from_image(maker.preview(latents[0]))
    assert fitted_s - started_s < 1.0
    assert (time.process_time() - fitted_s) / 20 < 0.02


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (64, 128), (8, 8)])
def test_any_preview_fits_into_an_event(rows: int, columns: int) -> None:
    """Even of noise, which no code makes small, and of frames that are wider."""
    noise = np.random.default_rng(1).integers(0, 256, (rows, columns, 3), np.uint8)
    url = data_url_from_image(Image.fromarray(noise))
    kind, _, content = url.partition(",")
    assert (kind, len(url) <= MAX_DATA_URL_CHARACTERS) == ("data:image/jpeg;base64", True)
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert (picture.width / picture.height, max(picture.size) <= 64) == (columns / rows, True)
