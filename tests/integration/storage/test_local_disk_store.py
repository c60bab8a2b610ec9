"""The local disk: killed writers, full disks, lost mounts."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.errors import StorageUnavailableError
from shared.object_store import LocalDiskStore, object_store_from_url
from tests.integration.storage.stores import calls


def test_a_writer_killed_in_the_middle_leaves_no_object(local: LocalDiskStore, tmp_path: Path) -> None:
    """After kill -9 the old object stands, and what was being written is in no listing."""
    local.put("jobs/j1/outputs/track.flac", b"old")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    program = (
        "import sys; from pathlib import Path; from shared.object_store import LocalDiskStore; "
        "LocalDiskStore(Path(sys.argv[1])).put_file('jobs/j1/outputs/track.flac', Path(sys.argv[2]), 'audio/flac')"
    )
    with (
        subprocess.Popen([sys.executable, "-c", program, str(local.root), str(pipe)]) as writer,
        pipe.open("wb") as end,
    ):
        # More than a pipe holds: once this returns, the writer has read and written most of it.
        end.write(bytes(3 * 2**20))
        writer.kill()
    leftovers = [path.name for path in local.path("jobs/j1/outputs").iterdir()]
    assert len(leftovers) == 2
    assert list(local.keys("")) == ["jobs/j1/outputs/track.flac"]
    assert local.remove_unfinished(time.time() - 60) == 0
    assert local.remove_unfinished(time.time() + 60) == 1
    assert [path.name for path in local.path("jobs/j1/outputs").iterdir()] == ["track.flac"]
    assert local.get("jobs/j1/outputs/track.flac") == b"old"


def test_a_full_disk_is_storage_that_cannot_be_used(local: LocalDiskStore) -> None:
    """The kernel refuses the write: the old object stands, nothing half-written stays."""
    local.put("jobs/j1/x", b"old")
    with file_size_limit(2**20), pytest.raises(StorageUnavailableError, match="cannot be used: File too large"):
        local.put("jobs/j1/x", bytes(2**21))
    assert local.get("jobs/j1/x") == b"old"
    assert [path.name for path in local.path("jobs/j1").iterdir()] == ["x"]


@contextmanager
def file_size_limit(limit_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond the limit: to a writer the same as a full disk, also for root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    """One clear sentence with the reason and the place."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageUnavailableError, match=r"cannot be used: Not a directory: .*file"):
        object_store_from_url(f"file:{tmp_path}/file/storage")


@pytest.mark.parametrize("replacement", ["nothing", "file"])
def test_a_lost_mount_is_no_empty_store(local: LocalDiskStore, tmp_path: Path, replacement: str) -> None:
    """If the folder goes away, its objects are not absent but out of reach."""
    local.put("jobs/j1/x", b"x")
    local.root.rename(tmp_path / "elsewhere")
    if replacement == "file":
        local.root.write_bytes(b"")
    (tmp_path / "file").write_bytes(b"x")
    reaching = calls(local, "jobs/j1/x", tmp_path / "file")
    writing = {"put", "put_file", "delete"} if replacement == "nothing" else set()
    for name in reaching.keys() - writing:
        with pytest.raises(StorageUnavailableError):
            reaching[name]()


def test_files_on_disk_are_for_the_gateway_to_serve(local: LocalDiskStore) -> None:
    """There is no link to the local disk, but a path."""
    local.put("jobs/j1/outputs/track.flac", b"fLaC")
    assert local.url("jobs/j1/outputs/track.flac", 60, "track.flac", "audio/flac") is None
    assert local.path("jobs/j1/outputs/track.flac").read_bytes() == b"fLaC"
    with pytest.raises(ValueError, match="storage key"):
        local.path("../secret")
