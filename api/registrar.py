"""Records jobs in storage and then in Redis, those that come at the same time together: one file, one round trip.

A thread of its own does it, so that nobody else waits for a disk. Owns that it is all or nothing for each job. Leaves
out what is recorded (`api.intake`) and how (`shared.manifests`, `shared.job_store`).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, NamedTuple

from shared.dispatch import Dispatcher
from shared.errors import QueueUnavailableError, RiffarmError
from shared.job_store import Accepted, JobStore
from shared.manifests import delete_manifest, put_manifests
from shared.object_store import ObjectStore
from shared.plan import ResolvedRequest
from shared.quotas import Quota

_AT_ONCE: Final = 64
"""Jobs recorded together, at most: who comes first must not wait for too many others."""
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
    quota: Quota | None
    accepted: Future[Accepted] | asyncio.Future[Accepted]
    loop: asyncio.AbstractEventLoop | None = None


class Registrar:
    """The one who records the jobs of a gateway."""

    def __init__(self, job_store: JobStore, object_store: ObjectStore, dispatcher: Dispatcher) -> None:
        self._jobs = job_store
        self._objects = object_store
        self._dispatcher = dispatcher
        self._orders: queue.SimpleQueue[_Order] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def record(self, draft: Draft, quota: Quota | None = None) -> Future[Accepted]:
        """Have a job recorded, and its first work queued, if its tenant's quota has room for it.

        What comes of it raises StorageUnavailableError, QueueUnavailableError or TooMuchError: then nothing is left.
        """
        accepted: Future[Accepted] = Future()
        self._put(_Order(draft, quota, accepted))
        return accepted

    def record_soon(self, draft: Draft, quota: Quota | None = None) -> asyncio.Future[Accepted]:
        """As `record`, to be waited for without a thread."""
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[Accepted] = loop.create_future()
        self._put(_Order(draft, quota, accepted, loop))
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
        while True:
            orders = [self._orders.get()]
            with contextlib.suppress(queue.Empty):
                while len(orders) < _AT_ONCE:
                    orders.append(self._orders.get_nowait())
            try:
                found = self._recorded(orders)
            except Exception as error:
                found = dict.fromkeys((one.draft.id for one in orders), error)
            told = [(order, found[order.draft.id]) for order in orders]
            _settle([one for one in told if one[0].loop is None])
            # A loop is woken up once for all that wait there.
            for loop in {order.loop for order in orders if order.loop}:
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(_settle, [one for one in told if one[0].loop is loop])

    def _recorded(self, orders: Sequence[_Order]) -> Mapping[str, Accepted | Exception]:
        """What came of each, by id."""
        errors = put_manifests(self._objects, {one.draft.id: one.draft.fields for one in orders})
        kept = [one for one in orders if errors[one.draft.id] is None]
        created: Mapping[str, Accepted | RiffarmError | None]
        try:
            created = self._jobs.accept_many(
                {one.draft.id: one.draft.fields for one in kept}, {one.draft.id: one.quota for one in kept}
            )
        except RiffarmError as error:
            created = dict.fromkeys((one.draft.id for one in kept), error)
        found = {job_id: one or QueueUnavailableError() for job_id, one in created.items()}
        self._undo_all([job_id for job_id, one in found.items() if isinstance(one, Exception)])
        self._warn(one.draft for one in kept if isinstance(found[one.draft.id], Accepted))
        self._dispatcher.send_tickets(
            [queue for one in found.values() if isinstance(one, Accepted) for queue in one.queues]
        )
        return {job_id: error for job_id, error in errors.items() if error} | found

    def _warn(self, drafts: Iterator[Draft]) -> None:
        # The client is told now; that it may be told again is not worth refusing the job.
        with contextlib.suppress(RiffarmError):
            for draft in drafts:
                for sentence in draft.warnings:
                    self._jobs.warn(draft.id, sentence)

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


def _settle(told: Sequence[tuple[_Order, Accepted | Exception]]) -> None:
    for order, outcome in told:
        if order.accepted.done():
            # Nobody waits any more: the client has gone. The job stays.
            continue
        if isinstance(outcome, Exception):
            order.accepted.set_exception(outcome)
        else:
            order.accepted.set_result(outcome)
