"""Whether a frame of a long job costs more than one of a short job: whole jobs through workers, and their moves alone.

growth exponent: log(time of the long job / time of the short one) / log(frames of the long one / of the short one); 1
is a flat cost for each frame. The time is from the submit, its plan included, to the job's end. Sound is left out: its
chunks and the delivery make all their moves and write small objects (`farm_worker`).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

from tests.benchmarks.farm_rig import Rig

SHORT: Final = 100
Results = dict[str, Any]
Jobs = dict[int, Results]


def both(run: Callable[[int], Results], long: int, repeats: int) -> Jobs:
    """One run of a job of SHORT frames, the middle of several, and one of a job of `long`."""
    return {SHORT: _middle([run(SHORT) for _ in range(repeats)]), long: run(long)}


def results_of(jobs: Jobs, moves: Jobs) -> Results:
    """What follows from jobs through workers, and from their moves alone."""
    return {
        "rows": [{"frames": size, **jobs[size], "moves_s": moves[size]["wall_s"]} for size in jobs],
        "tenths_ms": moves[max(moves)]["tenths_ms"],
        "growth_exponent_frames": exponent(jobs, "wall_s"),
        "growth_exponent_cpu": exponent(jobs, "cpu_s"),
        "growth_exponent_moves": exponent(moves, "wall_s"),
    }


def through_workers(rig: Rig, frames: int) -> Results:
    """Seconds that one job takes on the wall, and of the CPU: the workers' and Valkey's."""
    before, started_s = rig.costs(), time.perf_counter()
    rig.wait_for_end(rig.maker.submit(frames))
    wall_s, used = time.perf_counter() - started_s, rig.costs() - before
    return {"wall_s": wall_s, "cpu_s": used.workers_cpu_s + used.valkey_cpu_s}


def exponent(jobs: Jobs, name: str) -> float:
    """Of a time's growth from the shortest job to the longest."""
    short, long = min(jobs), max(jobs)
    return round(math.log(jobs[long][name] / jobs[short][name]) / math.log(long / short), 3)


def _middle(runs: list[Results]) -> Results:
    """The run whose time on the wall is the middle one."""
    middle = statistics.median_low(run["wall_s"] for run in runs)
    return next(run for run in runs if run["wall_s"] == middle)
