"""What batches cost in one process, without Celery: `python -m tests.benchmarks.farm_alone SIZE BATCHES`.

Reads the farm's settings as a worker does. Prints one JSON object: milliseconds on the wall and of the CPU for each
batch of SIZE frames, less those of writing its files alone (`farm_batches`), medians over BATCHES batches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from typing import Any

from shared.logs import configure_logs
from shared.plan import Plan
from shared.settings import settings_from_environment
from tests.benchmarks import farm_worker
from tests.benchmarks.farm_batches import SIZES, bare_s
from tests.benchmarks.farm_jobs import JobMaker
from workers.attempts import Attempts
from workers.tasks import Tasks


def measured(maker: JobMaker, plans: list[Plan]) -> dict[str, float]:
    """Overhead on the wall and of the CPU, in milliseconds."""
    pipeline: Any = farm_worker.FreePipeline()
    tasks = Tasks(
        maker.settings, maker.store, maker.objects, maker.dispatcher, lambda name, revision: pipeline, "bench"
    )
    attempts = Attempts(maker.store, tasks, maker.dispatcher, "bench", "bench/1", threading.Event())
    wall, cpu = [], []
    for plan in plans:
        maker.create_frames_only(plan)
        for batch in range(plan.batches_total):
            started_s, cpu_s = time.perf_counter(), time.process_time()
            outcome = attempts.work(maker.queue)
            wall_s, used_s = time.perf_counter() - started_s, time.process_time() - cpu_s
            assert outcome == "done"
            bare_wall_s, bare_cpu_s = bare_s(maker.objects, plan, batch, farm_worker.png(plan))
            wall.append(wall_s - bare_wall_s)
            cpu.append(used_s - bare_cpu_s)
    return {
        "overhead_ms": round(1_000 * statistics.median(wall), 2),
        "overhead_cpu_ms": round(1_000 * statistics.median(cpu), 2),
    }


def main() -> None:
    """Measure batches of SIZE frames."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", type=int, choices=SIZES)
    parser.add_argument("batches", type=int)
    options = parser.parse_args()
    settings = settings_from_environment()
    configure_logs(settings.log_format, "bench")
    maker = JobMaker(settings)
    print(json.dumps(measured(maker, maker.plans(SIZES[options.size], options.batches))))


if __name__ == "__main__":
    main()
