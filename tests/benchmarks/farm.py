"""The farm's own work, without model, pictures and sound: real workers, Valkey, gateway and local storage.

    python -m tests.benchmarks.farm [--quick]

Prints tables and, as its last line, one JSON object; exits with 1 when a target is missed. Takes five minutes.

    overhead_ms_per_batch    a batch of 16 through Celery, less writing its 16 files (`farm_batches`)
    redis_cmds_per_frame     sent by clients; the largest over batches of 4 and of 16
    redis_bytes_per_frame    that Redis' memory grows by; the largest over tracks of 64 and of 512 frames
    submit_p50_ms_at_100k    until the 202, over HTTP, with 100,000 jobs queued; ratio: over that with 10
    growth_exponent_frames   of a job's time from 100 to 10,000 frames (`farm_growth`)
    kills, lost_jobs, hash_mismatches   what the last `make test-faults` found; null when there was none
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from tests.benchmarks import farm_batches, farm_growth, farm_moves, farm_queue, farm_report
from tests.benchmarks.farm_paper import on_paper
from tests.benchmarks.farm_rig import Rig
from tests.benchmarks.sound_targets import Target

FAULTS: Final = Path("out/faults.json")
TARGETS: Final = (
    Target("overhead_ms_per_batch", 25),
    Target("redis_cmds_per_batch", 40),
    Target("growth_exponent_frames", 1.05),
    Target("submit_ratio_100k_vs_10", 1.3),
    Target("redis_bytes_per_queued_job", 4_000),
    Target("lost_jobs", 0),
    Target("hash_mismatches", 0),
)
LAST_LINE: Final = (
    "overhead_ms_per_batch",
    "redis_cmds_per_frame",
    "redis_bytes_per_frame",
    "submit_p50_ms_at_100k",
    "submit_ratio_100k_vs_10",
    "growth_exponent_frames",
    "kills",
    "lost_jobs",
    "hash_mismatches",
)
Results = dict[str, Any]


def workers_results(folder: Path, *, is_quick: bool) -> Results:
    """Batches, commands, growth and moves, on one farm that is given more and more workers."""
    rounds, batches, long, repeats = (1, 64, 1_000, 3) if is_quick else (5, 320, 10_000, 15)
    with Rig(folder) as rig:
        alone = {size: rig.run("tests.benchmarks.farm_alone", size, 2 * batches // 5) for size in farm_batches.SIZES}
        results: Results = {"moves_us": farm_moves.each_costs(rig.maker), "batches_per_s": {}}
        moves = farm_growth.both(partial(farm_moves.walked, rig.maker), long, repeats)
        rig.start_workers(1)
        found = [
            farm_batches.overhead_of_worker(rig, size, rounds) | farm_batches.commands(rig, size)
            for size in farm_batches.SIZES
        ]
        results["batches"] = [one | {"alone": alone[one["size"]]} for one in found]
        results["worker"] = farm_batches.idle_worker(rig)
        for workers in (1, 2) if is_quick else (1, 2, 4, 8):
            rig.start_workers(workers)
            results["batches_per_s"][workers] = {
                size: farm_batches.batches_per_s(rig, size, batches) for size in farm_batches.SIZES
            }
            if workers == 2:
                jobs = farm_growth.both(partial(farm_growth.through_workers, rig), long, repeats)
                results["growth"] = farm_growth.results_of(jobs, moves)
    return results


def figures_of(results: Results, faults: Results) -> Results:
    """The figures that targets are set for, and those of the last line."""
    batches, queue = results["batches"], results["queue"]
    return {
        "overhead_ms_per_batch": max(one["overhead_ms"] for one in batches),
        "redis_cmds_per_batch": max(one["sent"] for one in batches),
        "redis_cmds_per_frame": max(round(one["sent"] / one["size"], 2) for one in batches),
        "redis_bytes_per_frame": max(one["memory_bytes_per_frame"] for one in batches),
        # Beside ten jobs a connection's buffer that comes or goes is no small part.
        "redis_bytes_per_queued_job": queue[-1]["bytes_per_job"],
        "submit_p50_ms_at_100k": queue[-1]["submit_p50_ms"],
        "submit_ratio_100k_vs_10": round(queue[-1]["submit_p50_ms"] / queue[0]["submit_p50_ms"], 3),
        "growth_exponent_frames": results["growth"]["growth_exponent_frames"],
        **{name: faults.get(name) for name in ("kills", "lost_jobs", "hash_mismatches")},
    }


def unmet(figures: Results) -> list[Target]:
    """The targets that were measured and missed."""
    measured = [(target, target.value(figures)) for target in TARGETS if figures[target.figure] is not None]
    return [one for one, value in measured if one.must is not None and not one.is_met(value, one.must)]


def main() -> int:
    """Run the benchmark and print its figures; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute: shorter jobs, 1,000 queued for 100,000")
    options = parser.parse_args()
    console = Console(width=120)
    depths, submits = ((10, 1_000), 50) if options.quick else ((10, 1_000, 100_000), 300)
    with tempfile.TemporaryDirectory(prefix="riffarm-bench-") as folder:
        results = workers_results(Path(folder) / "workers", is_quick=options.quick)
        results["queue"] = farm_queue.measured(Path(folder) / "queue", depths, submits)
    batch = results["batches"][-1]
    results["paper"] = on_paper(results["moves_us"], batch, results["worker"], results["queue"][-1]["mend_us"])
    faults = json.loads(FAULTS.read_text(encoding="utf-8")) if FAULTS.exists() else {}
    figures = figures_of(results, faults)
    farm_report.show(console, results, figures, TARGETS)
    print(json.dumps({name: figures[name] for name in LAST_LINE}))
    return 1 if unmet(figures) else 0


if __name__ == "__main__":
    sys.exit(main())
