"""The form of what the farm answers about itself: queues, workers, rates, the estimated wait, the last sweep.

Leaves out how it is made (`api.farm_report`), and all that needs the farm's Redis: the client reads it too.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

WorkerState = Literal["idle", "busy", "draining", "benched"]


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True)


class QueueReport(_Report):
    """One queue."""

    queue: str = Field(description="render.MODEL, sound or deliver.")
    jobs: int = Field(description="Jobs of which something here waits or runs, without those that are paused.")
    frames: int = Field(description="Frames of these jobs that are not finished; 0 in sound and deliver.")
    audio_s: float = Field(description="Seconds of sound in what waits or runs: of each job the share not done here.")
    items: int = Field(description="Batches, chunks or deliveries that wait or run.")
    seconds: float = Field(description="What one worker would need for them, at the pace of late.")
    jobs_waiting: dict[str, int] = Field(description="Jobs with work to be taken, by priority.")
    workers: int = Field(description="Workers that take from it.")
    wait_s: float | None = Field(description="Seconds until these are through with it; null when there are none.")


class WorkerReport(_Report):
    """One worker."""

    name: str = Field(description="What it was started as.")
    id: str = Field(description="Its name and a mark of this run.")
    state: WorkerState = Field(
        description="benched: it lost what it was at three times and takes nothing until it is lifted."
    )
    reason: str | None = Field(description="Why it is benched.")
    device: str = Field(description="What it computes on.")
    queues: list[str] = Field(description="Kinds of queues that it takes from.")
    models: list[str] = Field(description="Models that it can render with.")
    job: str | None = Field(description="What it is at.")
    item: str | None = Field(description="b3: its fourth batch; c0: its first chunk of sound; deliver: its files.")
    items_done: int = Field(description="Since it was started.")
    frames_per_minute: float = Field(
        description="Frames that it rendered in a minute of the last 5, or since it was started if that is less; 0 when"
        " it rendered none."
    )
    heartbeat_age_s: float = Field(description="Seconds since it last reported.")


class RateReport(_Report):
    """How fast the farm was over the last minutes, or since it began if that is less; null while no sweeper looks."""

    minutes: int = Field(description="Over how many: 1, 15 or 60.")
    frames_per_minute: float | None = Field(description="Frames rendered; those that had been before are not counted.")
    jobs_per_minute: float | None = Field(description="Jobs that ended, in whatever way.")
    audio_s_per_minute: float | None = Field(description="Seconds of sound of jobs that succeeded.")


class FarmReport(_Report):
    """The farm as it is now."""

    estimated_wait_s: float | None = Field(
        description="Seconds until all that is queued now is through; null while a queue with work has no worker."
    )
    queues: list[QueueReport] = Field(description="What waits, by queue.")
    workers: list[WorkerReport] = Field(description="The workers that live.")
    rates: list[RateReport] = Field(description="What it did in a minute of late, over 1, 15 and 60 minutes.")
    sweep: dict[str, Any] | None = Field(description="What the last sweep found and did; null before the first.")


class WorkerList(_Report):
    """Some of the workers."""

    data: list[WorkerReport]
