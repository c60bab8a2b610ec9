"""What a job would cost: seconds of workers at the farm's pace of late, seconds until it begins, bytes of its files.

Leaves out what would be rendered (`shared.plan`), and how the pace is kept (`shared.farm_state`).
"""

from __future__ import annotations

from typing import Final

from api.farm_report import farm_report, serves
from shared.contracts import Cost, Format
from shared.dispatch import SOUND_QUEUE, render_queue
from shared.farm_state import FarmState
from shared.job_store import JobStore
from shared.plan import Conversion, Plan
from shared.settings import Settings

_BYTES_PER_S: Final[dict[Format, int]] = {"wav": 88_200, "flac": 45_000, "mp3": 10_500, "ogg": 11_000, "opus": 13_500}
"""Of one channel at 44.1 kHz: exact for wav, of music that the built-in model made for the others."""
_COVER_BYTES: Final = 110_000
"""The spectrogram that each file carries."""


def cost(plan: Plan | Conversion, frames_ready: int, job_store: JobStore, settings: Settings) -> Cost:
    """What it takes to render what is not ready. Raises QueueUnavailableError."""
    unknown: dict[str, str] = {}
    queue = SOUND_QUEUE if isinstance(plan, Conversion) else render_queue(plan.request.model)
    report = farm_report(job_store)
    workers = [worker for worker in report.workers if serves(worker, queue)]
    waiting = {one.queue: one.seconds for one in report.queues}.get(queue, 0.0)
    if not workers:
        unknown["wait_s"] = f"no worker serves {queue} just now"
    pace_ms = FarmState(job_store.redis).pace_ms()
    render_s = sound_s = gpu_s = None
    if isinstance(plan, Conversion):
        render_s = 0.0
        unknown["sound_s"] = unknown["gpu_s"] = "no pace is kept of conversions"
    else:
        left = plan.batches_total * (1 - frames_ready / plan.frames_total)
        render_s = _seconds("render_s", queue, left, pace_ms, unknown)
        sound_s = _seconds("sound_s", SOUND_QUEUE, plan.chunks_total, pace_ms, unknown)
        on_gpu = {worker.device.partition(":")[0] != "cpu" for worker in workers}
        if len(on_gpu) == 1 and render_s is not None and sound_s is not None:
            gpu_s = render_s * on_gpu.pop() + sound_s * (settings.sound_device == "cuda")
        else:
            unknown["gpu_s"] = "it is not known which workers would render it, or how fast"
    return Cost(
        render_s=render_s,
        sound_s=sound_s,
        gpu_s=None if gpu_s is None else round(gpu_s, 1),
        wait_s=round(waiting / len(workers), 1) if workers else None,
        unknown=unknown,
    )


def _seconds(field: str, queue: str, items: float, pace_ms: dict[str, float], unknown: dict[str, str]) -> float | None:
    if queue not in pace_ms:
        unknown[field] = f"nothing of the queue {queue} has been done yet"
        return None
    return round(items * pace_ms[queue] / 1_000, 1)


def bytes_of_files(plan: Plan | Conversion) -> dict[Format, int] | None:
    """About how large all files of each format would be together; None for a conversion: its source decides."""
    if isinstance(plan, Conversion):
        return None
    return {name: round(plan.audio_s * _BYTES_PER_S[name]) + plan.parts * _COVER_BYTES for name in plan.request.formats}
