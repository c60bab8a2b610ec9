"""What a worker does with a message: one batch of frames, one chunk of sound, one delivery, one webhook.

Each step reads the job, does its work, writes to storage, records that it is done and moves the job on; every one
may run twice. Leaves out Celery (`workers.main`), the model (`workers.diffusion`) and the signal path.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import soundfile
import structlog
from PIL import Image

from shared.catalogue import UPLOAD_PREFIX, models, seed_images
from shared.contracts import Frame, JobFailure, WebhookEvent
from shared.dispatch import STAGE_OF_ITEM, Dispatcher, plan_of
from shared.endings import follow_up_end
from shared.errors import JobCanceled, ObjectNotFoundError, RenderError
from shared.job_store import JobStore
from shared.job_view import JobView
from shared.object_store import (
    ObjectStore,
    chunk_key,
    chunk_state_key,
    frame_key,
    upload_key,
)
from shared.plan import Chunk, Conversion, Plan, frame_hash
from shared.settings import Settings
from shared.spectrogram_params import DEFAULT_MAX_VALUE
from workers.delivery import Delivery, image_from_bytes
from workers.joins import Layout, joined_mel_amplitudes
from workers.phase import LOOK_AHEAD_COLUMNS, StreamState, waveform_from_mel_amplitudes
from workers.spectrogram import Array, mel_amplitudes_from_image
from workers.webhooks import post_webhook, webhook_body

if TYPE_CHECKING:
    from workers.diffusion import FramePipeline

log = structlog.get_logger()

MAX_ATTEMPTS: Final = 3
"""A work item that takes its worker down this often fails its job instead of being started again."""


class Tasks:
    """The steps of a job, over the stores they read and write."""

    def __init__(
        self, settings: Settings, job_store: JobStore, object_store: ObjectStore, dispatcher: Dispatcher
    ) -> None:
        self._settings = settings
        self._jobs = job_store
        self._objects = object_store
        self._dispatcher = dispatcher
        self._view = JobView(settings, object_store)
        self._models = models(settings.models_file)
        # Two, so that jobs of two models that take turns do not load them anew at every batch.
        self.pipeline = lru_cache(maxsize=2)(self._load_pipeline)
        self._picture = lru_cache(maxsize=8)(self._load_picture)

    def render_batch(self, job_id: str, batch: int) -> None:
        """Render what storage does not have yet of a batch's frames."""
        plan = self._plan(job_id)
        started_s = time.monotonic()
        missing = self._record_ready(job_id, batch, {index: plan.frame(index) for index in plan.batch_frames(batch)})
        if missing:
            self._render(job_id, batch, plan, missing)
        self._jobs.record_batch(job_id, batch, _ms_since(started_s))
        self._dispatcher.move_on(job_id, plan, f"b{batch}")

    def _record_ready(self, job_id: str, batch: int, frames: dict[int, Frame]) -> dict[str, list[int]]:
        """Record the frames that storage has; the others, by hash: equal frames are rendered once."""
        by_hash: dict[str, list[int]] = {}
        for index, frame in frames.items():
            by_hash.setdefault(frame_hash(frame), []).append(index)
        missing = {name: indexes for name, indexes in by_hash.items() if not self._objects.exists(frame_key(name))}
        ready = [index for name, indexes in by_hash.items() if name not in missing for index in indexes]
        if ready:
            self._jobs.record_frames(job_id, batch, {index: {"reused": True} for index in ready})
        return missing

    def _render(self, job_id: str, batch: int, plan: Plan, missing: dict[str, list[int]]) -> None:
        request = plan.request
        pipeline = self.pipeline(request.model)
        frames = {name: plan.frame(indexes[0]) for name, indexes in missing.items()}
        self._warn_of_lost_words(job_id, pipeline, frames.values())
        names = list(frames)
        # On a CPU a frame is stored as soon as it is there; a GPU renders the batch in one go.
        size = 1 if pipeline.device.type == "cpu" else len(names)
        for group in (names[at : at + size] for at in range(0, len(names), size)):
            started_s = time.monotonic()
            images = pipeline.render(
                [frames[name] for name in group],
                self._picture(request.seed_image) if request.seed_image else None,
                self._picture(request.mask_image) if request.mask_image else None,
                lambda done, total: self._stop_if_canceled(job_id),
            )
            for name, image in zip(group, images, strict=True):
                self._objects.put(frame_key(name), _png(image, plan), "image/png")
            seconds = round((time.monotonic() - started_s) / len(group), 3)
            records = {
                index: {"reused": index != missing[name][0], "s": seconds} for name in group for index in missing[name]
            }
            self._jobs.record_frames(job_id, batch, records)
            log.info("frames rendered", frames=list(records), seconds_each=seconds)

    def _warn_of_lost_words(self, job_id: str, pipeline: FramePipeline, frames: Iterable[Frame]) -> None:
        ends = [end for frame in frames for end in (frame.start, frame.end) if end]
        for text in sorted({text for end in ends for text in (end.prompt, end.negative_prompt)}):
            if lost := pipeline.truncated_words(text):
                self._jobs.warn(job_id, f"The model reads only the first part of a prompt; not read: {lost!r}")

    def sound_chunk(self, job_id: str, chunk: int) -> None:
        """Turn a chunk's frames into sound, carrying on from the chunk before."""
        plan = self._plan(job_id)
        started_s = time.monotonic()
        one = plan.chunk(chunk)
        state = None if one.is_first else StreamState.from_bytes(self._objects.get(_state_key(job_id, one, -1)))
        waveform, state = waveform_from_mel_amplitudes(
            self._mel_amplitudes(plan, one),
            plan.params,
            quality=plan.request.quality,
            state=state,
            is_last=one.is_last,
            is_loop=plan.is_loop,
            device=self._settings.sound_device,
            on_block=lambda fraction: self._stop_if_canceled(job_id),
        )
        if state:
            self._objects.put(_state_key(job_id, one), state.to_bytes())
        self._objects.put(chunk_key(job_id, one.part, one.index_in_part), _wav(waveform, plan), "audio/wav")
        self._jobs.record_chunk(job_id, chunk, _ms_since(started_s))
        self._dispatcher.move_on(job_id, plan, f"c{chunk}")

    def _mel_amplitudes(self, plan: Plan, chunk: Chunk) -> Array:
        first = chunk.part * plan.part_frames
        is_whole = chunk.is_last and not plan.is_loop
        seen = chunk.columns.stop + (0 if is_whole else LOOK_AHEAD_COLUMNS)
        layout = Layout(plan.part_frames, plan.frame_length, plan.part_columns, plan.request.joins, plan.is_loop)

        # A frame is read for its own columns and for its neighbours' blends.
        @lru_cache(maxsize=4)
        def mel_amplitudes(index: int) -> Array:
            frame = image_from_bytes(self._objects.get(frame_key(frame_hash(plan.frame(first + index)))))
            return mel_amplitudes_from_image(frame, plan.params)

        return joined_mel_amplitudes(mel_amplitudes, layout, range(chunk.columns.start, seen))

    def deliver(self, job_id: str) -> None:
        """Make and upload the files of a job, end it, queue the news of it."""
        started_s = time.monotonic()
        delivery = Delivery(job_id, self._jobs, self._objects, lambda: self._stop_if_canceled(job_id))
        fields = delivery.outputs(plan_of(self._jobs.read(job_id)))
        self._jobs.finish(job_id, "succeeded", fields | {"encode_ms": _ms_since(started_s)})
        self._follow_up_end(job_id)

    def post_webhook(self, job_id: str, event: WebhookEvent) -> None:
        """Post the news of a job's end, signed. Raises WebhookFailedError when the receiver does not take it."""
        fields = self._jobs.read(job_id)
        webhook = self._view.job(fields).input.webhook
        secret = self._settings.webhook_secret
        if webhook is None or secret is None or event not in webhook.events:
            return
        # Constant over retries and restarts, so that a receiver can tell a repeat.
        delivery_id = f"dlv_{job_id.removeprefix('job_')}_{event.removeprefix('job.')}"
        at = datetime.fromtimestamp(int(fields["finished_ms"]) / 1_000, UTC)
        body = webhook_body(event, self._view.job(fields), at)
        allow_loopback = self._settings.webhook_allow_loopback
        status = post_webhook(webhook.url, delivery_id, body, secret.get_secret_value(), allow_loopback=allow_loopback)
        log.info("webhook delivered", event_type=event, status=status)

    def fail(self, job_id: str, failure: JobFailure) -> None:
        """End a job as failed; what it finished stays in storage."""
        self._jobs.finish(job_id, "failed", {"error": failure.model_dump_json()})
        self._follow_up_end(job_id)

    def start(self, job_id: str, item: str) -> bool:
        """Note that an item is started; False when there is nothing to do: it is done, or its job has ended.

        Raises RenderError when it took its worker down too often.
        """
        status, attempts, is_done = self._jobs.start(job_id, item, STAGE_OF_ITEM[item[0]])
        if status not in ("queued", "running"):
            if status is not None:
                self._follow_up_end(job_id)
            return False
        if is_done:
            # Given out twice, or its worker died before it moved the job on.
            self._dispatcher.move_on(job_id, plan_of(self._jobs.read(job_id)), item)
            return False
        if attempts > MAX_ATTEMPTS:
            raise RenderError(f"{self._what(job_id, item)} took its worker down {MAX_ATTEMPTS} times")
        return True

    def _plan(self, job_id: str) -> Plan:
        plan = plan_of(self._jobs.read(job_id))
        if isinstance(plan, Conversion):
            raise RenderError("a conversion has nothing to render")
        return plan

    def _follow_up_end(self, job_id: str) -> None:
        follow_up_end(job_id, self._jobs, self._objects, self._dispatcher)

    def _what(self, job_id: str, item: str) -> str:
        if item.startswith("b"):
            frames = self._plan(job_id).batch_frames(int(item[1:]))
            return f"rendering frames {frames.start} to {frames.stop - 1}"
        return f"making the sound of chunk {item[1:]}" if item.startswith("c") else "making the files"

    def _stop_if_canceled(self, job_id: str) -> None:
        if self._jobs.status(job_id) != "running":
            raise JobCanceled

    def _load_pipeline(self, name: str) -> FramePipeline:
        entry = self._models.get(name)
        if entry is None:
            raise RenderError(f"this worker has no model {name!r}; it has {', '.join(self._models)}")
        # Here and not at the top: it brings torch, which a worker for sound alone has no use for.
        from workers.diffusion import FramePipeline

        return FramePipeline.from_source(entry.source, entry.revision, device=self._settings.device)

    def _load_picture(self, picture_id: str) -> Image.Image:
        if picture_id.startswith(UPLOAD_PREFIX):
            return image_from_bytes(self._objects.get(upload_key(picture_id.removeprefix(UPLOAD_PREFIX))))
        try:
            return Image.open(seed_images()[picture_id].path)
        except (KeyError, OSError) as error:
            raise ObjectNotFoundError(f"there is no seed image {picture_id!r}") from error


def _ms_since(started_s: float) -> int:
    return round((time.monotonic() - started_s) * 1_000)


def _state_key(job_id: str, chunk: Chunk, offset: int = 0) -> str:
    return chunk_state_key(job_id, chunk.part, chunk.index_in_part + offset)


def _png(image: Image.Image, plan: Plan) -> bytes:
    exif = image.getexif()
    exif.update(plan.params.exif_from_params(DEFAULT_MAX_VALUE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def _wav(waveform: Array, plan: Plan) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform.T, plan.params.sample_rate_hz, format="WAV", subtype="FLOAT")
    return buffer.getvalue()
