"""Small pictures of frames that are still being denoised, for next to nothing: one linear map from latents to colours.

Owns the map, fitted to a model's own decoder, and the form that fits into an event. Leaves out when previews are made
and who sees them. Midway, latents are mostly noise: a preview is worth looking at when it is made of the clean latents
that a sampler expects at the end.
"""

from __future__ import annotations

import base64
import io
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

MAX_DATA_URL_CHARACTERS: Final = 4_000
_LATENT_SIDE: Final = 16
"""A crop of so many rows and columns of latents is fitted to: 256 examples for the map's 15 numbers."""
_SEED: Final = 0
_MAX_SIDE: Final = 64
_QUALITIES: Final = (80, 60, 40, 20, 5)


class PreviewMaker:
    """Makes pictures of latents, one pixel for each place, as one VAE would draw them."""

    def __init__(self, vae: Any) -> None:
        """`vae` is a loaded `AutoencoderKL`; it decodes one small picture of noise, as strong as latents are."""
        self._weights = _weights_from_vae(vae)

    def preview(self, latents: torch.Tensor) -> Image.Image:
        """An RGB picture of scaled latents of shape (channel, latent row, latent column), on any device."""
        places = latents.detach().float().cpu().numpy().transpose(1, 2, 0)
        colours = places @ self._weights[:-1] + self._weights[-1]
        return Image.fromarray(np.clip(np.round(colours * 127.5 + 127.5), 0, 255).astype(np.uint8))


@torch.inference_mode()
def _weights_from_vae(vae: Any) -> NDArray[np.float32]:
    """What each latent channel adds to each colour, and the colours of no latents at all: shape (channel + 1, colour).

    The least squares solution for the decoder's own picture, each of whose places is the mean of its pixels.
    """
    channels: int = vae.config.latent_channels
    generator = torch.Generator("cpu").manual_seed(_SEED)
    latents = torch.randn((1, channels, _LATENT_SIDE, _LATENT_SIDE), generator=generator)
    scaled = (latents / vae.config.scaling_factor).to(vae.device, vae.dtype)
    decoded = vae.decode(scaled, return_dict=False)[0].float().cpu().clamp(-1, 1)
    colours = torch.nn.functional.adaptive_avg_pool2d(decoded, _LATENT_SIDE)
    known = np.pad(latents[0].flatten(1).T.numpy(), ((0, 0), (0, 1)), constant_values=1.0)
    weights: NDArray[np.float32] = np.linalg.lstsq(known, colours[0].flatten(1).T.numpy(), rcond=None)[0]
    return weights


def data_url_from_image(image: Image.Image) -> str:
    """The image as a JPEG in a data URL of at most MAX_DATA_URL_CHARACTERS: at most 64 x 64, as good as fits."""
    small = image.copy()
    small.thumbnail((_MAX_SIDE, _MAX_SIDE), Image.Resampling.BOX)
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=quality, optimize=True)
        url = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        if len(url) <= MAX_DATA_URL_CHARACTERS:
            break
    return url
