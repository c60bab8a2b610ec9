"""request → frames, batches, chunks: a pure function of the resolved request.

Owns the arithmetic of a track. Leaves out what a frame is (`shared.frames`), where a frame stands between keyframes
(`shared.walk`), what may run when (`shared.dispatch`) and all reading and writing. Everything is found by index, so a
ten-hour plan costs no more to hold than a short one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any, Final

from shared.contracts import (
    DEFAULT_GUIDANCE,
    DEFAULT_SAMPLER,
    DEFAULT_STEPS,
    MAX_SEED,
    ClipEnd,
    ClipRequest,
    ConvertRequest,
    RemixRequest,
    TrackRequest,
)
from shared.frames import Frame, FrameEnd, Noise, frame_hash
from shared.spectrogram_params import FRAME_COLUMNS, SpectrogramParams
from shared.walk import Standpoint, Walk

LEAST_BATCH_FRAMES: Final = 4
MOST_BATCH_FRAMES: Final = 16
"""Frames of one batch, the unit of retry: few, so that workers share a short track; more on a long one, for a GPU."""
_BATCHES: Final = 16
"""Batches a track is made of as long as their frames stay within these bounds."""
CHUNK_FRAMES: Final = 12
"""Frames of one chunk: 61.44 s of sound on the default grid."""
LATENT_COLUMNS: Final = 8
"""Columns of a picture that one column of latents stands for: a frame is made of whole ones."""
REPAINT_STRENGTH: Final = 0.7
"""How far a joint's window moves from what its frames hold: enough to grow together, not to tell another story."""
_LEAST_CHUNK: Final = Fraction(1, 8)
"""Of a frame: what a loop has left beyond whole chunks goes with the last one if it is no longer."""

RenderRequest = ClipRequest | TrackRequest | RemixRequest
ResolvedRequest = RenderRequest | ConvertRequest


@dataclass(frozen=True, slots=True)
class Sources:
    """What the request's names stood for when it was accepted; kept with the job, so that it renders the same later.

    `defaults` are the model's own for what a request leaves out, `grid` where its pictures differ from the usual grid.
    """

    model_revision: str
    seed_image_sha256: str | None = None
    mask_image_sha256: str | None = None
    seed_image_beats: int | None = None
    source_sha256: str | None = None
    source_s: float = 0.0
    defaults: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Joint:
    """Where one frame meets the next and the model paints over both.

    before, after: numbers of the frames.
    cut: column of `before` at which `after` begins: its width, but where a loop turns in the middle of a frame.
    """

    before: int
    after: int
    cut: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of frames turned into sound together; `part` is the variation it belongs to.

    columns: the chunk's own columns of its part.
    needed_frames: numbers of the frames (and joints) that are heard in these columns or seen ahead of them.
    """

    index: int
    part: int
    index_in_part: int
    frames: range
    columns: range
    needed_frames: tuple[int, ...]
    is_first: bool
    is_last: bool


@dataclass(frozen=True, slots=True)
class Conversion:
    """The plan of a conversion: nothing to render, one delivery that does it all."""

    request: ConvertRequest
    sources: Sources
    audio_s: float = 0.0
    frames_total: int = 0
    batches_total: int = 0
    chunks_total: int = 0
    warnings: tuple[str, ...] = ()


def value_or(value: float | None, otherwise: float) -> float:
    """The value, unless there is none; 0 is one."""
    return otherwise if value is None else value


class Plan:
    """What a resolved request renders: `parts` equal runs of frames, cut into batches and chunks.

    A frame lasts `frame_length` columns on the track's grid, exactly: whole beats at the tempo asked for. It is
    rendered `frame_columns` wide, the nearest width that models take, and read at that pace (`workers.joins`), so that
    no tempo drifts.
    """

    def __init__(self, request: RenderRequest, sources: Sources) -> None:
        self.request = request
        self.sources = sources
        self.params = SpectrogramParams(**sources.grid)
        self.is_loop = isinstance(request, TrackRequest) and request.loop
        self.part_samples = self.params.samples_from_s(self.duration_s)
        self.part_columns = -(-self.part_samples // self.params.hop_length)
        self.overlap_columns = self._overlap_columns()
        self.frame_length = self._frame_length()
        self.frame_columns = max(1, round((self.frame_length + self.overlap_columns) / LATENT_COLUMNS)) * LATENT_COLUMNS
        self.part_frames = math.ceil(self.part_columns / self.frame_length)
        self.parts = request.variations if isinstance(request, ClipRequest) else 1
        self.part_joints = self._part_joints()
        self.base_frames = self.parts * self.part_frames
        self.frames_total = self.base_frames + self.parts * self.part_joints
        self.batch_size = min(MOST_BATCH_FRAMES, max(LEAST_BATCH_FRAMES, -(-self.base_frames // _BATCHES)))
        self.batches_total = -(-self.base_frames // self.batch_size)
        self.part_chunks = max(1, math.ceil((self.part_columns / self.frame_length - self._spare) / CHUNK_FRAMES))
        self.chunks_total = self.parts * self.part_chunks

    @property
    def duration_s(self) -> float:
        """Seconds that each part lasts."""
        request = self.request
        if isinstance(request, RemixRequest):
            return value_or(request.end_s, self.sources.source_s) - request.start_s
        return request.duration_s

    def _overlap_columns(self) -> int:
        """Columns that a frame shares with each of its neighbours; 0 where frames are loops of their own."""
        if not isinstance(self.request, RemixRequest):
            return 0
        return round(self.request.overlap_s * self.params.columns_per_s / LATENT_COLUMNS) * LATENT_COLUMNS

    def _frame_length(self) -> Fraction:
        if isinstance(self.request, RemixRequest):
            return Fraction(FRAME_COLUMNS - self.overlap_columns)
        return self._closed(frame_length(self.request.tempo_bpm, self.sources.seed_image_beats, self.params))

    def _part_joints(self) -> int:
        is_repainted = not isinstance(self.request, RemixRequest) and self.request.joins == "repaint"
        if not is_repainted or self.part_frames == 1:
            return 0
        return self.part_frames if self.is_loop else self.part_frames - 1

    def _closed(self, length: Fraction) -> Fraction:
        """A loop's end is a column's: where whole frames come within one of it, they are made to end there."""
        if not self.is_loop:
            return length
        frames = max(1, round(self.part_columns / length))
        is_near = abs(frames * length - self.part_columns) < 1
        return Fraction(self.part_columns, frames) if is_near else length

    @property
    def _spare(self) -> Fraction:
        return _LEAST_CHUNK if self.is_loop else Fraction(0)

    @property
    def audio_s(self) -> float:
        """Seconds of sound over all parts."""
        return self.parts * self.part_samples / self.params.sample_rate_hz

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about what the client may not have meant."""
        return (*self._turned_in_a_frame(), *self._moved_keyframes())

    def _turned_in_a_frame(self) -> Iterator[str]:
        frames = self.part_columns / self.frame_length
        if self.is_loop and frames.denominator > 1:
            whole_s = [self.frame_at_s(count) for count in (math.floor(frames), math.ceil(frames)) if count]
            times = " or ".join(f"{round(time_s, 2):g} s" for time_s in whole_s)
            yield f"This loop turns back in the middle of a frame; after {times} it would turn on a measure."

    def _moved_keyframes(self) -> Iterator[str]:
        if isinstance(self.request, ClipRequest):
            return
        for index, keyframe in enumerate(self.request.keyframes):
            begins_s = self.frame_at_s(self.walk.places[index])
            asked_s = begins_s if keyframe.at_s is None else keyframe.at_s
            # The end is no frame's beginning: who names it means the last one.
            if abs(asked_s - begins_s) * self.params.columns_per_s > 1 and asked_s < self.duration_s:
                yield f"keyframes[{index}] begins at {begins_s:.2f} s, where a frame does, and not at {asked_s:g} s."

    def frame_at_s(self, frame: int) -> float:
        """Seconds from its part's start at which a frame begins."""
        return float(frame * self.frame_length / Fraction(self.params.sample_rate_hz, self.params.hop_length))

    def batch_frames(self, batch: int) -> range:
        """Frame numbers of a batch; joints belong to no batch (`batch_joints`)."""
        first = batch * self.batch_size
        return range(first, min(first + self.batch_size, self.base_frames))

    def batch_joints(self, batch: int) -> list[int]:
        """Numbers of the joints of a batch's frames. Two batches have the one between them in common: the one that is
        done later paints it."""
        numbers = set()
        for part, frame in (divmod(number, self.part_frames) for number in self.batch_frames(batch)):
            for joint in (frame - 1, frame):
                if self.part_joints and (self.is_loop or 0 <= joint < self.part_joints):
                    numbers.add(self.base_frames + part * self.part_joints + joint % self.part_joints)
        return sorted(numbers)

    def batches_of_frame(self, number: int) -> set[int]:
        """The batches that render this frame; of a joint those of both its frames."""
        numbers: tuple[int, ...] = (number,)
        if number >= self.base_frames:
            joint = self.joint(number)
            numbers = (joint.before, joint.after)
        return {one // self.batch_size for one in numbers}

    def joint(self, index: int) -> Joint:
        """The joint with this frame number, base_frames <= index < frames_total."""
        part, joint = divmod(index - self.base_frames, self.part_joints)
        first = part * self.part_frames
        cut = self.frame_columns
        if joint == self.part_frames - 1:
            heard = (self.part_columns - joint * self.frame_length) / self.frame_length
            cut = max(1, round(min(Fraction(1), heard) * self.frame_columns))
        return Joint(first + joint, first + (joint + 1) % self.part_frames, cut)

    def chunk(self, index: int) -> Chunk:
        """The chunk with this number."""
        part, index_in_part = divmod(index, self.part_chunks)
        is_last = index_in_part == self.part_chunks - 1
        start = index_in_part * CHUNK_FRAMES
        stop = self.part_frames if is_last else start + CHUNK_FRAMES
        # A track ends with its last frame, so that what is cut off can fade; a loop where it turns.
        end = self.part_columns if self.is_loop else math.ceil(stop * self.frame_length)
        first = part * self.part_frames
        return Chunk(
            index=index,
            part=part,
            index_in_part=index_in_part,
            frames=range(first + start, first + stop),
            columns=range(
                math.ceil(start * self.frame_length), end if is_last else math.ceil(stop * self.frame_length)
            ),
            needed_frames=tuple(self._around(part, start, stop)),
            is_first=index_in_part == 0,
            is_last=is_last,
        )

    def _around(self, part: int, start: int, stop: int) -> Iterator[int]:
        """Numbers of a part's frames start..stop, those beside them, which joints and the look-ahead read, and the
        joints between them."""
        is_cut = not isinstance(self.request, RemixRequest) and self.request.joins == "cut"
        beside = range(start if is_cut else start - 1, stop + 1)
        for numbers, count, first in (
            (beside, self.part_frames, part * self.part_frames),
            (range(start - 1, stop), self.part_joints, self.base_frames + part * self.part_joints),
        ):
            inside = {index % count for index in numbers if count and (self.is_loop or 0 <= index < count)}
            yield from (first + index for index in sorted(inside))

    @cached_property
    def walk(self) -> Walk:
        """The walk from keyframe to keyframe; a clip has none (TypeError)."""
        request = self.request
        if isinstance(request, ClipRequest):
            raise TypeError("a clip stands where it is")
        return Walk(
            [self._place(keyframe.at_s or 0.0) for keyframe in request.keyframes],
            [self._end(one, value_or(one.denoising_strength, request.denoising_strength)) for one in request.keyframes],
            [keyframe.seed or 0 for keyframe in request.keyframes],
            self.part_frames,
            self.is_loop,
            request.alpha_curve,
        )

    def _standpoint(self, request: ClipRequest, part: int) -> Standpoint:
        """Where a variation stands; each begins at other seeds."""
        start = end = self._end(request, request.denoising_strength)
        seeds = [request.seed or 0] * 2
        if request.end is not None:
            end = self._end(request.end, value_or(request.end.denoising_strength, request.denoising_strength))
            seeds[1] = request.end.seed or 0
        first, last = ((seed + part) % (MAX_SEED + 1) for seed in seeds)
        return Standpoint(start, end, (first, last), request.alpha)

    def _place(self, at_s: float) -> int:
        """The frame that begins nearest."""
        return min(round(at_s * self.params.columns_per_s / self.frame_length), self.part_frames - 1)

    def _end(self, said: ClipRequest | ClipEnd, strength: float) -> FrameEnd:
        # Without a picture there is nothing to keep: one hash for all strengths.
        has_picture = isinstance(self.request, RemixRequest) or self.request.seed_image is not None
        return FrameEnd(
            prompt=said.prompt,
            negative_prompt=said.negative_prompt,
            denoising_strength=strength if has_picture else 1.0,
            guidance_scale=said.guidance_scale or self.request.guidance_scale or DEFAULT_GUIDANCE,
        )

    def frame(self, index: int) -> Frame:
        """The frame with this number; equal frames of different jobs compare and hash the same."""
        if index >= self.base_frames:
            return self._joint_frame(self.joint(index))
        part, frame = divmod(index, self.part_frames)
        way = self._standpoint(self.request, part) if isinstance(self.request, ClipRequest) else self.walk
        start, end, alpha = way.ends_at(frame)
        seed_image, noise = self.sources.seed_image_sha256, way.noise_at(frame)
        if isinstance(self.request, RemixRequest):
            column, samples = self.window_column(frame), self.source_samples
            seed_image = f"{self.sources.source_sha256}:{samples.start}-{samples.stop}:{column}"
            noise = self.walk.shared_noise_at(frame, column)
        return self._frame(start, end, alpha, noise, seed_image, self.sources.mask_image_sha256)

    def _frame(
        self,
        start: FrameEnd,
        end: FrameEnd | None,
        alpha: float,
        noise: Noise,
        seed_image: str | None,
        mask: str | None,
    ) -> Frame:
        request = self.request
        return Frame(
            model=request.model,
            model_revision=self.sources.model_revision,
            sampler=request.sampler or DEFAULT_SAMPLER,
            num_inference_steps=request.num_inference_steps or DEFAULT_STEPS,
            columns=self.frame_columns,
            is_loop=not self.overlap_columns,
            seed_image=seed_image,
            mask_image=mask,
            noise=noise,
            start=start,
            end=end,
            alpha=alpha,
        )

    def _joint_frame(self, joint: Joint) -> Frame:
        """The window around a joint, painted as the frame after it is, from what both frames hold there."""
        before, after = self.frame(joint.before), self.frame(joint.after)
        strength = {"denoising_strength": REPAINT_STRENGTH}
        return after.model_copy(
            update={
                "is_loop": False,
                "seed_image": f"{frame_hash(before)}+{frame_hash(after)}@{joint.cut}",
                "mask_image": f"repaint {self.sources.mask_image_sha256 or 'all'}",
                "start": after.start.model_copy(update=strength),
                "end": after.end and after.end.model_copy(update=strength),
            }
        )

    def window_column(self, frame: int) -> int:
        """The part's column at which a frame's picture begins; before its start for the first of a remix."""
        return int(frame * self.frame_length) - self.overlap_columns // 2

    @property
    def source_samples(self) -> range:
        """Samples of a remix' source on this grid."""
        start = self.params.samples_from_s(self.request.start_s if isinstance(self.request, RemixRequest) else 0.0)
        return range(start, start + self.part_samples)


@lru_cache(maxsize=1_024)
def frame_length(tempo_bpm: float | None, beats: int | None, params: SpectrogramParams) -> Fraction:
    """Columns that a frame lasts at this tempo, exactly; FRAME_COLUMNS without one.

    A frame is `beats` long, else as many (a power of two, so whole measures or halves) as come nearest FRAME_COLUMNS.
    """
    if tempo_bpm is None:
        return Fraction(FRAME_COLUMNS)
    beat = Fraction(60 * params.sample_rate_hz, params.hop_length) / Fraction(str(tempo_bpm))
    return beat * (beats or 2 ** round(math.log2(FRAME_COLUMNS / beat)))
