"""What the command line shows: progress of a job or a batch; tables of jobs, their frames, queues, rates and workers.

Leaves out asking the farm (`api.client`) and commands (`api.cli`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from api.batch_run import BatchProgress
from api.farm_answers import FarmReport, RateReport, WorkerReport
from api.frames import FrameReport
from shared.contracts import ClipRequest, ConvertRequest, Job
from shared.job_events import Event

_ID_CHARACTERS: Final = 32
_LABELS: Final = {
    "queued": "waiting",
    "rendering": "rendering",
    "sounding": "making sound",
    "encoding": "encoding",
    "paused": "paused",
    "succeeded": "done",
}


@contextlib.contextmanager
def job_progress(console: Console) -> Iterator[tuple[Callable[[Job], None], Callable[[Event], None]]]:
    """A bar on the console while the block lasts: two functions that take how the job is, and what happened to it."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TextColumn("{task.fields[frames]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    seconds: list[float] = []
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("waiting", total=1.0, frames="")

        def show(job: Job) -> None:
            is_idle = job.status in ("paused", "succeeded")
            label = _LABELS.get(job.status if is_idle else job.stage or "queued", "")
            frames = f"{job.progress.frames_done}/{job.progress.frames_total} frames{_each(seconds)}"
            progress.update(bar, completed=job.progress.fraction, description=label, frames=frames)

        def note(event: Event) -> None:
            if event.kind == "frame" and event.data["seconds"] is not None:
                seconds.append(event.data["seconds"])

        yield show, note


@contextlib.contextmanager
def batch_progress(console: Console, total: int) -> Iterator[Callable[[BatchProgress], None]]:
    """One bar for a whole batch while the block lasts: a function that takes how far it is."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(f"0 of {total} done", total=float(total))

        def show(batch: BatchProgress) -> None:
            done, failed = len(batch.files), len(batch.failures)
            under_way = (job for entry, job in batch.jobs.items() if entry not in {*batch.files, *batch.failures})
            fraction = done + failed + sum(min(job.progress.fraction, 0.99) for job in under_way)
            words = f"{done} of {total} done" + (f", {failed} failed" if failed else "")
            progress.update(bar, completed=fraction, description=words)

        yield show


def _each(seconds: list[float]) -> str:
    return f", {sum(seconds) / len(seconds):.2g} s each" if seconds else ""


def job_table(jobs: Iterable[Job]) -> Table:
    """One line for each job."""
    # An id that is cut short is of no use: it is there to be copied.
    table = Table(Column("id", no_wrap=True, min_width=_ID_CHARACTERS), "type", "status", "done", "sound", "created")
    for job in jobs:
        percent = f"{job.progress.fraction:.0%}"
        table.add_row(job.id, job.type, job.status, percent, f"{job.metrics.audio_s:g} s", f"{job.created_at:%F %T}")
    return table


def frame_table(frames: Iterable[FrameReport]) -> Table:
    """One line for each frame."""
    table = Table("frame", "state", "seconds", "memory", "worker", "attempts")
    for frame in frames:
        seconds = "" if frame.seconds is None else f"{frame.seconds:.2f}"
        memory = "" if frame.memory_mb is None else f"{frame.memory_mb:.0f} MB"
        state = "reused" if frame.reused else frame.state
        table.add_row(str(frame.number), state, seconds, memory, frame.worker or "", str(frame.attempts or ""))
    return table


def queue_table(farm: FarmReport) -> Table:
    """One line for each queue."""
    table = Table(Column("queue", no_wrap=True), "jobs", "waiting", "frames", "sound", "work", "wait")
    for queue in farm.queues:
        waiting = ", ".join(f"{count} {priority}" for priority, count in queue.jobs_waiting.items() if count)
        wait = "no worker" if queue.wait_s is None else f"{queue.wait_s:g} s"
        sound, work = f"{queue.audio_s:.1f} s", f"{queue.seconds:.1f} s"
        table.add_row(queue.queue, str(queue.jobs), waiting, str(queue.frames or ""), sound, work, wait)
    return table


def rate_table(rates: Iterable[RateReport]) -> Table:
    """One line for each window of time."""
    table = Table("over", "frames a minute", "jobs a minute", "sound a minute")
    for rate in rates:
        figures = (rate.frames_per_minute, rate.jobs_per_minute, rate.audio_s_per_minute)
        frames, jobs, sound = ("" if figure is None else f"{figure:g}" for figure in figures)
        table.add_row(f"{rate.minutes} min", frames, jobs, f"{sound} s" if sound else "")
    return table


def worker_table(workers: Iterable[WorkerReport]) -> Table:
    """One line for each worker."""
    table = Table("worker", "state", "device", "at", "done", "frames a minute", "heartbeat")
    for worker in workers:
        state = f"{worker.state}: {worker.reason}" if worker.reason else worker.state
        at = f"{worker.job} {worker.item}" if worker.job else ""
        heartbeat = f"{worker.heartbeat_age_s:.0f} s ago"
        frames = f"{worker.frames_per_minute:g}"
        table.add_row(worker.name, state, worker.device, at, str(worker.items_done), frames, heartbeat)
    return table


def report(console: Console, job: Job, files: list[Path], *, is_brief: bool) -> None:
    """What there is to say of a finished job whose files are here; its warnings alone when that is to be brief."""
    for warning in job.warnings:
        console.print(f"Note: {warning}", style="yellow")
    if is_brief:
        return
    done, metrics = job.progress, job.metrics
    if done.frames_reused:
        console.print(f"{done.frames_reused} of {done.frames_total} frames had been rendered before and were reused.")
    console.print(
        f"{metrics.audio_s:g} s of sound in {metrics.audio_s / (metrics.realtime_factor or 1):.1f} s"
        f" ({metrics.realtime_factor:g} × real time), seeds {', '.join(map(str, _seeds(job)))}."
    )
    heard = next((path for path in files if path.suffix != ".png"), None)
    console.print(f"Hear it with your browser or any player, for example: ffplay -autoexit {heard}", soft_wrap=True)


def _seeds(job: Job) -> list[int | None]:
    match job.input:
        case ConvertRequest():
            return []
        case ClipRequest():
            return [job.input.seed]
        case _:
            return [keyframe.seed for keyframe in job.input.keyframes]
