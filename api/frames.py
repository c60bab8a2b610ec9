"""A job's frames as the client sees them.

Owns their form and how it comes from what the job store keeps. Knows no web framework: the client reads it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

FrameState = Literal["waiting", "rendering", "finished", "missing"]


class FrameReport(BaseModel):
    """One frame: how far it is, and how it was made."""

    model_config = ConfigDict(frozen=True)

    number: int = Field(description="Its place in the job, from 0.")
    state: FrameState = Field(description="missing: the job ended without it.")
    seconds: float | None = Field(None, description="Time it took to render; null when it was reused.")
    memory_mb: float | None = Field(
        None, description="The most memory its rendering held, on the GPU where it has one."
    )
    worker: str | None = Field(None, description="Who rendered it.")
    attempts: int = Field(0, description="How often its batch was started until it was there.")
    reused: bool = Field(False, description="Whether it had been rendered before.")
    picture: str | None = Field(None, description="Where its spectrogram is, once it is finished.")


class FramePage(BaseModel):
    """One page of frames, in order."""

    data: list[FrameReport]
    next: str | None


def report_from_record(number: int, record: Mapping[str, Any], frames_url: str) -> FrameReport:
    """A finished frame from its record in the job store."""
    return FrameReport(
        number=number,
        state="finished",
        seconds=record.get("s"),
        memory_mb=record.get("memory_mb"),
        worker=record.get("worker"),
        attempts=record.get("attempts", 0),
        reused=record["reused"],
        picture=f"{frames_url}/{number}/picture",
    )
