"""Jobs over HTTP: submit, plan, read, list, and the outputs on local disk.

Owns paths, parameters, headers and documentation. Leaves out the work behind them (`api.intake`), and what can be done
to a job (`api.control`).
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from api.access import Reading, Submitting, WholeFarm
from api.bodies import StrictRoute
from api.estimates import bytes_of_files, cost
from api.file_answers import UNMODIFIED, FileAnswer
from api.idempotency import Once, OncePerKey
from api.intake import Jobs
from api.job_lists import Wanted
from api.job_reader import JobReader
from api.moments import Moment
from api.near_names import unknown
from api.planning import is_quick
from api.preferences import WaitSeconds
from api.problems import responses
from api.stamps import Stamp
from api.waiting import has_ended
from shared.contracts import (
    Job,
    JobPage,
    JobRequest,
    JobType,
    PlanSummary,
    Status,
)
from shared.errors import FieldError, InvalidRequestError, NotFoundError, RiffarmError
from shared.frames import frame_hash
from shared.job_view import output_signature
from shared.object_store import LocalDiskStore, ObjectStore, frame_key, output_key
from shared.plan import Conversion, Plan

_PAGE: Final = 200
router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=StrictRoute)
BODY_PROBLEMS: Final = ("malformed_body", "body_too_large", "unsupported_media_type", "invalid_request")
UNAVAILABLE: Final = ("unauthorized", "forbidden", "queue_unavailable", "storage_unavailable")
ONCE_PROBLEMS: Final = ("idempotency_in_flight", "idempotency_mismatch")
_FILTERS: Final = ("limit", "cursor", "status", "type", "batch_id", "created_after", "created_before")
_LABEL: Final = "label."
_BATCH_ID: Final = r"^bat_[0-9a-z]{1,64}$"


def answer(job: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer that is a job, which comes as JSON."""
    return Response(job, status, headers, media_type="application/json")


@router.post(
    "",
    status_code=202,
    response_model=Job,
    responses=responses(*BODY_PROBLEMS, *ONCE_PROBLEMS, *UNAVAILABLE, "quota_exceeded", "farm_full"),
    summary="Submit a job",
)
async def submit_job(
    request: Request, body: JobRequest, farm: Submitting, once: OncePerKey, wait_s: WaitSeconds
) -> Response:
    """Validate, plan, record and queue a job. With `Prefer: wait=N` (1..60) the answer waits for the job's end."""
    until_s = time.monotonic() + wait_s
    job_id = ""

    def accept(stamp: Stamp) -> Response:
        nonlocal job_id
        job = farm.accept(body, stamp)
        job_id = job.id
        return accepted(job_id, job.model_dump_json(), wait_s)

    if once.has_key or not is_quick(body):
        response = await run_in_threadpool(once.answer, accept, wait_s)
    else:
        fields = await farm.accept_soon(body, request.app.state.redis_line)
        job_id = fields["id"]
        response = accepted(job_id, farm.view.text(fields), wait_s)
    if not wait_s or not job_id:
        return response
    await has_ended(request.app.state.event_reader, job_id, until_s)
    return await run_in_threadpool(_waited, farm, once, job_id, response, wait_s)


def accepted(job_id: str, job: str, wait_s: int = 0) -> Response:
    """The answer to a job that is accepted, which comes as JSON."""
    waited = {"Preference-Applied": f"wait={wait_s}"} if wait_s else {}
    return answer(job, 202, {"Location": f"/v1/jobs/{job_id}"} | waited)


def _waited(farm: Jobs, once: Once, job_id: str, response: Response, wait_s: int) -> Response:
    # Whatever it is that keeps us from reading it: it was accepted, and that is answered.
    with suppress(RiffarmError):
        response = accepted(job_id, farm.view.text(farm.fields(job_id)), wait_s)
    once.keep(response)
    return response


@router.post(
    "/plan",
    response_model=PlanSummary,
    responses=responses(*BODY_PROBLEMS, *UNAVAILABLE),
    summary="See what a job would render",
)
def plan_job(body: JobRequest, farm: Submitting) -> Response:
    """Answer what a request would render and how much of it is ready; nothing is recorded or queued."""
    plan = farm.plan(body)
    ready = _frames_ready(plan, farm.object_store)
    summary = PlanSummary(
        frames_total=plan.frames_total,
        frames_ready=ready,
        batches_total=plan.batches_total,
        chunks_total=plan.chunks_total,
        duration_s=plan.audio_s,
        samples_total=plan.parts * plan.part_samples if isinstance(plan, Plan) else 0,
        cost=cost(plan, ready, farm.job_store, farm.settings),
        bytes=bytes_of_files(plan),
        warnings=list(plan.warnings),
        input=plan.request,
    )
    return Response(summary.model_dump_json(), media_type="application/json")


def _frames_ready(plan: Plan | Conversion, object_store: ObjectStore) -> int:
    if isinstance(plan, Conversion):
        return 0
    # Looking at every frame of a ten-hour track would take longer than the answer is worth.
    sample = range(0, plan.frames_total, max(1, plan.frames_total // 256))
    ready = sum(object_store.exists(frame_key(frame_hash(plan.frame(index)))) for index in sample)
    return round(ready * plan.frames_total / len(sample))


@router.get(
    "",
    response_model=JobPage,
    responses=responses("invalid_request", "unauthorized", "forbidden", "queue_unavailable"),
    summary="List jobs",
)
def list_jobs(
    request: Request,
    farm: Reading,
    limit: Annotated[int, Query(ge=1, le=_PAGE, description="Jobs on a page at most.")] = 50,
    cursor: Annotated[str | None, Query(max_length=200, description="As `next` of a page has it.")] = None,
    status: Annotated[Status | None, Query(description="Jobs that are so now.")] = None,
    job_type: Annotated[JobType | None, Query(alias="type", description="Jobs of this type.")] = None,
    batch_id: Annotated[str | None, Query(pattern=_BATCH_ID, description="Jobs of this batch.")] = None,
    created_after: Annotated[Moment | None, Query(description="Created later than this; UTC without a zone.")] = None,
    created_before: Annotated[Moment | None, Query(description="Created sooner than this.")] = None,
) -> Response:
    """Jobs, newest first; filter by `status`, `type`, `batch_id`, time, and by any label as `label.<name>=<value>`.

    Where those wanted are rare a page may hold fewer than `limit`, even none: `next` leads on while there are more.
    """
    if errors := [*_wrong_parameters(request)]:
        raise InvalidRequestError(*errors)
    query = dict(request.query_params)
    labels = {name.removeprefix(_LABEL): value for name, value in query.items() if name.startswith(_LABEL)}
    times = {"after_ms": _ms(created_after, "-inf"), "before_ms": _ms(created_before, "inf")}
    jobs, next_cursor = farm.page(limit, cursor, Wanted(status, job_type, labels, batch_id, **times))
    next_url = f"{farm.settings.base_url}/v1/jobs?{urlencode(query | {'cursor': next_cursor})}"
    page = JobPage.model_construct(data=jobs, next=next_url if next_cursor else None)
    return Response(page.model_dump_json(), media_type="application/json")


def _ms(moment: datetime | None, otherwise: str) -> float:
    return float(otherwise) if moment is None else moment.timestamp() * 1_000


def _wrong_parameters(request: Request) -> Iterator[FieldError]:
    """Parameters that a list has not, or that are given twice."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield FieldError(name, "given twice", None, "once")
        elif name not in _FILTERS and not (name.startswith(_LABEL) and name != _LABEL):
            yield unknown("parameter", name, (*_FILTERS, f"{_LABEL}<name>"))


@router.get(
    "/{job_id}",
    response_model=Job,
    responses=responses("not_found", "unauthorized", "forbidden", "queue_unavailable"),
    summary="Read a job",
)
async def read_job(request: Request, job_id: str, farm: Reading) -> Response:
    """One job as it is now."""
    reader: JobReader = request.app.state.job_reader
    return answer(farm.view.text(farm.own(await reader.fields(job_id))))


@router.head("/{job_id}/outputs/{name}", include_in_schema=False)
@router.get(
    "/{job_id}/outputs/{name}",
    response_class=FileAnswer,
    responses=responses("url_expired", "not_found") | UNMODIFIED,
    summary="Download an output kept on local disk",
)
def read_output(
    job_id: str, name: str, farm: WholeFarm, expires: int, signature: Annotated[str, Query(max_length=64)]
) -> FileAnswer:
    """A finished file; the signed URL in the job's `outputs` leads here. Takes ranges, so a browser can seek."""
    store = farm.object_store
    wanted = output_signature(farm.settings.secret.get_secret_value(), job_id, name, expires)
    if not hmac.compare_digest(signature.encode(), wanted.encode()) or expires < time.time():
        raise HTTPException(403, "This link is expired or was changed. Read the job again for a fresh one.")
    if not isinstance(store, LocalDiskStore) or not store.exists(output_key(job_id, name)):
        raise NotFoundError(f"The output {name} is not there any more.")
    outputs = {one["name"]: one for one in json.loads(farm.job_store.read(job_id).get("outputs", "[]"))}
    return FileAnswer(
        store.path(output_key(job_id, name)),
        media_type=outputs[name]["media_type"] if name in outputs else None,
        filename=name,
        headers={"ETag": f'"{outputs[name]["sha256"]}"'} if name in outputs else None,
    )
