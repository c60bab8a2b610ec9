"""What a worker does with a message: one batch of frames, one chunk of sound, one delivery, one webhook.

Each step reads the job, does its work, writes to storage, records that it is done and moves the job on; every one
may run twice. Leaves out Celery (`workers.main`), the model (`workers.diffusion`) and the signal path.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import soundfile
import structlog
from PIL import Image

from shared.contracts import JobFailure, Preview, RemixRequest, WebhookEvent
from shared.dispatch import STAGE_OF_ITEM, Dispatcher, plan_of
from shared.endings import follow_up_end
from shared.errors import JobCanceled, RenderError
from shared.frames import Frame, frame_hash
from shared.job_store import JobStore
from shared.job_view import JobView
from shared.object_store import (
    ObjectStore,
    chunk_key,
    chunk_state_key,
    frame_key,
)
from shared.plan import Chunk, Conversion, Plan
from shared.settings import Settings
from shared.spectrogram_params import DEFAULT_MAX_VALUE
from workers.delivery import Delivery, image_from_bytes
from workers.joins import Layout, joined_mel_amplitudes
from workers.phase import LOOK_AHEAD_COLUMNS, StreamState, waveform_from_mel_amplitudes
from workers.seed_pictures import SeedPictures
from workers.spectrogram import Array, mel_amplitudes_from_image
from workers.webhooks import post_webhook, webhook_body

if TYPE_CHECKING:
    from workers.diffusion import FramePipeline, Step

log = structlog.get_logger()

_PREVIEW_S: Final = 0.5
_UPLOADS: Final = 4
"""Frames on their way to storage at a time."""
MAX_ATTEMPTS: Final = 3
"""A work item that takes its worker down this often fails its job instead of being started again."""


class Tasks:
    """The steps of a job, over the stores they read and write."""

    def __init__(
        self,
        settings: Settings,
        job_store: JobStore,
        object_store: ObjectStore,
        dispatcher: Dispatcher,
        pipeline: Callable[[str, str], FramePipeline],
        worker: str,
    ) -> None:
        """`pipeline` gives a model by name and revision, loaded; `worker` is this one's name."""
        self._settings = settings
        self._jobs = job_store
        self._objects = object_store
        self._dispatcher = dispatcher
        self._view = JobView(settings, object_store)
        self._pipeline = pipeline
        self._worker = worker
        self._pictures = SeedPictures(object_store)

    def render_batch(self, job_id: str, batch: int) -> None:
        """Render what storage does not have yet of a batch's frames, and paint the joints whose frames are there."""
        plan = self._plan(job_id)
        started_s = time.monotonic()
        self._render_missing(job_id, batch, plan, plan.batch_frames(batch))
        # The frames of this batch are stored: of two batches that share a joint the later one finds both its frames.
        self._render_missing(job_id, batch, plan, [one for one in plan.batch_joints(batch) if self._is_open(plan, one)])
        self._jobs.record_batch(job_id, batch, _ms_since(started_s))
        self._dispatcher.move_on(job_id, plan, f"b{batch}")

    def _is_open(self, plan: Plan, number: int) -> bool:
        """Whether both frames of a joint are there to be painted over."""
        joint = plan.joint(number)
        return all(self._objects.exists(frame_key(frame_hash(plan.frame(one)))) for one in (joint.before, joint.after))

    def _render_missing(self, job_id: str, batch: int, plan: Plan, numbers: Iterable[int]) -> None:
        """Render the frames or joints that storage does not have; equal ones once."""
        by_hash: dict[str, list[int]] = {}
        for number in numbers:
            by_hash.setdefault(frame_hash(plan.frame(number)), []).append(number)
        missing = {name: same for name, same in by_hash.items() if not self._objects.exists(frame_key(name))}
        ready = [number for name, same in by_hash.items() if name not in missing for number in same]
        if ready:
            self._jobs.record_frames(job_id, batch, {number: {"reused": True} for number in ready})
        if missing:
            self._render(job_id, batch, plan, missing)

    def _render(self, job_id: str, batch: int, plan: Plan, missing: dict[str, list[int]]) -> None:
        pipeline = self._pipeline(plan.request.model, plan.sources.model_revision)
        names = list(missing)
        numbers = [missing[name][0] for name in names]
        frames = [plan.frame(number) for number in numbers]
        self._warn_of_lost_words(job_id, pipeline, frames)
        pictures = [self._pictures.pair(plan, number) for number in numbers]
        watch = _Watch(self._jobs, job_id, numbers, pipeline)

        def store(index: int, image: Image.Image, seconds: float) -> None:
            self._objects.put(frame_key(names[index]), _png(image, plan), "image/png")
            record = {"s": round(seconds, 3), "memory_mb": pipeline.memory_mb, "worker": self._worker}
            first, *equal = missing[names[index]]
            self._jobs.record_frames(
                job_id, batch, {first: record | {"reused": False}} | {one: {"reused": True} for one in equal}
            )
            self._jobs.add_event(job_id, "log", {"message": f"frame {first}: {seconds:.2f} s on {self._worker}"})
            log.info("frame rendered", frame=first, **record)

        # Stored while the next ones are denoised: a device that renders has nothing to wait for.
        with ThreadPoolExecutor(_UPLOADS) as uploads:
            stored: list[Future[None]] = []
            pipeline.render(
                frames,
                [seed_image for seed_image, _ in pictures],
                [mask_image for _, mask_image in pictures],
                on_step=watch.step,
                # A thread begins without the job's name for its log lines.
                on_picture=lambda index, image: stored.append(
                    uploads.submit(copy_context().run, store, index, image, watch.seconds_each())
                ),
            )
            for future in stored:
                future.result()

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
        joins = "blend" if isinstance(plan.request, RemixRequest) else plan.request.joins
        layout = Layout(
            plan.part_frames, plan.frame_length, plan.part_columns, joins, plan.is_loop, plan.overlap_columns
        )

        # A frame is read for its own columns and for its neighbours' blends.
        @lru_cache(maxsize=8)
        def mel_amplitudes(number: int) -> Array:
            frame = image_from_bytes(self._objects.get(frame_key(frame_hash(plan.frame(number)))))
            return mel_amplitudes_from_image(frame, plan.params)

        joint = plan.base_frames + chunk.part * plan.part_joints
        return joined_mel_amplitudes(
            lambda index: mel_amplitudes(first + index),
            layout,
            range(chunk.columns.start, seen),
            (lambda index: mel_amplitudes(joint + index)) if plan.part_joints else None,
        )

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


class _Watch:
    """Looks on while frames are denoised: ends it when the job has ended, shows previews, counts seconds."""

    def __init__(self, jobs: JobStore, job_id: str, numbers: Sequence[int], pipeline: FramePipeline) -> None:
        self._jobs = jobs
        self._job_id = job_id
        self._numbers = numbers
        self._pipeline = pipeline
        self._shown_s = self._since_s = time.monotonic()
        self._together: Sequence[int] = ()
        self._timed: Sequence[int] = ()
        self._each_s = 0.0

    def step(self, step: Step) -> None:
        """Raise JobCanceled when the job has ended; show how far one frame is, at most every _PREVIEW_S."""
        if self._jobs.status(self._job_id) != "running":
            raise JobCanceled
        self._together = step.frames
        if time.monotonic() - self._shown_s >= _PREVIEW_S:
            self._shown_s = time.monotonic()
            # Of frames that are denoised together each has its turn.
            turn = step.step % len(step.frames)
            preview = Preview(
                frame=self._numbers[step.frames[turn]],
                step=step.step,
                steps=step.steps,
                image=self._pipeline.preview(step.clean()[turn]),
            )
            self._jobs.add_event(self._job_id, "preview", preview.model_dump())

    def seconds_each(self) -> float:
        """Seconds the frame took whose picture is there now: an equal share of those denoised with it."""
        if self._timed != self._together:
            now_s = time.monotonic()
            self._each_s = (now_s - self._since_s) / len(self._together)
            self._timed, self._since_s = self._together, now_s
        return self._each_s


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
