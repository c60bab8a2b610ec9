"""Limits: requests a minute, unfinished jobs, their sound, the whole farm; told in headers, and nothing recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient

from api.keys import Keys
from api.main import create_app
from shared.dispatch import Dispatcher, celery_app
from shared.job_store import JobStore
from shared.object_store import object_store_from_url
from shared.settings import Settings
from tests.conftest import Valkey
from tests.integration.gateway_probes import CLIP, recorded
from workers.recovery import recover

Gateway = Callable[..., TestClient]


@pytest.fixture
def limited(settings: Settings) -> Iterator[Gateway]:
    """Gateways with limits of their own, over one farm."""
    with ExitStack() as stack:

        def gateway(**limits: Any) -> TestClient:
            own = settings.model_copy(update=limits)
            client = stack.enter_context(TestClient(create_app(own), base_url="http://localhost"))
            # The framework finishes its routes at the first request, and two gateways of one process not at once.
            client.get("/nothing")
            return client

        yield gateway


@pytest.fixture
def at_the_minutes_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a test falls into one minute."""
    monkeypatch.setattr("api.limits._now_s", lambda: 60_000_000.0)


def _submit(gateway: TestClient, key: str = "", **fields: Any) -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return gateway.post("/v1/jobs", json=CLIP | fields, headers=headers)


def _refused(answer: Any, status: int, code: str) -> str:
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert int(answer.headers["retry-after"]) > 0
    return str(answer.json()["detail"])


def _manifests(settings: Settings) -> list[str]:
    return [*object_store_from_url(settings.storage_url).keys("manifests/")]


@pytest.mark.usefixtures("at_the_minutes_start")
def test_every_answer_says_how_many_requests_are_left(limited: Gateway) -> None:
    """As the IETF's draft has it; also where something else is wrong."""
    gateway = limited(limit_requests_per_minute=3)
    for path, left in (("/v1/models", 2), ("/v1/jobs/job_0", 1), ("/v1/jobs?limit=0", 0)):
        headers = gateway.get(path).headers
        assert headers["ratelimit-policy"] == '"requests";q=3;w=60'
        assert headers["ratelimit"] == f'"requests";r={left};t=60'
    answer = gateway.get("/v1/models")
    assert "3 requests a minute" in _refused(answer, 429, "rate_limited")
    assert answer.headers["retry-after"] == "60"
    assert answer.headers["ratelimit"] == '"requests";r=0;t=60'
    assert gateway.get("/health").status_code == 200


def test_the_next_minute_begins_anew(limited: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry-After is what is left of this one."""
    gateway = limited(limit_requests_per_minute=1)
    monkeypatch.setattr("api.limits._now_s", lambda: 60_000_050.0)
    answers = [gateway.get("/v1/models") for _ in range(2)]
    assert [one.status_code for one in answers] == [200, 429]
    assert answers[1].headers["retry-after"] == "10"
    monkeypatch.setattr("api.limits._now_s", lambda: 60_000_060.0)
    assert gateway.get("/v1/models").status_code == 200


@pytest.mark.usefixtures("at_the_minutes_start")
def test_many_at_once_are_counted_one_by_one(limited: Gateway) -> None:
    """Fifty threads on two gateways: exactly as many come through as may."""
    gateways = [limited(limit_requests_per_minute=20) for _ in range(2)]
    with ThreadPoolExecutor(50) as pool:
        answers = [*pool.map(lambda n: gateways[n % 2].get("/v1/models").status_code, range(50))]
    assert sorted(answers) == [200] * 20 + [429] * 30


@pytest.mark.usefixtures("at_the_minutes_start")
def test_tenants_have_their_own_limits_and_keys_of_one_share_them(settings: Settings, limited: Gateway) -> None:
    """Who has no key uses up nobody's."""
    with redis.Redis.from_url(settings.redis_url) as client:
        keys = Keys(object_store_from_url(settings.storage_url), client)
        one, two, other = (str(keys.create(tenant, "k", ["read"]).text) for tenant in ("a", "a", "b"))
    gateway = limited(limit_requests_per_minute=2)

    def status(key: str) -> int:
        return gateway.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code

    assert [status(key) for key in ("wrong", one[:-1] + "x", one[:-64] + "0" * 64)] == [401] * 3
    assert [status(key) for key in (one, two, one, two)] == [200, 200, 429, 429]
    assert status(other) == 200


def test_unfinished_jobs_are_limited_until_some_end(limited: Gateway, settings: Settings, valkey: Valkey) -> None:
    """Refused is refused before anything is recorded; a paused job counts, one that ended does not."""
    gateway = limited(limit_jobs=2)
    first, _ = (_submit(gateway).json()["id"] for _ in range(2))
    gateway.post(f"/v1/jobs/{first}/pause")
    before = recorded(settings)
    assert "2 jobs" in _refused(_submit(gateway), 429, "quota_exceeded")
    assert recorded(settings) == before
    gateway.post(f"/v1/jobs/{first}/cancel")
    assert _submit(gateway).status_code == 202
    assert _refused(gateway.post(f"/v1/jobs/{first}/retry"), 429, "quota_exceeded")


def test_their_sound_is_limited(limited: Gateway) -> None:
    """In seconds; what is deleted is free again."""
    gateway = limited(limit_audio_s=60)
    long = _submit(gateway, duration_s=50)
    assert long.status_code == 202
    assert "60 s of sound" in _refused(_submit(gateway, duration_s=11), 429, "quota_exceeded")
    assert _submit(gateway, duration_s=10).status_code == 202
    gateway.delete(f"/v1/jobs/{long.json()['id']}")
    assert _submit(gateway, duration_s=50).status_code == 202


def test_limits_hold_again_once_redis_is_recovered(limited: Gateway, settings: Settings, job_store: JobStore) -> None:
    """What is unfinished is counted from what storage has."""
    gateway = limited(limit_jobs=2, limit_audio_s=60)
    for _ in range(2):
        assert _submit(gateway, duration_s=20).status_code == 202
    job_store.redis.flushall()
    assert gateway.get("/v1/jobs").json()["data"] == []
    celery = celery_app(settings)
    recover(job_store, object_store_from_url(settings.storage_url), Dispatcher(celery))
    celery.close()
    assert job_store.redis.hgetall("riffarm:audio") == {"default": "40000"}
    _refused(_submit(gateway), 429, "quota_exceeded")


def test_a_job_that_never_fits_is_a_wrong_request(limited: Gateway) -> None:
    """Waiting would not help, so it is not asked for."""
    answer = _submit(limited(limit_audio_s=60), duration_s=61)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "duration_s"
    assert "retry-after" not in answer.headers


def test_a_full_farm_takes_nothing_from_anybody(limited: Gateway, settings: Settings) -> None:
    """503 before anything is recorded; reading and canceling go on."""
    gateway = limited(max_queued_jobs=1)
    job_id = _submit(gateway).json()["id"]
    before = recorded(settings)
    assert "1 jobs" in _refused(_submit(gateway), 503, "farm_full")
    assert recorded(settings) == before
    assert gateway.get(f"/v1/jobs/{job_id}").status_code == 200
    assert gateway.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
    assert _submit(gateway).status_code == 202


def test_no_limit_is_passed_by_many_at_once(limited: Gateway, settings: Settings) -> None:
    """Thirty threads on two gateways; who is refused leaves nothing behind."""
    gateways = [limited(limit_jobs=3) for _ in range(2)]
    with ThreadPoolExecutor(30) as pool:
        answers = [*pool.map(lambda n: _submit(gateways[n % 2]), range(30))]
    assert sorted(one.status_code for one in answers) == [202] * 3 + [429] * 27
    assert len(_manifests(settings)) == 3


def test_a_batch_is_taken_as_far_as_there_is_room(limited: Gateway, settings: Settings) -> None:
    """Each of its requests is answered on its own."""
    gateway = limited(limit_jobs=2)
    data = gateway.post("/v1/jobs/batch", json=[CLIP] * 4).json()["data"]
    assert [one["status"] for one in data] == [202, 202, 429, 429]
    assert data[3]["problem"]["code"] == "quota_exceeded"
    assert len(_manifests(settings)) == 2


def test_a_redis_that_is_full_still_lets_read_and_cancel(limited: Gateway, valkey: Valkey) -> None:
    """Nothing can be counted then, and nothing added; what follows from an end waits."""
    gateway = limited(limit_requests_per_minute=100)
    job_id = _submit(gateway).json()["id"]
    with redis.Redis(port=valkey.port) as client:
        client.config_set("maxmemory", 1)
        try:
            answer = gateway.get(f"/v1/jobs/{job_id}")
            assert (answer.status_code, "ratelimit" in answer.headers) == (200, False)
            gateway.post(f"/v1/jobs/{job_id}/cancel")
            assert gateway.get(f"/v1/jobs/{job_id}").json()["status"] == "canceled"
            assert _submit(gateway).status_code == 503
        finally:
            client.config_set("maxmemory", 0)


def test_access_costs_redis_two_round_trips_however_many_come_at_once(
    limited: Gateway, settings: Settings, valkey: Valkey
) -> None:
    """Of a request on its own near its limit: the key, and the count. Each for all who come together."""
    with redis.Redis(port=valkey.port, decode_responses=True) as client:
        key = str(Keys(object_store_from_url(settings.storage_url), client).create("a", "k", ["read"]).text)
        gateway = limited(limit_requests_per_minute=100)
        bearer = {"Authorization": f"Bearer {key}"}
        gateway.get("/v1/models", headers=bearer)

        def commands(requests: int) -> int:
            client.config_resetstat()
            with ThreadPoolExecutor(requests) as pool:
                answers = [*pool.map(lambda _: gateway.get("/v1/models", headers=bearer).status_code, range(requests))]
            assert answers == [200] * requests
            stats: Any = client.info("commandstats")
            return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("mget", "evalsha"))

        assert commands(1) == 2
        assert commands(40) < 2 * 40
