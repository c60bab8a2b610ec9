"""Idempotency keys over a real Valkey: one job for one key, however often, however late, whoever dies in between."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient

from api.intake import Jobs
from api.keys import Keys
from api.main import create_app
from shared.dispatch import Dispatcher, celery_app
from shared.errors import QueueUnavailableError
from shared.job_store import JobStore
from shared.manifests import ids_of_manifests
from shared.object_store import object_store_from_url
from shared.settings import Settings
from tests.conftest import Valkey, wait_until
from tests.integration.gateway_probes import CLIP
from workers.recovery import recover

KEY = {"Idempotency-Key": "order 66"}
OTHER = {**CLIP, "prompt": "techno synth"}


class KilledError(Exception):
    """The gateway goes no further than here: nothing that it does for its own errors is done."""


def submitted(gateway: TestClient, body: Any = CLIP, key: str = KEY["Idempotency-Key"]) -> Any:
    return gateway.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})


def all_ids(gateway: TestClient) -> list[str]:
    return [job["id"] for job in gateway.get("/v1/jobs?limit=200").json()["data"]]


def end_leases(valkey: Valkey) -> None:
    """Have every claim's lease run out."""
    with redis.Redis(port=valkey.port, decode_responses=True) as client:
        for key in client.scan_iter("riffarm:idempotency:*"):
            client.hset(key, "until_ms", 1)


@pytest.fixture(autouse=True)
def quick_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without tracebacks in colour, which take seconds."""
    monkeypatch.setattr("api.problems.log", SimpleNamespace(error=lambda *said, **more: None))


def test_the_same_request_again_is_answered_as_the_first_time(gateway: TestClient) -> None:
    """Status, body and headers are the first answer's, though the job has moved on; one job is there."""
    first = submitted(gateway)
    gateway.post(f"/v1/jobs/{first.json()['id']}/cancel")
    again = submitted(gateway)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.content == first.content
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["content-type"] == "application/json"
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert all_ids(gateway) == [first.json()["id"]]


def test_another_request_under_the_key_is_refused(gateway: TestClient) -> None:
    """422 for another body, and for the same body to another path; another key is another request."""
    first = submitted(gateway)
    for answer in (
        submitted(gateway, OTHER),
        gateway.post(f"/v1/jobs/{first.json()['id']}/cancel", headers=KEY),
        gateway.post("/v1/jobs/batch", json=[CLIP], headers=KEY),
    ):
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")
    assert submitted(gateway, OTHER, "another").status_code == 202
    assert len(all_ids(gateway)) == 2


@pytest.mark.parametrize("key", ["", "x" * 256, "naïve", "a\tb", "a\x7f"])
def test_a_key_that_is_none_is_refused(gateway: TestClient, key: str) -> None:
    """Empty, too long, not printable ASCII: 422 with the header's name, and no job."""
    answer = gateway.post("/v1/jobs", json=CLIP, headers={"Idempotency-Key": key.encode("latin-1")})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"
    assert all_ids(gateway) == []


def test_two_keys_at_once_are_refused(gateway: TestClient) -> None:
    """Which of the two would count is anybody's guess."""
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert gateway.post("/v1/jobs", json=CLIP, headers=headers).status_code == 400
    assert all_ids(gateway) == []


def test_fifty_at_once_make_one_job(gateway: TestClient, valkey: Valkey) -> None:
    """One is taken; the others hear that it is under way, or its answer."""
    at_once = threading.Barrier(50)

    def send(_: int) -> Any:
        at_once.wait()
        return submitted(gateway)

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(send, range(50)))
    codes = [answer.status_code for answer in answers]
    assert {*codes} <= {202, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
    assert sum("idempotent-replayed" not in one.headers for one in answers if one.status_code == 202) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["code"] == "idempotency_in_flight"
            assert int(answer.headers["retry-after"]) >= 1
    assert len(all_ids(gateway)) == 1


def test_keys_are_each_tenants_own(settings: Settings, job_store: JobStore) -> None:
    """The same key of another tenant is another key."""
    keys = Keys(object_store_from_url(settings.storage_url), job_store.redis)
    mine, theirs = (str(keys.create(tenant, "ci", ["submit", "read"]).text) for tenant in ("mine", "theirs"))
    with TestClient(create_app(settings), base_url="http://localhost") as gateway:
        ids = []
        for key, body in ((mine, CLIP), (theirs, OTHER)):
            headers = {**KEY, "Authorization": f"Bearer {key}"}
            answers = [gateway.post("/v1/jobs", json=body, headers=headers) for _ in range(2)]
            assert [one.status_code for one in answers] == [202, 202]
            assert answers[0].content == answers[1].content
            ids.append(answers[0].json()["id"])
        assert len({*ids}) == 2


def test_what_recorded_nothing_frees_the_key(gateway: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a 422 the key may come with a better body, after a 503 with the same."""
    assert submitted(gateway, {**CLIP, "seed_image": "nothing"}).status_code == 422
    with monkeypatch.context() as patched:
        patched.setattr(JobStore, "accept_many", raising(QueueUnavailableError()))
        assert submitted(gateway).status_code == 503
    first = submitted(gateway)
    assert first.status_code == 202
    assert submitted(gateway).json() == first.json()


def raising(error: Exception) -> Callable[..., Any]:
    def work(*arguments: Any, **named: Any) -> Any:
        raise error

    return work


@pytest.mark.parametrize("after", ["the claim", "the manifest", "the record"])
def test_a_gateway_that_died_blocks_no_key_and_doubles_no_job(
    settings: Settings, valkey: Valkey, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    """Until its lease is over the key is in flight; then whoever comes finishes what was begun, as one job."""
    app = create_app(settings)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as gateway:
        with monkeypatch.context() as patched:
            patched.setattr(Jobs, "draft" if after == "the claim" else "_told", raising(KilledError()))
            if after == "the manifest":
                patched.setattr(JobStore, "accept_many", raising(KilledError()))
            assert submitted(gateway).status_code == 500
        assert submitted(gateway).json()["code"] == "idempotency_in_flight"
        end_leases(valkey)
        taken_over = submitted(gateway)
        assert taken_over.status_code == 202
        assert submitted(gateway).content == taken_over.content
        assert all_ids(gateway) == [taken_over.json()["id"]]
        assert [*ids_of_manifests(app.state.jobs.object_store)] == [taken_over.json()["id"]]


def test_a_batch_that_was_cut_off_is_finished_without_a_double(
    gateway: TestClient, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second go finds the jobs that the first one recorded, and makes those that it did not."""
    batch = [{**CLIP, "seed": seed} for seed in range(20)]
    recorded: list[str] = []
    accept_many = JobStore.accept_many

    def half(store: JobStore, jobs: dict[str, Any], *more: Any) -> Any:
        some = dict(list(jobs.items())[: 10 - len(recorded)])
        recorded.extend(some)
        accept_many(store, some, *more)
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(JobStore, "accept_many", half)
        assert gateway.post("/v1/jobs/batch", json=batch, headers=KEY).status_code == 500
    end_leases(valkey)
    answer = gateway.post("/v1/jobs/batch", json=batch, headers=KEY).json()
    ids = [item["job"]["id"] for item in answer["data"]]
    assert recorded
    assert ids[: len(recorded)] == recorded
    assert sorted(all_ids(gateway)) == sorted(ids)
    assert len({*ids}) == 20


def test_what_a_batch_could_not_do_is_done_when_it_is_sent_again(
    gateway: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 for some is no last word: the same batch has its other jobs made, and those that are there as they are."""
    batch = [{**CLIP, "seed": 1}, {"type": "clip"}, {**CLIP, "seed": 2}]
    accept_many = JobStore.accept_many

    def first_alone(store: JobStore, jobs: dict[str, Any], *more: Any) -> Any:
        wanted = {job_id: fields for job_id, fields in jobs.items() if '"seed":1' in fields["input"]}
        return dict.fromkeys(jobs) | accept_many(store, wanted, *more)

    with monkeypatch.context() as patched:
        patched.setattr(JobStore, "accept_many", first_alone)
        first = gateway.post("/v1/jobs/batch", json=batch, headers=KEY).json()
    assert [item["status"] for item in first["data"]] == [202, 422, 503]
    second, third = (gateway.post("/v1/jobs/batch", json=batch, headers=KEY).json() for _ in range(2))
    assert [item["status"] for item in second["data"]] == [202, 422, 202]
    assert second["data"][0]["job"]["id"] == first["data"][0]["job"]["id"]
    assert (second["batch_id"], third) == (first["batch_id"], second)
    assert len(all_ids(gateway)) == 2


@pytest.mark.parametrize("is_recovered", [True, False])
def test_a_loss_of_redis_makes_no_second_job(
    settings: Settings, valkey: Valkey, job_store: JobStore, is_recovered: bool
) -> None:
    """The key comes back with its job, and until then storage is asked: who repeats the request finds the job."""
    with TestClient(create_app(settings), base_url="http://localhost") as gateway:
        job_id = submitted(gateway).json()["id"]
        batch = gateway.post("/v1/jobs/batch", json=[CLIP, OTHER], headers={"Idempotency-Key": "b"}).json()
        with redis.Redis(port=valkey.port) as client:
            client.flushall()
        if is_recovered:
            objects = object_store_from_url(settings.storage_url)
            recover(job_store, objects, Dispatcher(celery_app(settings)))
            job_store.redis.set("riffarm:marker", json.dumps({"server": "this", "at_s": 0}))
        assert submitted(gateway, OTHER).json()["code"] == "idempotency_mismatch"
        again = submitted(gateway)
        assert (again.status_code, again.json()["id"]) == (202, job_id)
        assert again.headers["idempotent-replayed"] == "true"
        batch_again = gateway.post("/v1/jobs/batch", json=[CLIP, OTHER], headers={"Idempotency-Key": "b"}).json()
        assert [item["job"]["id"] for item in batch_again["data"]] == [item["job"]["id"] for item in batch["data"]]
        assert batch_again["batch_id"] == batch["batch_id"]
        assert len(all_ids(gateway)) == 3


def test_storage_is_not_searched_while_redis_has_every_job(
    gateway: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look tells that nothing is lost; from then on a new key costs no look."""
    assert submitted(gateway, key="a").status_code == 202
    with monkeypatch.context() as patched:
        patched.setattr("api.idempotency.ids_of_manifests", raising(AssertionError("looked again")))
        assert submitted(gateway, key="b").status_code == 202


@pytest.mark.parametrize("action", ["cancel", "pause", "resume", "retry"])
def test_what_is_done_to_a_job_is_done_once_under_a_key(gateway: TestClient, action: str) -> None:
    """The answer to the first is given again, whatever became of the job since."""
    job_id = gateway.post("/v1/jobs", json=CLIP).json()["id"]
    first = gateway.post(f"/v1/jobs/{job_id}/{action}", headers=KEY)
    gateway.post(f"/v1/jobs/{job_id}/cancel")
    again = gateway.post(f"/v1/jobs/{job_id}/{action}", headers=KEY)
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"


def test_an_answer_that_was_waited_for_is_the_one_that_is_kept(gateway: TestClient) -> None:
    """While the first waits the key is in flight; afterwards its answer is given."""
    headers = {**KEY, "Prefer": "wait=1"}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(gateway.post, "/v1/jobs", json=CLIP, headers=headers)
        wait_until(lambda: bool(all_ids(gateway)), "the job is recorded")
        assert submitted(gateway).json()["code"] == "idempotency_in_flight"
    assert first.result().headers["preference-applied"] == "wait=1"
    again = submitted(gateway)
    assert (again.content, again.headers["preference-applied"]) == (first.result().content, "wait=1")


def test_a_key_lasts_a_day_and_no_longer(gateway: TestClient, valkey: Valkey) -> None:
    """24 hours, by Valkey's own clock."""
    submitted(gateway)
    with redis.Redis(port=valkey.port, decode_responses=True) as client:
        (key,) = client.scan_iter("riffarm:idempotency:*")
        assert 86_300_000 < client.pttl(key) <= 86_400_000
