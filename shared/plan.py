"""request → frames, batches, chunks: a pure function of the resolved request.

Owns the arithmetic of a track and a frame's content hash. Leaves out what may run when (`shared.dispatch`) and all
reading and writing. Everything is found by index, so a ten-hour plan costs no more to hold than a short one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Final

from shared.contracts import (
    MAX_SEED,
    ClipRequest,
    ConvertRequest,
    Frame,
    FrameEnd,
    Keyframe,
    PowerCurve,
    TrackRequest,
)
from shared.errors import FieldError, InvalidRequestError
from shared.spectrogram_params import FRAME_COLUMNS, SpectrogramParams

BATCH_FRAMES: Final = 4
"""Frames of one batch: the unit of retry."""
CHUNK_FRAMES: Final = 12
"""Frames of one chunk: 61.44 s of sound on the default grid."""
FRAME_HASH_VERSION: Final = "2"
"""Raised whenever the same frame would be drawn differently by newer code."""
_SECOND_SEED: Final = 2**31
_LATENT_COLUMNS: Final = 8
"""Columns of a picture that one column of latents stands for: a frame is made of whole ones."""
_LEAST_CHUNK: Final = Fraction(1, 8)
"""Of a frame: what a loop has left beyond whole chunks goes with the last one if it is no longer."""

RenderRequest = ClipRequest | TrackRequest
ResolvedRequest = RenderRequest | ConvertRequest


@dataclass(frozen=True, slots=True)
class Sources:
    """What the request's names stood for when it was accepted; kept with the job, so that it renders the same later."""

    model_revision: str
    seed_image_sha256: str | None = None
    mask_image_sha256: str | None = None
    seed_image_beats: int | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of frames turned into sound together; `part` is the variation it belongs to.

    columns: the chunk's own columns of its part.
    needed_frames: numbers of the frames that are heard in these columns or seen ahead of them.
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


def resolve(request: RenderRequest, draw_seed: Callable[[], int]) -> RenderRequest:
    """The request with every seed, time and default filled in, so that resubmitting it gives the same sound.

    Raises InvalidRequestError when keyframes are out of order or beyond the end.
    """
    if isinstance(request, ClipRequest):
        seed = draw_seed() if request.seed is None else request.seed
        return request.model_copy(update={"seed": seed})
    times = _keyframe_times(request)
    keyframes = [
        keyframe.model_copy(
            update={
                "seed": draw_seed() if keyframe.seed is None else keyframe.seed,
                "guidance_scale": keyframe.guidance_scale or request.guidance_scale,
                "at_s": at_s,
            }
        )
        for keyframe, at_s in zip(request.keyframes, times, strict=True)
    ]
    return request.model_copy(update={"keyframes": keyframes})


def _keyframe_times(request: TrackRequest) -> list[float]:
    count = len(request.keyframes)
    times = [keyframe.at_s for keyframe in request.keyframes]
    if all(at_s is None for at_s in times):
        # The frames' own form of the same product, so that a frame that lies on a keyframe lies on it exactly.
        steps = count if request.loop else max(1, count - 1)
        return [index / steps * request.duration_s for index in range(count)]
    known = [at_s for at_s in times if at_s is not None]
    if len(known) < count:
        missing = times.index(None)
        raise InvalidRequestError(
            FieldError(f"keyframes[{missing}].at_s", "give a time to every keyframe or to none", None, "seconds")
        )
    for index, (before, after) in enumerate(pairwise(known), start=1):
        if after <= before:
            raise InvalidRequestError(
                FieldError(f"keyframes[{index}].at_s", "keyframes must be in order of time", after, f"> {before}")
            )
    if known[-1] > request.duration_s:
        raise InvalidRequestError(
            FieldError(f"keyframes[{count - 1}].at_s", "lies beyond the end", known[-1], f"<= {request.duration_s}")
        )
    return known


class Plan:
    """What a resolved request renders: `parts` equal runs of frames, cut into batches and chunks.

    A frame lasts `frame_length` columns on the track's grid, exactly: whole beats at the tempo asked for. It is
    rendered `frame_columns` wide, the nearest width that models take, and read at that pace (`workers.joins`), so that
    no tempo drifts.
    """

    def __init__(self, request: RenderRequest, sources: Sources, params: SpectrogramParams | None = None) -> None:
        self.request = request
        self.sources = sources
        self.params = params or SpectrogramParams()
        self.is_loop = isinstance(request, TrackRequest) and request.loop
        self.part_samples = self.params.samples_from_s(request.duration_s)
        self.part_columns = -(-self.part_samples // self.params.hop_length)
        self.frame_length = self._closed(frame_length(request.tempo_bpm, sources.seed_image_beats, self.params))
        self.frame_columns = max(1, round(self.frame_length / _LATENT_COLUMNS)) * _LATENT_COLUMNS
        self.part_frames = math.ceil(self.part_columns / self.frame_length)
        self.parts = request.variations if isinstance(request, ClipRequest) else 1
        self.frames_total = self.parts * self.part_frames
        self.batches_total = -(-self.frames_total // BATCH_FRAMES)
        self.part_chunks = max(1, math.ceil((self.part_columns / self.frame_length - self._spare) / CHUNK_FRAMES))
        self.chunks_total = self.parts * self.part_chunks

    def _closed(self, length: Fraction) -> Fraction:
        """A loop's end is a column's: where whole frames come within one of it, they are made to end there."""
        frames = max(1, round(self.part_columns / length))
        is_near = abs(frames * length - self.part_columns) < 1
        return Fraction(self.part_columns, frames) if self.is_loop and is_near else length

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
        frames = self.part_columns / self.frame_length
        if not self.is_loop or frames.denominator == 1:
            return ()
        whole_s = [
            float(round(count * self.frame_length)) / self.params.columns_per_s
            for count in (math.floor(frames), math.ceil(frames))
            if count
        ]
        times = " or ".join(f"{time_s:g} s" for time_s in whole_s)
        return (f"This loop turns back in the middle of a frame; after {times} it would turn on a measure.",)

    def batch_frames(self, batch: int) -> range:
        """Frame numbers of a batch."""
        first = batch * BATCH_FRAMES
        return range(first, min(first + BATCH_FRAMES, self.frames_total))

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
            needed_frames=tuple(first + frame for frame in self._around(start, stop)),
            is_first=index_in_part == 0,
            is_last=is_last,
        )

    def _around(self, start: int, stop: int) -> list[int]:
        """The frames start..stop of a part and those beside them, which joints and the look-ahead read."""
        beside = range(start - 1 if self.request.joins == "blend" else start, stop + 1)
        if self.is_loop:
            return sorted({index % self.part_frames for index in beside})
        return [index for index in beside if 0 <= index < self.part_frames]

    def frame(self, index: int) -> Frame:
        """The frame with this number; equal frames of different jobs compare and hash the same."""
        part, index_in_part = divmod(index, self.part_frames)
        start, end, alpha = self._ends(part, index_in_part)
        start = end if alpha == 1 else start
        is_between = 0 < alpha < 1 and end != start
        request = self.request
        return Frame(
            model=request.model,
            model_revision=self.sources.model_revision,
            sampler=request.sampler,
            num_inference_steps=request.num_inference_steps,
            columns=self.frame_columns,
            seed_image=self.sources.seed_image_sha256,
            mask_image=self.sources.mask_image_sha256,
            start=start,
            end=end if is_between else None,
            alpha=alpha if is_between else 0.0,
        )

    def _ends(self, part: int, index_in_part: int) -> tuple[FrameEnd, FrameEnd, float]:
        position = index_in_part / (self.part_frames if self.is_loop else max(1, self.part_frames - 1))
        if isinstance(self.request, ClipRequest):
            seed = ((self.request.seed or 0) + part) % (MAX_SEED + 1)
            far_seed = (seed + _SECOND_SEED) % (MAX_SEED + 1)
            return self._clip_end(self.request, seed), self._clip_end(self.request, far_seed), position
        return self._keyframe_ends(self.request, position * self.request.duration_s)

    def _clip_end(self, request: ClipRequest, seed: int) -> FrameEnd:
        return FrameEnd(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            seed=seed,
            denoising_strength=self._strength(request.denoising_strength),
            guidance_scale=request.guidance_scale,
        )

    def _keyframe_ends(self, request: TrackRequest, at_s: float) -> tuple[FrameEnd, FrameEnd, float]:
        keyframes = request.keyframes
        times = [keyframe.at_s or 0.0 for keyframe in keyframes]
        if request.loop:
            keyframes = [keyframes[-1], *keyframes, keyframes[0]]
            times = [times[-1] - request.duration_s, *times, times[0] + request.duration_s]
        after = next((index for index, time_s in enumerate(times) if time_s >= at_s), len(times) - 1)
        before = max(0, after - 1) if times[after] > at_s else after
        gap_s = times[after] - times[before]
        alpha = (at_s - times[before]) / gap_s if gap_s else 0.0
        ends = self._keyframe_end(keyframes[before]), self._keyframe_end(keyframes[after])
        return *ends, curved_alpha(alpha, request.alpha_curve)

    def _keyframe_end(self, keyframe: Keyframe) -> FrameEnd:
        return FrameEnd(
            prompt=keyframe.prompt,
            negative_prompt=keyframe.negative_prompt,
            seed=keyframe.seed or 0,
            denoising_strength=self._strength(keyframe.denoising_strength),
            guidance_scale=keyframe.guidance_scale or self.request.guidance_scale,
        )

    def _strength(self, asked: float) -> float:
        # Without a seed image there is nothing to keep: one hash for all strengths.
        return asked if self.request.seed_image else 1.0


def frame_length(tempo_bpm: float | None, beats: int | None, params: SpectrogramParams) -> Fraction:
    """Columns that a frame lasts at this tempo, exactly; FRAME_COLUMNS without one.

    A frame is `beats` long, else as many (a power of two, so whole measures or halves) as come nearest FRAME_COLUMNS.
    """
    if tempo_bpm is None:
        return Fraction(FRAME_COLUMNS)
    beat = Fraction(60 * params.sample_rate_hz, params.hop_length) / Fraction(str(tempo_bpm))
    return beat * (beats or 2 ** round(math.log2(FRAME_COLUMNS / beat)))


def curved_alpha(alpha: float, curve: str | PowerCurve) -> float:
    """alpha 0..1 along the curve; 0 and 1 stay exactly where they are."""
    if isinstance(curve, PowerCurve):
        return float(math.pow(alpha, curve.power))
    return alpha * alpha * (3 - 2 * alpha) if curve == "smooth" else alpha


def frame_hash(frame: Frame) -> str:
    """Hex SHA-256 of all that determines the frame's pixels; its name in storage."""
    content = f"{FRAME_HASH_VERSION}:{frame.model_dump_json()}"
    return hashlib.sha256(content.encode()).hexdigest()
