"""Takes requests in: records the job in storage and then in Redis, and has its first work begun.

Reads and lists jobs too, and does to them what can be done: cancel, pause, resume, retry, delete. Leaves out HTTP
(`api.jobs`, `api.control`), the checks (`api.planning`) and all rendering.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from collections.abc import Callable
from copy import copy
from dataclasses import asdict
from typing import Final

from api.planning import Planner
from shared.catalogue import ModelEntry
from shared.contracts import TERMINAL, ConvertRequest, Job
from shared.dispatch import Dispatcher, render_queue
from shared.endings import follow_up_end, remove_job
from shared.errors import FieldError, InvalidRequestError, NotFoundError, RiffarmError
from shared.job_store import JobStore, created_ms_from_job_id, new_job_id
from shared.job_view import JobView
from shared.object_store import ObjectStore, job_manifest_key, job_paused_key, job_result_key, job_retry_key
from shared.plan import Conversion, Plan, ResolvedRequest
from shared.settings import Settings

_PAGE: Final = 200


class Jobs:
    """What the routes need of the farm."""

    def __init__(
        self,
        settings: Settings,
        job_store: JobStore,
        object_store: ObjectStore,
        dispatcher: Dispatcher,
        models: dict[str, ModelEntry],
        tenant: str = "default",
    ) -> None:
        self.settings = settings
        self.job_store = job_store
        self.object_store = object_store
        self.dispatcher = dispatcher
        self.models = models
        self.tenant = tenant
        self.view = JobView(settings, object_store)
        self._planner = Planner(settings, object_store, models)

    def of(self, tenant: str) -> Jobs:
        """The same farm as this tenant sees it."""
        jobs = copy(self)
        jobs.tenant = tenant
        return jobs

    def plan(self, request: ResolvedRequest) -> Plan | Conversion:
        """The plan of a request, checked against what this farm has. Raises InvalidRequestError."""
        return self._planner.plan(request)

    def submit(self, request: ResolvedRequest) -> str:
        """Record a job in storage, then in Redis, queue its first work; its id. All or nothing."""
        plan = self.plan(request)
        job_id = new_job_id()
        fields = fields_of_plan(plan, created_ms_from_job_id(job_id), self.settings.job_window)
        fields["tenant"] = self.tenant
        self.job_store.check()
        self.object_store.put(job_manifest_key(job_id), json.dumps({"id": job_id, **fields}).encode())
        try:
            queues = self.job_store.create(job_id, fields)
            for sentence in plan.warnings:
                self.job_store.warn(job_id, sentence)
        except RiffarmError:
            # The client is told that nothing was recorded, so nothing may stay.
            for undo in (self._undo_record, self._undo_manifest):
                with contextlib.suppress(RiffarmError):
                    undo(job_id)
            raise
        self.dispatcher.send_tickets(queues)
        return job_id

    def _undo_record(self, job_id: str) -> None:
        self.job_store.finish(job_id, "canceled")
        self.job_store.forget(job_id)

    def _undo_manifest(self, job_id: str) -> None:
        self.object_store.delete(job_manifest_key(job_id))

    def fields(self, job_id: str) -> dict[str, str]:
        """All fields of one of the tenant's jobs. Raises NotFoundError, also for another tenant's."""
        fields = self.job_store.read(job_id)
        if fields["tenant"] != self.tenant:
            raise NotFoundError(f"There is no job {job_id}.")
        return fields

    def read(self, job_id: str) -> Job:
        """One job. Raises NotFoundError."""
        return self.view.job(self.fields(job_id))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; one that has ended already stays as it is."""
        self.fields(job_id)
        self.job_store.finish(job_id, "canceled")
        follow_up_end(job_id, self.job_store, self.object_store, self.dispatcher)
        return self.read(job_id)

    def pause(self, job_id: str) -> Job:
        """Begin nothing more of a job; one that is paused or has ended stays as it is."""
        if self.fields(job_id)["status"] in ("queued", "running"):
            # First in storage: a farm that is recovered from there must not render what was to wait.
            self.object_store.put(job_paused_key(job_id), b"{}", "application/json")
            self.job_store.pause(job_id)
        return self.read(job_id)

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on; any other stays as it is."""
        if self.fields(job_id)["status"] not in TERMINAL:
            # Of a running job too: a pause that was cut short may have left it.
            self.object_store.delete(job_paused_key(job_id))
            self.dispatcher.send_tickets(self.job_store.resume(job_id) or ())
        return self.read(job_id)

    def retry(self, job_id: str) -> Job:
        """Let a failed or canceled job go on from what it has; any other stays as it is."""
        fields = self.fields(job_id)
        if fields["status"] in ("failed", "canceled"):
            runs = int(fields["runs"])
            # First in storage, where the result of the run before counts no more then, also when who ended that run
            # writes it only now.
            self.object_store.delete(job_paused_key(job_id))
            self.object_store.put(job_retry_key(job_id, runs + 1), b"{}", "application/json")
            self.object_store.delete(job_result_key(job_id, runs))
            self.dispatcher.send_tickets(self.job_store.retry(job_id, runs) or ())
        return self.read(job_id)

    def delete(self, job_id: str) -> None:
        """Cancel a job if it lives, and remove it with all that is its own; what it shares with others (frames,
        uploads) stays. Safe to call again after a failure; raises NotFoundError once it is gone."""
        self.cancel(job_id)
        while not remove_job(job_id, self.job_store, self.object_store):
            # It was retried meanwhile.
            self.cancel(job_id)

    def page(
        self, limit: int, cursor: str | None, is_wanted: Callable[[dict[str, str]], bool]
    ) -> tuple[list[Job], str | None]:
        """Up to `limit` wanted jobs older than the cursor, newest first, and the cursor of the next page."""
        created_ms, job_id = _position(cursor)
        found: list[Job] = []
        while ids := self.job_store.ids_before(created_ms, job_id, _PAGE, self.tenant):
            for fields in self.job_store.read_many(ids):
                created_ms, job_id = float(fields["created_ms"]), fields["id"]
                if is_wanted(fields):
                    found.append(self.view.job(fields))
                if len(found) == limit:
                    return found, _cursor(created_ms, job_id)
        return found, None


def fields_of_plan(plan: Plan | Conversion, created_ms: int, window: int) -> dict[str, str | int | float]:
    """What is recorded of a new job: what it is, how much work it is, and which queue it waits in."""
    request = plan.request
    fields: dict[str, str | int | float] = {
        "type": request.type,
        "created_ms": created_ms,
        "input": request.model_dump_json(),
        "sources": json.dumps(asdict(plan.sources)),
        "labels": json.dumps(request.labels),
        "frames_total": plan.frames_total,
        "batches_total": plan.batches_total,
        "chunks_total": plan.chunks_total,
        "audio_s": plan.audio_s,
        "priority": request.priority,
        "window": window,
    }
    if request.expires_in_s:
        fields["expires_ms"] = created_ms + 1_000 * request.expires_in_s
    if request.cancel_after_s:
        fields["cancel_ms"] = created_ms + 1_000 * request.cancel_after_s
    if isinstance(request, ConvertRequest):
        return fields | {"ready:sound": "deliver", "delivering": 1}
    return fields | {"render_queue": render_queue(request.model)}


def _cursor(created_ms: float, job_id: str) -> str:
    return base64.urlsafe_b64encode(f"{created_ms:.0f}:{job_id}".encode()).decode().rstrip("=")


def _position(cursor: str | None) -> tuple[float, str]:
    if cursor is None:
        return float("inf"), "~"
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        created_ms, job_id = text.split(":")
        return float(int(created_ms)), job_id
    except (binascii.Error, UnicodeError, ValueError):
        raise InvalidRequestError(FieldError("cursor", "not a cursor of ours", cursor, "'next' of a page")) from None
