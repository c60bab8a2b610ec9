"""request → frames, batches, chunks: a pure function of the resolved request.

Owns the arithmetic of a track and a frame's content hash. Leaves out what may run when (`shared.dispatch`) and all
reading and writing. Everything is found by index, so a ten-hour plan costs no more to hold than a short one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from shared.contracts import MAX_SEED, ClipRequest, Frame, FrameEnd, Keyframe, PowerCurve, TrackRequest
from shared.errors import FieldError, InvalidRequestError
from shared.spectrogram_params import FRAME_COLUMNS, SpectrogramParams

BATCH_FRAMES: Final = 4
"""Frames of one batch: the unit of retry."""
CHUNK_FRAMES: Final = 12
"""Frames of one chunk: 61.44 s of sound on the default grid."""
FRAME_HASH_VERSION: Final = "1"
"""Raised whenever the same frame would be drawn differently by newer code."""
_SECOND_SEED: Final = 2**31

ResolvedRequest = ClipRequest | TrackRequest


@dataclass(frozen=True, slots=True)
class Sources:
    """What the request's names stood for when it was accepted; kept with the job, so that it renders the same later."""

    model_revision: str
    seed_image_sha256: str | None = None
    mask_image_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of frames turned into sound together; `part` is the variation it belongs to."""

    index: int
    part: int
    index_in_part: int
    frames: range
    is_first: bool
    is_last: bool

    @property
    def needed_frames(self) -> range:
        """The chunk's frames and, unless it is its part's last, the next one for the look-ahead."""
        return range(self.frames.start, self.frames.stop + (0 if self.is_last else 1))


def resolve(request: ResolvedRequest, draw_seed: Callable[[], int]) -> ResolvedRequest:
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
        return [index / max(1, count - 1) * request.duration_s for index in range(count)]
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
    """What a resolved request renders: `parts` equal runs of frames, cut into batches and chunks."""

    def __init__(self, request: ResolvedRequest, sources: Sources, params: SpectrogramParams | None = None) -> None:
        self.request = request
        self.sources = sources
        self.params = params or SpectrogramParams()
        self.part_samples = self.params.samples_from_s(request.duration_s)
        self.part_frames = -(-self.part_samples // self.params.samples_from_columns(FRAME_COLUMNS))
        self.parts = request.variations if isinstance(request, ClipRequest) else 1
        self.frames_total = self.parts * self.part_frames
        self.batches_total = -(-self.frames_total // BATCH_FRAMES)
        self.part_chunks = -(-self.part_frames // CHUNK_FRAMES)
        self.chunks_total = self.parts * self.part_chunks

    @property
    def audio_s(self) -> float:
        """Seconds of sound over all parts."""
        return self.parts * self.part_samples / self.params.sample_rate_hz

    def batch_frames(self, batch: int) -> range:
        """Frame numbers of a batch."""
        first = batch * BATCH_FRAMES
        return range(first, min(first + BATCH_FRAMES, self.frames_total))

    def chunk(self, index: int) -> Chunk:
        """The chunk with this number."""
        part, index_in_part = divmod(index, self.part_chunks)
        first = part * self.part_frames + index_in_part * CHUNK_FRAMES
        end = (part + 1) * self.part_frames
        return Chunk(
            index=index,
            part=part,
            index_in_part=index_in_part,
            frames=range(first, min(first + CHUNK_FRAMES, end)),
            is_first=index_in_part == 0,
            is_last=index_in_part == self.part_chunks - 1,
        )

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
            columns=FRAME_COLUMNS,
            seed_image=self.sources.seed_image_sha256,
            mask_image=self.sources.mask_image_sha256,
            start=start,
            end=end if is_between else None,
            alpha=alpha if is_between else 0.0,
        )

    def _ends(self, part: int, index_in_part: int) -> tuple[FrameEnd, FrameEnd, float]:
        position = index_in_part / max(1, self.part_frames - 1)
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


def curved_alpha(alpha: float, curve: str | PowerCurve) -> float:
    """alpha 0..1 along the curve; 0 and 1 stay exactly where they are."""
    if isinstance(curve, PowerCurve):
        return float(math.pow(alpha, curve.power))
    return alpha * alpha * (3 - 2 * alpha) if curve == "smooth" else alpha


def frame_hash(frame: Frame) -> str:
    """Hex SHA-256 of all that determines the frame's pixels; its name in storage."""
    content = f"{FRAME_HASH_VERSION}:{frame.model_dump_json()}"
    return hashlib.sha256(content.encode()).hexdigest()
