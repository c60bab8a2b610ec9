"""Outputs in a bucket that the request names: who may name which, what gets there, and what is left of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from shared.contracts import Job, OutputPlace
from shared.endings import remove_job
from shared.errors import StorageUnavailableError
from shared.job_store import JobStore
from shared.object_store import ObjectStore, checked_key, job_prefix, object_store_from_url
from shared.predictions import PredictionView
from shared.settings import Settings
from tests.integration.farm_by_hand import Farm
from tests.integration.gateway_probes import CLIP, TRACK
from tests.swift_s3 import S3Server
from workers.recovery import recover

PREFIXES = {
    "": "",
    "a": "a/",
    "a/b/": "a/b/",
    "year=2026/Studio_1,x+y@z": "year=2026/Studio_1,x+y@z/",
    "a" * 255: "a" * 255 + "/",
}


@dataclass
class Client:
    """A bucket beside the farm's, and a farm that delivers there."""

    settings: Settings
    job_store: JobStore
    own: ObjectStore
    bucket: str = field(default_factory=lambda: f"client-{uuid4().hex}")

    def farm(self, prefix: str = "", bucket: str = "") -> Farm:
        place = OutputPlace(bucket=bucket or self.bucket, prefix=prefix)
        return Farm(self.settings, self.job_store, self.own, 10.24, place)

    def objects(self, prefix: str = "") -> list[str]:
        bucket = self.own.beside(self.bucket, "")
        assert bucket
        return [*bucket.keys(prefix)]


@pytest.fixture
def client(settings: Settings, job_store: JobStore, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A farm on S3 with one bucket for its clients, and one that is not there."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    url = f"s3://riffarm/{uuid4().hex}"
    own = object_store_from_url(url, s3_server.endpoint_url)
    client = Client(settings, job_store, own)
    s3_server.create_bucket(client.bucket)
    changes = {"s3_endpoint_url": s3_server.endpoint_url, "output_buckets": f"{client.bucket}, not-{client.bucket}"}
    client.settings = settings.model_copy(update={"storage_url": url, **changes})
    monkeypatch.setattr("workers.delivery.PATIENCE_S", 0.0)
    return client


def ended(farm: Farm) -> Job:
    """The job once there is nothing more to do."""
    while any(farm.attempts.work(queue) == "done" for queue in ("render.stub", "sound", "deliver")):
        pass
    return farm.jobs.read(farm.job_id)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_outputs_go_to_the_named_bucket_and_are_read_by_the_jobs_links(client: Client, prefix: str) -> None:
    """Below the prefix in a folder of the job's own; with the farm nothing of them is left, nor of a preview."""
    farm = client.farm(prefix)
    job = ended(farm)
    assert job.status == "succeeded", job.error
    keys = [f"{PREFIXES[prefix]}{job.id}/{one.name}" for one in job.outputs]
    assert client.objects() == sorted(keys)
    for one in job.outputs:
        read = httpx.get(one.url)
        assert (read.status_code, hashlib.sha256(read.content).hexdigest()) == (200, one.sha256)
        assert f"/{client.bucket}/" in one.url
    assert [key for key in client.own.keys(job_prefix(job.id)) if "/outputs/" in key] == []


def test_delete_removes_what_was_delivered_and_retention_does_not(client: Client) -> None:
    """What a client has in a bucket of its own does not grow old with the farm."""
    old, young = client.farm("music"), client.farm("music")
    delivered = [f"music/{ended(farm).id}/{name}" for farm in (old, young) for name in ("track.png", "track.wav")]
    assert client.objects() == sorted(delivered)
    assert remove_job(old.job_id, client.job_store, client.own)
    assert client.objects() == sorted(delivered)
    young.jobs.delete(young.job_id)
    assert client.objects() == sorted(one for one in delivered if young.job_id not in one)


def test_a_bucket_that_takes_nothing_fails_the_job_and_a_retry_only_delivers(
    client: Client, s3_server: S3Server
) -> None:
    """The farm's own storage answers, so it is no outage that passes by itself."""
    farm = client.farm(bucket=f"not-{client.bucket}")
    job = ended(farm)
    assert job.error
    assert (job.status, job.error.code, job.error.retryable) == ("failed", "output_refused", True)
    assert f"s3://not-{client.bucket}" in job.error.message
    assert "NoSuchBucket" in job.error.message
    s3_server.create_bucket(f"not-{client.bucket}")
    farm.jobs.retry(farm.job_id)
    assert farm.next_items() == {"deliver"}
    assert ended(farm).status == "succeeded"


def test_while_all_storage_is_away_the_job_waits(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """As any other that cannot be delivered: it is handed back, counted nowhere."""
    farm = client.farm()
    farm.work("deliver")

    def away(*_: object) -> None:
        raise StorageUnavailableError("for the test")

    with monkeypatch.context() as patch:
        patch.setattr("shared.s3_store.S3Store.put_file", away)
        patch.setattr("shared.s3_store.S3Store.check", away)
        patch.setattr("workers.attempts.PATIENCE_S", 0.0)
        patch.setattr("workers.attempts._PAUSE_AFTER_LOSS_S", 0.0)
        assert farm.attempts.work("deliver") == "done"
    assert farm.jobs.read(farm.job_id).status == "running"
    assert farm.next_items() == {"deliver"}
    assert ended(farm).status == "succeeded"


@pytest.mark.parametrize("action", ["cancel", "delete"])
def test_of_a_job_that_is_canceled_amid_its_delivery_nothing_is_delivered(
    client: Client, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """Nobody finds a file that no job lists."""
    farm = client.farm("music")
    farm.work("deliver")
    store = type(client.own)
    put_file, sent = store.put_file, []

    def interrupted(self: Any, key: str, path: Path, media_type: str) -> None:
        put_file(self, key, path, media_type)  # type: ignore[arg-type]
        sent.append(key)
        if len(sent) == 1:
            getattr(farm.jobs, action)(farm.job_id)

    monkeypatch.setattr(store, "put_file", interrupted)
    assert farm.attempts.work("deliver") == "done"
    assert len(sent) == 2
    assert client.objects() == []


def test_where_outputs_are_survives_a_loss_of_redis(client: Client) -> None:
    """The job's manifest says it."""
    farm = client.farm("music")
    before = ended(farm)
    client.job_store.redis.flushall()
    recover(client.job_store, client.own, farm.jobs.dispatcher)
    after = farm.jobs.read(farm.job_id)
    assert [one.name for one in after.outputs] == [one.name for one in before.outputs]
    assert httpx.get(after.outputs[0].url).status_code == 200


def test_a_preview_stays_with_the_farm(client: Client) -> None:
    """It goes as soon as there is a longer one, and a client's bucket is not for that."""
    place = OutputPlace(bucket=client.bucket)
    farm = Farm(client.settings, client.job_store, client.own, 184.32, place)
    farm.work("c1")
    sound, *_ = farm.jobs.read(farm.job_id).outputs
    assert sound.is_preview
    assert httpx.get(sound.url).status_code == 200
    assert client.objects() == []


def test_replicates_clients_read_them_through_the_gateway(client: Client) -> None:
    """On that face no link leads to storage, wherever the file is."""
    job = ended(client.farm("music"))
    (sound, _) = PredictionView(client.settings).output_urls(job)
    with TestClient(create_app(client.settings), base_url="http://localhost") as gateway:
        read = gateway.get(sound.removeprefix(client.settings.base_url), headers={"Range": "bytes=0-3"})
    assert (read.status_code, read.content) == (206, b"RIFF")


@pytest.mark.parametrize("body", [CLIP, TRACK])
def test_only_buckets_that_the_operator_names_are_taken(client: Client, body: dict[str, Any]) -> None:
    """Any other is refused with those that are allowed, before anything is recorded; the farm's own among them."""
    with TestClient(create_app(client.settings), base_url="http://localhost") as gateway:
        for name in ("riffarm", "else", client.bucket.upper(), f"{client.bucket}/a"):
            answer = gateway.post("/v1/jobs", json={**body, "output": {"bucket": name}})
            (error,) = answer.json()["errors"]
            assert (answer.status_code, error["field"]) == (422, "output.bucket")
            assert error["allowed"] == [client.bucket, f"not-{client.bucket}"]
        assert not client.job_store.redis.exists("riffarm:jobs")
        job = gateway.post("/v1/jobs", json={**body, "output": {"bucket": client.bucket, "prefix": "a/"}}).json()
        assert job["input"]["output"] == {"bucket": client.bucket, "prefix": "a"}
    none = client.settings.model_copy(update={"output_buckets": ""})
    with TestClient(create_app(none), base_url="http://localhost") as gateway:
        (error,) = gateway.post("/v1/jobs", json={**body, "output": {"bucket": client.bucket}}).json()["errors"]
        assert (error["field"], error["allowed"]) == ("output.bucket", [])
        assert "no bucket" in error["message"]


def test_whatever_prefix_is_taken_is_a_key() -> None:
    """What the request lets through the store does not refuse later."""
    for prefix in (*PREFIXES, "a/" * 256, "=" * 255, "@,-/+"):
        place = OutputPlace(bucket="b", prefix=prefix)
        assert not place.prefix or checked_key(place.prefix) == place.prefix
