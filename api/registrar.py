"""Records jobs in storage and then in Redis: those that come at the same time are written together.

A thread of its own writes, so that nobody else waits for a disk. Owns that it is all or nothing for each job. Leaves
out what is recorded (`api.intake`) and how (`shared.manifests`, `shared.job_store`).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, NamedTuple

from fastapi.concurrency import run_in_threadpool

from api.redis_line import RedisLine
from shared.dispatch import Dispatcher
from shared.errors import QueueUnavailableError, RiffarmError, TooMuchError
from shared.job_moves import Accepted, accepted_from_answer, created_arguments
from shared.job_store import JobStore
from shared.manifests import delete_manifest, put_manifests
from shared.object_store import ObjectStore
from shared.plan import ResolvedRequest
from shared.quotas import Quota
from shared.redis_connection import reachable

_AT_ONCE: Final = 64
"""Jobs recorded together, at most: who comes first must not wait for too many others."""
_PACE_S: Final = 0.005
"""Between two writes, at least: what comes meanwhile goes together. Who comes alone is written at once."""
_UNDOERS: Final = 16


class Draft(NamedTuple):
    """A job that is planned and not yet recorded: its id, the fields it will have, its request as resolved (which is
    in the fields too, as text), what its client should read."""

    id: str
    fields: dict[str, Any]
    request: ResolvedRequest
    warnings: Sequence[str] = ()


class _Order(NamedTuple):
    """`loop`: whose future it is that is waited for; None for a thread's."""

    draft: Draft
    kept: Future[None] | asyncio.Future[None]
    loop: asyncio.AbstractEventLoop | None = None


class Registrar:
    """The one who records the jobs of a gateway.

    Raises StorageUnavailableError, QueueUnavailableError or TooMuchError for what it could not record: then nothing of
    it is left.
    """

    def __init__(self, job_store: JobStore, object_store: ObjectStore, dispatcher: Dispatcher) -> None:
        self._jobs = job_store
        self._objects = object_store
        self._dispatcher = dispatcher
        self._orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def record(self, draft: Draft, quota: Quota | None = None) -> Accepted:
        """Record a job and have its first work queued, if its tenant's quota has room for it."""
        outcome = self.record_many([draft], quota)[0]
        if isinstance(outcome, RiffarmError):
            raise outcome
        return outcome

    def record_many(self, drafts: Sequence[Draft], quota: Quota | None = None) -> list[Accepted | RiffarmError]:
        """As `record` for many, each on its own: in their order what it came to, or what kept it away."""
        kept: dict[str, Future[None]] = {draft.id: Future() for draft in drafts}
        for draft in drafts:
            self._put(_Order(draft, kept[draft.id]))
        found: dict[str, Accepted | RiffarmError] = {}
        for job_id, future in kept.items():
            try:
                future.result()
            except RiffarmError as error:
                found[job_id] = error
        found |= self._created([draft for draft in drafts if draft.id not in found], quota)
        return [found[draft.id] for draft in drafts]

    def _created(self, drafts: Sequence[Draft], quota: Quota | None) -> dict[str, Accepted | RiffarmError]:
        """What came of each in Redis, by id."""
        created: Mapping[str, Accepted | RiffarmError | None]
        try:
            created = self._jobs.accept_many({one.id: one.fields for one in drafts}, quota)
        except RiffarmError as error:
            created = dict.fromkeys((one.id for one in drafts), error)
        found = {job_id: one or QueueUnavailableError() for job_id, one in created.items()}
        self._undo_all([job_id for job_id, one in found.items() if isinstance(one, RiffarmError)])
        # The client is told now; that it may be told again is not worth refusing the job.
        with contextlib.suppress(RiffarmError):
            for draft in drafts:
                for sentence in draft.warnings:
                    self._jobs.warn(draft.id, sentence)
        self._dispatcher.send_tickets(
            [queue for one in found.values() if isinstance(one, Accepted) for queue in one.queues]
        )
        return found

    async def record_soon(self, draft: Draft, line: RedisLine, quota: Quota | None = None) -> Accepted:
        """As `record`, without a thread of its own for each; `line` leads to Redis.

        Canceled, as by a gateway that ends, it may leave a job behind that is recovered as one of a gateway that died.
        """
        loop = asyncio.get_running_loop()
        kept: asyncio.Future[None] = loop.create_future()
        self._put(_Order(draft, kept, loop))
        await kept
        try:
            with reachable():
                answer = await line.move("create", *created_arguments(draft.id, draft.fields, quota))
        except RiffarmError:
            await run_in_threadpool(self._undo, draft.id)
            raise
        accepted = accepted_from_answer(answer, quota)
        if isinstance(accepted, TooMuchError):
            await run_in_threadpool(self._undo, draft.id)
            raise accepted
        with contextlib.suppress(RiffarmError), reachable():
            for sentence in draft.warnings:
                await line.move("warn", draft.id, sentence)
        if accepted.queues:
            await run_in_threadpool(self._dispatcher.send_tickets, accepted.queues)
        return accepted

    def _put(self, order: _Order) -> None:
        self._orders.put(order)
        if self._thread is None:
            self._begin()

    def _begin(self) -> None:
        with self._lock:
            if self._thread is None:
                # Not bound to the request that happens to come first.
                self._thread = threading.Thread(target=self._work, name="registrar", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        next_s = 0.0
        while True:
            orders = [self._orders.get()]
            time.sleep(max(0.0, next_s - time.monotonic()))
            next_s = time.monotonic() + _PACE_S
            with contextlib.suppress(queue.Empty):
                while len(orders) < _AT_ONCE:
                    orders.append(self._orders.get_nowait())
            errors: Mapping[str, Exception | None]
            try:
                errors = put_manifests(self._objects, {one.draft.id: one.draft.fields for one in orders})
            except Exception as error:
                errors = dict.fromkeys((one.draft.id for one in orders), error)
            told = [(order, errors[order.draft.id]) for order in orders]
            _settle([one for one in told if one[0].loop is None])
            # A loop is woken up once for all that wait there.
            for loop in {order.loop for order in orders if order.loop}:
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(_settle, [one for one in told if one[0].loop is loop])

    def _undo_all(self, job_ids: Sequence[str]) -> None:
        if job_ids:
            with ThreadPoolExecutor(_UNDOERS) as pool:
                list(pool.map(self._undo, job_ids))

    def _undo(self, job_id: str) -> None:
        # The client is told that nothing was recorded, so nothing may stay.
        for undo in (self._undo_record, self._undo_manifest):
            with contextlib.suppress(RiffarmError):
                undo(job_id)

    def _undo_record(self, job_id: str) -> None:
        self._jobs.finish(job_id, "canceled")
        self._jobs.forget(job_id)

    def _undo_manifest(self, job_id: str) -> None:
        delete_manifest(self._objects, job_id)


def _settle(told: Sequence[tuple[_Order, Exception | None]]) -> None:
    for order, error in told:
        if order.kept.done():
            # Nobody waits any more.
            continue
        if error:
            order.kept.set_exception(error)
        else:
            order.kept.set_result(None)
