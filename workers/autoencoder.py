"""Pictures ⇄ latents: the model's autoencoder, and what a frame keeps of the picture it began with.

Owns the frame's grid, masks, and on CUDA a place beside the denoiser where pictures are made while the next batch is
denoised. Leaves out denoising (`workers.diffusion`).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from shared.plan import LATENT_COLUMNS
from workers.cpu_layers import quicken
from workers.seamless import TimeCircle
from workers.spectrogram import rgb_from_image

_SEED_IMAGES_KEPT: Final = 4


@dataclass(frozen=True)
class Canvas:
    """A frame's seed image and mask on its grid.

    mask: 1 repaints, 0 keeps; shape (1, 1, latent row, latent column).
    """

    picture: Image.Image
    latents: torch.Tensor
    mask_image: Image.Image | None
    mask: torch.Tensor | None


class Autoencoder:
    """A model's `AutoencoderKL`. One thread encodes; decoding has one of its own on CUDA."""

    def __init__(self, vae: Any, image_processor: Any, device: torch.device) -> None:
        """Both as diffusers' pipelines hold them, the VAE on the device."""
        self._vae = vae
        self._image_processor = image_processor
        self._device = device
        if device.type == "cpu":
            quicken(vae)
        self._time = TimeCircle(vae)
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._decoder = ThreadPoolExecutor(1, "decoder")
        self._seed_latents = lru_cache(maxsize=_SEED_IMAGES_KEPT)(self._latents_from_pixels)

    def canvas(
        self, size: tuple[int, int], seed_image: Image.Image, mask_image: Image.Image | None, *, is_loop: bool
    ) -> Canvas:
        """The canvas of (columns, rows) for a seed image and a mask of any size and mode."""
        columns, rows = size
        picture = rgb_from_image(seed_image).resize(size, Image.Resampling.LANCZOS)
        latents = self._seed_latents(picture.tobytes(), size, is_loop)
        if mask_image is None:
            return Canvas(picture, latents, None, None)
        grey = rgb_from_image(mask_image).convert("L")
        # Area means: what is all black or all white stays so, whatever lies beside it.
        small = grey.resize((columns // LATENT_COLUMNS, rows // LATENT_COLUMNS), Image.Resampling.BOX)
        mask = torch.from_numpy(np.asarray(small, np.float32) / 255)[None, None].to(self._device)
        return Canvas(picture, latents, grey.resize(size, Image.Resampling.BILINEAR), mask)

    def _latents_from_pixels(self, pixels: bytes, size: tuple[int, int], is_loop: bool) -> torch.Tensor:
        picture = Image.frombytes("RGB", size, pixels)
        tensor = self._image_processor.preprocess(picture).to(self._device, self._vae.dtype)
        scaling: float = self._vae.config.scaling_factor
        with self._time.closed() if is_loop else nullcontext():
            # The mean, not a draw: the seed image is the same for every frame and worker.
            latents: torch.Tensor = self._vae.encode(tensor).latent_dist.mode()
        return latents.float() * scaling

    def developed(self, latents: torch.Tensor, canvas: Canvas | None, *, is_loop: bool) -> Development:
        """The picture of latents (1, channel, latent row, latent column), over what the canvas' mask keeps."""
        if self._stream is None:
            made: Future[Image.Image] = Future()
            made.set_result(self._picture(latents, canvas, is_loop))
            return Development(made, self, (latents, canvas, is_loop))
        ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record()
        latents.record_stream(self._stream)
        future = self._decoder.submit(self._picture_beside, ready, latents, canvas, is_loop)
        return Development(future, self, (latents, canvas, is_loop))

    @torch.inference_mode()
    def _picture_beside(self, ready: Any, latents: torch.Tensor, canvas: Canvas | None, is_loop: bool) -> Image.Image:
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(ready)
            return self._picture(latents, canvas, is_loop)

    def _picture(self, latents: torch.Tensor, canvas: Canvas | None, is_loop: bool) -> Image.Image:
        unscaled = (latents / self._vae.config.scaling_factor).to(self._vae.dtype)
        with self._time.closed() if is_loop else nullcontext():
            decoded = self._vae.decode(unscaled, return_dict=False)[0]
        picture: Image.Image = self._image_processor.postprocess(decoded.float(), output_type="pil")[0]
        if canvas is None or canvas.mask_image is None:
            return picture
        # What is kept is kept to the pixel: the autoencoder alone would soften it. All but dark greys are painted.
        return Image.composite(picture, canvas.picture, canvas.mask_image.point(lambda grey: min(255, 4 * grey)))


@dataclass(frozen=True)
class Development:
    """A picture that is being made of latents."""

    future: Future[Image.Image]
    autoencoder: Autoencoder
    arguments: tuple[torch.Tensor, Canvas | None, bool]

    @property
    def is_done(self) -> bool:
        """Whether nobody need wait for it."""
        return self.future.done()

    def picture(self) -> Image.Image:
        """The picture, waited for."""
        try:
            return self.future.result()
        except torch.OutOfMemoryError:
            # The next batch took the room; once more, with nothing beside it.
            torch.cuda.empty_cache()
            return self.autoencoder._picture(*self.arguments)


def stacked(canvases: Sequence[Canvas | None]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The canvases of frames denoised together: their latents and their masks, None where there are none.

    All of them have a seed image or none has; a frame without a mask is painted everywhere.
    """
    given = [canvas for canvas in canvases if canvas is not None]
    if not given:
        return None, None
    latents = torch.cat([canvas.latents for canvas in given])
    if all(canvas.mask is None for canvas in given):
        return latents, None
    whole = torch.ones_like(latents[:1, :1])
    return latents, torch.cat([whole if canvas.mask is None else canvas.mask for canvas in given])
