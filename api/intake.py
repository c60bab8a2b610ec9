"""Takes requests in: records the job in storage and then in Redis, and has its first work begun.

Reads and lists jobs too, and does to them what can be done: cancel, pause, resume, retry, delete. Leaves out HTTP
(`api.jobs`, `api.control`), the checks (`api.planning`) and all rendering.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields as fields_of
from typing import Any, Final

from api.job_lists import Wanted, find
from api.planning import Planner
from api.redis_line import RedisLine
from api.registrar import Draft, Registrar
from api.stamps import Stamp, new_stamp
from shared import telemetry
from shared.catalogue import ModelEntry
from shared.contracts import TERMINAL, ConvertRequest, Job
from shared.deliveries import webhook_field
from shared.dispatch import Dispatcher, render_queue
from shared.endings import follow_up_end, remove_job
from shared.errors import (
    FieldError,
    InvalidRequestError,
    NotFoundError,
    ObjectNotFoundError,
    QueueUnavailableError,
    RequestError,
    RiffarmError,
)
from shared.job_moves import Accepted, created_ms_from_job_id, is_job_id
from shared.job_store import JobStore
from shared.job_view import JobView
from shared.logs import request_id
from shared.manifests import manifest
from shared.object_store import ObjectStore, job_paused_key, job_prefix, job_result_key, job_retry_key
from shared.outputs import remove_delivered
from shared.plan import Conversion, Plan, ResolvedRequest, Sources
from shared.quotas import Quota, Room, audio_ms_from_s
from shared.settings import Settings
from shared.uploads import TenantUploads
from shared.webhook_urls import WebhookRules

_SOURCES: Final = [field.name for field in fields_of(Sources)]


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
        self.room: Room | None = None
        self.view = JobView(settings, object_store)
        self._registrar = Registrar(job_store, object_store, dispatcher)

    def of(self, tenant: str, room: Room | None = None) -> Jobs:
        """The same farm as this tenant sees it, who may add to it what there is room for: anything without `room`."""
        jobs = object.__new__(Jobs)
        # For every request: `copy` would ask ten times as long how it is done.
        jobs.__dict__ |= self.__dict__
        jobs.tenant, jobs.room = tenant, room
        return jobs

    def plan(self, request: ResolvedRequest) -> Plan | Conversion:
        """The plan of a request, checked against what this farm has. Raises InvalidRequestError."""
        return Planner(self.settings, self.uploads, self.models).plan(request)

    @property
    def uploads(self) -> TenantUploads:
        """What the tenant has uploaded."""
        return TenantUploads(self.object_store, self.tenant)

    def submit(self, request: ResolvedRequest) -> str:
        """As `accept`; the job's id."""
        return self.accept(request).id

    def accept(self, request: ResolvedRequest, stamp: Stamp | None = None) -> Job:
        """Record a job in storage, then in Redis, queue its first work; the job as it then is. All or nothing."""
        stamp = stamp or new_stamp()
        if stamp.is_repeat and (job := self.recorded(stamp.job_id)):
            return job
        draft = self.draft(request, stamp, stamp.job_id)
        if error := self._no_room(draft.fields):
            raise error
        with telemetry.span("record"):
            accepted = self._registrar.record(draft, self._quota)
        return self.view.job(self._told(draft, accepted))

    async def accept_soon(self, request: ResolvedRequest, line: RedisLine) -> dict[str, str]:
        """As `accept`, without a thread: for a request that is planned quickly (`api.planning.is_quick`); the job's
        fields (`shared.job_view` makes of them what there is to say)."""
        stamp = new_stamp()
        draft = self.draft(request, stamp, stamp.job_id)
        if error := self._no_room(draft.fields):
            raise error
        with telemetry.span("record"):
            accepted = await self._registrar.record_soon(draft, line, self._quota)
        return self._told(draft, accepted)

    @property
    def _quota(self) -> Quota | None:
        return self.room.quota if self.room else None

    def draft(self, request: ResolvedRequest, stamp: Stamp, job_id: str, batch_id: str | None = None) -> Draft:
        """The job that a request makes, checked against what this farm has. Raises InvalidRequestError."""
        with telemetry.span("plan"):
            plan = self.plan(request)
        fields = fields_of_plan(plan, stamp.at_ms, self.settings.job_window) | {"tenant": self.tenant}
        told = {"origin": stamp.origin, "batch_id": batch_id, "request_id": request_id()}
        told["traceparent"] = telemetry.traceparent()
        fields |= {name: said for name, said in told.items() if said}
        fields |= webhook_field(plan.request.webhook, WebhookRules.from_settings(self.settings))
        return Draft(job_id, fields, plan.request, plan.warnings)

    def accept_many(self, drafts: Sequence[Draft]) -> list[Job | RiffarmError]:
        """As `accept` for many, each on its own: in their order the job, or what kept it away."""
        refused = {one.id: error for one in drafts if (error := self._no_room(one.fields))}
        wanted = [one for one in drafts if one.id not in refused]
        found = dict(zip((one.id for one in wanted), self._registrar.record_many(wanted, self._quota), strict=True))
        outcomes = [(one, refused.get(one.id) or found[one.id]) for one in drafts]
        return [
            self.view.job(self._told(one, outcome)) if isinstance(outcome, Accepted) else outcome
            for one, outcome in outcomes
        ]

    def recorded(self, job_id: str) -> Job | None:
        """The job with this id, if a gateway that did not live to answer has recorded it; queued if it did not.

        Raises QueueUnavailableError for one that is further than that and waits to be recovered.
        """
        with contextlib.suppress(NotFoundError):
            return self.read(job_id)
        try:
            fields = manifest(self.object_store, job_id)
        except ObjectNotFoundError:
            return None
        if next(self.object_store.keys(job_prefix(job_id)), None):
            raise QueueUnavailableError("Redis is being recovered from storage; send the request again shortly.")
        self.dispatcher.send_tickets(self.job_store.create(job_id, fields))
        return self.read(job_id)

    def _no_room(self, fields: Mapping[str, Any]) -> RiffarmError | None:
        """What keeps a job away before anything is recorded of it; its place is taken where there is room."""
        try:
            if self.room:
                self.room.take(audio_ms_from_s(float(fields["audio_s"])))
        except RequestError as error:
            return error
        return None

    def _told(self, draft: Draft, accepted: Accepted) -> dict[str, str]:
        """The new job's fields without asking for them; as they are if somebody else had recorded it before."""
        if accepted.queue_position is None:
            return self.fields(draft.id)
        return self.view.new_fields(draft.fields, draft.id, accepted.queue_position, draft.warnings)

    def fields(self, job_id: str) -> dict[str, str]:
        """All fields of one of the tenant's jobs. Raises NotFoundError, also for another tenant's."""
        return self.own(self.job_store.read(job_id))

    def own(self, fields: dict[str, str]) -> dict[str, str]:
        """A job's fields, if it is the tenant's. Raises NotFoundError."""
        if fields["tenant"] != self.tenant:
            raise NotFoundError(f"There is no job {fields['id']}.")
        return fields

    def read(self, job_id: str) -> Job:
        """One job. Raises NotFoundError."""
        return self.view.job(self.fields(job_id))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; one that has ended already stays as it is."""
        self.fields(job_id)
        self.job_store.finish(job_id, "canceled")
        follow_up_end(job_id, self.job_store, self.object_store)
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
            if error := self._no_room(fields):
                raise error
            runs = int(fields["runs"])
            # First in storage, where the result of the run before counts no more then, also when who ended that run
            # writes it only now.
            self.object_store.delete(job_paused_key(job_id))
            self.object_store.put(job_retry_key(job_id, runs + 1), b"{}", "application/json")
            self.object_store.delete(job_result_key(job_id, runs))
            self.dispatcher.send_tickets(self.job_store.retry(job_id, runs) or ())
        return self.read(job_id)

    def delete(self, job_id: str) -> None:
        """Cancel a job if it lives, and remove it with all that is its own, and what it delivered to a bucket; what it
        shares with others (frames, uploads) stays. Safe to call again after a failure; raises NotFoundError once it is
        gone."""
        is_gone = False
        while not is_gone:
            self.cancel(job_id)
            # While the job is there to be asked for it: whoever could not reach the bucket can try again.
            remove_delivered(self.object_store, self.fields(job_id))
            # Not if it was retried meanwhile.
            is_gone = remove_job(job_id, self.job_store, self.object_store)

    def page(self, limit: int, cursor: str | None, wanted: Wanted) -> tuple[list[Job], str | None]:
        """Up to `limit` wanted jobs older than the cursor, newest first, and the cursor of the next page.

        Where those wanted are rare there may be fewer, even none, and another page.
        """
        # One more than is asked for tells whether there is another page.
        found = find(self.job_store, self.tenant, wanted, _id_from_cursor(cursor), limit + 1)
        has_more = len(found.ids) > limit
        jobs = [self.view.job(fields) for fields in self.job_store.read_many(found.ids[:limit])]
        last_id = found.ids[limit - 1] if has_more else found.last_id
        return jobs, last_id and _cursor_from_id(last_id)


def fields_of_plan(plan: Plan | Conversion, created_ms: int, window: int) -> dict[str, str | int | float]:
    """What is recorded of a new job: what it is, how much work it is, and which queue it waits in."""
    request = plan.request
    fields: dict[str, str | int | float] = {
        "type": request.type,
        "created_ms": created_ms,
        "input": request.model_dump_json(),
        "sources": json.dumps({name: getattr(plan.sources, name) for name in _SOURCES}),
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


def _cursor_from_id(job_id: str) -> str:
    return base64.urlsafe_b64encode(job_id.encode()).decode().rstrip("=")


def _id_from_cursor(cursor: str | None) -> str | None:
    if cursor is None:
        return None
    try:
        job_id = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        if is_job_id(job_id) and created_ms_from_job_id(job_id):
            return job_id
    except (binascii.Error, UnicodeError, ValueError):
        pass
    raise InvalidRequestError(FieldError("cursor", "not a cursor of ours", cursor, "'next' of a page"))
