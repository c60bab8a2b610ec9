"""What does not fit: a tempo into a frame, keyframes into the track, a loop into columns, steps into a sampler.

Owns those checks of a plan, each with the field and what would be right. Leaves out what a schema can say.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from shared.contracts import MAX_LCM_STEPS, ClipRequest, RemixRequest, TrackRequest
from shared.errors import FieldError
from shared.plan import Plan, frame_length
from shared.spectrogram_params import FRAME_COLUMNS

_MIN_LOOP_S: Final = 1.0
_WIDEST: Final = 2
"""How many times longer or shorter than usual a tempo may make a frame: models are trained on one length."""


def wrong_lengths(plan: Plan) -> Iterator[FieldError]:
    """What is wrong with a plan, field by field."""
    request = plan.request
    if not isinstance(request, RemixRequest):
        yield from _wrong_tempo(plan, request)
    if request.sampler == "lcm" and (request.num_inference_steps or 0) > MAX_LCM_STEPS:
        yield FieldError(
            "num_inference_steps", "lcm takes few steps", request.num_inference_steps, f"1..{MAX_LCM_STEPS}"
        )
    if not isinstance(request, ClipRequest):
        yield from _crowded_keyframes(plan, request)
    if isinstance(request, TrackRequest) and request.loop:
        yield from _wrong_loop(plan, request)


def _wrong_tempo(plan: Plan, request: ClipRequest | TrackRequest) -> Iterator[FieldError]:
    if request.tempo_bpm is None or FRAME_COLUMNS / _WIDEST <= plan.frame_length <= FRAME_COLUMNS * _WIDEST:
        return
    at_1_bpm = frame_length(1.0, plan.sources.seed_image_beats, plan.params)
    slowest, fastest = (at_1_bpm / FRAME_COLUMNS / _WIDEST, at_1_bpm / FRAME_COLUMNS * _WIDEST)
    message = f"the {plan.sources.seed_image_beats} beats of {request.seed_image} do not fit a frame"
    yield FieldError("tempo_bpm", message, request.tempo_bpm, f"{float(slowest):g}..{float(fastest):g}")


def _crowded_keyframes(plan: Plan, request: TrackRequest | RemixRequest) -> Iterator[FieldError]:
    count = len(request.keyframes)
    if count > plan.part_frames:
        frame_s = plan.frame_at_s(1)
        message = f"{count} keyframes need as many frames of {frame_s:g} s"
        field = "end_s" if isinstance(request, RemixRequest) else "duration_s"
        yield FieldError(field, message, round(plan.duration_s, 6), f"> {(count - 1) * frame_s:g} s of sound")
        return
    for index, (before, after) in enumerate(pairwise(plan.walk.places), start=1):
        if before == after:
            message = f"lies in the same frame of {plan.frame_at_s(1):g} s as the keyframe before"
            allowed = f"about {plan.frame_at_s(before + 1):.2f} or later"
            yield FieldError(f"keyframes[{index}].at_s", message, request.keyframes[index].at_s, allowed)


def _wrong_loop(plan: Plan, request: TrackRequest) -> Iterator[FieldError]:
    if plan.part_samples % plan.params.hop_length:
        below = plan.part_samples // plan.params.hop_length / plan.params.columns_per_s
        allowed = f"{below:g} or {below + 1 / plan.params.columns_per_s:g}"
        yield FieldError("duration_s", "a loop is whole columns of 10 ms long", request.duration_s, allowed)
    if request.duration_s < _MIN_LOOP_S:
        yield FieldError("duration_s", "too short for a loop", request.duration_s, f">= {_MIN_LOOP_S:g}")
