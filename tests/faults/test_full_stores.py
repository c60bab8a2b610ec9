"""Disks that are full or read-only, and a Valkey at its memory limit."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import wait_until
from tests.faults.checks import check
from tests.faults.conftest import FEW
from tests.faults.mix import SEED_IMAGE, Request, clip
from tests.faults.rig import LEASE_S, Farm

MOUNT, UMOUNT = shutil.which("mount") or "mount", shutil.which("umount") or "umount"


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A disk of 64 MB mounted at the folder; the test is skipped where only an administrator may mount."""
    folder.mkdir(parents=True)
    if subprocess.run([MOUNT, "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=False).returncode:
        pytest.skip("a small disk can only be mounted by root")
    try:
        yield
    finally:
        subprocess.run([UMOUNT, "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def farm_on_small_disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """A farm whose storage and whose Valkey's file each have a small disk of their own."""
    folder = tmp_path_factory.mktemp("farm")
    with small_disk(folder / "storage"), small_disk(folder / "valkey"), Farm(folder) as farm:
        farm.client.upload(SEED_IMAGE)
        yield farm


def fill(folder: Path) -> None:
    """Leave no room on the folder's disk."""
    with (folder / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**16))


def make_full(farm: Farm) -> Callable[[], None]:
    """Storage's disk is full."""
    storage = farm.folder / "storage"
    fill(storage)
    return (storage / "filler").unlink


def make_read_only(farm: Farm) -> Callable[[], None]:
    """Storage is read-only."""

    def remount(how: str) -> None:
        subprocess.run([MOUNT, "-o", f"remount,{how}", farm.folder / "storage"], check=True)

    # A file that is being written keeps a disk writable.
    wait_until(lambda: _is_done(lambda: remount("ro")), "the disk is read-only")
    return lambda: remount("rw")


def _is_done(action: Callable[[], None]) -> bool:
    try:
        action()
    except subprocess.CalledProcessError:
        return False
    return True


def fill_valkeys_disk(farm: Farm) -> Callable[[], None]:
    """Valkey cannot append to its file."""
    folder = farm.folder / "valkey"
    fill(folder)
    return (folder / "filler").unlink


def limit_memory(farm: Farm) -> Callable[[], None]:
    """Valkey is at its memory limit."""
    farm.redis.config_set("maxmemory", "1mb")
    return lambda: farm.redis.config_set("maxmemory", "0") and None


FAULTS = {
    make_full: ("storage", "storage_unavailable"),
    make_read_only: ("storage", "storage_unavailable"),
    fill_valkeys_disk: ("redis", "queue_unavailable"),
    limit_memory: ("redis", "queue_unavailable"),
}


@pytest.mark.parametrize("begin", FAULTS)
def test_a_store_that_takes_nothing_is_told_of_and_outlasted(
    farm_on_small_disks: Farm,
    requests: list[Request],
    sounds: dict[str, str],
    begin: Callable[[Farm], Callable[[], None]],
) -> None:
    """While it lasts the gateway says what is wrong and accepts nothing; then all goes on where it was."""
    farm = farm_on_small_disks
    farm.begin()
    part, code = FAULTS[begin]
    first, *_ = farm.submit(*requests[:FEW])
    farm.wait_for_frames(first, 1)
    for name in farm.workers:
        # What they cannot store they render again.
        farm[name].disturb()
    end = begin(farm)
    try:
        wait_until(lambda: bool(_reason(farm, part)), f"the gateway tells of {part}")
        # Not by our client, which would send it again for a minute.
        refused = httpx.post(f"{farm.client.url}/v1/jobs", json=clip("refused", 1), timeout=30)
        assert (refused.status_code, refused.json()["code"]) == (503, code)
        # Longer than leases last, and than a worker's first tries.
        farm.wait_s(2 * LEASE_S)
    finally:
        end()
    check(farm, sounds, timeout_s=90)
    assert not farm.told("begins anew")
    assert not list(farm.client.jobs(**{"label.name": "refused"}))
    assert httpx.get(f"{farm.client.url}/ready").status_code == 200


def _reason(farm: Farm, part: str) -> str | None:
    """Why the gateway says that a part of the farm is not ready; None when it is."""
    reason: str | None = httpx.get(f"{farm.client.url}/ready", timeout=30).json()["checks"][part]
    return reason
