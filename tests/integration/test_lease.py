"""A running attempt's lease: kept while its block runs, given up after it, asked between two steps."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shared.errors import JobCanceled, LeaseLostError, WorkerDraining
from shared.farm_state import FarmState
from shared.job_moves import Attempt
from shared.job_store import JobStore
from tests.conftest import wait_until
from tests.integration.job_model import JobModel
from workers.lease import Lease

EVERY_S = 0.01


@pytest.fixture
def attempt(job_store: JobStore) -> Attempt:
    """A batch that worker w1 is at."""
    job = JobModel("job_1", 2, 8, "a", "normal", 1)
    job_store.create(job.id, job.fields)
    taken = job_store.take("render.m", "w1", "w1/1").attempt
    assert taken
    return taken


@contextmanager
def lease(job_store: JobStore, attempt: Attempt, is_stopping: threading.Event | None = None) -> Iterator[Lease]:
    with Lease(job_store, attempt, is_stopping or threading.Event(), EVERY_S) as kept:
        kept.check()
        yield kept
    # A last renewal may be on its way, over a connection that ends with the test.
    kept._thread.join()


def expiry(job_store: JobStore, item: str = "b0") -> float:
    return float(job_store.redis.zscore("riffarm:leases", f"job_1 {item}") or 0)


def is_raised(kept: Lease, error: type[Exception]) -> bool:
    try:
        kept.check()
    except error:
        return True
    return False


def test_the_lease_is_renewed_while_the_block_runs(job_store: JobStore, attempt: Attempt) -> None:
    """It runs out later and later, also while the worker is inside one long call."""
    first = expiry(job_store)
    with lease(job_store, attempt) as kept:
        wait_until(lambda: expiry(job_store) > first, "a first renewal")
        second = expiry(job_store)
        wait_until(lambda: expiry(job_store) > second, "a second renewal")
        kept.check()


def test_a_lease_that_was_given_up_is_not_brought_back(job_store: JobStore, attempt: Attempt) -> None:
    """Renewing changes a lease that is there and makes none; another attempt's is left alone."""
    with lease(job_store, attempt) as kept:
        job_store.give_back(attempt)
        wait_until(lambda: is_raised(kept, LeaseLostError), "the loss is noticed")
        assert job_store.leases() == {}
        job_store.take("render.m", "w2", "w2/1")
        taken = expiry(job_store)
        kept._newest = kept._newest._replace(is_held=True)
        wait_until(lambda: is_raised(kept, LeaseLostError), "the loss is noticed again")
        assert expiry(job_store) == taken


def test_a_canceled_job_is_noticed(job_store: JobStore, attempt: Attempt) -> None:
    """Whatever else there is to say."""
    with lease(job_store, attempt) as kept:
        job_store.finish("job_1", "canceled")
        wait_until(lambda: is_raised(kept, JobCanceled), "the cancellation is noticed")


def test_a_deleted_job_is_noticed(job_store: JobStore, attempt: Attempt) -> None:
    """Nobody needs its frames any more."""
    with lease(job_store, attempt) as kept:
        job_store.finish("job_1", "canceled")
        job_store.forget("job_1")
        wait_until(lambda: is_raised(kept, JobCanceled), "the deletion is noticed")


def test_work_goes_on_under_a_pause(job_store: JobStore, attempt: Attempt) -> None:
    """What runs comes to its end."""
    with lease(job_store, attempt) as kept:
        job_store.pause("job_1")
        before = expiry(job_store)
        wait_until(lambda: kept._newest.status == "paused" and expiry(job_store) > before, "a renewal under the pause")
        kept.check()


def test_a_worker_that_is_to_stop_hands_back(job_store: JobStore, attempt: Attempt) -> None:
    """Told by a signal at once, by an operator at the next renewal."""
    is_stopping = threading.Event()
    with lease(job_store, attempt, is_stopping) as kept:
        is_stopping.set()
        assert is_raised(kept, WorkerDraining)
        is_stopping.clear()
        FarmState(job_store.redis).drain("w1/1")
        wait_until(lambda: is_raised(kept, WorkerDraining), "the drain is noticed")
    assert job_store.take("render.m", "w1", "w1/1").refusal == "draining"


def test_a_redis_that_is_away_ends_no_lease(
    job_store: JobStore, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread tries again until it answers."""
    with lease(job_store, attempt) as kept:
        job_store.redis.config_set("maxmemory", 1_000)
        try:
            before = expiry(job_store)
            renewals = []
            renew = job_store.renew
            monkeypatch.setattr(job_store, "renew", lambda one: (renewals.append(one), renew(one))[1])
            wait_until(lambda: len(renewals) > 2, "tries to renew")
            assert expiry(job_store) == before
            kept.check()
        finally:
            job_store.redis.config_set("maxmemory", 0)
        wait_until(lambda: expiry(job_store) > before, "a renewal")
