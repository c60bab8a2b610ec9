"""Cancel, pause, resume, retry, expire, delete over HTTP: every action in every state, and twice; a worker's steps by
hand, over a real Valkey."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.intake import Jobs
from shared.dispatch import needed_frames, plan_of
from shared.endings import follow_up_end
from shared.errors import LeaseLostError, StorageUnavailableError
from shared.frames import frame_hash
from shared.job_moves import Attempt
from shared.object_store import (
    chunk_key,
    frame_key,
    job_result_key,
    output_key,
)
from shared.plan import Plan
from shared.settings import Settings
from tests.conftest import Valkey, wait_until
from tests.integration.gateway_probes import CLIP, RENDERED, TRACK, job_keys, recorded, taken, tickets, waiting_batches
from workers.recovery import recover

STATES = ("queued", "running", "paused", "paused_amid", "succeeded", "failed", "canceled")
RESULT = {
    "cancel": dict.fromkeys(("queued", "running", "paused", "paused_amid"), "canceled"),
    "pause": {"queued": "paused", "running": "paused"},
    "resume": {"paused": "queued", "paused_amid": "running"},
    "retry": {"failed": "queued", "canceled": "queued"},
}
"""What becomes of a job by an action; it stays as it is where nothing is said."""


@pytest.fixture
def farm(gateway: TestClient) -> Jobs:
    """What stands behind the gateway's routes."""
    return gateway.app.state.jobs  # type: ignore[attr-defined,no-any-return]


def submitted(gateway: TestClient, request: dict[str, Any] = TRACK) -> str:
    return str(gateway.post("/v1/jobs", json=request).json()["id"])


def done_to(gateway: TestClient, job_id: str, action: str) -> Any:
    answer = gateway.post(f"/v1/jobs/{job_id}/{action}")
    assert answer.status_code == 200, answer.json()
    return answer.json()


def job_in(state: str, gateway: TestClient, farm: Jobs) -> str:
    """A track of two batches in a state; one that was begun has finished its first."""
    job_id, jobs = submitted(gateway), farm.job_store
    if state not in ("queued", "paused"):
        finish_batch(farm, taken(jobs, job_id))
    if state.startswith("paused"):
        done_to(gateway, job_id, "pause")
    elif state == "canceled":
        done_to(gateway, job_id, "cancel")
    elif state == "failed":
        jobs.finish(job_id, "failed", {"error": '{"code": "x", "message": "y", "retryable": true}'})
        follow_up_end(job_id, jobs, farm.object_store)
    elif state == "succeeded":
        finish_batch(farm, taken(jobs, job_id))
        jobs.done(taken(jobs, job_id, "sound"), 100, "w1", 1, [])
        delivery = taken(jobs, job_id, "deliver")
        jobs.finish(job_id, "succeeded", {"outputs": "[]"}, delivery)
        follow_up_end(job_id, jobs, farm.object_store)
    return job_id


def finish_batch(farm: Jobs, attempt: Attempt) -> None:
    """What a worker does with a batch, without the rendering."""
    plan = plan_of(farm.job_store.read(attempt.job_id))
    assert isinstance(plan, Plan)
    for number in plan.batch_frames(attempt.number):
        farm.object_store.put(frame_key(frame_hash(plan.frame(number))), b"a picture")
        farm.job_store.record_frames(attempt, {number: RENDERED})
    needed = needed_frames(plan, attempt.next_chunk)
    farm.job_store.done(attempt, 100, "w1", attempt.next_chunk, needed)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("action", RESULT)
def test_every_action_in_every_state_is_answered_and_changes_nothing_the_second_time(
    gateway: TestClient, farm: Jobs, action: str, state: str
) -> None:
    """200 with the job as it then is; where the action does not apply, as it was."""
    job_id = job_in(state, gateway, farm)
    before = gateway.get(f"/v1/jobs/{job_id}").json()
    first, second = (done_to(gateway, job_id, action) for _ in range(2))
    assert first["status"] == RESULT[action].get(state, before["status"])
    assert without_moments(second) == without_moments(first)
    if state not in RESULT[action]:
        assert without_moments(first) == without_moments(before)


def without_moments(job: dict[str, Any]) -> dict[str, Any]:
    """A job without what moves by itself."""
    progress = {name: value for name, value in job["progress"].items() if name != "eta_s"}
    return job | {"progress": progress}


@pytest.mark.parametrize("action", [*RESULT, "delete"])
@pytest.mark.parametrize("job_id", ["job_0", "job_1:frames", "x"])
def test_what_is_done_to_no_job_is_a_404(gateway: TestClient, action: str, job_id: str) -> None:
    """And leaves nothing behind."""
    path = f"/v1/jobs/{job_id}"
    answer = gateway.delete(path) if action == "delete" else gateway.post(f"{path}/{action}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_paused_job_begins_nothing_and_what_runs_comes_to_its_end(
    gateway: TestClient, farm: Jobs, valkey: Valkey
) -> None:
    """Its work is not offered until it is resumed, and then goes on where it stood."""
    job_id = submitted(gateway)
    attempt = taken(farm.job_store, job_id)
    done_to(gateway, job_id, "pause")
    assert [one["id"] for one in gateway.get("/v1/jobs?status=paused").json()["data"]] == [job_id]
    assert farm.job_store.take("render.riffarm-mini", "w1", "w1/1").attempt is None
    assert waiting_batches(valkey) == 0
    finish_batch(farm, attempt)
    job = gateway.get(f"/v1/jobs/{job_id}").json()
    assert (job["status"], job["progress"]["frames_done"], job["progress"]["eta_s"]) == ("paused", 4, None)
    farm.job_store.redis.delete("render.riffarm-mini")
    assert done_to(gateway, job_id, "resume")["status"] == "running"
    assert (tickets(valkey), waiting_batches(valkey)) == (1, 1)
    assert taken(farm.job_store, job_id).item == "b1"


def test_a_canceled_jobs_worker_is_refused_and_others_are_not(gateway: TestClient, farm: Jobs) -> None:
    """The right job only: what comes late for it is refused, and what another job's worker says counts."""
    first = submitted(gateway)
    late = taken(farm.job_store, first)
    second = submitted(gateway, CLIP)
    done_to(gateway, first, "cancel")
    with pytest.raises(LeaseLostError):
        finish_batch(farm, late)
    finish_batch(farm, taken(farm.job_store, second))
    jobs = [gateway.get(f"/v1/jobs/{one}").json() for one in (first, second)]
    assert [(job["status"], job["progress"]["frames_done"]) for job in jobs] == [("canceled", 0), ("running", 1)]


def test_a_retry_goes_on_from_what_is_there(gateway: TestClient, farm: Jobs, valkey: Valkey) -> None:
    """The same id, the finished frames, only the missing batch; attempts count."""
    job_id = job_in("canceled", gateway, farm)
    job = done_to(gateway, job_id, "retry")
    assert (job["id"], job["status"], job["attempts"]) == (job_id, "queued", 2)
    assert (job["progress"]["frames_done"], job["finished_at"], job["error"]) == (4, None, None)
    assert waiting_batches(valkey) == 1
    assert taken(farm.job_store, job_id).item == "b1"


def test_an_end_that_is_followed_up_late_does_not_end_the_retry(gateway: TestClient, farm: Jobs) -> None:
    """Whoever canceled the job writes its result only after the retry: storage has it as unfinished all the same."""
    job_id, store = job_in("running", gateway, farm), _SlowStore(farm.object_store)
    farm.job_store.finish(job_id, "canceled")
    late = threading.Thread(target=follow_up_end, args=(job_id, farm.job_store, store))
    late.start()
    wait_until(lambda: store.is_waiting, "the result is about to be written")
    assert done_to(gateway, job_id, "retry")["status"] == "queued"
    store.may_write.set()
    late.join()
    assert farm.job_store.read(job_id).get("announced") is None
    assert recovered(farm, job_id) == ("queued", 2)
    assert done_to(gateway, job_id, "cancel")["status"] == "canceled"
    assert farm.job_store.read(job_id)["announced"] == "1"
    assert recovered(farm, job_id) == ("canceled", 2)


def recovered(farm: Jobs, job_id: str) -> tuple[str, int]:
    """Lose all that Redis has, recover it from storage: a job's status and attempts then."""
    farm.job_store.redis.flushall()
    recover(farm.job_store, farm.object_store, farm.dispatcher)
    job = farm.read(job_id)
    return job.status, job.attempts


class _SlowStore:
    """A store that waits before it writes."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.is_waiting = False
        self.may_write = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, *arguments: Any) -> None:
        self.is_waiting = True
        assert self.may_write.wait(30)
        self._store.put(*arguments)


def test_two_retries_at_once_are_one(gateway: TestClient, farm: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds a job that was retried and ended again meanwhile, and leaves it."""
    job_id = job_in("canceled", gateway, farm)
    retry = farm.job_store.retry

    def retry_after_another(job_id: str, runs: int) -> list[str] | None:
        retry(job_id, runs)
        farm.job_store.finish(job_id, "canceled")
        return retry(job_id, runs)

    monkeypatch.setattr(farm.job_store, "retry", retry_after_another)
    job = done_to(gateway, job_id, "retry")
    assert (job["status"], job["attempts"]) == ("canceled", 2)
    assert recovered(farm, job_id)[1] == 2


@pytest.mark.parametrize(("state", "action"), [("queued", "pause"), ("paused", "resume"), ("failed", "retry")])
def test_an_action_cut_short_between_storage_and_redis_can_be_repeated(
    gateway: TestClient, farm: Jobs, monkeypatch: pytest.MonkeyPatch, state: str, action: str
) -> None:
    """The gateway dies before Redis hears of it: the job is as it was, and the same request does it."""
    job_id = job_in(state, gateway, farm)
    with monkeypatch.context() as dying:
        dying.setattr(farm.job_store, action, _die)
        assert gateway.post(f"/v1/jobs/{job_id}/{action}").status_code == 500
    assert gateway.get(f"/v1/jobs/{job_id}").json()["status"] == state
    job = done_to(gateway, job_id, action)
    assert job["status"] == RESULT[action][state]
    assert recovered(farm, job_id) == (job["status"], job["attempts"])


def test_a_pause_cut_short_is_undone_by_resuming(
    gateway: TestClient, farm: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it left in storage would hold the job up after a recovery."""
    job_id = submitted(gateway)
    with monkeypatch.context() as dying:
        dying.setattr(farm.job_store, "pause", _die)
        gateway.post(f"/v1/jobs/{job_id}/pause")
    assert done_to(gateway, job_id, "resume")["status"] == "queued"
    assert recovered(farm, job_id) == ("queued", 1)


def _die(*_: Any) -> None:
    raise RuntimeError("killed")


@pytest.mark.parametrize("ended", ["succeeded", "canceled"])
def test_of_a_cancellation_and_a_completion_one_comes_first(gateway: TestClient, farm: Jobs, ended: str) -> None:
    """Whichever it is stays, in Redis and in storage."""
    job_id = job_in("running", gateway, farm)
    jobs = farm.job_store
    finish_batch(farm, taken(jobs, job_id))
    jobs.done(taken(jobs, job_id, "sound"), 100, "w1", 1, [])
    delivery = taken(jobs, job_id, "deliver")
    if ended == "canceled":
        done_to(gateway, job_id, "cancel")
    is_delivered = jobs.finish(job_id, "succeeded", {"outputs": "[]"}, delivery)
    assert is_delivered is (ended == "succeeded")
    assert done_to(gateway, job_id, "cancel")["status"] == ended
    assert json.loads(farm.object_store.get(job_result_key(job_id)))["status"] == ended


def test_a_job_that_was_to_begin_by_then_fails_and_may_be_retried(
    gateway: TestClient, farm: Jobs, valkey: Valkey
) -> None:
    """`expires_in_s` counts from its acceptance; a job that began in time, or has no such time, goes on."""
    slow, begun, patient = (
        submitted(gateway, CLIP | extra) for extra in ({"expires_in_s": 1, "priority": "bulk"}, {"expires_in_s": 1}, {})
    )
    error = '{"code": "expired", "message": "not begun in time", "retryable": true}'
    assert taken(farm.job_store, begun)
    assert not farm.job_store.expire(slow, error)
    wait_until(lambda: farm.job_store.expire(slow, error), "the job expires", 10)
    assert not any(farm.job_store.expire(job_id, error) for job_id in (slow, begun, patient))
    jobs = [gateway.get(f"/v1/jobs/{job_id}").json() for job_id in (slow, begun, patient)]
    assert [job["status"] for job in jobs] == ["failed", "running", "queued"]
    assert jobs[0]["error"]["code"] == "expired"
    assert jobs[0]["input"]["expires_in_s"] == 1
    done_to(gateway, patient, "cancel")
    assert done_to(gateway, slow, "retry")["status"] == "queued"
    assert taken(farm.job_store, slow)


@pytest.mark.parametrize("seconds", [0, -1, 1.5, 30 * 86_400 + 1])
def test_a_time_to_expire_out_of_range_is_refused(gateway: TestClient, seconds: float) -> None:
    """Whole seconds, at least one, at most thirty days."""
    problem = gateway.post("/v1/jobs", json=CLIP | {"expires_in_s": seconds}).json()
    assert problem["errors"][0]["field"] == "expires_in_s"


@pytest.mark.parametrize("state", STATES)
def test_a_deleted_job_is_gone_with_all_that_is_its_own(
    gateway: TestClient, farm: Jobs, settings: Settings, valkey: Valkey, state: str
) -> None:
    """In storage and in Redis; the frames, which jobs share, stay."""
    job_id = job_in(state, gateway, farm)
    farm.object_store.put(chunk_key(job_id, 0, 0), b"sound")
    farm.object_store.put(output_key(job_id, "track.flac"), b"sound")
    frames = [path for path in recorded(settings) if "frames" in path.parts]
    assert len(frames) == {"queued": 0, "paused": 0, "succeeded": 8}.get(state, 4)
    answer = gateway.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert recorded(settings) == frames
    assert [key for key in job_keys(valkey) if job_id.encode() in key] == []
    assert waiting_batches(valkey) == 0
    assert gateway.get(f"/v1/jobs/{job_id}").status_code == 404
    assert gateway.delete(f"/v1/jobs/{job_id}").status_code == 404


def test_a_deletion_that_storage_broke_off_is_finished_by_the_next(
    gateway: TestClient, farm: Jobs, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half deleted, the job is canceled and no recovery brings it back."""
    job_id = submitted(gateway)
    farm.object_store.put(output_key(job_id, "track.flac"), b"sound")

    def fail(*_: Any) -> None:
        raise StorageUnavailableError

    with monkeypatch.context() as broken:
        broken.setattr(farm.object_store, "keys", fail)
        assert gateway.delete(f"/v1/jobs/{job_id}").status_code == 503
    assert gateway.get(f"/v1/jobs/{job_id}").json()["status"] == "canceled"
    assert job_id not in {path.stem for path in recorded(settings)}
    assert gateway.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert recorded(settings) == []


def test_a_job_retried_while_it_is_deleted_is_deleted(
    gateway: TestClient, farm: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion that was answered holds: no job goes on without what storage has of it."""
    job_id = submitted(gateway)
    forget, retries = farm.job_store.forget, iter([farm.job_store.retry])

    def forget_after_a_retry(job_id: str) -> bool:
        for retry in retries:
            assert retry(job_id) is not None
        return forget(job_id)

    monkeypatch.setattr(farm.job_store, "forget", forget_after_a_retry)
    assert gateway.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert farm.job_store.status(job_id) is None
    assert farm.job_store.take("render.riffarm-mini", "w1", "w1/1").attempt is None


def test_what_a_worker_says_of_a_deleted_job_leaves_no_trace(gateway: TestClient, farm: Jobs, valkey: Valkey) -> None:
    """A frame, a warning, a preview, the end's follow-up: all come too late."""
    job_id = submitted(gateway)
    attempt = taken(farm.job_store, job_id)
    assert gateway.delete(f"/v1/jobs/{job_id}").status_code == 204
    with pytest.raises(LeaseLostError):
        farm.job_store.record_frames(attempt, {0: RENDERED})
    farm.job_store.warn(job_id, "too late")
    farm.job_store.add_event(job_id, "log", {"message": "too late"})
    assert not farm.job_store.set_announced(job_id, 0)
    assert farm.job_store.give_back(attempt) is None
    assert [key for key in job_keys(valkey) if job_id.encode() in key] == []


def test_storage_that_does_not_answer_keeps_a_job_as_it_is(
    gateway: TestClient, farm: Jobs, settings: Settings, tmp_path: Path
) -> None:
    """503, and nothing has changed that a recovery would not know of."""
    paused, failed = job_in("paused", gateway, farm), job_in("failed", gateway, farm)
    queued = submitted(gateway)
    folder = Path(settings.storage_url.removeprefix("file:"))
    folder.rename(tmp_path / "away")
    for job_id, action in ((queued, "pause"), (failed, "retry")):
        answer = gateway.post(f"/v1/jobs/{job_id}/{action}")
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
    (tmp_path / "away").rename(folder)
    states = [gateway.get(f"/v1/jobs/{job_id}").json()["status"] for job_id in (paused, failed, queued)]
    assert states == ["paused", "failed", "queued"]


def test_a_job_says_where_each_action_is(gateway: TestClient) -> None:
    """Its links work as they are."""
    job = gateway.post("/v1/jobs", json=CLIP).json()
    for action, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "canceled"), ("retry", "queued")):
        path = job["urls"][action].removeprefix("http://127.0.0.1:8000")
        assert gateway.post(path).json()["status"] == status
