"""Messages that are lost, repeated and shuffled, and clocks that jump."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.dispatch import Dispatcher, celery_app, queues
from tests.faults.checks import check, renders
from tests.faults.conftest import FEW
from tests.faults.mix import SEED_IMAGE, Request
from tests.faults.rig import ROOT, Farm

QUEUES = queues(["riffarm-mini"])
HOUR_MS = 3_600_000


def lose(farm: Farm) -> None:
    """All tickets that wait, and all that are out."""
    farm.redis.delete(*QUEUES, "unacked", "unacked_index")


def repeat(farm: Farm) -> None:
    """Fifty tickets for every queue, most of them in vain."""
    with celery_app(farm.settings) as app:
        for _ in range(50):
            Dispatcher(app).send_tickets(QUEUES)


def shuffle(farm: Farm) -> None:
    """Twenty for every queue, in any order, each in any queue."""
    repeat(farm)
    messages = [message for queue in QUEUES for message in farm.redis.lrange(queue, 0, -1)]
    random.Random(5).shuffle(messages)
    for queue in QUEUES:
        farm.redis.delete(queue)
    for index, message in enumerate(messages):
        farm.redis.lpush(QUEUES[index % len(QUEUES)], message)


@pytest.mark.parametrize("disorder", [lose, repeat, shuffle])
def test_tickets_in_disorder_change_nothing(
    farm: Farm, requests: list[Request], sounds: dict[str, str], disorder: Callable[[Farm], None]
) -> None:
    """Which item comes next is decided when one is taken: every frame is rendered once, every sound is right."""
    farm.submit(*requests[:FEW])
    disorder(farm)
    check(farm, sounds)
    assert {len(pids) for pids in renders(farm).values()} == {1}


@pytest.mark.parametrize("hours", [-1, 1])
def test_leases_outlast_a_jump_of_valkeys_clock(
    farm: Farm, requests: list[Request], sounds: dict[str, str], hours: int
) -> None:
    """As after a jump, all that Valkey noted lies an hour away: living workers keep their items."""
    first, *_ = farm.submit(*requests[:FEW])
    farm.wait_for_frames(first, 1)
    jump(farm, -hours * HOUR_MS)
    check(farm, sounds)
    assert {len(pids) for pids in renders(farm).values()} == {1}
    assert not farm.told("begins anew")


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_lost_worker_is_found_after_a_jump_of_valkeys_clock(
    farm: Farm, requests: list[Request], sounds: dict[str, str], hours: int
) -> None:
    """Its leases do not last for an hour more."""
    first, *_ = farm.submit(*requests[:FEW])
    farm.wait_for_frames(first, 1)
    farm["worker-1"].kill()
    jump(farm, -hours * HOUR_MS)
    farm.start("worker-1")
    check(farm, sounds)


def jump(farm: Farm, ms: int) -> None:
    """Move all that leases are judged by, in one step."""
    script = """
        for _, lease in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
          redis.call('ZINCRBY', KEYS[1], ARGV[1], lease)
        end
        redis.call('INCRBY', KEYS[2], ARGV[1])"""
    farm.redis.eval(script, 2, "riffarm:leases", "riffarm:swept", ms)


CLOCK = """
import os, time
def shifted(clock, unit):
    def now():
        with open(os.environ["TESTS_CLOCK"]) as file:
            return clock() + int(file.read() or 0) * unit
    return now
time.time, time.time_ns = shifted(time.time, 1), shifted(time.time_ns, 10**9)
"""
DAY_S = 86_400


def test_wrong_and_jumping_clocks_of_the_processes_change_nothing(
    tmp_path: Path, requests: list[Request], sounds: dict[str, str]
) -> None:
    """Leases know Valkey's time alone: living workers keep their items, and one that is killed loses them."""
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    farm = Farm(tmp_path / "farm")
    for name, shift_s in {"worker-1": DAY_S, "worker-2": -DAY_S, "sweeper": 0, "gateway": -DAY_S}.items():
        (tmp_path / name).write_text(str(shift_s))
        farm.add_to_environment(
            name, {"TESTS_CLOCK": str(tmp_path / name), "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
        )
    with farm:
        farm.client.upload(SEED_IMAGE)
        farm.submit(*requests[:FEW])
        for shift_s in (DAY_S, -DAY_S):
            (tmp_path / "sweeper").write_text(str(shift_s))
            (tmp_path / "worker-1").write_text(str(-shift_s))
            farm.wait_for_sweeps(2)
        assert not farm.told("begins anew")
        farm["worker-2"].kill()
        farm.start("worker-2")
        check(farm, sounds)
