"""The stores under test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from shared.object_store import LocalDiskStore, ObjectStore
from shared.s3_store import S3Store
from tests.integration.storage.stores import BUCKET
from tests.swift_s3 import S3Server, running_swift_s3


@pytest.fixture(autouse=True)
def _credentials(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3(s3_server: S3Server) -> S3Store:
    """A store below a prefix of its own."""
    return S3Store(BUCKET, f"test-{uuid4().hex}", s3_server.endpoint_url)


@pytest.fixture
def local(tmp_path: Path) -> LocalDiskStore:
    """A store in a folder that is not there yet."""
    return LocalDiskStore(tmp_path / "made" / "storage")


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    """Both kinds of store, one after the other."""
    chosen: ObjectStore = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def own_s3_server() -> Iterator[S3Server]:
    """A server that a test may freeze or kill."""
    with running_swift_s3() as server:
        server.create_bucket(BUCKET)
        yield server
