"""A request → the same request with nothing left open, so that resubmitting it gives the same sound.

Owns what fills each gap: the model's defaults, drawn seeds, keyframes spread over the frames. Leaves out types and
ranges (`shared.contracts`) and what is rendered (`shared.plan`).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

from shared.contracts import (
    DEFAULT_GUIDANCE,
    DEFAULT_SAMPLER,
    DEFAULT_STEPS,
    ClipEnd,
    ClipRequest,
    RemixRequest,
    TrackRequest,
)
from shared.errors import FieldError, InvalidRequestError
from shared.plan import Plan, RenderRequest, Sources, value_or

End = TypeVar("End", bound=ClipEnd)


def resolve(request: RenderRequest, sources: Sources, draw_seed: Callable[[], int]) -> RenderRequest:
    """The request with every seed, time and default filled in, so that resubmitting it gives the same sound.

    Raises InvalidRequestError when keyframes are out of order or beyond the end.
    """
    defaults = {"sampler": DEFAULT_SAMPLER, "num_inference_steps": DEFAULT_STEPS, "guidance_scale": DEFAULT_GUIDANCE}
    chosen = {name: getattr(request, name) or sources.defaults.get(name, usual) for name, usual in defaults.items()}
    if isinstance(request, RemixRequest):
        chosen["end_s"] = sources.source_s if request.end_s is None else request.end_s
    if isinstance(request, ClipRequest) and request.end is None:
        return request.model_copy(update={**chosen, "seed": draw_seed() if request.seed is None else request.seed})
    request = request.model_copy(update=chosen)
    if isinstance(request, ClipRequest):
        seed = draw_seed() if request.seed is None else request.seed
        return request.model_copy(
            update={"seed": seed, "end": request.end and _settled(request.end, request, draw_seed)}
        )
    times = _keyframe_times(request, Plan(request, sources))
    keyframes = [
        _settled(keyframe, request, draw_seed).model_copy(update={"at_s": at_s})
        for keyframe, at_s in zip(request.keyframes, times, strict=True)
    ]
    return request.model_copy(update={"keyframes": keyframes})


def _settled(end: End, request: RenderRequest, draw_seed: Callable[[], int]) -> End:
    """A clip's end or a keyframe with what it leaves to the job, and a seed."""
    return end.model_copy(
        update={
            "seed": draw_seed() if end.seed is None else end.seed,
            "guidance_scale": end.guidance_scale or request.guidance_scale,
            "denoising_strength": value_or(end.denoising_strength, request.denoising_strength),
        }
    )


def _keyframe_times(request: TrackRequest | RemixRequest, plan: Plan) -> list[float]:
    count = len(request.keyframes)
    times = [keyframe.at_s for keyframe in request.keyframes]
    if all(at_s is None for at_s in times):
        steps = count if plan.is_loop else max(1, count - 1)
        last = plan.part_frames if plan.is_loop else plan.part_frames - 1
        return [plan.frame_at_s(round(index * last / steps)) for index in range(count)]
    known = [at_s for at_s in times if at_s is not None]
    if len(known) < count:
        missing = times.index(None)
        raise InvalidRequestError(
            FieldError(f"keyframes[{missing}].at_s", "give a time to every keyframe or to none", None, "seconds")
        )
    for index, (before, after) in enumerate(pairwise(known), start=1):
        if after <= before:
            raise InvalidRequestError(
                FieldError(f"keyframes[{index}].at_s", "keyframes must be in order of time", after, f"> {before:g}")
            )
    if known[-1] > plan.duration_s:
        raise InvalidRequestError(
            FieldError(f"keyframes[{count - 1}].at_s", "lies beyond the end", known[-1], f"<= {plan.duration_s:g}")
        )
    return known
