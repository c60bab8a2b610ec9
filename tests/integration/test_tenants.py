"""Tenants: another's jobs, events, frames, pictures and uploads are not there, for reading and for changing."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from typing import Any, Final

import httpx
import numpy as np
import pytest
import redis
from fastapi.testclient import TestClient
from PIL import Image

from api.keys import Keys, Scope
from api.main import create_app
from shared.dispatch import plan_of
from shared.farm_state import FarmState
from shared.frames import frame_hash
from shared.job_store import JobStore
from shared.object_store import LocalDiskStore, frame_key, object_store_from_url
from shared.plan import Plan
from shared.settings import Settings
from tests.integration.gateway_probes import CLIP, served, taken
from workers.retention import remove_old

SCOPES: Final[tuple[Scope, ...]] = ("read", "submit")
DAY_S: Final = 86_400


class Tenant:
    """A tenant's way to the gateway."""

    def __init__(self, gateway: TestClient, name: str, key: str) -> None:
        self.name = name
        self.headers = {"Authorization": f"Bearer {key}"}
        self._gateway = gateway

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self._gateway.request(method, path, headers=self.headers, **options)

    def submit(self, **fields: Any) -> str:
        answer = self.call("POST", "/v1/jobs", json=CLIP | fields)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def upload(self, content: bytes) -> httpx.Response:
        return self.call("POST", "/v1/uploads", files={"content": content})


@pytest.fixture
def keyed(settings: Settings) -> Iterator[Any]:
    """A way in for a tenant, by name and scopes."""
    with (
        redis.Redis.from_url(settings.redis_url) as client,
        TestClient(create_app(settings), raise_server_exceptions=False) as gateway,
    ):
        keys = Keys(object_store_from_url(settings.storage_url), client)

        def tenant(name: str, *scopes: Scope) -> Tenant:
            return Tenant(gateway, name, str(keys.create(name, "k", scopes or SCOPES).text))

        yield tenant


@pytest.fixture
def alice(keyed: Any) -> Tenant:
    return keyed("alice")  # type: ignore[no-any-return]


@pytest.fixture
def bob(keyed: Any) -> Tenant:
    return keyed("bob")  # type: ignore[no-any-return]


def picture(shade: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((512, 512), shade, np.uint8)).save(content, "PNG")
    return content.getvalue()


def calls_on(job_id: str) -> list[tuple[str, str]]:
    """Every call that names a job."""
    actions = ("cancel", "pause", "resume", "retry", "deliveries/dlv_0/replay")
    reads = ("", "/events", "/frames", "/frames/0/picture", "/deliveries")
    return [
        *(("POST", f"/v1/jobs/{job_id}/{action}") for action in actions),
        *(("GET", f"/v1/jobs/{job_id}{part}") for part in reads),
        ("DELETE", f"/v1/jobs/{job_id}"),
        ("GET", f"/v1/predictions/{job_id}"),
        ("POST", f"/v1/predictions/{job_id}/cancel"),
    ]


def test_anothers_job_is_not_there(alice: Tenant, bob: Tenant, job_store: JobStore) -> None:
    """404 as for an id that never was, word for word, for whatever names a job; and nothing happens to it."""
    job_id, never = alice.submit(), "job_" + "0" * 28
    before = job_store.read(job_id)
    for (method, path), (_, other) in zip(calls_on(job_id), calls_on(never), strict=True):
        answer, wanted = bob.call(method, path), bob.call(method, other)
        assert answer.status_code == wanted.status_code == 404, path
        assert answer.text.replace(job_id, never).split('"instance"')[0] == wanted.text.split('"instance"')[0]
    assert job_store.read(job_id) == before
    assert alice.call("GET", f"/v1/jobs/{job_id}").status_code == 200


def test_every_route_that_names_a_job_is_tried(alice: Tenant) -> None:
    """A route that is added must be added here, or be one that needs no key."""
    paths = alice.call("GET", "/openapi.json").json()["paths"]
    tried = {path.replace("job_0", "{}").replace("dlv_0", "{}").replace("/0/", "/{}/") for _, path in calls_on("job_0")}
    named = {
        "/".join("{}" if part.startswith("{") else part for part in path.split("/"))
        for path, methods in paths.items()
        if ("{job_id}" in path or "{prediction_id}" in path) and any("security" in one for one in methods.values())
    }
    assert named <= tried


def test_lists_hold_ones_own_jobs_alone(alice: Tenant, bob: Tenant) -> None:
    """Also page by page, filtered, and with the cursor of another."""
    own, others = [bob.submit() for _ in range(3)], [alice.submit(labels={"a": "b"}) for _ in range(3)]
    for path, key in (("/v1/jobs", "data"), ("/v1/predictions", "results")):
        assert sorted(job["id"] for job in bob.call("GET", path).json()[key]) == sorted(own)
    assert bob.call("GET", "/v1/jobs?label.a=b").json()["data"] == []
    page = alice.call("GET", "/v1/jobs?limit=1").json()
    assert page["data"][0]["id"] in others
    follow = page["next"].partition("?")[2]
    assert {job["id"] for job in bob.call("GET", f"/v1/jobs?{follow}").json()["data"]} <= {*own}


def test_anothers_events_cannot_be_followed(settings: Settings) -> None:
    """A stream is refused before it begins, also with the id of an event."""
    with redis.Redis.from_url(settings.redis_url) as client, served(settings) as url:
        keys = Keys(object_store_from_url(settings.storage_url), client)
        one, other = ({"Authorization": f"Bearer {keys.create(name, 'k', SCOPES).text}"} for name in ("a", "b"))
        job_id = httpx.post(f"{url}/v1/jobs", json=CLIP, headers=one).json()["id"]
        for more in ({}, {"Last-Event-ID": "0-0"}):
            assert httpx.get(f"{url}/v1/jobs/{job_id}/events", headers=other | more).status_code == 404


def test_a_picture_is_ones_own_even_of_a_shared_frame(
    alice: Tenant, bob: Tenant, settings: Settings, job_store: JobStore
) -> None:
    """Frames are kept by what determines them, for all tenants; each sees it under its own job's id alone."""
    objects = object_store_from_url(settings.storage_url)
    ids = [tenant.submit(seed=1) for tenant in (alice, bob)]
    for job_id in ids:
        plan = plan_of(job_store.read(job_id))
        assert isinstance(plan, Plan)
        objects.put(frame_key(frame_hash(plan.frame(0))), picture(7))
    for tenant, (own, others) in ((alice, ids), (bob, ids[::-1])):
        assert tenant.call("GET", f"/v1/jobs/{own}/frames/0/picture").content == picture(7)
        assert tenant.call("GET", f"/v1/jobs/{others}/frames/0/picture").status_code == 404


def test_uploads_are_their_tenants(alice: Tenant, bob: Tenant) -> None:
    """As seed image, mask, source and file: another's is unknown until one has uploaded the same oneself."""
    seed, mask = (alice.upload(picture(shade)).json()["id"] for shade in (100, 200))
    requests: list[tuple[str, dict[str, Any]]] = [
        ("seed_image", CLIP | {"seed_image": seed}),
        ("mask_image", CLIP | {"seed_image": "og_beat", "mask_image": mask}),
        ("source", {"type": "convert", "source": seed}),
        ("source", {"type": "remix", "source": seed, "keyframes": [{"prompt": "x"}]}),
    ]
    for field, request in requests:
        for path in ("/v1/jobs", "/v1/jobs/plan"):
            answer = bob.call("POST", path, json=request)
            assert answer.status_code == 422
            (error,) = [one for one in answer.json()["errors"] if one["field"] == field]
            assert "unknown" in error["message"]
    assert bob.call("GET", f"/v1/files/{seed}").status_code == 404
    assert alice.call("GET", f"/v1/files/{seed}").status_code == 200
    assert alice.call("POST", "/v1/jobs", json=requests[0][1]).status_code == 202
    assert bob.upload(picture(100)).json()["id"] == seed
    assert bob.call("POST", "/v1/jobs", json=requests[0][1]).status_code == 202


def test_the_same_upload_is_kept_once(alice: Tenant, bob: Tenant, settings: Settings) -> None:
    """Each tenant has it, and each has used up its bytes."""
    objects = object_store_from_url(settings.storage_url)
    sizes = [tenant.upload(picture(100)).json()["bytes"] for tenant in (alice, bob, bob)]
    assert len([*objects.keys("uploads/")]) == 2
    assert [key.rpartition("-")[2] for key in objects.keys("uploads-of/")] == [str(sizes[0])] * 2


def test_uploads_are_limited_by_tenant(settings: Settings) -> None:
    """What would be too much leaves nothing behind; what one has already can be sent again."""
    most = len(picture(0)) + len(picture(1))
    limited = settings.model_copy(update={"limit_upload_bytes": most})
    with redis.Redis.from_url(settings.redis_url) as client, TestClient(create_app(limited)) as gateway:
        keys = Keys(object_store_from_url(settings.storage_url), client)
        one, other = (Tenant(gateway, name, str(keys.create(name, "k", SCOPES).text)) for name in ("a", "b"))
        assert [one.upload(picture(shade)).status_code for shade in (0, 1, 0)] == [201] * 3
        before = {*object_store_from_url(settings.storage_url).keys("upload")}
        answer = one.upload(picture(2))
        assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded")
        assert f"{most} bytes" in answer.json()["detail"]
        assert int(answer.headers["retry-after"]) > 0
        assert {*object_store_from_url(settings.storage_url).keys("upload")} == before
        assert other.upload(picture(2)).status_code == 201


def test_an_old_upload_is_removed_with_who_had_it(
    alice: Tenant, bob: Tenant, settings: Settings, job_store: JobStore
) -> None:
    """By its age for each tenant; what an unfinished job of anybody needs stays, and can still be named."""
    objects = object_store_from_url(settings.storage_url)
    assert isinstance(objects, LocalDiskStore)
    needed, old = (alice.upload(picture(shade)).json()["id"] for shade in (100, 200))
    alice.submit(seed_image=needed)
    for key in objects.keys("upload"):
        os.utime(objects.path(key), (time.time() - 2 * DAY_S,) * 2)
    bob.upload(picture(200))
    removed = remove_old(settings.model_copy(update={"keep_uploads_days": 1.0}), job_store, objects, lambda: None)
    assert removed["uploads"] == 1
    statuses = [
        tenant.call("POST", "/v1/jobs/plan", json=CLIP | {"seed_image": upload}).status_code
        for tenant, upload in ((alice, needed), (alice, old), (bob, old))
    ]
    assert statuses == [200, 422, 200]


def test_the_farm_shows_ones_own_jobs_and_to_its_operator_all(
    alice: Tenant, bob: Tenant, keyed: Any, job_store: JobStore
) -> None:
    """Which job a worker is at, and which are stuck; that it is busy everybody may see."""
    job_id = alice.submit()
    taken(job_store, job_id)
    state = FarmState(job_store.redis)
    beat = {"name": "w1", "device": "cpu", "queues": ["render"], "models": ["riffarm-mini"]}
    state.beat("w1/1", beat | {"items_done": 0, "frames_per_minute": 0.0})
    state.report_sweep({}, {"stuck_jobs": [{"job": job_id, "reason": "no news"}]})
    seen = {}
    for tenant in (alice, bob, keyed("operator", "read", "admin")):
        answer = tenant.call("GET", "/v1/farm")
        seen[tenant.name] = job_id in answer.text
        assert answer.json()["workers"][0]["state"] == "busy"
    assert seen == {"alice": True, "bob": False, "operator": True}


def test_an_admin_sees_no_other_tenants_jobs(alice: Tenant, keyed: Any) -> None:
    """Operating the farm is not reading what others make."""
    job_id = alice.submit()
    operator = keyed("operator", "read", "submit", "admin")
    assert operator.call("GET", f"/v1/jobs/{job_id}").status_code == 404
    assert operator.call("GET", "/v1/jobs").json()["data"] == []
