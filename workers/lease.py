"""A running attempt's lease: kept by a thread, and asked between two steps whether the work should go on.

The thread goes on inside a long call of torch and ends with the process: so a living worker's item is never given to
another, and a lost one's is, after one lease. Leaves out what a lease is (`shared.job_store`).
"""

from __future__ import annotations

import threading
from contextvars import copy_context
from types import TracebackType
from typing import Final, Self

import structlog
from redis.exceptions import RedisError

from shared.errors import JobCanceled, LeaseLostError, QueueUnavailableError, WorkerDraining
from shared.job_moves import Attempt, Renewal
from shared.job_store import JobStore

log = structlog.get_logger()
RENEW_EVERY_S: Final = 1.0
"""Far more often than leases need it: it is also how long a cancellation goes unnoticed."""


class Lease:
    """Keeps an attempt's lease inside the block."""

    def __init__(
        self, job_store: JobStore, attempt: Attempt, is_stopping: threading.Event, every_s: float = RENEW_EVERY_S
    ) -> None:
        """`is_stopping` is set when the worker is to end."""
        self.attempt = attempt
        self._is_stopping = is_stopping
        self._jobs = job_store
        self._every_s = every_s
        self._newest = Renewal(is_held=True, status="running", is_draining=False)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=copy_context().run, args=(self._renew,), name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_over.set()

    def check(self) -> None:
        """Raise JobCanceled when the job has ended, LeaseLostError when another attempt may have taken over,
        WorkerDraining when the worker is to stop; as of the newest renewal."""
        newest = self._newest
        if newest.status not in ("queued", "running", "paused"):
            raise JobCanceled
        if not newest.is_held:
            raise LeaseLostError
        if newest.is_draining or self._is_stopping.is_set():
            raise WorkerDraining

    def _renew(self) -> None:
        while not self._is_over.wait(self._every_s):
            try:
                self._newest = self._jobs.renew(self.attempt)
            except (QueueUnavailableError, RedisError) as error:
                log.warning("lease not renewed, trying again", error=str(error))
