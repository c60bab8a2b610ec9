"""Workers that say nothing for longer than a lease, and workers that only take long."""

from __future__ import annotations

import json

from tests.conftest import wait_until
from tests.faults.checks import check, renders
from tests.faults.conftest import FEW, MakeFarm
from tests.faults.mix import Request, clip
from tests.faults.rig import LEASE_S, Farm


def test_a_frozen_worker_that_wakes_up_late_is_refused(
    farm: Farm, requests: list[Request], sounds: dict[str, str]
) -> None:
    """Its item is begun elsewhere after a lease; what it then reports is refused and logged, and it works on."""
    first, *_ = farm.submit(*requests[:FEW])
    farm.wait_for_frames(first, 1)
    wait_until(lambda: bool(farm.holders(first)), "a worker is at it")
    item, name = next(iter(farm.holders(first).items()))
    worker = farm[name]
    worker.freeze()
    wait_until(lambda: farm.holders(first).get(item) != name, "its item is another's, or done", 6 * LEASE_S)
    worker.thaw()
    wait_until(lambda: bool(worker.said("late: another attempt has taken over")), "it learns that it is late")
    check(farm, sounds)
    assert farm.redis.hget("riffarm:benched", worker.name) is None


def test_a_call_longer_than_the_lease_is_never_started_twice(make_farm: MakeFarm, sounds: dict[str, str]) -> None:
    """A living worker keeps what it is at however long it takes, with another one idle beside it."""
    farm = make_farm(frame_s=2 * LEASE_S)
    job_id, *_ = farm.submit(clip("n-long", 1))
    farm.wait_for_end()
    assert farm.status(job_id) == "succeeded"
    assert [len(pids) for pids in renders(farm).values()] == [1]
    record = json.loads(str(farm.redis.hget(f"riffarm:job:{job_id}:frames", "0")))
    assert record["attempts"] == 1


def test_what_kills_its_worker_three_times_fails_alone(
    farm: Farm, requests: list[Request], sounds: dict[str, str]
) -> None:
    """The job says which frames; the jobs beside it succeed, and the workers go on."""
    poison, *_ = farm.submit(clip("kills", 2), *requests[:FEW])
    check(farm, sounds, failed=[poison])
    error = farm.client.job(poison).error
    assert error
    assert (error.code, error.retryable) == ("poison", True)
    assert "rendering frames 0 to 1 failed 3 times" in error.message
    assert farm.redis.hlen("riffarm:benched") == 0


def test_a_rolling_restart_again_and_again_loses_and_counts_nothing(
    farm: Farm, requests: list[Request], sounds: dict[str, str]
) -> None:
    """SIGTERM to one worker after the other: each ends with 0, and no item counts as lost."""
    waiting = iter(requests)
    for name in farm.workers * 3:
        if farm.under_way() < 2:
            farm.submit(next(waiting), next(waiting))
        assert farm[name].stop() == 0
        farm.start(name)
        wait_until(farm.is_ready, "the worker is back")
    check(farm, sounds)
    assert farm.redis.hlen("riffarm:blame") == 0
    assert not farm.told("begins anew")
