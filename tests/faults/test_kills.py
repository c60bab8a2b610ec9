"""SIGKILL to each part of a farm, one at a time, amid jobs of every kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conftest import wait_until
from tests.faults.conftest import Undisturbed
from tests.faults.mix import SEED_IMAGE, Request, mixed, track
from tests.faults.rig import Farm

FRAME_S = 0.1
MakeFarm = Callable[..., Farm]


def amid_jobs(farm: Farm, undisturbed: Undisturbed) -> dict[str, str]:
    """Begin jobs of every kind; the sounds they must come to."""
    requests: list[Request] = [track("long", 14), *mixed(5, farm.client.upload(SEED_IMAGE))]
    sounds = undisturbed.sounds(requests)
    first, *_ = farm.submit(*requests)
    farm.wait_for_frames(first, 2)
    return sounds


def kill_child(farm: Farm) -> None:
    """The process that does the work."""
    wait_until(farm["worker-1"].kill_child, "there is a child to kill")


def kill_worker(farm: Farm) -> None:
    """A worker with its child."""
    farm["worker-1"].kill()
    farm.start("worker-1")


def kill_parent(farm: Farm) -> None:
    """A worker's parent, whose child goes on for a moment, or not."""
    farm["worker-1"].kill_alone()
    farm.start("worker-1")


def kill_gateway(farm: Farm) -> None:
    """The gateway."""
    farm["gateway"].kill()
    farm.start("gateway")


def kill_sweeper(farm: Farm) -> None:
    """The sweeper, and a worker whose work it is to find."""
    farm["sweeper"].kill()
    farm["worker-1"].kill()
    farm.start("sweeper")


def kill_valkey(farm: Farm) -> None:
    """Valkey, which comes back with its file."""
    farm["valkey"].kill()
    farm.start("valkey")


@pytest.mark.parametrize("kill", [kill_child, kill_worker, kill_parent, kill_gateway, kill_sweeper, kill_valkey])
def test_whatever_is_killed_every_job_ends_with_its_sound(
    make_farm: MakeFarm, undisturbed: Undisturbed, kill: Callable[[Farm], None]
) -> None:
    """Nothing is lost, nothing is rendered twice but what the killed one was at, nothing is left over."""
    with make_farm(frame_s=FRAME_S) as farm:
        sounds = amid_jobs(farm, undisturbed)
        kill(farm)
        farm.check(sounds)
