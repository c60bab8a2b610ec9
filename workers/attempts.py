"""One attempt at an item, from taking it to whatever comes of it.

Owns what an end means: finished, canceled, too late, handed back, lost, failed. What may pass is tried again with
growing pauses and counted nowhere; what goes wrong for no known reason is tried elsewhere, up to MAX_LOSSES times.
Leaves out the work (`workers.tasks`) and Celery (`workers.main`).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from shared import telemetry
from shared.contracts import JobFailure
from shared.dispatch import Dispatcher
from shared.errors import (
    JobCanceled,
    LeaseLostError,
    OutputRefusedError,
    RenderError,
    RiffarmError,
    TransientError,
    WorkerDraining,
)
from shared.job_moves import Attempt, Returned
from shared.job_store import JobStore
from workers.lease import Lease
from workers.losses import follow_loss
from workers.patience import PATIENCE_S, patiently
from workers.tasks import Tasks

log = structlog.get_logger()
_PAUSE_AFTER_LOSS_S: Final = 2.0


class Attempts:
    """Takes items for one worker and sees them through."""

    def __init__(
        self,
        jobs: JobStore,
        tasks: Tasks,
        dispatcher: Dispatcher,
        worker: str,
        worker_id: str,
        is_stopping: threading.Event,
    ) -> None:
        """`worker` is its name, `worker_id` tells this run of it from others; `is_stopping` is set when to end."""
        self._jobs = jobs
        self._tasks = tasks
        self._dispatcher = dispatcher
        self._worker = worker
        self._worker_id = worker_id
        self._is_stopping = is_stopping
        self.current: Attempt | None = None
        self.items_done = 0

    def work(self, queue: str) -> str:
        """Take a queue's next item and see it through: "done" or "none", or why there is nothing for this worker."""
        take = patiently(lambda: self._jobs.take(queue, self._worker, self._worker_id))
        if take.has_more or take.refusal:
            self._dispatcher.send_tickets([queue])
        if take.attempt is None:
            return take.refusal or "none"
        self.current = take.attempt
        with _told_of(take.attempt):
            try:
                with Lease(self._jobs, take.attempt, self._is_stopping) as lease:
                    self._see_through(lease)
            finally:
                self.current = None
        return "done"

    def _see_through(self, lease: Lease) -> None:
        attempt = lease.attempt
        try:
            patiently(lambda: self._tasks.run(lease), PATIENCE_S, lease.check)
            self.items_done += 1
        except JobCanceled:
            log.info("stopped: the job has ended")
        except LeaseLostError:
            log.warning("late: another attempt has taken over; what this one reports is refused", token=attempt.token)
        except WorkerDraining:
            self._give_back(attempt)
        except TransientError as error:
            log.warning("handed back: what it needs does not answer", error=error.message)
            self._give_back(attempt)
            self._let_others()
        except RenderError as error:
            log.error("job failed", error=error.message)  # noqa: TRY400 — the sentence says it all
            failure = JobFailure(code="render_failed", message=error.message, retryable=False)
            patiently(lambda: self._tasks.fail(attempt, failure))
        except OutputRefusedError as error:
            log.error("job failed", error=error.message)  # noqa: TRY400 — the sentence says it all
            # What it finished is kept: once the bucket is mended, a retry has only to deliver.
            failure = JobFailure(code="output_refused", message=error.message, retryable=True)
            patiently(lambda: self._tasks.fail(attempt, failure))
        except Exception as error:
            log.exception("attempt failed")
            reason = error.message if isinstance(error, RiffarmError) else f"{type(error).__name__}: {error}"
            self._give_back(attempt, reason[:500])
            self._let_others()

    def _let_others(self) -> None:
        # Another worker may fare better; and not all at once when it is well again.
        self._is_stopping.wait(_PAUSE_AFTER_LOSS_S * (1 + random.random()))  # noqa: S311 — a pause, not a secret

    def _give_back(self, attempt: Attempt, reason: str = "") -> None:
        returned = patiently(lambda: self._jobs.give_back(attempt, self._worker, reason))
        self._follow_loss(attempt, returned, reason)

    def lose_predecessors(self, reason: str) -> None:
        """Give back what this worker's process before this one held: it can only have died."""
        for (job_id, item), worker_id in patiently(self._jobs.leases).items():
            if worker_id == self._worker_id:
                self._lose(job_id, item, reason)

    def _lose(self, job_id: str, item: str, reason: str) -> None:
        returned = patiently(lambda: self._jobs.give_back_of(self._worker_id, job_id, item, reason))
        attempt = Attempt(job_id, item, "", 0, "", "", 0, self._worker_id)
        self._follow_loss(attempt, returned, reason)

    def _follow_loss(self, attempt: Attempt, returned: Returned | None, reason: str) -> None:
        if returned is None:
            return

        def fail(failure: JobFailure) -> None:
            patiently(lambda: self._tasks.fail(attempt, failure, is_held=False))

        follow_loss(attempt.job_id, attempt.item, returned, reason, self._jobs, self._dispatcher, fail)


@contextmanager
def _told_of(attempt: Attempt) -> Iterator[None]:
    """Have log lines and spans say which job it is, which item of it, and which request submitted it."""
    names = {"job": attempt.job_id, "item": attempt.item, "request": attempt.request_id}
    marks = {f"riffarm.{name}": value for name, value in names.items()}
    kind = {"b": "batch", "c": "chunk", "d": "deliver"}[attempt.item[0]]
    with (
        structlog.contextvars.bound_contextvars(**names),
        telemetry.span(kind, marks, parent=attempt.traceparent, kind="consumer"),
    ):
        yield
