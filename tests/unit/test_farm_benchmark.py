"""The farm's benchmark measures what it says, over a real Valkey. What takes workers and a gateway is not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.farm_state import FarmState
from tests.benchmarks import farm, farm_growth, farm_moves, farm_queue
from tests.benchmarks.farm_paper import WORKERS, on_paper
from tests.benchmarks.farm_rig import Rig

COSTS_US = dict.fromkeys(("take", "renew", "preview", "record a frame", "record a batch", "done", "heartbeat"), 100.0)
BATCH = {
    "size": 16,
    "overhead_ms": 20.0,
    "sent": 14.0,
    "valkey_cpu_ms": 1.0,
    "traffic_bytes": 7_000,
    "memory_bytes_per_frame": 200,
}


def results(**changes: float) -> dict[str, Any]:
    queue = [{"queued": depth, "submit_p50_ms": 4.0, "bytes_per_job": 2_300.0} for depth in (10, 100_000)]
    growth = {"growth_exponent_frames": 0.9}
    return {"batches": [BATCH | changes], "queue": queue, "growth": growth}


def test_moves_are_made_and_leave_depths_as_they_are(tmp_path: Path) -> None:
    """Jobs come to their end by their moves alone, every move has a cost, and a queue stays as long as it was."""
    with Rig(tmp_path / "rig") as rig:
        bytes_per_job = farm_queue.filled(rig, 200)
        assert 500 < bytes_per_job < 10_000
        assert farm_queue.taken_ms(rig) > 0
        assert farm_queue.swept_us(rig)["mend_us"] > 0
        assert rig.redis.scard("riffarm:jobs:active") == 200
        rig.redis.flushall()
        walked = farm_moves.walked(rig.maker, 20)
        assert set(walked["tenths_ms"]) == {"take", "record", "done"}
        costs = farm_moves.each_costs(rig.maker)
        assert set(costs) == set(COSTS_US)
        assert min(costs.values()) > 0
        assert FarmState(rig.redis).queues_without_ticket() == []


def test_a_batch_in_one_process_is_done_by_the_workers_own_steps(tmp_path: Path) -> None:
    """Every batch is taken, written to storage, recorded and done; the time of the writing alone is taken off."""
    with Rig(tmp_path / "rig") as rig:
        found = rig.run("tests.benchmarks.farm_alone", 4, 16)
        assert set(found) == {"overhead_ms", "overhead_cpu_ms"}
        # Each frame twice: by the batch, and alone.
        assert len([*rig.maker.objects.keys("frames/")]) == 2 * 64


def test_a_flat_cost_for_each_frame_has_the_exponent_one() -> None:
    """And one that doubles from a hundred to ten thousand frames is above what may be."""
    flat = {100: {"wall_s": 2.0}, 10_000: {"wall_s": 200.0}}
    assert farm_growth.exponent(flat, "wall_s") == pytest.approx(1)
    assert farm_growth.exponent(flat | {10_000: {"wall_s": 400.0}}, "wall_s") > 1.05


def test_the_paper_names_the_limit_that_is_nearest() -> None:
    """Dear moves are met at Valkey's thread, many connections at their number."""
    worker = {"idle_per_s": 2.0, "connections": 7.0}
    busy = on_paper(COSTS_US, BATCH, worker, 100.0)
    assert busy["first_bottleneck"] == "Valkey's one thread"
    assert busy["workers_at_the_limit"] == round(WORKERS / busy["shares"]["Valkey's one thread"])
    wide = on_paper(COSTS_US, BATCH, worker | {"connections": 30.0}, 100.0)
    assert (wide["first_bottleneck"], wide["workers_at_the_limit"]) == ("Valkey's connections", 333)


def test_what_was_not_measured_is_null_and_no_target_missed() -> None:
    """Without a run of the faults there is nothing to say of them; with one, a lost job is a miss."""
    figures = farm.figures_of(results(), {})
    assert [figures[name] for name in ("kills", "lost_jobs", "hash_mismatches")] == [None] * 3
    assert farm.unmet(figures) == []
    assert figures["submit_ratio_100k_vs_10"] == 1
    lossy = farm.figures_of(results(overhead_ms=26.0), {"kills": 200, "lost_jobs": 1, "hash_mismatches": 0})
    assert [target.figure for target in farm.unmet(lossy)] == ["overhead_ms_per_batch", "lost_jobs"]
    assert set(farm.LAST_LINE) <= set(figures)
