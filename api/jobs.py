"""Jobs over HTTP: submit, plan, read, list, cancel, and the outputs on local disk.

Validates what a schema cannot, records the job in storage and then in Redis, and queues its first work. Leaves out
the plan itself (`shared.plan`) and all rendering.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import ipaddress
import json
import re
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import httpx
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

from api.access import require_key
from api.problems import responses
from shared.catalogue import UPLOAD_PREFIX, ModelEntry, seed_images
from shared.contracts import (
    MAX_DURATION_S,
    TERMINAL,
    ClipRequest,
    Job,
    JobPage,
    JobRequest,
    JobType,
    PlanSummary,
    Status,
    TrackRequest,
)
from shared.dispatch import Dispatcher
from shared.endings import follow_up_end
from shared.errors import FieldError, InvalidRequestError, NotFoundError, RiffarmError
from shared.job_store import JobStore, created_ms_from_job_id, new_job_id
from shared.job_view import JobView, output_signature
from shared.object_store import LocalDiskStore, ObjectStore, frame_key, job_manifest_key, output_key, upload_key
from shared.plan import Plan, ResolvedRequest, Sources, frame_hash, resolve
from shared.settings import Settings

_POLL_S: Final = 0.2
_WAIT: Final = re.compile(r"wait=(\d{1,3})")
_MAX_WAIT_S: Final = 60
_PAGE: Final = 200
router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
authorized = [Depends(require_key)]
_BODY: Final = ("malformed_body", "body_too_large", "unsupported_media_type", "invalid_request")
_UNAVAILABLE: Final = ("unauthorized", "queue_unavailable", "storage_unavailable")


class Jobs:
    """What the routes need of the farm."""

    def __init__(
        self,
        settings: Settings,
        job_store: JobStore,
        object_store: ObjectStore,
        dispatcher: Dispatcher,
        models: dict[str, ModelEntry],
    ) -> None:
        self.settings = settings
        self.job_store = job_store
        self.object_store = object_store
        self.dispatcher = dispatcher
        self.models = models
        self.view = JobView(settings, object_store)

    def plan(self, request: ResolvedRequest) -> Plan:
        """The plan of a request, checked against what this farm has. Raises InvalidRequestError."""
        errors = [*self._wrong_fields(request)]
        pictures = {}
        for field in ("seed_image", "mask_image"):
            picture_id = getattr(request, field)
            pictures[field] = self._picture_sha256(picture_id) if picture_id else None
            if picture_id and pictures[field] is None:
                errors.append(FieldError(field, "unknown picture", picture_id, [*seed_images(), "an upload's id"]))
        if errors:
            raise InvalidRequestError(*errors)
        sources = Sources(self.models[request.model].revision, pictures["seed_image"], pictures["mask_image"])
        plan = Plan(resolve(request, lambda: secrets.randbelow(2**32)), sources)
        if isinstance(request, TrackRequest) and len(request.keyframes) > plan.frames_total:
            needed_s = (len(request.keyframes) - 1) * plan.params.frame_s
            message = f"{len(request.keyframes)} keyframes need as many frames of {plan.params.frame_s:g} s"
            raise InvalidRequestError(FieldError("duration_s", message, request.duration_s, f"> {needed_s:g}"))
        return plan

    def _wrong_fields(self, request: ResolvedRequest) -> Iterator[FieldError]:
        if request.model not in self.models:
            yield FieldError("model", "unknown model", request.model, [*self.models])
        if request.mask_image and not request.seed_image:
            yield FieldError("mask_image", "a mask needs a seed image to keep", request.mask_image, "with seed_image")
        if len(set(request.formats)) < len(request.formats):
            yield FieldError("formats", "each format once", ", ".join(request.formats), "no repeats")
        if isinstance(request, ClipRequest) and request.variations * request.duration_s > MAX_DURATION_S:
            total_s = request.variations * request.duration_s
            yield FieldError("variations", "too much sound in one job", total_s, f"<= {MAX_DURATION_S} s in all")
        if request.webhook:
            yield from self._wrong_webhook(request.webhook.url)

    def _wrong_webhook(self, address: str) -> Iterator[FieldError]:
        if self.settings.webhook_secret is None:
            yield FieldError("webhook", "this farm has no webhook secret", None, "set RIFFARM_WEBHOOK_SECRET")
        try:
            url = httpx.URL(address)
            is_good = self._may_be_called(url)
        except (httpx.InvalidURL, ValueError):
            is_good = False
        if not is_good:
            yield FieldError("webhook.url", "must be a public https URL without a password", address, "https://…")

    def _may_be_called(self, url: httpx.URL) -> bool:
        if not url.host or url.userinfo or not 0 < (url.port or 443) < 65_536:
            return False
        if url.host in ("localhost", "127.0.0.1", "::1"):
            return self.settings.webhook_allow_loopback and url.scheme in ("http", "https")
        return url.scheme == "https" and not _is_internal(url.host)

    def _picture_sha256(self, picture_id: str) -> str | None:
        if not picture_id.startswith(UPLOAD_PREFIX):
            entry = seed_images().get(picture_id)
            return entry.sha256 if entry else None
        sha256 = picture_id.removeprefix(UPLOAD_PREFIX)
        is_hash = re.fullmatch("[0-9a-f]{64}", sha256)
        return sha256 if is_hash and self.object_store.exists(upload_key(sha256)) else None

    def submit(self, request: ResolvedRequest) -> str:
        """Record a job in storage, then in Redis, queue its first work; its id. All or nothing."""
        plan = self.plan(request)
        job_id = new_job_id()
        fields = _fields_of(plan, created_ms_from_job_id(job_id))
        self.job_store.check()
        self.object_store.put(job_manifest_key(job_id), json.dumps({"id": job_id, **fields}).encode())
        try:
            self.job_store.create(job_id, fields)
            self.dispatcher.move_on(job_id, plan)
        except RiffarmError:
            # The client is told that nothing was recorded, so nothing may stay.
            with contextlib.suppress(RiffarmError):
                self.job_store.discard(job_id)
            with contextlib.suppress(RiffarmError):
                self.object_store.delete(job_manifest_key(job_id))
            raise
        return job_id

    def read(self, job_id: str) -> Job:
        """One job. Raises NotFoundError."""
        return self.view.job(self.job_store.read(job_id))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; one that has ended already stays as it is."""
        self.job_store.finish(job_id, "canceled")
        follow_up_end(job_id, self.job_store, self.object_store, self.dispatcher)
        return self.read(job_id)

    def page(self, limit: int, cursor: str | None, is_wanted: Any) -> tuple[list[Job], str | None]:
        """Up to `limit` wanted jobs older than the cursor, newest first, and the cursor of the next page."""
        created_ms, job_id = _position(cursor)
        found: list[Job] = []
        while ids := self.job_store.ids_before(created_ms, job_id, _PAGE):
            for fields in self.job_store.read_many(ids):
                created_ms, job_id = float(fields["created_ms"]), fields["id"]
                if is_wanted(fields):
                    found.append(self.view.job(fields))
                if len(found) == limit:
                    return found, _cursor(created_ms, job_id)
        return found, None


def _fields_of(plan: Plan, created_ms: int) -> dict[str, str | int | float]:
    request, sources = plan.request, plan.sources
    named = {
        "model_revision": sources.model_revision,
        "seed_image_sha256": sources.seed_image_sha256,
        "mask_image_sha256": sources.mask_image_sha256,
    }
    return {
        "type": request.type,
        "created_ms": created_ms,
        "input": request.model_dump_json(),
        "sources": json.dumps(named),
        "labels": json.dumps(request.labels),
        "frames_total": plan.frames_total,
        "chunks_total": plan.chunks_total,
        "audio_s": plan.audio_s,
    }


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _is_internal(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".internal", ".local"))


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


def _farm(request: Request) -> Jobs:
    farm: Jobs = request.app.state.jobs
    return farm


Farm = Annotated[Jobs, Depends(_farm)]


def _answer(job: Job, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(job.model_dump_json(), status, headers, media_type="application/json")


@router.post(
    "",
    status_code=202,
    response_model=Job,
    dependencies=authorized,
    responses=responses(*_BODY, *_UNAVAILABLE),
    summary="Submit a job",
)
async def submit_job(body: JobRequest, farm: Farm, prefer: Annotated[str, Header()] = "") -> Response:
    """Validate, plan, record and queue a job. With `Prefer: wait=N` (1..60) the answer waits for the job's end."""
    wait_s = _wait_s(prefer)
    job_id = await run_in_threadpool(farm.submit, body)
    deadline_s = time.monotonic() + wait_s
    job = await run_in_threadpool(farm.read, job_id)
    while job.status not in TERMINAL and time.monotonic() < deadline_s:
        await asyncio.sleep(_POLL_S)
        job = await run_in_threadpool(farm.read, job_id)
    headers = {"Location": f"/v1/jobs/{job_id}"} | ({"Preference-Applied": f"wait={wait_s}"} if wait_s else {})
    return _answer(job, 202, headers)


def _wait_s(prefer: str) -> int:
    wanted = next((part.strip() for part in prefer.split(",") if part.strip().startswith("wait")), None)
    if wanted is None:
        return 0
    match = _WAIT.fullmatch(wanted)
    if match is None or not 1 <= int(match[1]) <= _MAX_WAIT_S:
        raise InvalidRequestError(FieldError("Prefer", "not a time to wait", wanted, f"wait=1..{_MAX_WAIT_S}"))
    return int(match[1])


@router.post(
    "/plan",
    response_model=PlanSummary,
    dependencies=authorized,
    responses=responses(*_BODY, *_UNAVAILABLE),
    summary="See what a job would render",
)
def plan_job(body: JobRequest, farm: Farm) -> Response:
    """Answer what a request would render and how much of it is ready; nothing is recorded or queued."""
    plan = farm.plan(body)
    # Looking at every frame of a ten-hour track would take longer than the answer is worth.
    sample = range(0, plan.frames_total, max(1, plan.frames_total // 256))
    ready = sum(farm.object_store.exists(frame_key(frame_hash(plan.frame(index)))) for index in sample)
    frames_ready = round(ready * plan.frames_total / len(sample))
    summary = PlanSummary(
        frames_total=plan.frames_total,
        frames_ready=frames_ready,
        batches_total=plan.batches_total,
        chunks_total=plan.chunks_total,
        duration_s=plan.audio_s,
        samples_total=plan.parts * plan.part_samples,
        input=plan.request,
    )
    return Response(summary.model_dump_json(), media_type="application/json")


@router.get(
    "",
    response_model=JobPage,
    dependencies=authorized,
    responses=responses("invalid_request", "unauthorized", "queue_unavailable"),
    summary="List jobs",
)
def list_jobs(
    request: Request,
    farm: Farm,
    limit: Annotated[int, Query(ge=1, le=_PAGE)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    status: Status | None = None,
    type: JobType | None = None,  # noqa: A002 — the field's name in the contract
    created_after: datetime | None = None,
    created_before: datetime | None = None,
) -> Response:
    """Jobs, newest first; filter by `status`, `type`, time and `label.<name>`."""
    labels = {
        name.removeprefix("label."): value for name, value in request.query_params.items() if name.startswith("label.")
    }

    def is_wanted(fields: dict[str, str]) -> bool:
        created_at = datetime.fromtimestamp(int(fields["created_ms"]) / 1_000, UTC)
        return (
            (status is None or fields["status"] == status)
            and (type is None or fields["type"] == type)
            and (created_after is None or created_at > _in_utc(created_after))
            and (created_before is None or created_at < _in_utc(created_before))
            and labels.items() <= json.loads(fields["labels"]).items()
        )

    jobs, next_cursor = farm.page(limit, cursor, is_wanted)
    query = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    next_url = f"{farm.settings.base_url}/v1/jobs?{urlencode([*query, ('cursor', next_cursor)])}"
    page = JobPage.model_construct(data=jobs, next=next_url if next_cursor else None)
    return Response(page.model_dump_json(), media_type="application/json")


@router.get(
    "/{job_id}",
    response_model=Job,
    dependencies=authorized,
    responses=responses("not_found", "unauthorized", "queue_unavailable"),
    summary="Read a job",
)
def read_job(job_id: str, farm: Farm) -> Response:
    """One job as it is now."""
    return _answer(farm.read(job_id))


@router.post(
    "/{job_id}/cancel",
    response_model=Job,
    dependencies=authorized,
    responses=responses("not_found", "unauthorized", "queue_unavailable"),
    summary="Cancel a job",
)
def cancel_job(job_id: str, farm: Farm) -> Response:
    """Stop a job: at once when it waits, between two denoising steps when it runs. Safe to call twice."""
    return _answer(farm.cancel(job_id))


@router.head("/{job_id}/outputs/{name}", include_in_schema=False)
@router.get(
    "/{job_id}/outputs/{name}",
    response_class=FileResponse,
    responses=responses("url_expired", "not_found"),
    summary="Download an output kept on local disk",
)
def read_output(
    job_id: str, name: str, farm: Farm, expires: int, signature: Annotated[str, Query(max_length=64)]
) -> FileResponse:
    """A finished file; the signed URL in the job's `outputs` leads here. Takes ranges, so a browser can seek."""
    store = farm.object_store
    wanted = output_signature(farm.settings.secret.get_secret_value(), job_id, name, expires)
    if not hmac.compare_digest(signature.encode(), wanted.encode()) or expires < time.time():
        raise HTTPException(403, "This link is expired or was changed. Read the job again for a fresh one.")
    if not isinstance(store, LocalDiskStore) or not store.exists(output_key(job_id, name)):
        raise NotFoundError(f"The output {name} is not there any more.")
    outputs = {one["name"]: one for one in json.loads(farm.job_store.read(job_id).get("outputs", "[]"))}
    return FileResponse(
        store.path(output_key(job_id, name)),
        media_type=outputs[name]["media_type"] if name in outputs else None,
        filename=name,
        headers={"ETag": f'"{outputs[name]["sha256"]}"'} if name in outputs else None,
    )
