"""A frame: all that determines its pixels, and the hash that is its name in storage.

Leaves out which frames a request needs (`shared.plan`) and how they are rendered (`workers.diffusion`).
"""

from __future__ import annotations

import hashlib
from typing import Final

from pydantic import BaseModel, ConfigDict

from shared.contracts import Sampler

FRAME_HASH_VERSION: Final = "3"
"""Raised whenever the same frame would be drawn differently by newer code."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Noise(_Frozen):
    """What a frame's denoising begins with: the noise of `seed`, or `alpha` of the way along the arc to another's.

    `end_seed` is None exactly when the noise is `seed`'s own; then `alpha` is 0. `first_column` is None for a frame's
    own noise; else noise belongs to places in time and begins at this column, so that overlapping frames share it.
    """

    seed: int
    end_seed: int | None = None
    alpha: float = 0.0
    first_column: int | None = None


class FrameEnd(_Frozen):
    """All that one keyframe gives to a frame but its noise."""

    prompt: str
    negative_prompt: str
    denoising_strength: float
    guidance_scale: float


class Frame(_Frozen):
    """One spectrogram image: all that determines its pixels, and nothing else.

    `end` is None exactly when the frame lies on `start`; then `alpha` is 0. `seed_image` and `mask_image` are hashes of
    the pictures or of what they are made from. A frame that is a loop runs from its last column into its first.
    """

    model: str
    model_revision: str
    sampler: Sampler
    num_inference_steps: int
    columns: int
    is_loop: bool
    seed_image: str | None
    mask_image: str | None
    noise: Noise
    start: FrameEnd
    end: FrameEnd | None
    alpha: float


def frame_hash(frame: Frame) -> str:
    """Hex SHA-256 of all that determines the frame's pixels; its name in storage."""
    content = f"{FRAME_HASH_VERSION}:{frame.model_dump_json()}"
    return hashlib.sha256(content.encode()).hexdigest()
