"""What a worker does with an item: one batch of frames, one chunk of sound, one delivery.

Each step does its work, writes to storage, records that it is done under its lease and makes ready what may follow;
every one may run twice. Leaves out what errors mean (`workers.attempts`), the model (`workers.diffusion`) and the
signal path.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import soundfile
import structlog
from PIL import Image

from shared import telemetry
from shared.contracts import JobFailure, RemixRequest
from shared.dispatch import Dispatcher, needed_frames, plan_from_texts
from shared.endings import fail_job, follow_up_end
from shared.errors import JobCanceled, LeaseLostError, ObjectNotFoundError, RenderError
from shared.frames import Frame, frame_hash
from shared.job_moves import Attempt
from shared.job_store import JobStore
from shared.job_view import JobView
from shared.object_store import (
    ObjectStore,
    chunk_key,
    chunk_state_key,
    frame_key,
    output_key,
    preview_prefix,
)
from shared.outputs import remove_delivered
from shared.plan import Chunk, Conversion, Plan
from shared.settings import Settings
from shared.spectrogram_params import DEFAULT_MAX_VALUE
from workers.delivery import Delivery, image_from_bytes, is_preview_due
from workers.joins import Layout, joined_mel_amplitudes
from workers.lease import Lease
from workers.phase import LOOK_AHEAD_COLUMNS, StreamState, waveform_from_mel_amplitudes
from workers.reporting import FrameRate, Recorder, Watch
from workers.seed_pictures import SeedPictures
from workers.spectrogram import Array, mel_amplitudes_from_image

if TYPE_CHECKING:
    from workers.diffusion import FramePipeline

log = structlog.get_logger()

_UPLOADS: Final = 4
"""Frames on their way to storage at a time."""


class Tasks:
    """The steps of a job, over the stores they read and write.

    Every step takes a lease and raises what its `check` raises, LeaseLostError when its report comes too late,
    TransientError while a store does not answer, RenderError when the job cannot be rendered.
    """

    def __init__(
        self,
        settings: Settings,
        job_store: JobStore,
        object_store: ObjectStore,
        dispatcher: Dispatcher,
        pipeline: Callable[[str, str], FramePipeline],
        worker: str,
        device: str = "cpu",
    ) -> None:
        """`pipeline` gives a model by name and revision, loaded, on `device`; `worker` is this one's name."""
        self._settings = settings
        self._jobs = job_store
        self._objects = object_store
        self._dispatcher = dispatcher
        self._view = JobView(settings, object_store)
        self._pipeline = pipeline
        self._worker = worker
        self._device = device
        self._pictures = SeedPictures(object_store)
        self.frame_rate = FrameRate()

    def run(self, lease: Lease) -> None:
        """Do the item that the lease is for; begin what storage lost of what it needs anew."""
        steps = {"b": self.render_batch, "c": self.sound_chunk, "d": self.deliver}
        try:
            steps[lease.attempt.item[0]](lease)
        except ObjectNotFoundError as error:
            if not self._reopened(lease):
                raise RenderError(error.message) from error

    def render_batch(self, lease: Lease) -> None:
        """Render what storage does not have yet of a batch's frames, and paint the joints whose frames are there."""
        plan, batch = self._plan(lease), lease.attempt.number
        started_s = time.monotonic()
        self._render_missing(lease, plan, plan.batch_frames(batch))
        # The frames of this batch are stored: of two batches that share a joint the later one finds both its frames.
        self._render_missing(lease, plan, [one for one in plan.batch_joints(batch) if self._is_open(lease, plan, one)])
        self._finish_item(lease, plan, started_s, self._device)

    def _finish_item(self, lease: Lease, plan: Plan, started_s: float, device: str) -> None:
        """Count the item as done and have what may follow begun."""
        attempt = lease.attempt
        chunk, ms = attempt.next_chunk, _ms_since(started_s)
        needed = needed_frames(plan, chunk)
        done = self._jobs.done(attempt, ms, self._worker, chunk, needed, is_gpu=device != "cpu")
        queues = done.queues
        if done.next_chunk is not None:
            needed = needed_frames(plan, done.next_chunk)
            queues = [*queues, *self._jobs.move_on(attempt.job_id, done.next_chunk, needed)]
        self._dispatcher.send_tickets(queues)

    def _is_open(self, lease: Lease, plan: Plan, number: int) -> bool:
        """Whether both frames of a joint are there to be painted over. Raises ObjectNotFoundError if one was lost."""
        joint = plan.joint(number)
        frames = (joint.before, joint.after)
        missing = [one for one in frames if not self._objects.exists(frame_key(frame_hash(plan.frame(one))))]
        # Else nobody would paint it: the batch of the lost one is done.
        if self._jobs.frames(lease.attempt.job_id, missing):
            raise ObjectNotFoundError("a finished frame is gone")
        return not missing

    def _render_missing(self, lease: Lease, plan: Plan, numbers: Iterable[int]) -> None:
        """Render the frames or joints that storage does not have; equal ones once."""
        by_hash: dict[str, list[int]] = {}
        for number in numbers:
            by_hash.setdefault(frame_hash(plan.frame(number)), []).append(number)
        missing = {name: same for name, same in by_hash.items() if not self._objects.exists(frame_key(name))}
        ready = [number for name, same in by_hash.items() if name not in missing for number in same]
        if ready:
            self._jobs.record_frames(lease.attempt, {number: {"reused": True} for number in ready})
        if missing:
            self._render(lease, plan, missing)

    def _render(self, lease: Lease, plan: Plan, missing: dict[str, list[int]]) -> None:
        lease.check()
        pipeline = self._pipeline(plan.request.model, plan.sources.model_revision)
        names = list(missing)
        numbers = [missing[name][0] for name in names]
        frames = [plan.frame(number) for number in numbers]
        self._warn_of_lost_words(lease.attempt.job_id, pipeline, frames)
        pictures = [self._pictures.pair(plan, number) for number in numbers]
        watch = Watch(self._jobs, lease, numbers, pipeline)
        recorder = Recorder(self._jobs, lease.attempt)

        def store(index: int, image: Image.Image, seconds: float) -> None:
            with telemetry.span("upload", {"riffarm.frame": numbers[index]}):
                self._objects.put(frame_key(names[index]), _png(image, plan), "image/png")
            self.frame_rate.count()
            record = {"s": round(seconds, 3), "memory_mb": pipeline.memory_mb, "worker": self._worker}
            first, *equal = missing[names[index]]
            recorder.add({first: record | {"reused": False}} | {one: {"reused": True} for one in equal})
            log.info("frame rendered", frame=first, **record)

        # Stored while the next ones are denoised: a device that renders has nothing to wait for.
        with telemetry.span("render", {"riffarm.frames": len(frames)}), ThreadPoolExecutor(_UPLOADS) as uploads:
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
        recorder.flush()

    def _warn_of_lost_words(self, job_id: str, pipeline: FramePipeline, frames: Iterable[Frame]) -> None:
        ends = [end for frame in frames for end in (frame.start, frame.end) if end]
        for text in sorted({text for end in ends for text in (end.prompt, end.negative_prompt)}):
            if lost := pipeline.truncated_words(text):
                self._jobs.warn(job_id, f"The model reads only the first part of a prompt; not read: {lost!r}")

    def sound_chunk(self, lease: Lease) -> None:
        """Turn a chunk's frames into sound, carrying on from the chunk before."""
        plan, job_id = self._plan(lease), lease.attempt.job_id
        started_s = time.monotonic()
        one = plan.chunk(lease.attempt.number)
        state = None if one.is_first else StreamState.from_bytes(self._objects.get(_state_key(job_id, one, -1)))
        waveform, state = waveform_from_mel_amplitudes(
            self._mel_amplitudes(plan, one),
            plan.params,
            quality=plan.request.quality,
            state=state,
            is_last=one.is_last,
            is_loop=plan.is_loop,
            device=self._settings.sound_device,
            on_block=lambda fraction: lease.check(),
        )
        if state:
            self._objects.put(_state_key(job_id, one), state.to_bytes())
        self._objects.put(chunk_key(job_id, one.part, one.index_in_part), _wav(waveform, plan), "audio/wav")
        if plan.parts == 1 and is_preview_due(one.index + 1, plan.chunks_total):
            self._show_preview(lease, plan, one.index + 1)
        self._finish_item(lease, plan, started_s, self._settings.sound_device)

    def _show_preview(self, lease: Lease, plan: Plan, chunks: int) -> None:
        """Let be heard what is there of a track; it takes the place of what could be heard before."""
        job_id = lease.attempt.job_id
        # Listed before: while the lease holds, none of these is another attempt's.
        before = [*self._objects.keys(preview_prefix(job_id))]
        outputs = Delivery(job_id, self._jobs, self._objects, lease.check).preview(plan, chunks)
        self._jobs.show(lease.attempt, outputs)
        shown = {output_key(job_id, str(one["name"])) for one in outputs}
        for key in before:
            if key not in shown:
                self._objects.delete(key)

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

    def deliver(self, lease: Lease) -> None:
        """Make and upload the files of a job, end it, queue the news of it."""
        try:
            self._deliver(lease)
        except (JobCanceled, LeaseLostError):
            self._take_back(lease.attempt)
            raise
        self._follow_up_end(lease.attempt.job_id)

    def _deliver(self, lease: Lease) -> None:
        started_s = time.monotonic()
        attempt = lease.attempt
        delivery = Delivery(attempt.job_id, self._jobs, self._objects, lease.check)
        plan = plan_from_texts(attempt.input, attempt.sources)
        fields = delivery.outputs(plan, lambda: self._jobs.set_stage(attempt, "uploading"))
        fields["encode_ms"] = _ms_since(started_s)
        if not self._jobs.finish(attempt.job_id, "succeeded", fields, attempt):
            raise LeaseLostError

    def _take_back(self, attempt: Attempt) -> None:
        """Leave nothing of a job that was canceled or deleted in a bucket of its client's."""
        # Of a job that goes on another attempt delivers, under the same names.
        if self._jobs.status(attempt.job_id) in (None, "canceled"):
            remove_delivered(self._objects, {"id": attempt.job_id, "input": attempt.input})

    def _reopened(self, lease: Lease) -> bool:
        """Have frames or chunks that storage lost made again before the item is; False when nothing is lost."""
        attempt = lease.attempt
        plan = plan_from_texts(attempt.input, attempt.sources)
        if isinstance(plan, Conversion):
            return False
        seen, chunks = _read_by(plan, attempt)
        # Of what was finished: a batch looks at frames of its neighbours, which may not have begun.
        finished = self._jobs.frames(attempt.job_id, seen)
        frames = [one for one in finished if not self._objects.exists(frame_key(frame_hash(plan.frame(one))))]
        # The first lost one; those before an item's own are all that it reads.
        first = next((one for one in chunks if not self._has_chunk(attempt.job_id, plan.chunk(one))), chunks.stop)
        if not frames and first == chunks.stop:
            return False
        log.warning("storage lost what was finished; it is made again", frames=frames[:20], from_chunk=first)
        batches = {batch for frame in frames for batch in plan.batches_of_frame(frame)}
        queues = self._jobs.reopen(attempt, first, sorted(batches), frames)
        queues += self._jobs.move_on(attempt.job_id, first, needed_frames(plan, first))
        self._dispatcher.send_tickets(queues)
        return True

    def _has_chunk(self, job_id: str, chunk: Chunk) -> bool:
        keys = [chunk_key(job_id, chunk.part, chunk.index_in_part)]
        if not chunk.is_last:
            keys.append(_state_key(job_id, chunk))
        return all(map(self._objects.exists, keys))

    def fail(self, attempt: Attempt, failure: JobFailure, *, is_held: bool = True) -> None:
        """End the attempt's job as failed; what it finished stays in storage. A late attempt's word counts for nothing,
        unless `is_held` says that its lease is known to be gone."""
        held = attempt if is_held else None
        fail_job(attempt.job_id, failure, self._jobs, self._objects, held)

    def _plan(self, lease: Lease) -> Plan:
        plan = plan_from_texts(lease.attempt.input, lease.attempt.sources)
        if isinstance(plan, Conversion):
            raise RenderError("a conversion has nothing to render")
        return plan

    def _follow_up_end(self, job_id: str) -> None:
        follow_up_end(job_id, self._jobs, self._objects)


def _read_by(plan: Plan, attempt: Attempt) -> tuple[Sequence[int], range]:
    """The frames and the chunks that an item is made of."""
    if attempt.item == "deliver":
        return range(plan.frames_total), range(plan.chunks_total)
    if attempt.item.startswith("c"):
        return plan.chunk(attempt.number).needed_frames, range(attempt.number)
    joints = map(plan.joint, plan.batch_joints(attempt.number))
    return [frame for joint in joints for frame in (joint.before, joint.after)], range(0)


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
