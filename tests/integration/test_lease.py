"""A running task's lease: renewed while it runs, never brought back after."""

from __future__ import annotations

from shared.job_store import JobStore
from tests.conftest import wait_until
from workers.lease import renewed_lease


def test_the_lease_is_renewed_while_the_block_runs(job_store: JobStore) -> None:
    """The message's entry grows younger all the time."""
    job_store.redis.zadd("unacked_index", {"tag": 1.0})
    with renewed_lease(job_store.redis, "tag", 0.01):
        wait_until(lambda: float(job_store.redis.zscore("unacked_index", "tag") or 0) > 1.0, "a first renewal")
        first = float(job_store.redis.zscore("unacked_index", "tag") or 0)
        wait_until(lambda: float(job_store.redis.zscore("unacked_index", "tag") or 0) > first, "a second renewal")


def test_an_acknowledged_message_is_not_brought_back(job_store: JobStore) -> None:
    """Renewing changes an entry that is there and makes none."""
    job_store.redis.zadd("unacked_index", {"tag": 1.0, "other": 1.0})
    with renewed_lease(job_store.redis, "tag", 0.01), renewed_lease(job_store.redis, "other", 0.01):
        job_store.redis.zrem("unacked_index", "tag")
        wait_until(lambda: float(job_store.redis.zscore("unacked_index", "other") or 0) > 1.0, "a renewal")
        assert job_store.redis.zscore("unacked_index", "tag") is None
