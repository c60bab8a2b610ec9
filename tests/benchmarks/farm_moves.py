"""What each of the job store's moves costs by itself, and whether it costs more in a long job or a full queue.

One client makes the moves one after the other, as fast as they are answered. Leaves out Celery, storage and threads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final, cast

from shared.contracts import Preview
from shared.dispatch import DELIVER_QUEUE, SOUND_QUEUE, needed_frames
from shared.farm_state import FarmState
from shared.job_moves import Attempt, job_key
from shared.job_store import JobStore
from shared.plan import Plan
from tests.benchmarks.farm_jobs import JobMaker

RECORD: Final = {"reused": False, "s": 0.25, "memory_mb": 4_000, "worker": "worker-1"}
_PREVIEW: Final = Preview(frame=0, step=1, steps=20, image="data:image/jpeg;base64," + 3_977 * "A").model_dump()
"""As large as previews get (`workers.previews`)."""
_WORKER: Final = ("worker-1", "worker-1/1")
_FRAMES: Final = 1_600
Results = dict[str, Any]


def valkey_us(store: JobStore, calls: Sequence[Callable[[], object]]) -> float:
    """Microseconds of Valkey's CPU for each of these calls."""

    def used_s() -> float:
        cpu = cast("dict[str, float]", store.redis.info("cpu"))
        return cpu["used_cpu_sys_main_thread"] + cpu["used_cpu_user_main_thread"]

    before_s = used_s()
    for call in calls:
        call()
    return round(1e6 * (used_s() - before_s) / len(calls), 1)


def each_costs(maker: JobMaker) -> dict[str, float]:
    """Valkey's CPU time of every move that workers make again and again, in microseconds."""
    store, plan = maker.store, maker.plan(_FRAMES)
    job_id = maker.create_frames_only(plan)
    # Only so many batches of a job may be under way at a time; here it is all.
    store.redis.hset(job_key(job_id), "window", plan.batches_total)
    attempts: list[Attempt] = []

    def take() -> None:
        attempt = store.take(maker.queue, *_WORKER).attempt
        assert attempt
        attempts.append(attempt)

    def preview(number: int) -> None:
        store.add_event(job_id, "preview", _PREVIEW | {"frame": number})

    costs = {"take": valkey_us(store, [take] * plan.batches_total)}
    half = len(attempts) // 2
    single = [(one, number) for one in attempts[:half] for number in plan.batch_frames(one.number)]
    farm = FarmState(store.redis)
    calls: dict[str, list[Callable[[], object]]] = {
        "renew": [partial(store.renew, one) for one, _ in single],
        "preview": [partial(preview, number) for _, number in single],
        "record a frame": [partial(store.record_frames, one, {number: RECORD}) for one, number in single],
        "record a batch": [
            partial(store.record_frames, one, dict.fromkeys(plan.batch_frames(one.number), RECORD))
            for one in attempts[half:]
        ],
        "done": [partial(store.done, one, 4_000, _WORKER[0], one.next_chunk, ()) for one in attempts],
        "heartbeat": [partial(farm.beat, _WORKER[1], {"name": _WORKER[0]})] * len(single),
    }
    costs |= {move: valkey_us(store, made) for move, made in calls.items()}
    store.finish(job_id, "canceled")
    return costs


def walked(maker: JobMaker, frames: int) -> Results:
    """One job's moves from the first batch to its end: seconds in all, and of each move the middle of its times in the
    first tenth of the job and in the last, in milliseconds."""
    store, plan = maker.store, maker.plan(frames)
    times: dict[str, list[float]] = {"take": [], "record": [], "done": []}
    started_s = time.perf_counter()
    job_id = maker.create(plan)
    for queue in _queues_in_turn(maker, plan):
        began_s = time.perf_counter()
        attempt = store.take(queue, *_WORKER).attempt
        taken_s = time.perf_counter()
        if attempt is None:
            continue
        if attempt.item == "deliver":
            assert store.finish(job_id, "succeeded", {}, attempt)
            continue
        if attempt.item.startswith("b"):
            store.record_frames(attempt, dict.fromkeys(plan.batch_frames(attempt.number), RECORD))
        recorded_s = time.perf_counter()
        _finish_item(store, plan, attempt)
        if attempt.item.startswith("b"):
            marks = (began_s, taken_s, recorded_s, time.perf_counter())
            for move, (before_s, after_s) in zip(times, pairwise(marks), strict=True):
                times[move].append(1_000 * (after_s - before_s))
    wall_s = time.perf_counter() - started_s
    assert store.status(job_id) == "succeeded"
    return {"wall_s": wall_s, "tenths_ms": {move: _tenths(found) for move, found in times.items()}}


def _queues_in_turn(maker: JobMaker, plan: Plan) -> list[str]:
    return [*[maker.queue, SOUND_QUEUE] * plan.batches_total, *[SOUND_QUEUE] * plan.chunks_total, DELIVER_QUEUE]


def _finish_item(store: JobStore, plan: Plan, attempt: Attempt) -> None:
    """As a worker does it (`workers.tasks`)."""
    chunk = attempt.next_chunk
    done = store.done(attempt, 1, _WORKER[0], chunk, needed_frames(plan, chunk))
    if done.next_chunk is not None:
        store.move_on(attempt.job_id, done.next_chunk, needed_frames(plan, done.next_chunk))


def _tenths(times: Sequence[float]) -> list[float]:
    tenth = max(1, len(times) // 10)
    return [round(statistics.median(part), 3) for part in (times[:tenth], times[-tenth:])]
