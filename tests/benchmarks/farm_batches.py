"""What a batch costs beyond its pictures: in one process, through Celery with 1 to 8 workers, and in Redis commands.

overhead: time that a batch takes, less the time that writing the same files to the same storage with as many threads
takes without a farm. What is left is the farm's own work: the ticket, the take, the lease and its thread, asking
storage for the frames, their records, the end.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from shared.frames import frame_hash
from shared.object_store import ObjectStore, frame_key
from shared.plan import Plan
from tests.benchmarks.farm_rig import Rig

SIZES: Final = {4: 64, 16: 512}
"""Frames of a track by those of its batches: the smallest batches there are, and the largest."""
ROUND_BATCHES: Final = 32
_UPLOADS: Final = 4
_IDLE_S: Final = 8.0
Results = dict[str, Any]


def bare_s(objects: ObjectStore, plan: Plan, batch: int, data: bytes) -> tuple[float, float]:
    """Seconds on the wall and of the CPU that it takes to write a batch's files alone, by a worker's four threads."""
    # Names beside the frames' own: what is there is not rendered.
    keys = [frame_key(frame_hash(plan.frame(number))[::-1]) for number in plan.batch_frames(batch)]
    started_s, cpu_s = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(_UPLOADS) as uploads:
        for written in [uploads.submit(objects.put, key, data, "image/png") for key in keys]:
            written.result()
    return time.perf_counter() - started_s, time.process_time() - cpu_s


def overhead_of_worker(rig: Rig, size: int, rounds: int) -> Results:
    """Milliseconds for each batch of `size` frames with one worker, in turns with writing the files alone."""
    wall, cpu, valkey, memory, traffic = [], [], [], [], []
    for _ in range(rounds):
        plans = rig.maker.plans(SIZES[size], ROUND_BATCHES)
        batches = [(plan, batch) for plan in plans for batch in range(plan.batches_total)]
        before, started_s = rig.costs(), time.perf_counter()
        rig.render(plans)
        wall_s, used = time.perf_counter() - started_s, rig.costs() - before
        data = rig.maker.objects.get(frame_key(frame_hash(plans[0].frame(0))))
        bare = [bare_s(rig.maker.objects, plan, batch, data) for plan, batch in batches]
        wall.append((wall_s - sum(one for one, _ in bare)) / len(batches))
        cpu.append((used.workers_cpu_s - sum(one for _, one in bare)) / len(batches))
        valkey.append(used.valkey_cpu_s / len(batches))
        memory.append(used.memory_bytes / len(batches) / size)
        traffic.append(used.traffic_bytes / len(batches))
    return {
        "size": size,
        "overhead_ms": _ms(wall),
        "overhead_cpu_ms": _ms(cpu),
        "valkey_cpu_ms": _ms(valkey),
        "memory_bytes_per_frame": round(statistics.median(memory)),
        "traffic_bytes": round(statistics.median(traffic)),
    }


def _ms(seconds: Sequence[float]) -> float:
    return round(1_000 * statistics.median(seconds), 2)


def batches_per_s(rig: Rig, size: int, batches: int) -> float:
    """Batches that the workers there are finish in a second."""
    plans = rig.maker.plans(SIZES[size], batches)
    started_s = time.perf_counter()
    rig.render(plans)
    wall_s = time.perf_counter() - started_s
    return round(sum(plan.batches_total for plan in plans) / wall_s, 1)


def commands(rig: Rig, size: int) -> Results:
    """Redis commands for each batch of `size` frames: sent by clients, and carried out within scripts."""
    plans = rig.maker.plans(SIZES[size], 2 * ROUND_BATCHES)
    with rig.counted_commands() as found:
        rig.render(plans)
    count = sum(plan.batches_total for plan in plans)
    return {kind: round(found[kind] / count, 1) for kind in ("sent", "within")}


def idle_worker(rig: Rig) -> Results:
    """What a worker takes while there is nothing to do: commands sent and CPU time in a second, and connections."""
    before = rig.costs()
    with rig.counted_commands() as found:
        threading.Event().wait(_IDLE_S)
    used = rig.costs() - before
    return {
        "idle_per_s": round(found["sent"] / _IDLE_S / rig.workers, 2),
        "idle_cpu_ms_per_s": round(1_000 * used.workers_cpu_s / _IDLE_S / rig.workers, 1),
        "connections": rig.connections(),
    }
