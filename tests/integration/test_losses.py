"""Whose fault a lost item is: three losses of one fail its job, three jobs' losses in a row bench the worker."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from fastapi.testclient import TestClient

from shared import dispatch
from shared.contracts import JobFailure
from shared.dispatch import Dispatcher
from shared.farm_state import FarmState
from shared.job_moves import Attempt, Returned
from shared.job_store import JobStore
from shared.object_store import object_store_from_url
from shared.settings import Settings
from tests.integration.job_model import JobModel
from workers.attempts import Attempts
from workers.losses import follow_loss
from workers.tasks import Tasks

TRACK = {
    "type": "track",
    "keyframes": [{"prompt": "a piano"}, {"prompt": "drums"}],
    "duration_s": 61.44,
    "model": "riffarm-mini",
}


def create(job_store: JobStore, *numbers: int) -> None:
    for number in numbers:
        job = JobModel(f"job_{number}", 2, 8, "a", "normal", number)
        job_store.create(job.id, job.fields)


def lose(job_store: JobStore, number: int, worker: str = "w1") -> None:
    """Have the worker take a job's item and lose it."""
    job_store.give_back(take(job_store, number, worker), worker, "it broke")


def take(job_store: JobStore, number: int, worker: str = "w1") -> Attempt:
    """The job's item; those of other jobs are handed back."""
    attempts: list[Attempt] = []
    while (attempt := job_store.take("render.m", worker, f"{worker}/1").attempt) and attempt.job_id != f"job_{number}":
        attempts.append(attempt)
    for other in attempts:
        job_store.give_back(other)
    assert attempt
    return attempt


def test_three_losses_in_a_row_of_three_jobs_bench_a_worker(job_store: JobStore) -> None:
    """It takes nothing more and says why; others go on, and an operator lifts it."""
    farm = FarmState(job_store.redis)
    create(job_store, 1, 2, 3)
    for number in (1, 2, 3):
        assert not farm.is_benched("w1")
        lose(job_store, number)
    assert farm.is_benched("w1")
    assert job_store.take("render.m", "w1", "w1/2") == (None, "benched", False)
    farm.beat("w1/1", {"name": "w1"})
    assert [worker["benched"] for worker in farm.workers()] == ["it broke"]
    assert job_store.take("render.m", "w2", "w2/1").attempt
    assert farm.lift("w1")
    assert not farm.lift("w1")
    assert job_store.take("render.m", "w1", "w1/1").attempt
    assert [worker["benched"] for worker in farm.workers()] == [None]


@pytest.mark.parametrize("item", ["b", "c", "deliver"])
def test_one_finished_item_in_between_clears_a_worker(job_store: JobStore, item: str) -> None:
    """Of any kind: whoever can finish something is well."""
    create(job_store, 1, 2, 3)
    finish: dict[str, Callable[[], Any]] = {
        "b": lambda: job_store.done(take(job_store, 4), 1, "w1", 0, [1, 2]),
        "c": lambda: job_store.done(taken("sound"), 1, "w1", 1, []),
        "deliver": lambda: job_store.finish("job_4", "succeeded", {}, taken("deliver")),
    }

    def taken(queue: str) -> Attempt:
        attempt = job_store.take(queue, "w1", "w1/1").attempt
        assert attempt
        return attempt

    ready = {"c": {"ready:sound": "c0", "next_chunk": 1}, "deliver": {"ready:deliver": "deliver", "delivering": 1}}
    job_store.create("job_4", JobModel("job_4", 2, 8, "a", "normal", 4).fields | ready.get(item, {}))
    for number in (1, 2):
        lose(job_store, number)
    assert finish[item]()
    lose(job_store, 3)
    assert not FarmState(job_store.redis).is_benched("w1")


def test_losses_of_one_job_are_the_jobs_fault(job_store: JobStore) -> None:
    """However many: the worker goes on."""
    create(job_store, 1)
    for _ in range(5):
        lose(job_store, 1)
    assert not FarmState(job_store.redis).is_benched("w1")


class Broken:
    """Stands in for a pipeline that cannot render."""

    memory_mb = 1

    def truncated_words(self, prompt: str) -> str:
        return ""

    def render(self, *arguments: Any, **options: Any) -> None:
        raise ValueError("no such colour")


def attempts_of(settings: Settings, job_store: JobStore) -> Attempts:
    objects = object_store_from_url(settings.storage_url, None, None)
    dispatcher = dispatch.Dispatcher(dispatch.celery_app(settings))
    pipeline: Any = lambda name, revision: Broken()  # noqa: E731 — one line, used once
    tasks = Tasks(settings, job_store, objects, dispatcher, pipeline, "w1")
    is_stopping = threading.Event()
    # It does not wait between two attempts.
    is_stopping.wait = lambda timeout=None: False  # type: ignore[method-assign]
    return Attempts(job_store, tasks, dispatcher, "w1", "w1/1", is_stopping)


def test_what_goes_wrong_three_times_fails_the_job_and_names_the_frames(
    gateway: TestClient, settings: Settings, job_store: JobStore
) -> None:
    """A client reads which frames, how often, and what was the last that was said."""
    answer = gateway.post("/v1/jobs", json=TRACK)
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    attempts = attempts_of(settings, job_store)
    for losses in (1, 2, 3):
        assert job_store.status(job_id) in ("queued", "running")
        assert attempts.work("render.riffarm-mini") == "done"
        assert losses == 3 or job_store.redis.hget(f"riffarm:job:{job_id}:attempts", "b0") == str(losses)
    job = gateway.get(f"/v1/jobs/{job_id}").json()
    assert job["status"] == "failed"
    expected = "rendering frames 0 to 3 failed 3 times; the last time: ValueError: no such colour"
    assert job["error"] == {"code": "poison", "message": expected, "retryable": True}
    assert job_store.leases() == {}
    assert gateway.post(f"/v1/jobs/{job_id}/retry").json()["status"] == "queued"


def test_the_next_process_of_a_worker_gives_back_what_the_last_one_held(
    gateway: TestClient, settings: Settings, job_store: JobStore
) -> None:
    """At once, without waiting for the lease to run out; what others hold stays theirs."""
    job_id = gateway.post("/v1/jobs", json=TRACK).json()["id"]
    own, others = (job_store.take("render.riffarm-mini", name, f"{name}/1").attempt for name in ("w1", "w2"))
    assert own
    assert others
    attempts_of(settings, job_store).lose_predecessors("its process died")
    assert job_store.leases() == {(job_id, others.item): "w2/1"}
    told = [event.data.get("message") for event in job_store.events_after(job_id, "0", 99)]
    assert f"{own.item} begins anew: its process died" in told


def test_a_loss_of_a_deleted_job_fails_nothing(job_store: JobStore) -> None:
    """Whoever finds the loss, a worker that starts or the sweeper, goes on."""
    returned = Returned(3, ["render.m"])
    failures: list[JobFailure] = []
    follow_loss("job_9", "b0", returned, "it broke", job_store, Dispatcher(Celery()), failures.append)
    assert failures == []
