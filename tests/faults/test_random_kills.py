"""Many kills of anything at any time, in an order that one seed gives, over a run of many jobs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest
import redis

from tests.faults.checks import check
from tests.faults.conftest import JOBS, KILLS, MakeFarm
from tests.faults.mix import Request
from tests.faults.processes import Process
from tests.faults.rig import Farm
from workers.losses import MAX_LOSSES

SEED = 20
UNDER_WAY = 8
"""Jobs that are accepted and have not ended, at most."""
PAUSE_S = (0.3, 1.6)
"""Between two kills: less than a killed worker needs to be back, so that several are away at a time."""
MOST_WAITS = 150
"""Looks for somebody at work before the next kill all the same."""


def kill_child(process: Process) -> bool:
    """SIGKILL to a worker's child; its parent starts another. False when there is none just now."""
    return process.kill_child()


def kill_all(process: Process) -> bool:
    """SIGKILL to a process and what it started."""
    process.kill()
    return True


def kill_parent(process: Process) -> bool:
    """SIGKILL to a worker's parent alone."""
    process.kill_alone()
    return True


Kill = Callable[[Process], bool]


class Killer:
    """Kills this and that of a farm, and starts it again.

    It spares a worker that is at an item of which two were killed before: a third one makes it poison, as it should.
    """

    def __init__(self, farm: Farm) -> None:
        self._farm = farm
        self._draw = random.Random(SEED)
        of_workers: list[tuple[Kill, int]] = [(kill_child, 5), (kill_all, 3), (kill_parent, 1)]
        kills = [(kill, name, weight) for name in farm.workers for kill, weight in of_workers]
        kills += [(kill_all, name, 3) for name in ("gateway", "sweeper", "valkey")]
        self._kills = [(kill, name) for kill, name, _ in kills]
        self._weights = [weight for *_, weight in kills]
        self.hits: Counter[tuple[str, str]] = Counter()
        """How often somebody was killed who was at an item, by job and item."""

    def kill(self) -> bool:
        """Kill one of them; False when the one that was drawn was spared, or not there."""
        kill, name = self._draw.choices(self._kills, self._weights)[0]
        process = self._farm[name]
        if name in self._farm.workers and not self._is_fair(process):
            return False
        if not kill(process):
            return False
        if not process.is_running:
            self._farm.start(name)
        return True

    def _is_fair(self, worker: Process) -> bool:
        # Frozen, it cannot take another item while we look.
        worker.freeze()
        held = self._farm.items_of(worker.name)
        is_fair = all(self.hits[item] < MAX_LOSSES - 1 for item in held)
        if is_fair:
            self.hits.update(held)
        worker.thaw()
        return is_fair

    def rest(self) -> None:
        """Wait for a moment, and then until somebody is at work: a farm that only starts has nothing to lose."""
        self._farm.wait_s(self._draw.uniform(*PAUSE_S))
        self._start_ended()
        for _ in range(MOST_WAITS):
            if self._is_somebody_at_work():
                return
            self._farm.wait_s(0.1)

    def _start_ended(self) -> None:
        """Start workers again whose very first child was killed: Celery takes it that none can be started, and ends."""
        for name in self._farm.workers:
            process = self._farm[name]
            if not process.is_running and process.said("Could not start worker processes"):
                self._farm.start(name)

    def _is_somebody_at_work(self) -> bool:
        try:
            return not self._farm.under_way() or any(map(self._farm.items_of, self._farm.workers))
        except redis.exceptions.RedisError:
            # Killed just now.
            return False


@pytest.mark.timeout(1_200)
def test_random_kills_of_everything_lose_nothing(
    make_farm: MakeFarm, requests: list[Request], sounds: dict[str, str]
) -> None:
    """Every accepted job succeeds with the sound of an undisturbed farm."""
    farm = make_farm(workers=3, frame_s=0.4)
    killer = Killer(farm)
    submitted = killed = lifted = 0
    while killed < KILLS:
        due = JOBS * (killed + 1) / KILLS
        while submitted < due and farm.under_way() < UNDER_WAY:
            farm.submit(requests[submitted])
            submitted += 1
        killed += killer.kill()
        # One that is killed again and again is benched: here it is not the worker's fault.
        lifted += sum(map(farm.state.lift, farm.workers))
        killer.rest()
    farm.submit(*requests[submitted:])
    check(farm, sounds, timeout_s=180)
    print(f"{killed} kills, {killer.hits.total()} of them of somebody at work; {lifted} times a worker was let back")
    assert killer.hits.total() >= KILLS / 10
