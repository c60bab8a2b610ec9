"""The last step of a job: its files, made from what storage holds and uploaded.

Owns which files a job ends with, what they are called and what is written in them. Leaves out how sound is levelled
and encoded (`workers.mastering`), conversions themselves (`workers.convert`) and the job's end (`workers.tasks`).
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import soundfile
from PIL import Image

from shared import telemetry
from shared.audio_source import open_audio
from shared.catalogue import UPLOAD_PREFIX
from shared.contracts import ClipRequest, ConvertRequest, OutputPlace
from shared.errors import OutputRefusedError, RenderError, StorageUnavailableError
from shared.frames import frame_hash
from shared.job_store import JobStore
from shared.object_store import ObjectStore, chunk_key, frame_key, upload_key
from shared.outputs import output_object
from shared.plan import Conversion, Plan
from shared.spectrogram_params import SpectrogramParams
from shared.uploads import ImageUpload, upload_from_id
from workers import mastering
from workers.convert import Wishes, audio_from_picture, image_from_audio, picture_from_file, save_picture
from workers.joins import closed_loop
from workers.patience import PATIENCE_S, patiently
from workers.spectrogram import Array
from workers.tags import Tags

_MAX_TITLE: Final = 120
_PREVIEW_FORMATS: Final = ("mp3",)


def is_preview_due(chunks_done: int, chunks_total: int) -> bool:
    """Whether so many chunks are to be heard before the track ends: 1, 2, 3, 4, 6, 8, 12, 16, … of them.

    So all previews of a track together cost a few times what its own files do, however long it is.
    """
    odd = chunks_done // (chunks_done & -chunks_done) if chunks_done else 0
    return odd in (1, 3) and chunks_done < chunks_total


class Delivery:
    """The files of one job; `check` is called again and again, and what it raises ends the work."""

    def __init__(self, job_id: str, job_store: JobStore, object_store: ObjectStore, check: Callable[[], None]) -> None:
        self._job_id = job_id
        self._jobs = job_store
        self._objects = object_store
        self._check = check

    def outputs(self, plan: Plan | Conversion, on_upload: Callable[[], object]) -> dict[str, str | int]:
        """Make and upload the job's files; the fields that its record gets. `on_upload` is called between the two.

        Raises OutputRefusedError when they are to go to a bucket that takes nothing.
        """
        with tempfile.TemporaryDirectory(prefix="riffarm-") as name:
            folder = Path(name)
            if isinstance(plan, Conversion):
                made = self._converted(plan.request, folder)
            else:
                made = [file for part in range(plan.parts) for file in self._part(plan, part, folder)]
            on_upload()
            place = plan.request.output
            outputs = [_record(*one) for one in made]
            for (path, _, _), output in zip(made, outputs, strict=True):
                self._upload(path, output, place)
        # A conversion's length is known only now.
        fields: dict[str, str | int] = {"outputs": json.dumps(outputs)}
        return fields | {"audio_s": str(made[0][2])} if isinstance(plan, Conversion) else fields

    def preview(self, plan: Plan, chunks: int) -> list[dict[str, object]]:
        """Make and upload what is there of a track of one part once its first `chunks` chunks are; its outputs."""
        with tempfile.TemporaryDirectory(prefix="riffarm-") as name:
            made = [*self._part(plan, 0, Path(name), chunks)]
            outputs = [_record(*one) | {"is_preview": True} for one in made]
            for (path, _, _), output in zip(made, outputs, strict=True):
                self._upload(path, output, None)
            return outputs

    def _part(
        self, plan: Plan, part: int, folder: Path, chunks: int | None = None
    ) -> Iterator[tuple[Path, str, float]]:
        """One variation's audio, and the picture of the whole; or of its first chunks."""
        request = plan.request
        stretch = _stretch(plan, part, chunks)
        formats = _PREVIEW_FORMATS if stretch.is_preview else request.formats
        paths: dict[str, Path] = {name: folder / f"{stretch.stem}{mastering.FORMATS[name].suffix}" for name in formats}
        frames = (self._frame_image(plan, index) for index in stretch.frames)
        overview = mastering.overview_image(frames, len(stretch.frames))
        rate_hz = plan.params.sample_rate_hz
        levels = mastering.levels_from_chunks(self._chunks(plan, part, chunks), rate_hz, stretch.samples)
        mastering.encode(
            self._chunks(plan, part, chunks),
            paths,
            sample_rate_hz=rate_hz,
            gain=mastering.gain_from_levels(levels, request.loudness_lufs),
            total_samples=stretch.samples,
            loop_tail=levels.tail if plan.is_loop and not stretch.is_preview else None,
            tags=_tags(plan, part),
            cover=overview,
        )
        overview.save(folder / f"{stretch.stem}.png")
        duration_s = stretch.samples / rate_hz
        yield from ((path, mastering.FORMATS[name].media_type, duration_s) for name, path in paths.items())
        yield folder / f"{stretch.stem}.png", "image/png", duration_s

    def _chunks(self, plan: Plan, part: int, count: int | None = None) -> Iterator[Array]:
        """A part's waveform in order, or its first chunks; a whole loop begins with what its last chunk made of the
        beginning."""
        own = [plan.chunk(part * plan.part_chunks + index).columns for index in range(count or plan.part_chunks)]
        samples = [plan.params.samples_from_columns(len(columns)) for columns in own]
        is_closed = plan.is_loop and count is None
        overlap = self._chunk(part, len(own) - 1)[:, samples[-1] :] if is_closed else None
        for index, length in enumerate(samples):
            self._check()
            chunk = self._chunk(part, index)[:, :length]
            yield closed_loop(chunk, overlap) if index == 0 and overlap is not None else chunk

    def _chunk(self, part: int, index: int) -> Array:
        data = self._objects.get(chunk_key(self._job_id, part, index))
        samples, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        waveform: Array = samples.T
        return waveform

    def _frame_image(self, plan: Plan, index: int) -> Image.Image:
        """A frame's own columns: without those it shares with the frames beside it."""
        image = image_from_bytes(self._objects.get(frame_key(frame_hash(plan.frame(index)))))
        shared = plan.overlap_columns // 2
        return image.crop((shared, 0, image.width - shared, image.height)) if shared else image

    def _converted(self, request: ConvertRequest, folder: Path) -> list[tuple[Path, str, float]]:
        """A picture as audio, or audio as a picture. Raises RenderError with a sentence when that cannot be."""
        upload = upload_from_id(self._objects, request.source)
        if upload is None:
            raise RenderError("the upload to convert is gone")
        source = folder / "source"
        source.write_bytes(self._objects.get(upload_key(request.source.removeprefix(UPLOAD_PREFIX))))
        wishes = Wishes(request.quality, request.loudness_lufs, request.stereo, request.f_min_hz, request.f_max_hz)
        try:
            if isinstance(upload, ImageUpload):
                return self._sound(source, request, wishes, folder)
            with open_audio(source) as audio:
                params = wishes.params(SpectrogramParams())
                image = image_from_audio(audio, params, warn=self._warn, on_block=lambda fraction: self._check())
            save_picture(image, folder / "convert.png")
        except ValueError as error:
            raise RenderError(str(error)) from error
        return [(folder / "convert.png", "image/png", image.width / params.columns_per_s)]

    def _sound(
        self, source: Path, request: ConvertRequest, wishes: Wishes, folder: Path
    ) -> list[tuple[Path, str, float]]:
        image, grid = picture_from_file(source)
        for warning in grid.warnings:
            self._warn(warning)
        grid = replace(grid, params=wishes.params(grid.params))
        paths: dict[str, Path] = {name: folder / f"convert{mastering.FORMATS[name].suffix}" for name in request.formats}
        tags = Tags(title="A converted picture")
        audio_from_picture(image, grid, paths, wishes, tags, on_block=lambda fraction: self._check())
        duration_s = image.width / grid.params.columns_per_s
        return [(path, mastering.FORMATS[name].media_type, duration_s) for name, path in paths.items()]

    def _warn(self, sentence: str) -> None:
        self._jobs.warn(self._job_id, sentence)

    def _upload(self, path: Path, output: dict[str, object], place: OutputPlace | None) -> None:
        store, key = output_object(self._objects, place, self._job_id, output)

        def put() -> None:
            store.put_file(key, path, str(output["media_type"]))

        with telemetry.span("upload", {"riffarm.name": path.name}):
            if store is self._objects:
                put()
                return
            try:
                # Here, where nothing has to be encoded again for another try.
                patiently(put, PATIENCE_S, self._check)
            except StorageUnavailableError as error:
                # What keeps the farm from its own bucket too will pass; what only this one refuses, its owner can mend.
                self._objects.check()
                raise OutputRefusedError(f"the outputs cannot be delivered: {error.message}") from error


def _record(path: Path, media_type: str, duration_s: float) -> dict[str, object]:
    """What is told of a file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size = path.stat().st_size
    told = {"name": path.name, "media_type": media_type, "bytes": size, "sha256": sha256}
    return told | {"duration_s": round(duration_s, 6)}


class _Stretch(NamedTuple):
    """What files are made of: a whole part, or its beginning as a preview."""

    stem: str
    frames: range
    samples: int
    is_preview: bool


def _stretch(plan: Plan, part: int, chunks: int | None) -> _Stretch:
    first = part * plan.part_frames
    if chunks is None:
        stem = plan.request.type if plan.parts == 1 else f"{plan.request.type}-{part + 1:02}"
        return _Stretch(stem, range(first, first + plan.part_frames), plan.part_samples, is_preview=False)
    last = plan.chunk(part * plan.part_chunks + chunks - 1)
    samples = plan.params.samples_from_columns(last.columns.stop)
    stem = f"preview-{samples // plan.params.sample_rate_hz}s"
    return _Stretch(stem, range(first, last.frames.stop), samples, is_preview=True)


def image_from_bytes(data: bytes) -> Image.Image:
    """A stored picture, decoded."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def _tags(plan: Plan, part: int) -> Tags:
    """What a file says of how it was made; the same for the same sound, so no job and no date."""
    request = plan.request
    if isinstance(request, ClipRequest):
        prompts = [request.prompt, request.end.prompt] if request.end else [request.prompt]
        seeds = [plan.frame(part * plan.part_frames).noise.seed]
    else:
        prompts, seeds = [one.prompt for one in request.keyframes], [one.seed or 0 for one in request.keyframes]
    title = " → ".join(dict.fromkeys(prompts))
    drawn = f"seeds {', '.join(map(str, seeds[:8]))}{' …' if len(seeds) > 8 else ''}"
    model = f"model {request.model} {plan.sources.model_revision}"
    made = f"{model}, {request.sampler}, {request.num_inference_steps} steps"
    return Tags(title=title if len(title) <= _MAX_TITLE else f"{title[:_MAX_TITLE]}…", comment=f"{made}, {drawn}")
