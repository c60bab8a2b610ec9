"""A worker that is told to stop: whatever it is at and however often it is told, out in time, with 0, nothing lost."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi.testclient import TestClient

from shared.contracts import TERMINAL
from shared.farm_state import FarmState
from shared.job_moves import job_key
from shared.job_store import JobStore
from shared.settings import Settings
from tests.conftest import SECRET, wait_until
from workers.stopping import GRACE_S

STUB = {"RIFFARM_WORKER_APP": "tests.stub_worker:app"}
seeds = itertools.count(1)
Start = Callable[..., AbstractContextManager[subprocess.Popen[bytes]]]


@pytest.fixture
def store(settings: Settings) -> Iterator[JobStore]:
    """The farm's job store."""
    one = JobStore(settings.redis_url)
    yield one
    one.redis.close()


@pytest.fixture
def start(settings: Settings, tmp_path: Path, store: JobStore) -> Start:
    """Starts a worker by name that is there when its heartbeat is, and outlives no block."""
    environment = {
        "RIFFARM_REDIS_URL": settings.redis_url,
        "RIFFARM_STORAGE_URL": settings.storage_url,
        "RIFFARM_SECRET": SECRET,
        # Long: what goes on within the test has been given back and not run out.
        "RIFFARM_LEASE_S": "600",
    }

    @contextmanager
    def started(name: str, *, is_awaited: bool = True, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "workers.main", "--name", name]
        with (tmp_path / f"{name}.log").open("ab") as log:
            worker = subprocess.Popen(
                command, env=os.environ | environment | variables, stdout=log, stderr=log, start_new_session=True
            )
        try:
            if is_awaited:
                wait_until(lambda: name in names(store), f"{name} reports", timeout_s=120)
            yield worker
        finally:
            for one in [*psutil.Process(worker.pid).children(recursive=True)] if worker.poll() is None else []:
                one.kill()
            worker.kill()
            worker.wait()

    return started


def names(store: JobStore) -> set[str]:
    """The workers that report."""
    return {worker["name"] for worker in FarmState(store.redis).workers()}


def held_by(store: JobStore, name: str, kind: str) -> bool:
    """Whether a worker holds an item of a kind: b, c or d."""
    return any(item[0] == kind and who.startswith(f"{name}/") for (_, item), who in store.leases().items())


def submit(gateway: TestClient, duration_s: float) -> str:
    """The id of a new track."""
    keyframes = [{"prompt": "strings", "seed": next(seeds)}, {"prompt": "techno", "seed": next(seeds)}]
    request: dict[str, Any] = {"type": "track", "keyframes": keyframes, "duration_s": duration_s}
    answer = gateway.post("/v1/jobs", json=request)
    assert answer.status_code < 300, answer.text
    return str(answer.json()["id"])


def assert_nothing_counted(store: JobStore, job_id: str) -> None:
    """No attempt of the job counts as lost."""
    attempts = store.redis.hgetall(job_key(job_id, ":attempts"))
    assert [item for item in attempts if not item.endswith(":starts")] == []  # type: ignore[union-attr]


def test_told_while_it_starts_it_ends_at_once(start: Start, store: JobStore) -> None:
    """A large model may take minutes to load: that is not waited for, and it leaves no process."""
    with start("a", is_awaited=False) as worker:
        own = psutil.Process(worker.pid)
        wait_until(lambda: len(own.children()) >= 2, "its child starts")
        children = own.children(recursive=True)
        worker.terminate()
        assert worker.wait(GRACE_S) == 0
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
    assert names(store) == set()


def test_told_while_idle_it_signs_off(start: Start, store: JobStore) -> None:
    """Its heartbeat is gone when it is, not 15 s later."""
    with start("a", **STUB) as worker:
        worker.terminate()
        assert worker.wait(GRACE_S) == 0
    assert names(store) == set()


@pytest.mark.parametrize(
    "signals",
    [
        (signal.SIGTERM,),
        (signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT),
        (signal.SIGQUIT,),
        (signal.SIGHUP,),
    ],
)
def test_what_it_renders_goes_on_elsewhere(
    gateway: TestClient, start: Start, store: JobStore, signals: tuple[signal.Signals, ...]
) -> None:
    """Whatever it is told with, and how often: another worker has the very item within 2 s, and nothing is lost."""
    variables = STUB | {"RIFFARM_STUB_FRAME_S": "1"}
    with start("a", is_awaited=False, **variables) as a, start("b", is_awaited=False, **variables) as b:
        wait_until(lambda: names(store) == {"a", "b"}, "both report")
        job_id = submit(gateway, 15)
        wait_until(lambda: bool(store.leases()), "one of them renders")
        (first,) = (name for name in ("a", "b") if held_by(store, name, "b"))
        worker, other = (a, "b") if first == "a" else (b, "a")
        told_s = time.monotonic()
        for number in signals:
            worker.send_signal(number)
        wait_until(lambda: held_by(store, other, "b"), "the other one renders it", timeout_s=2)
        assert worker.wait(GRACE_S + told_s - time.monotonic()) == 0
        assert names(store) == {other}
        assert_nothing_counted(store, job_id)
        wait_until(lambda: store.status(job_id) in TERMINAL, "the job ends")
    assert store.status(job_id) == "succeeded"


def test_with_the_real_model_it_is_out_in_time_too(gateway: TestClient, start: Start, store: JobStore) -> None:
    """Between two steps of denoising."""
    job_id = submit(gateway, 60)
    with start("a") as worker:
        wait_until(lambda: held_by(store, "a", "b"), "a renders")
        wait_until(lambda: bool(store.redis.exists(job_key(job_id, ":previews"))), "it is amid a frame")
        worker.terminate()
        assert worker.wait(GRACE_S) == 0
    assert store.leases() == {}
    assert_nothing_counted(store, job_id)
    # Once or twice: Celery may give out the ticket again that it did not see acknowledged.
    wait_until(lambda: bool(store.redis.llen("render.riffarm-mini")), "others are told", timeout_s=2)


def test_the_sound_that_it_makes_goes_on_elsewhere(gateway: TestClient, start: Start, store: JobStore) -> None:
    """Between two blocks."""
    job_id = submit(gateway, 120)
    with start("a", **STUB) as worker:
        wait_until(lambda: held_by(store, "a", "c"), "a makes sound")
        worker.terminate()
        assert worker.wait(GRACE_S) == 0
    assert store.leases() == {}
    assert_nothing_counted(store, job_id)
    with start("b", **STUB):
        wait_until(lambda: store.status(job_id) in TERMINAL, "the job ends", timeout_s=120)
    assert store.status(job_id) == "succeeded"


def test_a_child_that_does_not_answer_is_ended_and_its_item_given_back(
    gateway: TestClient, start: Start, store: JobStore
) -> None:
    """One long call into torch or a hung disk: out at the end of the grace time all the same, and no loss counted."""
    job_id = submit(gateway, 15)
    with start("a", **STUB, RIFFARM_STUB_FRAME_S="1") as worker:
        wait_until(lambda: held_by(store, "a", "b"), "a renders")
        children = psutil.Process(worker.pid).children(recursive=True)
        for child in children:
            child.suspend()
        worker.terminate()
        assert worker.wait(GRACE_S + 3) == 0
    assert store.leases() == {}
    assert names(store) == set()
    assert_nothing_counted(store, job_id)
    for child in children:
        if child.is_running():
            child.resume()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
