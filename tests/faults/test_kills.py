"""SIGKILL to each part of a farm, one at a time, amid jobs of every kind."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from tests.conftest import wait_until
from tests.faults.checks import check
from tests.faults.conftest import FEW
from tests.faults.mix import Request
from tests.faults.rig import Farm


def kill_child(farm: Farm, name: str) -> None:
    """The process that does the work."""
    wait_until(farm[name].kill_child, "there is a child to kill")


def kill_worker(farm: Farm, name: str) -> None:
    """A worker with its child."""
    farm[name].kill()
    farm.start(name)


def kill_parent(farm: Farm, name: str) -> None:
    """A worker's parent alone."""
    farm[name].kill_alone()
    farm.start(name)


def kill_gateway(farm: Farm, name: str) -> None:
    """The gateway."""
    farm["gateway"].kill()
    farm.start("gateway")


def kill_sweeper(farm: Farm, name: str) -> None:
    """The sweeper, and a worker whose work it is to find when it is back."""
    farm["sweeper"].kill()
    farm[name].kill()
    farm.start("sweeper")
    farm.start(name)


def kill_valkey(farm: Farm, name: str) -> None:
    """Valkey, which comes back with its file."""
    farm["valkey"].kill()
    farm.start("valkey")


def kill_valkey_and_its_file(farm: Farm, name: str) -> None:
    """Valkey, which comes back with nothing."""
    farm["valkey"].kill()
    shutil.rmtree(farm.folder / "valkey")
    (farm.folder / "valkey").mkdir()
    farm.start("valkey")
    _forget_items(farm)


def _forget_items(farm: Farm) -> None:
    """Workers that were at an item when Valkey forgot of it are late: others begin it anew."""
    for name in farm.workers:
        farm[name].forget_items()


VICTIMS = [
    kill_child,
    kill_worker,
    kill_parent,
    kill_gateway,
    kill_sweeper,
    kill_valkey,
    kill_valkey_and_its_file,
]


@pytest.mark.parametrize("kill", VICTIMS)
def test_whatever_is_killed_every_job_ends_with_its_sound(
    farm: Farm, requests: list[Request], sounds: dict[str, str], kill: Callable[[Farm, str], None]
) -> None:
    """Nothing is lost, nothing is rendered twice but what the killed one was at, nothing is left over."""
    first, *_ = farm.submit(*requests[:FEW])
    farm.wait_for_frames(first, 2)
    kill(farm, farm.renderer_of(first))
    check(farm, sounds)


def test_a_valkey_that_comes_back_as_it_was_a_while_ago_loses_nothing(
    farm: Farm, requests: list[Request], sounds: dict[str, str]
) -> None:
    """After a loss of power, or from a replica that was behind: jobs accepted since then are back from storage, and
    what Valkey takes for unfinished is found finished."""
    folder = farm.folder / "valkey"
    first, *_ = farm.submit(*requests[:3])
    farm.wait_for_frames(first, 1)
    shutil.copytree(folder, farm.folder / "older")
    later = farm.submit(*requests[3:FEW])[1]
    farm.wait_for_frames(later, 1)
    farm["valkey"].kill()
    shutil.rmtree(folder)
    (farm.folder / "older").rename(folder)
    farm.start("valkey")
    _forget_items(farm)
    check(farm, sounds)
