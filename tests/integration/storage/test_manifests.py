"""Manifests on a real disk: those that come together share a file, and yet each is its own job's."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from shared import object_store
from shared.errors import ObjectNotFoundError, StorageUnavailableError
from shared.manifests import delete_manifest, ids_of_manifests, manifest, put_manifests
from shared.object_store import LocalDiskStore, job_manifest_key

JOBS = {f"job_{number}": {"input": f"prompt {number}", "tenant": f"t{number % 2}"} for number in range(10, 15)}


@pytest.fixture
def store(tmp_path: Path) -> LocalDiskStore:
    """An empty folder."""
    return LocalDiskStore(tmp_path)


def test_each_of_many_is_read_as_its_own(store: LocalDiskStore) -> None:
    """Whatever is written with it; and the file is one."""
    assert put_manifests(store, JOBS) == dict.fromkeys(JOBS)
    assert [*ids_of_manifests(store)] == [*JOBS]
    for job_id, said in JOBS.items():
        assert manifest(store, job_id) == {"id": job_id, **said}
    assert len({os.stat(store.path(job_manifest_key(job_id))).st_ino for job_id in JOBS}) == 1
    with pytest.raises(ObjectNotFoundError):
        manifest(store, "job_1")


def test_what_is_deleted_is_gone_from_the_others_file_too(store: LocalDiskStore) -> None:
    """A tenant's words do not outlive its job because another's lives; the others are whole."""
    put_manifests(store, JOBS)
    delete_manifest(store, "job_12")
    assert "job_12" not in [*ids_of_manifests(store)]
    assert b"prompt 12" not in store.get(job_manifest_key("job_13"))
    assert manifest(store, "job_13") == {"id": "job_13", **JOBS["job_13"]}
    delete_manifest(store, "job_12")
    for job_id in JOBS:
        delete_manifest(store, job_id)
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_a_disk_without_links_takes_them_too(store: LocalDiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then each is a file of its own."""

    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(object_store.os, "link", refused)
    assert put_manifests(store, JOBS) == dict.fromkeys(JOBS)
    assert len({os.stat(store.path(job_manifest_key(job_id))).st_ino for job_id in JOBS}) == len(JOBS)
    assert manifest(store, "job_14") == {"id": "job_14", **JOBS["job_14"]}


def test_one_that_is_written_again_is_the_newer(store: LocalDiskStore) -> None:
    """As of any object; those beside it stay."""
    put_manifests(store, JOBS)
    put_manifests(store, {"job_11": {"input": "new"}, "job_20": {"input": "more"}})
    assert manifest(store, "job_11") == {"id": "job_11", "input": "new"}
    assert manifest(store, "job_12") == {"id": "job_12", **JOBS["job_12"]}


def test_storage_that_is_away_keeps_all_of_them_away(store: LocalDiskStore) -> None:
    """Each has the error, and nothing half-written is left."""
    store.root.rmdir()
    errors = put_manifests(store, JOBS)
    assert [*errors] == [*JOBS]
    assert all(isinstance(error, StorageUnavailableError) for error in errors.values())
    assert not store.root.exists()
