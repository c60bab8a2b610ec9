"""The pictures that frames begin with: seed images, masks, windows of a source sound, joints of finished frames.

Owns finding and making them, and keeping those that the next frame needs too. Leaves out what the model does with
them (`workers.diffusion`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.audio_source import open_audio
from shared.catalogue import UPLOAD_PREFIX, seed_images
from shared.contracts import RemixRequest
from shared.errors import ObjectNotFoundError, RenderError
from shared.frames import frame_hash
from shared.object_store import ObjectStore, frame_key, upload_key
from shared.plan import Plan
from shared.spectrogram_params import SpectrogramParams
from workers.audio_files import waveforms_from_source
from workers.convert import image_from_waveforms
from workers.delivery import image_from_bytes
from workers.joins import repaint_mask, repaint_window
from workers.spectrogram import rgb_from_image

Pixels = NDArray[np.uint8]

_PICTURES_KEPT: Final = 8
_SOURCES_KEPT: Final = 2
_WHITE: Final = 255
"""Silence."""


class SeedPictures:
    """What storage and the catalogue hold, as pictures; the same for whoever asks."""

    def __init__(self, object_store: ObjectStore) -> None:
        self._objects = object_store
        self._picture = lru_cache(maxsize=_PICTURES_KEPT)(self._load_picture)
        self._source = lru_cache(maxsize=_SOURCES_KEPT)(self._source_pixels)

    def pair(self, plan: Plan, number: int) -> tuple[Image.Image | None, Image.Image | None]:
        """The seed image and the mask of frame or joint `number`. Raises ObjectNotFoundError when one is gone."""
        request = plan.request
        if number >= plan.base_frames:
            return self._joint(plan, number)
        if isinstance(request, RemixRequest):
            return self._window(plan, request.source, number), None
        seed_image, mask_image = (
            self._picture(name) if name else None for name in (request.seed_image, request.mask_image)
        )
        return seed_image, mask_image

    def _load_picture(self, picture_id: str) -> Image.Image:
        if picture_id.startswith(UPLOAD_PREFIX):
            return image_from_bytes(self._objects.get(upload_key(picture_id.removeprefix(UPLOAD_PREFIX))))
        try:
            return Image.open(seed_images()[picture_id].path)
        except (KeyError, OSError) as error:
            raise ObjectNotFoundError(f"there is no seed image {picture_id!r}") from error

    def _joint(self, plan: Plan, number: int) -> tuple[Image.Image, Image.Image]:
        joint = plan.joint(number)
        before, after = (
            np.asarray(rgb_from_image(image_from_bytes(self._objects.get(frame_key(frame_hash(plan.frame(one)))))))
            for one in (joint.before, joint.after)
        )
        window = repaint_window(before, after, joint.cut)
        mask = repaint_mask(*window.shape[:2])
        if not isinstance(plan.request, RemixRequest) and plan.request.mask_image:
            # What the job keeps stays kept at its joints too.
            grey = rgb_from_image(self._picture(plan.request.mask_image)).convert("L")
            own = np.asarray(grey.resize((before.shape[1], before.shape[0]), Image.Resampling.BILINEAR))[..., None]
            mask = np.minimum(mask, repaint_window(own, own, joint.cut)[..., 0])
        return Image.fromarray(window), Image.fromarray(mask)

    def _window(self, plan: Plan, source: str, number: int) -> Image.Image:
        """The columns of the source that a frame paints over; silence before its start and after its end."""
        pixels = self._source(source, plan.source_samples.start, plan.source_samples.stop, plan.params)
        first = plan.window_column(number)
        inside = pixels[:, max(first, 0) : first + plan.frame_columns]
        before = max(-first, 0)
        beyond = plan.frame_columns - before - inside.shape[1]
        sides = ((0, 0), (before, beyond), (0, 0))
        return rgb_from_image(Image.fromarray(np.pad(inside, sides, constant_values=_WHITE).squeeze()))

    def _source_pixels(self, source: str, start: int, stop: int, params: SpectrogramParams) -> Pixels:
        """Samples start..stop of an uploaded sound as a picture (row, column, 1 or in stereo 3), loudest black."""
        with tempfile.NamedTemporaryFile(prefix="riffarm-") as file:
            file.write(self._objects.get(upload_key(source.removeprefix(UPLOAD_PREFIX))))
            file.flush()
            try:
                with open_audio(Path(file.name)) as audio:
                    waveforms = waveforms_from_source(
                        audio, params.sample_rate_hz, is_stereo=params.is_stereo, warn=lambda sentence: None
                    )
                    image = image_from_waveforms(_between(waveforms, start, stop), params)
            except ValueError as error:
                raise RenderError(f"the source cannot be read: {error}") from error
        pixels = np.asarray(image)
        # A grey picture's channels are all the same: one will do.
        return pixels if params.is_stereo else np.ascontiguousarray(pixels[..., :1])


def _between(waveforms: Iterator[NDArray[np.float32]], start: int, stop: int) -> Iterator[NDArray[np.float32]]:
    """Samples start..stop of a waveform that comes in blocks (channel, sample)."""
    done = 0
    for waveform in waveforms:
        inside = waveform[:, max(start - done, 0) : max(stop - done, 0)]
        if inside.shape[-1]:
            yield inside
        done += waveform.shape[-1]
