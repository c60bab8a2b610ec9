"""What the integration tests share: the S3 server, started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.swift_s3 import S3Server, running_swift_s3


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3 server with the empty bucket `riffarm`."""
    with running_swift_s3() as server:
        server.create_bucket("riffarm")
        yield server
