"""What the farm says of itself: its report, its metrics, its readiness, and what an operator can tell a worker."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from api.client import Client, FarmError
from api.main import create_app
from shared.deliveries import Deliveries
from shared.farm_rates import FarmRates
from shared.farm_state import FarmState
from shared.job_store import JobStore
from shared.settings import Settings
from tests.conftest import SECRET, Valkey, free_port
from tests.integration.gateway_probes import CLIP, KEY, TRACK, served, submitted, taken

QUEUE = "render.riffarm-mini"
BEAT = {
    "name": "w1",
    "pid": 1,
    "queues": ["deliver", "sound", "render"],
    "models": ["riffarm-mini"],
    "loaded": [],
    "job": None,
    "item": None,
    "items_done": 7,
    "frames_per_minute": 12.5,
    "device": "cpu",
    "memory_bytes": 0,
    "memory_budget_bytes": 0,
}


@pytest.fixture
def state(job_store: JobStore) -> FarmState:
    """The farm's own state over an empty Valkey."""
    return FarmState(job_store.redis)


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    """A gateway that listens."""
    with served(settings) as address:
        yield address


def benched(state: FarmState, job_store: JobStore, gateway: TestClient, name: str) -> None:
    """Have a worker lose batches of three jobs."""
    for _ in range(3):
        gateway.post("/v1/jobs", json={**CLIP, "priority": "interactive"})
        attempt = job_store.take(QUEUE, name, f"{name}/1").attempt
        assert attempt
        job_store.give_back(attempt, name, "its process died")
        job_store.finish(attempt.job_id, "canceled")
    assert state.is_benched(name)


def report(gateway: TestClient) -> Any:
    answer = gateway.get("/v1/farm")
    assert answer.status_code == 200, answer.json()
    return answer.json()


def test_an_empty_farm_says_so(gateway: TestClient) -> None:
    """Nothing waits, nobody works, nobody swept."""
    empty = {"frames_per_minute": None, "jobs_per_minute": None, "audio_s_per_minute": None}
    rates = [{"minutes": minutes, **empty} for minutes in (1, 15, 60)]
    assert report(gateway) == {"estimated_wait_s": 0.0, "queues": [], "workers": [], "rates": rates, "sweep": None}


def test_rates_are_over_one_fifteen_and_sixty_minutes(
    gateway: TestClient, job_store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done since the oldest sample of each window; a window whose samples are all older has none."""
    rates, farm_rates = FarmRates(job_store.redis), "shared.farm_state.FarmState.now_ms"
    begun_ms = time.time() * 1_000
    for minute in range(0, 71):
        monkeypatch.setattr(farm_rates, lambda self, minute=minute: begun_ms + minute * 60_000)
        # Ten frames a minute for an hour, then thirty.
        done = 10 * min(minute, 60) + 30 * max(0, minute - 60)
        job_store.redis.hset("riffarm:totals", mapping={"frames_rendered": done, "jobs_failed": minute})
        for _ in range(2):
            rates.sample()
    found = {one["minutes"]: one for one in report(gateway)["rates"]}
    assert [found[minutes]["frames_per_minute"] for minutes in (1, 15, 60)] == [30, 23.33, 13.33]
    assert {one["jobs_per_minute"] for one in found.values()} == {1}
    monkeypatch.setattr(farm_rates, lambda self: begun_ms + 90 * 60_000)
    assert [one["frames_per_minute"] is None for one in report(gateway)["rates"]] == [True, True, False]
    # A clock that is set back begins anew.
    monkeypatch.setattr(farm_rates, lambda self: begun_ms)
    rates.sample()
    monkeypatch.setattr(farm_rates, lambda self: begun_ms + 60_000)
    assert {one["frames_per_minute"] for one in report(gateway)["rates"]} == {0}


def test_a_queue_tells_what_waits_and_how_long_that_takes(
    gateway: TestClient, state: FarmState, job_store: JobStore
) -> None:
    """Items that wait or run at the pace of late, shared by the workers that take from the queue."""
    for request in (TRACK, CLIP, {**CLIP, "priority": "bulk"}):
        gateway.post("/v1/jobs", json=request)
    job_store.redis.hset("riffarm:pace", QUEUE, 2_000)
    queue = next(one for one in report(gateway)["queues"] if one["queue"] == QUEUE)
    assert queue == {
        "queue": QUEUE,
        "jobs": 3,
        "frames": 10,
        "audio_s": 51.2,
        "items": 4,
        "seconds": 8.0,
        "jobs_waiting": {"interactive": 0, "normal": 2, "bulk": 1},
        "workers": 0,
        "wait_s": None,
    }
    assert report(gateway)["estimated_wait_s"] is None
    for number, models in enumerate((["riffarm-mini"], ["riffarm-mini", "other"], ["other"])):
        state.beat(f"w{number}/1", BEAT | {"name": f"w{number}", "models": models})
    state.drain("w0/1")
    queue = next(one for one in report(gateway)["queues"] if one["queue"] == QUEUE)
    assert (queue["workers"], queue["wait_s"]) == (1, 8.0)
    # Of sound and delivery there are three each, at five seconds as long as none is done, for two workers.
    assert report(gateway)["estimated_wait_s"] == 8.0


def test_what_waits_shrinks_as_it_is_done(gateway: TestClient, job_store: JobStore) -> None:
    """Frames one by one; sound by the items that are done; a job leaves a queue with its last item there."""
    job_id = gateway.post("/v1/jobs", json=TRACK).json()["id"]
    total_s = job_store.read(job_id)["audio_s"]

    def waiting() -> dict[str, tuple[int, int, float]]:
        return {one["queue"]: (one["jobs"], one["frames"], one["audio_s"]) for one in report(gateway)["queues"]}

    whole = round(float(total_s), 3)
    assert waiting() == {QUEUE: (1, 8, whole), "sound": (1, 0, whole), "deliver": (1, 0, whole)}
    attempt = taken(job_store, job_id)
    job_store.record_frames(attempt, {0: {"reused": True}, 1: {"reused": False, "s": 1.0, "worker": "w1"}})
    job_store.record_frames(attempt, {1: {"reused": True}})
    assert waiting()[QUEUE] == (1, 6, whole)
    job_store.record_frames(attempt, {frame: {"reused": True} for frame in (2, 3)})
    job_store.done(attempt, 100, "w1", 0, [*range(8)])
    assert waiting()[QUEUE] == (1, 4, pytest.approx(whole / 2, abs=0.001))
    # Paused it does not wait; frames of a batch under way are finished all the same.
    last = taken(job_store, job_id)
    job_store.pause(job_id)
    job_store.record_frames(last, {4: {"reused": True}})
    assert {*waiting().values()} == {(0, 0, 0.0)}
    job_store.resume(job_id)
    assert waiting()[QUEUE][:2] == (1, 3)
    job_store.record_frames(last, {frame: {"reused": True} for frame in range(5, 8)})
    job_store.done(last, 100, "w1", 0, [*range(8)])
    assert waiting() == {QUEUE: (0, 0, 0.0), "sound": (1, 0, whole), "deliver": (1, 0, whole)}


def test_a_worker_tells_what_it_is_at(gateway: TestClient, state: FarmState, job_store: JobStore) -> None:
    """Idle, busy, draining, benched with the reason; one whose heart stopped is not there any more."""
    benched(state, job_store, gateway, "bad")
    job_id = gateway.post("/v1/jobs", json=CLIP).json()["id"]
    attempt = taken(job_store, job_id)
    for name in ("idle", "draining", "bad"):
        state.beat(f"{name}/1", BEAT | {"name": name})
    state.beat("w1/1", BEAT)
    state.drain("draining/1")
    dead = json.dumps(BEAT | {"name": "dead", "beat_s": time.time() - 3_000})
    job_store.redis.hset("riffarm:workers", "dead/1", dead)
    workers = {worker["name"]: worker for worker in report(gateway)["workers"]}
    assert {name: worker["state"] for name, worker in workers.items()} == {
        "idle": "idle",
        "w1": "busy",
        "draining": "draining",
        "bad": "benched",
    }
    assert (workers["w1"]["job"], workers["w1"]["item"], workers["w1"]["items_done"]) == (job_id, attempt.item, 7)
    assert workers["w1"]["frames_per_minute"] == 12.5
    assert (workers["bad"]["reason"], workers["idle"]["reason"]) == ("its process died", None)
    assert 0 <= workers["idle"]["heartbeat_age_s"] < 15


def test_the_last_sweeps_report_is_shown(gateway: TestClient, state: FarmState) -> None:
    """As the sweeper wrote it, its time as all times are."""
    state.report_sweep({"items_found": 2}, {"stuck": []})
    sweep = report(gateway)["sweep"]
    assert sweep.items() >= {"items_found": 2, "stuck": []}.items()
    assert abs(datetime.fromisoformat(sweep["at"]).timestamp() - time.time()) < 60
    assert sweep["at"].endswith("Z")


def test_a_benched_worker_is_lifted(gateway: TestClient, state: FarmState, job_store: JobStore) -> None:
    """It takes work again, what it lost is forgotten, and lifting it twice does no harm."""
    benched(state, job_store, gateway, "w1")
    state.beat("w1/1", BEAT)
    assert job_store.take(QUEUE, "w1", "w1/1").refusal == "benched"
    for _ in range(2):
        (worker,) = gateway.post("/v1/farm/workers/w1/lift").json()["data"]
        assert (worker["state"], worker["reason"]) == ("idle", None)
    job_id = gateway.post("/v1/jobs", json=CLIP).json()["id"]
    attempt = taken(job_store, job_id)
    job_store.give_back(attempt, "w1", "its process died")
    assert not state.is_benched("w1")


def test_a_worker_is_drained_by_its_name(gateway: TestClient, state: FarmState, job_store: JobStore) -> None:
    """It takes nothing more and is told so with its next renewal; others go on."""
    job_id = gateway.post("/v1/jobs", json=CLIP).json()["id"]
    attempt = taken(job_store, job_id)
    for name in ("w1", "w2"):
        state.beat(f"{name}/1", BEAT | {"name": name})
    for _ in range(2):
        (worker,) = gateway.post("/v1/farm/workers/w1/drain").json()["data"]
        assert (worker["id"], worker["state"]) == ("w1/1", "draining")
    assert job_store.renew(attempt).is_draining
    gateway.post("/v1/jobs", json=CLIP)
    assert job_store.take(QUEUE, "w1", "w1/1").refusal == "draining"
    assert job_store.take(QUEUE, "w2", "w2/1").attempt


def test_a_worker_that_is_not_there_is_a_404(gateway: TestClient) -> None:
    """Whatever its name looks like."""
    for name in ("w1", "w1%2F1", "%00"):
        for action in ("lift", "drain"):
            answer = gateway.post(f"/v1/farm/workers/{name}/{action}")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_only_who_has_the_key_sees_the_farm_and_anybody_its_figures(settings: Settings) -> None:
    """The report names jobs and workers; metrics and readiness are for machines that have no key."""
    keyed = Settings.model_validate({**settings.model_dump(), "gateway_key": KEY, "secret": SECRET})
    with TestClient(create_app(keyed)) as gateway:
        assert gateway.get("/v1/farm").status_code == 401
        assert gateway.post("/v1/farm/workers/w1/drain").status_code == 401
        assert gateway.post("/v1/farm/workers/w1/lift").status_code == 401
        assert gateway.get("/v1/farm", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
        assert gateway.get("/metrics").status_code == 200


def figures(gateway: TestClient) -> dict[tuple[str, ...], float]:
    """All that a scrape gives: values by name and labels."""
    answer = gateway.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = [*text_string_to_metric_families(answer.text)]
    assert all(family.documentation for family in families)
    of_farm = [family for family in families if "_http_" not in family.name and "_streams" not in family.name]
    return {(one.name, *one.labels.values()): one.value for family in of_farm for one in family.samples}


def test_metrics_are_those_of_the_report(gateway: TestClient, state: FarmState, job_store: JobStore) -> None:
    """Backlog and waiting jobs by queue, workers by state."""
    gateway.post("/v1/jobs", json=TRACK)
    gateway.post("/v1/jobs", json={**CLIP, "priority": "interactive"})
    job_store.take(QUEUE, "w1", "w1/1")
    state.beat("w1/1", BEAT)
    job_store.redis.hset("riffarm:pace", QUEUE, 500)
    seen = figures(gateway)
    assert seen["riffarm_redis_up",] == 1
    assert seen["riffarm_backlog_seconds", QUEUE] == 1.5
    assert (seen["riffarm_backlog_items", QUEUE], seen["riffarm_backlog_items", "deliver"]) == (3, 2)
    assert (seen["riffarm_backlog_frames", QUEUE], seen["riffarm_backlog_frames", "sound"]) == (9, 0)
    assert seen["riffarm_backlog_audio_seconds", QUEUE] == seen["riffarm_backlog_audio_seconds", "sound"]
    waiting = [seen["riffarm_jobs_waiting", priority, QUEUE] for priority in ("interactive", "normal", "bulk")]
    # What is taken is no more waiting, and runs.
    assert waiting == [0, 1, 0]
    states = {key[1]: value for key, value in seen.items() if key[0] == "riffarm_workers"}
    assert states == {"idle": 0, "busy": 1, "draining": 0, "benched": 0}


def test_what_is_done_or_paused_is_no_backlog(gateway: TestClient, job_store: JobStore) -> None:
    """More workers could not shorten it."""
    job_id = gateway.post("/v1/jobs", json=TRACK).json()["id"]
    job_store.done(taken(job_store, job_id), 100, "w1", 0, [0])
    assert figures(gateway)["riffarm_backlog_items", QUEUE] == 1
    gateway.post(f"/v1/jobs/{job_id}/pause")
    assert {value for key, value in figures(gateway).items() if "backlog" in key[0]} == {0}
    assert report(gateway)["estimated_wait_s"] == 0.0


def test_without_redis_metrics_say_so_and_the_report_is_a_503(tmp_path: Path) -> None:
    """A scrape that fails would look like a gateway that is down."""
    valkey = Valkey(tmp_path)
    settings = Settings(redis_url=valkey.url, storage_url=f"file:{tmp_path}", secret=SECRET)
    with TestClient(create_app(settings), base_url="http://localhost") as gateway:
        assert figures(gateway)["riffarm_redis_up",] == 1
        valkey.stop()
        assert figures(gateway) == {("riffarm_redis_up",): 0}
        answer = gateway.get("/v1/farm")
        assert (answer.status_code, answer.json()["code"]) == (503, "queue_unavailable")


def test_readiness_needs_a_worker_for_every_queue_and_warns_without_a_sweeper(
    gateway: TestClient, state: FarmState, job_store: JobStore
) -> None:
    """Without workers 503 with the reason; without a sweeper jobs end all the same, as long as nothing goes wrong, and
    without a courier webhooks wait."""
    answer = gateway.get("/ready")
    assert (answer.status_code, answer.json()["checks"]["workers"]) == (503, "no worker serves deliver, sound, render")
    state.beat("w1/1", BEAT)
    ready = gateway.get("/ready")
    assert (ready.status_code, ready.json()["ready"]) == (200, True)
    assert ["no sweeper" in ready.json()["warnings"][0], "no courier" in ready.json()["warnings"][1]] == [True, True]
    state.report_sweep({}, {})
    Deliveries(job_store.redis).take("here/1", 1, 1.0)
    assert gateway.get("/ready").json()["warnings"] == []


def riffarm(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line as a user runs it."""
    command = [sys.executable, "-m", "api.cli", *arguments, "--url", url]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_line_controls_jobs(url: str) -> None:
    """Each command prints the job's new status, twice too, and JSON for programs."""
    job_id = submitted(url, CLIP)
    for action, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "canceled"), ("retry", "queued")):
        plain, as_json = riffarm(url, action, job_id), riffarm(url, action, job_id, "--json")
        assert (plain.returncode, plain.stdout, plain.stderr) == (0, f"{job_id} {status}\n", "")
        assert (as_json.returncode, json.loads(as_json.stdout)["status"]) == (0, status)
    assert json.loads(riffarm(url, "jobs", "--status", "queued", "--json").stdout)[0]["id"] == job_id
    deleted = riffarm(url, "delete", job_id, "--json")
    assert (deleted.returncode, json.loads(deleted.stdout)) == (0, {"id": job_id, "deleted": True})
    assert riffarm(url, "jobs", "--json").stdout == "[]\n"


def test_the_command_line_fails_in_a_sentence_where_an_action_does_not_apply(url: str) -> None:
    """Exit code 1, nothing on standard output; an unknown job, or one whose state stays."""
    job_id = submitted(url, CLIP)
    assert riffarm(url, "cancel", job_id).returncode == 0
    for arguments, sentence in (
        (("pause", job_id), f"riffarm: {job_id} stays as it is: canceled"),
        (("resume", job_id), f"riffarm: {job_id} stays as it is: canceled"),
        (("delete", "job_0"), "riffarm: There is no job job_0."),
        (("workers", "drain", "w1"), "riffarm: There is no worker w1; /v1/farm lists all."),
    ):
        answer = riffarm(url, *arguments)
        assert (answer.returncode, answer.stdout, " ".join(answer.stderr.split())) == (1, "", sentence)


def test_the_command_line_shows_the_farm(url: str, state: FarmState) -> None:
    """Queues and workers as tables, and as JSON the report itself."""
    submitted(url, CLIP)
    state.beat("w1/1", BEAT)
    shown = riffarm(url, "farm")
    assert shown.returncode == 0
    for words in ((QUEUE, "1 normal", "5.1 s", "5 s"), ("w1", "idle", "cpu", "7", "12.5"), ("Estimated wait: 5 s",)):
        assert any(all(word in line for word in words) for line in shown.stdout.splitlines()), shown.stdout
    assert json.loads(riffarm(url, "farm", "--json").stdout).keys() == {
        "estimated_wait_s",
        "queues",
        "workers",
        "rates",
        "sweep",
    }
    drained = riffarm(url, "workers", "drain", "w1", "--json")
    assert json.loads(drained.stdout)[0]["state"] == "draining"
    assert "draining" in riffarm(url, "workers", "lift", "w1").stdout


def test_the_client_does_what_the_command_line_does(url: str, state: FarmState) -> None:
    """And names what is not there."""
    job_id = submitted(url, CLIP)
    state.beat("w 1/1", BEAT | {"name": "w 1"})
    with Client(url) as client:
        assert [client.pause(job_id).status, client.resume(job_id).status] == ["paused", "queued"]
        assert [client.cancel(job_id).status, client.retry(job_id).attempts] == ["canceled", 2]
        client.delete(job_id)
        with pytest.raises(FarmError, match="no job"):
            client.delete(job_id)
        assert client.farm().workers[0].state == "idle"
        assert [client.lift("w 1")[0].state, client.drain("w 1")[0].state] == ["idle", "draining"]
    with Client(f"http://127.0.0.1:{free_port()}") as nowhere, pytest.raises(FarmError, match="riffarm up"):
        nowhere.farm()
