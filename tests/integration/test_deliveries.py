"""Deliveries: posted once and again by a schedule, by any of several couriers, past receivers that never answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise, product
from statistics import median
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient
from standardwebhooks.webhooks import Webhook as Verifier

from api.intake import Jobs
from shared import deliveries as deliveries_module
from shared.contracts import Webhook, WebhookEvent
from shared.deliveries import WAITS_S, Attempt, Deliveries, Delivery, Outcome, outcome
from shared.job_moves import Attempt as Lease
from shared.job_moves import job_key
from shared.object_store import job_prefix, job_told_key
from shared.settings import Settings
from tests.conftest import SECRET, WEBHOOK_SECRET, wait_until
from tests.integration.gateway_probes import CLIP, RENDERED, taken
from tests.integration.receivers import Receiver, dead_receivers, make_due, posting, receiving
from workers.recovery import recover

ALL: list[WebhookEvent] = ["job.started", "job.progress", "job.succeeded", "job.failed", "job.canceled"]


class Bench:
    """A gateway without workers, its Redis, and its deliveries."""

    def __init__(self, gateway: TestClient, settings: Settings) -> None:
        self.gateway = gateway
        self.settings = settings
        self.farm: Jobs = gateway.app.state.jobs  # type: ignore[attr-defined]
        self.objects = self.farm.object_store
        self.redis: redis.Redis = self.farm.job_store.redis
        self.deliveries = Deliveries(self.redis)

    def submit(self, url: str, events: list[WebhookEvent] | None = None, **headers: str) -> str:
        webhook = Webhook(url=url) if events is None else Webhook(url=url, events=events)
        body = CLIP | {"webhook": webhook.model_dump()}
        answer = self.gateway.post("/v1/jobs", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def post(self, job_id: str, action: str) -> None:
        self.gateway.post(f"/v1/jobs/{job_id}/{action}").raise_for_status()

    def canceled(self, url: str) -> str:
        """A job with one delivery that is due."""
        job_id = self.submit(url)
        self.post(job_id, "cancel")
        return job_id

    def shown(self, job_id: str) -> list[dict[str, Any]]:
        answer = self.gateway.get(f"/v1/jobs/{job_id}/deliveries").raise_for_status()
        data: list[dict[str, Any]] = answer.json()["data"]
        return data

    def only(self, job_id: str) -> Delivery:
        (found,) = self.deliveries.of_job(job_id)
        return found

    def take(self, most: int = 100, courier: str = "c/1", lease_s: float = 30.0) -> list[tuple[str, str]]:
        return self.deliveries.take(courier, most, lease_s)

    def note(self, taken_: tuple[str, str], status: int | None) -> Outcome:
        delivery = self.deliveries.read(taken_[0])
        assert delivery
        result = outcome(delivery.event, delivery.tries, status)
        self.deliveries.note(*taken_, Attempt(1, 2, status, None if status else "no answer"), result)
        return result

    def started(self, job_id: str) -> Lease:
        """Have a worker begin the job."""
        return taken(self.farm.job_store, job_id)


@pytest.fixture
def bench(gateway: TestClient, settings: Settings) -> Bench:
    """A gateway by hand."""
    return Bench(gateway, settings)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver on loopback."""
    with receiving() as server:
        yield server


def test_the_schedule_is_the_published_one_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten attempts, each wait up to a tenth longer; news on the way is sent once."""
    assert WAITS_S == (0, 5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
    for draw in (0.0, 1.0):
        monkeypatch.setattr(deliveries_module.random, "random", lambda draw=draw: draw)
        waits = [outcome("job.succeeded", tries, 500) for tries in range(10)]
        assert waits == [*(Outcome("pending", wait_s * (1 + draw / 10)) for wait_s in WAITS_S[1:]), Outcome("failed")]
    for event in ("job.started", "job.progress"):
        assert outcome(event, 0, 500) == outcome(event, 0, None) == Outcome("failed")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "state"),
    [(200, "delivered"), (299, "delivered"), (302, "pending"), (404, "pending"), (410, "gone"), (None, "pending")],
)
def test_what_an_answer_means(status: int | None, state: str) -> None:
    """2xx takes it, 410 ends it, all else is tried again."""
    assert outcome("job.failed", 0, status).state == state


def test_retry_after_makes_a_wait_longer_up_to_a_day() -> None:
    """Never shorter than the schedule."""
    assert outcome("job.failed", 0, 503, 120.0).wait_s == 120.0
    assert outcome("job.failed", 0, 503, 1e9).wait_s == 86_400.0
    assert outcome("job.failed", 2, 503, 1.0).wait_s >= 1_800.0


def test_an_end_is_posted_signed_and_logged(bench: Bench, receiver: Receiver) -> None:
    """Published verifier, the id of the request that made the job, and what the job's deliveries say of it."""
    job_id = bench.submit(f"{receiver.url}/204", **{"X-Request-Id": "mine-1"})
    with posting(bench.settings, bench.objects):
        bench.post(job_id, "cancel")
        wait_until(lambda: bench.only(job_id).state == "delivered", "it is delivered", 10)
    (call,) = receiver.calls
    event = Verifier(WEBHOOK_SECRET).verify(call.body, call.headers)
    assert (event["type"], event["data"]["id"], event["data"]["status"]) == ("job.canceled", job_id, "canceled")
    assert "previews" not in event["data"]
    assert call.headers["x-request-id"] == "mine-1"
    (shown,) = bench.shown(job_id)
    assert (shown["id"], shown["next_attempt_at"], shown["url"]) == (
        call.headers["webhook-id"],
        None,
        f"{receiver.url}/204",
    )
    (attempt,) = shown["attempts"]
    assert (attempt["status"], attempt["error"]) == (204, None)
    assert bench.objects.exists(job_told_key(job_id))
    assert bench.deliveries.counts() == {"pending": 0, "delivered": 1, "failed": 0, "gone": 0, "attempts_failed": 0}


def test_a_refused_one_comes_again_under_its_id_and_another_timestamp(bench: Bench, receiver: Receiver) -> None:
    """After five seconds and a little; each attempt is in the log."""
    job_id = bench.submit(f"{receiver.url}/500")
    with posting(bench.settings, bench.objects):
        bench.post(job_id, "cancel")
        wait_until(lambda: len(bench.only(job_id).attempts) == 1, "it is refused", 10)
        delivery = bench.only(job_id)
        assert delivery.state == "pending"
        assert delivery.due_ms
        assert 4_900 < delivery.due_ms - receiver.calls[0].at_s * 1_000 < 6_000
        wait_until(lambda: time.time() > int(receiver.calls[0].headers["webhook-timestamp"]) + 1, "a second passes", 5)
        make_due(bench.redis, delivery.id)
        wait_until(lambda: len(bench.only(job_id).attempts) == 2, "it is refused again", 10)
    first, second = receiver.calls
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert int(first.headers["webhook-timestamp"]) < int(second.headers["webhook-timestamp"])
    assert [attempt["status"] for attempt in bench.shown(job_id)[0]["attempts"]] == [500, 500]


def test_a_redirect_is_a_failure_and_leads_nowhere(bench: Bench, receiver: Receiver) -> None:
    """Its target hears nothing."""
    job_id = bench.canceled(f"{receiver.url}/302")
    with posting(bench.settings, bench.objects):
        wait_until(lambda: len(bench.only(job_id).attempts) == 1, "it is tried", 10)
    assert [call.path for call in receiver.calls] == ["/302"]
    assert bench.only(job_id).state == "pending"


def test_after_the_tenth_attempt_it_has_failed(bench: Bench) -> None:
    """And storage says that no more is to be told."""
    job_id = bench.canceled("http://127.0.0.1:1/")
    delivery_id = bench.only(job_id).id
    for count in range(10):
        make_due(bench.redis, delivery_id)
        (one,) = bench.take()
        assert bench.note(one, 500).state == ("pending" if count < 9 else "failed")
    assert bench.take() == []
    assert (bench.only(job_id).state, len(bench.only(job_id).attempts)) == ("failed", 10)


def test_410_ends_all_news_of_that_job_and_of_no_other(bench: Bench, receiver: Receiver) -> None:
    """Also of its next run; another job's news still comes."""
    job_id, other = bench.canceled(f"{receiver.url}/410"), bench.submit(f"{receiver.url}/410")
    with posting(bench.settings, bench.objects):
        wait_until(lambda: bench.only(job_id).state == "gone", "the receiver is gone", 10)
        bench.post(job_id, "retry")
        bench.post(job_id, "cancel")
        bench.post(other, "cancel")
        wait_until(lambda: bench.only(other).state == "gone", "the other job's news came", 10)
    assert len(receiver.calls) == 2
    assert len(bench.shown(job_id)) == 1


def test_retry_after_is_heard(bench: Bench, receiver: Receiver) -> None:
    """As seconds here."""
    receiver.extra["retry-after"] = "77"
    job_id = bench.canceled(f"{receiver.url}/503")
    with posting(bench.settings, bench.objects):
        wait_until(lambda: len(bench.only(job_id).attempts) == 1, "it is refused", 10)
    due_ms = bench.only(job_id).due_ms
    assert due_ms
    assert 70 < due_ms / 1_000 - receiver.calls[0].at_s < 80


def test_a_killed_couriers_delivery_is_posted_by_the_next_and_its_late_word_refused(bench: Bench) -> None:
    """One lease at a time; a lost one is an attempt in the log."""
    job_id = bench.canceled("http://127.0.0.1:1/")
    ((delivery_id, token),) = bench.take(lease_s=0.05)
    assert bench.take(courier="c/2") == []
    found: list[tuple[str, str]] = []
    wait_until(lambda: bool(found.extend(bench.take(courier="c/2")) or found), "the lease runs out", 5)
    assert bench.note((delivery_id, token), 200).state == "delivered"
    assert bench.only(job_id).state == "pending"
    bench.note(found[0], 200)
    delivery = bench.only(job_id)
    assert delivery.state == "delivered"
    assert [(one.status, one.error) for one in delivery.attempts] == [(None, "its courier was lost"), (200, None)]


def test_a_courier_that_is_told_to_stop_gives_back_what_it_is_at(
    bench: Bench, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another may post it at once, and nothing is counted."""
    monkeypatch.setattr("workers.courier._GRACE_S", 0.1)
    job_id = bench.canceled(f"{receiver.url}/hang")
    with posting(bench.settings, bench.objects):
        wait_until(lambda: len(receiver.calls) == 1, "it is being posted", 10)
    assert bench.only(job_id).tries == 0
    assert len(bench.take()) == 1


def test_two_couriers_post_each_delivery_once(bench: Bench, receiver: Receiver) -> None:
    """Twenty deliveries of one receiver, at most four at a time."""
    ids = [bench.submit(f"{receiver.url}/slow") for _ in range(20)]
    with posting(bench.settings, bench.objects), posting(bench.settings, bench.objects):
        for job_id in ids:
            bench.post(job_id, "cancel")
        wait_until(lambda: all(bench.only(one).state == "delivered" for one in ids), "all are delivered", 20)
    assert len({call.headers["webhook-id"] for call in receiver.calls}) == len(receiver.calls) == 20
    assert 2 <= receiver.most_at_once <= 4


def test_a_receiver_that_did_not_take_the_last_gets_one_at_a_time(bench: Bench) -> None:
    """As does one that is new; a good answer opens the door wider."""
    for _ in range(6):
        bench.canceled("http://127.0.0.1:1/")
    (one,) = bench.take()
    assert bench.take() == []
    bench.note(one, 200)
    some = bench.take()
    assert len(some) == 4
    bench.note(some[0], 500)
    assert bench.take() == []
    for other in some[1:]:
        bench.note(other, 500)
    assert len(bench.take()) == 1


def test_200_receivers_that_never_answer_delay_a_healthy_one_by_less_than_a_second(
    bench: Bench, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them holds a post, and has two more that are due before the healthy one's eleven."""
    monkeypatch.setattr("workers.courier._GRACE_S", 0.1)
    with dead_receivers(200) as dead:
        for some in (dead.urls[first : first + 25] for first in range(0, 200, 25)):
            job_id = bench.canceled(some[0])
            fields = bench.farm.job_store.read(job_id)
            for url, later_ms in product(some, (1, 2, 3)):
                webhook = {"url": url, "receiver": url.split("/")[2], "events": ["job.canceled"]}
                bench.redis.hset(job_key(job_id), "webhook", json.dumps(webhook))
                finished_ms = int(fields["finished_ms"]) + later_ms
                bench.deliveries.announce(
                    fields | {"finished_ms": f"{finished_ms + some.index(url) * 10}"}, "job.canceled"
                )
        assert bench.deliveries.counts()["pending"] == 608
        with posting(bench.settings, bench.objects) as courier:
            wait_until(lambda: dead.connected() == 200, "all the dead have theirs", 20)
            delays_s = []
            for number in range(11):
                healthy = bench.submit(f"{receiver.url}/204")
                started_s = time.time()
                bench.post(healthy, "cancel")
                wait_until(lambda number=number: len(receiver.calls) == number + 1, "the healthy one has its own", 10)
                delays_s.append(receiver.calls[number].at_s - started_s)
            assert len(courier._under_way) >= 200
            # One of them may meet a machine that is busy otherwise.
            assert median(delays_s) < 1.0


def test_progress_is_told_at_most_every_500_ms_and_never_again(bench: Bench, receiver: Receiver) -> None:
    """Ten frames within a second are a few posts; none is tried a second time, nor is the start."""
    track = {"type": "track", "keyframes": [{"prompt": "a"}, {"prompt": "b"}], "duration_s": 120.0}
    body = track | {"webhook": {"url": f"{receiver.url}/500", "events": ["job.started", "job.progress"]}}
    job_id = bench.gateway.post("/v1/jobs", json=body).json()["id"]
    with posting(bench.settings, bench.objects):
        attempt = bench.started(job_id)
        began_s = time.time()
        for frame in range(16):
            bench.farm.job_store.record_frames(attempt, {frame: RENDERED})
            wait_until(lambda frame=frame: time.time() > began_s + 0.1 * (frame + 1), "time passes", 5)
        wait_until(
            lambda: json.loads(receiver.calls[-1].body)["data"]["progress"]["frames_done"] == 16,
            "the newest is told",
            5,
        )
    kinds = [json.loads(call.body)["type"] for call in receiver.calls]
    assert kinds.count("job.started") == 1
    at_s = sorted(call.at_s for call in receiver.calls if json.loads(call.body)["type"] == "job.progress")
    assert 3 <= len(at_s) <= 5
    assert min(later - earlier for earlier, later in pairwise(at_s)) >= 0.5
    states = {one["event"]: (one["state"], len(one["attempts"])) for one in bench.shown(job_id)}
    assert states == {"job.started": ("failed", 1), "job.progress": ("failed", 1)}


def test_a_job_that_asks_for_no_news_on_the_way_leaves_none(bench: Bench) -> None:
    """Neither a delivery nor a note for one."""
    job_id = bench.submit("http://127.0.0.1:1/")
    bench.farm.job_store.record_frames(bench.started(job_id), {0: RENDERED})
    assert bench.redis.zcard("riffarm:news") == 0
    assert bench.take() == []


def test_an_event_that_is_not_asked_for_is_not_posted(bench: Bench) -> None:
    """The webhook's own list decides."""
    job_id = bench.submit("http://127.0.0.1:1/", ["job.succeeded"])
    bench.post(job_id, "cancel")
    assert bench.shown(job_id) == []


def test_news_of_an_end_tells_of_it_as_it_was_then(bench: Bench, receiver: Receiver) -> None:
    """Also after the job was retried; each end has an id of its own."""
    job_id = bench.canceled(f"{receiver.url}/204")
    bench.post(job_id, "retry")
    with posting(bench.settings, bench.objects):
        wait_until(lambda: len(receiver.calls) == 1, "the first end is told", 10)
        bench.post(job_id, "cancel")
        wait_until(lambda: len(receiver.calls) == 2, "the second end is told", 10)
        wait_until(lambda: bench.objects.exists(job_told_key(job_id, 1)), "storage knows", 10)
    told = [json.loads(call.body)["data"] for call in receiver.calls]
    assert [(one["status"], one["attempts"]) for one in told] == [("canceled", 1), ("canceled", 2)]
    assert len({call.headers["webhook-id"] for call in receiver.calls}) == 2


def test_a_replay_is_posted_at_once_under_the_same_id(bench: Bench, receiver: Receiver) -> None:
    """With all attempts in its log; where it fails again, the schedule begins anew."""
    job_id = bench.canceled(f"{receiver.url}/204")
    with posting(bench.settings, bench.objects):
        wait_until(lambda: bench.only(job_id).state == "delivered", "it is delivered", 10)
        path = f"/v1/jobs/{job_id}/deliveries/{bench.only(job_id).id}/replay"
        answer = bench.gateway.post(path)
        assert answer.status_code == 202
        wait_until(lambda: len(bench.only(job_id).attempts) == 2, "it is delivered again", 10)
    first, second = receiver.calls
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    bench.gateway.post(path).raise_for_status()
    (one,) = bench.take()
    assert bench.note(one, 500) == Outcome("pending", pytest.approx(5.25, abs=0.26))
    assert bench.gateway.post(f"/v1/jobs/{job_id}/deliveries/dlv_no/replay").status_code == 404
    other = bench.canceled(f"{receiver.url}/204")
    assert bench.gateway.post(path.replace(job_id, other)).status_code == 404


def test_deliveries_come_in_pages_newest_first(bench: Bench) -> None:
    """`next` leads on until there is no more."""
    job_id = bench.canceled("http://127.0.0.1:1/")
    bench.post(job_id, "retry")
    bench.post(job_id, "cancel")
    every = [one["id"] for one in bench.shown(job_id)]
    assert every == sorted(every, reverse=True)
    first = bench.gateway.get(f"/v1/jobs/{job_id}/deliveries?limit=1").json()
    second = bench.gateway.get(first["next"]).json()
    assert [one["id"] for page in (first, second) for one in page["data"]] == every
    assert second["next"] is None


def test_the_deletion_of_a_live_job_is_told_as_its_cancellation(bench: Bench, receiver: Receiver) -> None:
    """Though nothing else is left of it, before or after."""
    job_id = bench.submit(f"{receiver.url}/500", ALL)
    bench.gateway.delete(f"/v1/jobs/{job_id}").raise_for_status()
    with posting(bench.settings, bench.objects):
        wait_until(lambda: len(receiver.calls) == 1, "it is told", 10)
        delivery_id = receiver.calls[0].headers["webhook-id"]
        wait_until(lambda: bench.redis.hget(f"riffarm:delivery:{delivery_id}", "tries") == "1", "it was refused", 10)
    event = json.loads(receiver.calls[0].body)
    assert (event["type"], event["data"]["id"], event["data"]["status"]) == ("job.canceled", job_id, "canceled")
    make_due(bench.redis, delivery_id)
    (one,) = bench.take()
    bench.note(one, 200)
    assert [*bench.redis.scan_iter(f"*{delivery_id}*")] == [*bench.redis.scan_iter(f"*{job_id}*")] == []
    assert [*bench.objects.keys(job_prefix(job_id))] == []
    assert bench.deliveries.counts()["pending"] == 0


def test_the_deletion_of_an_ended_job_ends_its_deliveries(bench: Bench) -> None:
    """What it made is gone: nobody need hear of it any more."""
    job_id = bench.submit("http://127.0.0.1:1/")
    bench.farm.job_store.finish(job_id, "failed", {"error": '{"code":"x","message":"y","retryable":false}'})
    bench.post(job_id, "cancel")
    assert bench.only(job_id).event == "job.failed"
    bench.gateway.delete(f"/v1/jobs/{job_id}").raise_for_status()
    assert bench.take() == []
    assert [*bench.redis.scan_iter("riffarm:delivery:*")] == []
    assert [*bench.redis.scan_iter("riffarm:receiver:*")] == []


def test_a_loss_of_redis_loses_no_news_and_repeats_none_that_was_taken(bench: Bench, receiver: Receiver) -> None:
    """Under the id that it had."""
    told = bench.canceled(f"{receiver.url}/204")
    with posting(bench.settings, bench.objects):
        wait_until(lambda: bench.objects.exists(job_told_key(told)), "it is noted as told", 10)
    waiting = bench.canceled(f"{receiver.url}/204")
    delivery_id = bench.only(waiting).id
    bench.redis.flushall()
    recover(bench.farm.job_store, bench.objects, bench.farm.dispatcher)
    for job_id in (told, waiting):
        bench.post(job_id, "cancel")
    assert bench.shown(told) == []
    assert bench.only(waiting).id == delivery_id


def test_news_that_waited_for_long_survives_too(bench: Bench) -> None:
    """A day later the schedule is not over; without a webhook an end of then is no news."""
    ids = {
        "waiting": bench.canceled("http://127.0.0.1:1/"),
        "quiet": bench.gateway.post("/v1/jobs", json=CLIP).json()["id"],
    }
    bench.post(ids["quiet"], "cancel")
    for job_id in ids.values():
        key = f"{job_prefix(job_id)}result.json"
        result = json.loads(bench.objects.get(key))
        bench.objects.put(key, json.dumps(result | {"finished_ms": int(result["finished_ms"]) - 86_400_000}).encode())
    bench.redis.flushall()
    recover(bench.farm.job_store, bench.objects, bench.farm.dispatcher)
    assert bench.redis.smembers("riffarm:jobs:ended") == {ids["waiting"]}


def test_ready_warns_when_no_courier_runs(bench: Bench) -> None:
    """And no longer once one does."""

    def warnings() -> list[str]:
        return [one for one in bench.gateway.get("/ready").json()["warnings"] if "courier" in one]

    assert warnings() == ["no courier runs: webhooks wait until one does"]
    with posting(bench.settings, bench.objects):
        wait_until(lambda: warnings() == [], "the courier is seen", 10)


def test_the_process_posts_and_ends_in_order(bench: Bench, receiver: Receiver) -> None:
    """Started as an operator would; SIGTERM ends it with exit code 0."""
    job_id = bench.canceled(f"{receiver.url}/204")
    variables = {"REDIS_URL": bench.settings.redis_url, "STORAGE_URL": bench.settings.storage_url, "SECRET": SECRET}
    variables |= {"WEBHOOK_SECRET": WEBHOOK_SECRET, "WEBHOOK_ALLOW_LOOPBACK": "true"}
    environment = os.environ | {f"RIFFARM_{name}": value for name, value in variables.items()}
    process = subprocess.Popen([sys.executable, "-m", "workers.courier"], env=environment)
    try:
        wait_until(lambda: bench.only(job_id).state == "delivered", "it is delivered", 30)
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
    assert len(receiver.calls) == 1
