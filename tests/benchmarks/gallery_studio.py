"""Requests → pictures, as the farm makes them: plans, frames, painted joints, windows of a source, joined tracks.

Owns the store that keeps what was rendered once, under the names a farm would give it, and the uploads that some
requests need. Leaves out which requests are shown (`gallery_frames`, `gallery_tracks`) and how (`gallery_layout`).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image

from shared.catalogue import UPLOAD_PREFIX, models, seed_images
from shared.contracts import JOB_REQUEST, ConvertRequest, RemixRequest
from shared.frames import Frame, frame_hash
from shared.object_store import LocalDiskStore, frame_key, upload_key
from shared.plan import Plan, Sources
from shared.resolving import resolve
from shared.spectrogram_params import DEFAULT_MAX_VALUE, SpectrogramParams
from workers.delivery import image_from_bytes
from workers.diffusion import FramePipeline
from workers.joins import Layout, joined_mel_amplitudes
from workers.phase import waveform_from_mel_amplitudes
from workers.seed_pictures import SeedPictures
from workers.spectrogram import image_from_mel_amplitudes, mel_amplitudes_from_image

MODEL = models()["riffarm-mini"]
GRID = SpectrogramParams()
Request = dict[str, Any]
"""A request's fields, as they are sent."""


class Studio:
    """The built-in model on one thread, and what it has rendered so far."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._store = LocalDiskStore(folder)
        self._seed_pictures = SeedPictures(self._store)
        self._seconds: dict[str, float] = {}
        self.rendered = 0
        """Frames that were not there yet."""

    @cached_property
    def _pipeline(self) -> FramePipeline:
        torch.set_num_threads(1)
        return FramePipeline.from_source(MODEL.source, device="cpu")

    def plan(self, fields: Request) -> Plan:
        """The plan of a request, checked as the gateway checks it."""
        request = JOB_REQUEST.validate_json(json.dumps(fields))
        if isinstance(request, ConvertRequest):
            raise TypeError("a conversion renders nothing")
        sources = self._sources(fields)
        drawn = count(1)
        return Plan(resolve(request, sources, lambda: next(drawn)), sources)

    def _sources(self, fields: Request) -> Sources:
        seed_image, mask_image, source = (_sha256(fields.get(name)) for name in ("seed_image", "mask_image", "source"))
        built_in = seed_images().get(fields.get("seed_image", ""))
        return Sources(
            MODEL.revision,
            seed_image_sha256=seed_image,
            mask_image_sha256=mask_image,
            seed_image_beats=built_in.beats if built_in else None,
            source_sha256=source,
            source_s=self._seconds.get(source or "", 0.0),
        )

    def clip(self, fields: Request) -> Image.Image:
        """The only picture of a request."""
        return self.frame(self.plan(fields), 0)

    def frames(self, plan: Plan, numbers: Iterable[int] | None = None) -> list[Image.Image]:
        """The pictures of the numbered frames, all but the painted joints when none is named."""
        return [self.frame(plan, number) for number in (range(plan.base_frames) if numbers is None else numbers)]

    def frame(self, plan: Plan, number: int, frame: Frame | None = None) -> Image.Image:
        """A frame or a joint of the plan; `frame` in its place where something about it is to differ."""
        if number >= plan.base_frames:
            joint = plan.joint(number)
            self.frames(plan, (joint.before, joint.after))
        frame = frame or plan.frame(number)
        key = frame_key(frame_hash(frame))
        if not self._store.exists(key):
            seed_image, mask_image = self._seed_pictures.pair(plan, number)
            (picture,) = self._pipeline.render([frame], [seed_image], [mask_image])
            self._store.put(key, _png(picture), "image/png")
            self.rendered += 1
        return image_from_bytes(self._store.get(key))

    def joined(self, plan: Plan) -> Image.Image:
        """The whole of a part as one picture, as its sound is made from it."""
        joins = "blend" if isinstance(plan.request, RemixRequest) else plan.request.joins
        layout = Layout(
            plan.part_frames, plan.frame_length, plan.part_columns, joins, plan.is_loop, plan.overlap_columns
        )
        mel = joined_mel_amplitudes(
            lambda index: mel_amplitudes_from_image(self.frame(plan, index), plan.params),
            layout,
            range(plan.part_columns),
            (lambda joint: mel_amplitudes_from_image(self.frame(plan, plan.base_frames + joint), plan.params))
            if plan.part_joints
            else None,
        )
        return image_from_mel_amplitudes(mel, plan.params, 1.0)

    def upload_picture(self, picture: Image.Image) -> str:
        """The id of a picture as an upload."""
        return self._upload(_png(picture), "image/png")

    def upload_sound(self, picture: Image.Image) -> str:
        """The id of a picture's sound as an upload."""
        mel = mel_amplitudes_from_image(picture, GRID, DEFAULT_MAX_VALUE)
        waveform, _ = waveform_from_mel_amplitudes(mel, GRID)
        content = io.BytesIO()
        levelled = waveform * (0.5 / np.abs(waveform).max())
        soundfile.write(content, levelled.T, GRID.sample_rate_hz, format="WAV", subtype="PCM_16")
        upload = self._upload(content.getvalue(), "audio/wav")
        self._seconds[upload.removeprefix(UPLOAD_PREFIX)] = waveform.shape[-1] / GRID.sample_rate_hz
        return upload

    def _upload(self, content: bytes, media_type: str) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        self._store.put(upload_key(sha256), content, media_type)
        return f"{UPLOAD_PREFIX}{sha256}"


def built_in_picture(name: str) -> Image.Image:
    """A built-in seed image."""
    with Image.open(seed_images()[name].path) as image:
        return image.convert("RGB")


def _sha256(picture_id: str | None) -> str | None:
    if picture_id is None or picture_id.startswith(UPLOAD_PREFIX):
        return picture_id and picture_id.removeprefix(UPLOAD_PREFIX)
    return seed_images()[picture_id].sha256


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
