"""A job's frames as the client sees them.

Owns their form and how it comes from what the job store keeps. Knows no web framework: the client reads it too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.job_moves import Begun

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
    worker: str | None = Field(None, description="Who rendered it, or has its batch now.")
    attempts: int = Field(0, description="How often its batch was started, until it was there.")
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


def report_of_unfinished(number: int, batches: Collection[Begun], *, is_shown: bool) -> FrameReport:
    """A frame of a job that goes on: from those of its batches that were begun, and whether it has a preview.

    A joint is of two batches. While both are under way it is not known which will paint it: none is named.
    """
    workers = {batch.worker for batch in batches if batch.worker}
    return FrameReport(
        number=number,
        # What a lost worker has shown stays until the frame is begun anew.
        state="rendering" if is_shown and workers else "waiting",
        worker=workers.pop() if len(workers) == 1 else None,
        attempts=max((batch.starts for batch in batches), default=0),
    )
