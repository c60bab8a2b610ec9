"""Whether a full queue costs more than an empty one: submits through gateways, takes, memory, the sweeper's look.

One farm for each depth, side by side; they are asked in turns, so that whatever else the machine does meets all alike.
A job that was submitted to measure is removed again: depths stay what they are.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, cast

import httpx

from api.intake import fields_of_plan
from api.stamps import new_stamp
from shared.farm_state import FarmState
from shared.job_moves import created_ms_from_job_id
from tests.benchmarks.farm_rig import Rig

FRAMES: Final = 100
_WORKER: Final = ("bench", "bench/1")
_TURN_S: Final = 600.0
_FIRST_JOBS: Final = 3
_FIRST_TURNS: Final = 5
"""They open connections, and are not counted."""
Results = dict[str, Any]


def measured(folder: Path, depths: Sequence[int], submits: int) -> list[Results]:
    """For each depth: milliseconds of submits and takes, bytes of memory for each job, the sweeper's microseconds."""
    with ExitStack() as stack:
        rigs = [stack.enter_context(Rig(folder / str(depth))) for depth in depths]
        rows: list[Results] = [
            {"queued": depth, "bytes_per_job": filled(rig, depth)} for rig, depth in zip(rigs, depths, strict=True)
        ]
        urls = [rig.start_gateway() for rig in rigs]
        client = stack.enter_context(httpx.Client(trust_env=False, timeout=60))
        times: list[list[float]] = [[] for _ in rigs]
        takes: list[list[float]] = [[] for _ in rigs]
        for turn in range(submits + _FIRST_TURNS):
            for index, rig in enumerate(rigs):
                submit_ms, take_ms = submitted_ms(rig, client, urls[index]), taken_ms(rig)
                if turn >= _FIRST_TURNS:
                    times[index].append(submit_ms)
                    takes[index].append(take_ms)
        for index, (row, rig) in enumerate(zip(rows, rigs, strict=True)):
            row |= percentiles("submit", times[index]) | percentiles("take", takes[index]) | swept_us(rig)
        return rows


def filled(rig: Rig, depth: int) -> float:
    """Queue so many jobs; the bytes of Redis' memory that each takes."""
    plan = rig.maker.plan(FRAMES)
    # What is there once: scripts, connections' buffers, the sets themselves.
    for _ in range(_FIRST_JOBS):
        rig.maker.create(plan)
        rig.costs()
    before = rig.costs().memory_bytes
    for _ in range(depth - _FIRST_JOBS):
        job_id = new_stamp().job_id
        rig.store.create(job_id, fields_of_plan(plan, created_ms_from_job_id(job_id), rig.settings.job_window))
    used = rig.costs().memory_bytes - before
    rig.wait(lambda: _is_at_rest(rig), "Valkey has rewritten its file", 0.1)
    return round(used / (depth - _FIRST_JOBS), 1)


def _is_at_rest(rig: Rig) -> bool:
    state = cast("dict[str, int]", rig.redis.info("persistence"))
    return not state["aof_rewrite_in_progress"] and not state["aof_rewrite_scheduled"]


def submitted_ms(rig: Rig, client: httpx.Client, url: str) -> float:
    """Milliseconds until a gateway has answered a submit with 202; the job is removed again."""
    body = rig.maker.request(FRAMES)
    started_s = time.perf_counter()
    answer = client.post(f"{url}/v1/jobs", json=body)
    wall_s = time.perf_counter() - started_s
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    assert rig.store.finish(job_id, "canceled")
    assert rig.store.forget(job_id)
    return 1_000 * wall_s


def taken_ms(rig: Rig) -> float:
    """Milliseconds of a take, given back again."""
    started_s = time.perf_counter()
    attempt = rig.store.take(rig.maker.queue, *_WORKER).attempt
    wall_s = time.perf_counter() - started_s
    assert attempt
    assert rig.store.give_back(attempt)
    return 1_000 * wall_s


def swept_us(rig: Rig, looks: int = 1_000) -> dict[str, float]:
    """Microseconds that the sweeper's look at one job takes, answers waited for one by one."""
    fence = FarmState(rig.redis).begin_sweep(_TURN_S)
    assert fence
    job_ids = [job_id for job_id, _ in zip(rig.redis.sscan_iter("riffarm:jobs:active"), range(looks), strict=False)]
    started_s = time.perf_counter()
    for job_id in job_ids:
        assert rig.store.mend(job_id, fence) is None
    return {"mend_us": round(1e6 * (time.perf_counter() - started_s) / len(job_ids), 1)}


def percentiles(name: str, times: Sequence[float]) -> dict[str, float]:
    """The middle and the 99th of 100, in milliseconds."""
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {f"{name}_p50_ms": round(statistics.median(times), 3), f"{name}_p99_ms": round(cuts[98], 3)}
