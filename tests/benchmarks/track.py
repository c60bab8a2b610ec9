"""How a long track goes through a farm of two workers: memory over time, and where the time went.

    python -m tests.benchmarks.track [--minutes 10] [--steps 20] [--picture docs/benchmarks/memory.png]

Prints a table and, as its last line, one JSON object. The baseline is the track's own first quarter: memory that is
flat stays where it was then.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from shared.contracts import TERMINAL, Job
from tests.conftest import Farm, running_farm

_EVERY_S = 1.0
Samples = dict[str, list[tuple[float, float]]]


def _processes(farm: Farm) -> dict[str, psutil.Process]:
    """The processes that hold the model or the queue, by a readable name."""
    found = {}
    workers = itertools.count(1)
    for process in psutil.Process(farm.process.pid).children(recursive=True):
        command = " ".join(process.cmdline())
        if "spawn_main" in command:
            found[f"worker {next(workers)}"] = process
        elif "valkey-server" in command:
            found["Valkey"] = process
        elif "api.main" in command:
            found["gateway"] = process
    return found


def _followed(farm: Farm, request: dict[str, object]) -> tuple[Job, Samples]:
    """The finished job, and each process' resident memory (seconds since the start, MiB)."""
    processes = _processes(farm)
    samples: Samples = {name: [] for name in processes}
    job = farm.client.submit(request)
    started_s = time.monotonic()
    while job.status not in TERMINAL:
        for name, process in processes.items():
            samples[name].append((time.monotonic() - started_s, process.memory_info().rss / 2**20))
        time.sleep(_EVERY_S)
        job = farm.client.job(job.id)
    return job, samples


def _quarter_medians(samples: list[tuple[float, float]]) -> tuple[float, float]:
    quarter = max(1, len(samples) // 4)
    return tuple(statistics.median(mib for _, mib in part) for part in (samples[:quarter], samples[-quarter:]))  # type: ignore[return-value]


def _draw(samples: Samples, path: Path, minutes: float) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4))
    for name, points in samples.items():
        axes.plot([at_s for at_s, _ in points], [mib for _, mib in points], label=name)
    axes.set(xlabel="seconds since submission", ylabel="resident memory, MiB", ylim=(0, None))
    axes.set_title(f"A {minutes:g}-minute track on a farm of two CPU workers")
    axes.grid(alpha=0.3)
    axes.legend(loc="center right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--picture", type=Path, default=Path("docs/benchmarks/memory.png"))
    options = parser.parse_args()
    request: dict[str, object] = {
        "type": "track",
        "keyframes": [{"prompt": "ambient strings, slow", "seed": 1}, {"prompt": "techno synth, fast", "seed": 2}],
        "duration_s": options.minutes * 60,
        "num_inference_steps": options.steps,
    }
    with tempfile.TemporaryDirectory() as folder, running_farm(Path(folder) / "data", "--workers", "2") as farm:
        job, samples = _followed(farm, request)
    if job.status != "succeeded":
        raise SystemExit(f"the track {job.status}: {job.error}")
    _draw(samples, options.picture, options.minutes)
    table = Table("process", "first quarter, MiB", "last quarter, MiB", "peak, MiB", "last / first")
    for name, points in samples.items():
        first, last = _quarter_medians(points)
        table.add_row(
            name, f"{first:.0f}", f"{last:.0f}", f"{max(mib for _, mib in points):.0f}", f"{last / first:.3f}"
        )
    Console(width=100).print(table)
    workers = [points for name, points in samples.items() if name.startswith("worker")]
    ratios = [last / first for first, last in map(_quarter_medians, workers)]
    figures = {
        "audio_s": job.metrics.audio_s,
        "realtime_factor": job.metrics.realtime_factor,
        "render_cpu_s_per_frame": round(job.metrics.render_s / job.progress.frames_total, 3),
        "sound_cpu_s_per_frame": round(job.metrics.sound_s / job.progress.frames_total, 3),
        "worker_memory_last_to_first_quarter": round(max(ratios), 3),
        "worker_peak_mib": round(max(mib for points in workers for _, mib in points)),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
