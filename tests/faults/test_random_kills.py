"""Many kills of anything at any time, in an order that one seed gives, over a run of many jobs."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.faults.checks import check
from tests.faults.conftest import JOBS, KILLS, MakeFarm
from tests.faults.mix import Request
from tests.faults.rig import Farm

SEED = 20
UNDER_WAY = 8
"""Jobs that are accepted and have not ended, at most."""
PAUSE_S = (0.5, 2.5)
"""Between two kills: less than a killed worker needs to be back, so that several are away at a time."""


def kill_child(farm: Farm, name: str) -> bool:
    """SIGKILL to a worker's child; its parent starts another."""
    return farm[name].kill_child()


def kill_all_of_it(farm: Farm, name: str) -> bool:
    """SIGKILL to a process and what it started; it is started again."""
    farm[name].kill()
    farm.start(name)
    return True


def kill_parent(farm: Farm, name: str) -> bool:
    """SIGKILL to a worker's parent alone."""
    farm[name].kill_alone()
    farm.start(name)
    return True


Kill = Callable[[Farm, str], bool]


def random_kills(workers: list[str]) -> tuple[list[tuple[Kill, str]], list[int]]:
    """What may be killed, and how often each."""
    worker_kills: list[tuple[Kill, int]] = [(kill_child, 5), (kill_all_of_it, 3), (kill_parent, 1)]
    kills = [((kill, name), weight) for name in workers for kill, weight in worker_kills]
    kills += [((kill_all_of_it, name), weight) for name, weight in (("gateway", 3), ("sweeper", 3), ("valkey", 3))]
    chosen, weights = zip(*kills, strict=True)
    return [*chosen], [*weights]


@pytest.mark.timeout(1_200)
def test_random_kills_of_everything_lose_nothing(
    make_farm: MakeFarm, requests: list[Request], sounds: dict[str, str]
) -> None:
    """Every accepted job succeeds with the sound of an undisturbed farm."""
    draw = random.Random(SEED)
    farm = make_farm(workers=3)
    kills, weights = random_kills(farm.workers)
    submitted = killed = lifted = 0
    while killed < KILLS:
        due = JOBS * (killed + 1) / KILLS
        while submitted < due and farm.under_way() < UNDER_WAY:
            farm.submit(requests[submitted])
            submitted += 1
        kill, name = draw.choices(kills, weights)[0]
        killed += kill(farm, name)
        # Somebody who is killed again and again is benched: here it is not the worker's fault.
        lifted += sum(map(farm.state.lift, farm.workers))
        farm.wait_s(draw.uniform(*PAUSE_S))
    farm.submit(*requests[submitted:])
    check(farm, sounds, timeout_s=180)
    print(f"{killed} kills, {lifted} times a worker was let back to work")
