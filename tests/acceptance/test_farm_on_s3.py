"""A farm whose storage is a real S3 server: the same jobs, links straight to storage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import running_farm, wait_until
from tests.swift_s3 import S3Server, running_swift_s3


@pytest.fixture
def s3_server(tmp_path: Path) -> Iterator[S3Server]:
    """An S3 server with an empty bucket."""
    with running_swift_s3(tmp_path / "s3") as server:
        server.create_bucket("music")
        yield server


def test_a_track_goes_through_s3_and_is_read_by_a_presigned_link(tmp_path: Path, s3_server: S3Server) -> None:
    """The gateway never touches the file; the link needs no key and refuses a changed one. So it is in a bucket that
    the request names, which the operator allows."""
    # It is the way of the files that counts, and no model.
    stub = {"RIFFARM_WORKER_APP": "tests.stub_worker:app", "RIFFARM_OUTPUT_BUCKETS": "client"}
    s3_server.create_bucket("client")
    variables = s3_server.environment() | {"RIFFARM_S3_ENDPOINT_URL": s3_server.endpoint_url} | stub
    request = {"type": "clip", "prompt": "vibraphone", "seed": 8, "num_inference_steps": 3, "duration_s": 10.24}
    with running_farm(
        tmp_path / "data", "--workers", "1", "--storage", "s3://music/farm", environment=variables
    ) as farm:
        job = farm.client.submit(request, wait_s=60)
        wait_until(lambda: farm.client.job(job.id).status in ("succeeded", "failed"), "the job ends", timeout_s=120)
        job = farm.client.job(job.id)
        assert job.status == "succeeded", job.error
        one = job.outputs[0]
        assert one.url.startswith(s3_server.endpoint_url)
        content = httpx.get(one.url)
        assert hashlib.sha256(content.content).hexdigest() == one.sha256
        assert content.headers["content-type"] == "audio/flac"
        assert httpx.get(one.url.replace("clip.flac", "clip.png", 1)).status_code == 403
        assert farm.client.plan(request).frames_ready == 2
        there = farm.client.submit(request | {"output": {"bucket": "client", "prefix": "album/1"}}, wait_s=60)
        assert there.status == "succeeded", there.error
        assert f"/client/album/1/{there.id}/clip.flac?" in there.outputs[0].url
        assert hashlib.sha256(httpx.get(there.outputs[0].url).content).hexdigest() == one.sha256
