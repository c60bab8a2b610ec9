"""Jobs over HTTP: submit, plan, read, list, and the outputs on local disk.

Owns paths, parameters, headers and documentation. Leaves out the work behind them (`api.intake`), and what can be done
to a job (`api.control`).
"""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
from datetime import UTC, datetime
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

from api.access import Reading, Submitting, WholeFarm
from api.problems import responses
from shared.contracts import (
    TERMINAL,
    Job,
    JobPage,
    JobRequest,
    JobType,
    PlanSummary,
    Status,
)
from shared.errors import FieldError, InvalidRequestError, NotFoundError
from shared.frames import frame_hash
from shared.job_view import output_signature
from shared.object_store import LocalDiskStore, frame_key, output_key
from shared.plan import Conversion, Plan

_POLL_S: Final = 0.2
_WAIT: Final = re.compile(r"wait=(\d{1,3})")
_MAX_WAIT_S: Final = 60
_PAGE: Final = 200
router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
_BODY: Final = ("malformed_body", "body_too_large", "unsupported_media_type", "invalid_request")
_UNAVAILABLE: Final = ("unauthorized", "forbidden", "queue_unavailable", "storage_unavailable")


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def answer(job: Job, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(job.model_dump_json(), status, headers, media_type="application/json")


@router.post(
    "",
    status_code=202,
    response_model=Job,
    responses=responses(*_BODY, *_UNAVAILABLE),
    summary="Submit a job",
)
async def submit_job(body: JobRequest, farm: Submitting, prefer: Annotated[str, Header()] = "") -> Response:
    """Validate, plan, record and queue a job. With `Prefer: wait=N` (1..60) the answer waits for the job's end."""
    wait_s = _wait_s(prefer)
    job_id = await run_in_threadpool(farm.submit, body)
    deadline_s = time.monotonic() + wait_s
    job = await run_in_threadpool(farm.read, job_id)
    while job.status not in TERMINAL and time.monotonic() < deadline_s:
        await asyncio.sleep(_POLL_S)
        job = await run_in_threadpool(farm.read, job_id)
    headers = {"Location": f"/v1/jobs/{job_id}"} | ({"Preference-Applied": f"wait={wait_s}"} if wait_s else {})
    return answer(job, 202, headers)


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
    responses=responses(*_BODY, *_UNAVAILABLE),
    summary="See what a job would render",
)
def plan_job(body: JobRequest, farm: Submitting) -> Response:
    """Answer what a request would render and how much of it is ready; nothing is recorded or queued."""
    plan = farm.plan(body)
    if isinstance(plan, Conversion):
        return _summary(plan, 0, 0)
    # Looking at every frame of a ten-hour track would take longer than the answer is worth.
    sample = range(0, plan.frames_total, max(1, plan.frames_total // 256))
    ready = sum(farm.object_store.exists(frame_key(frame_hash(plan.frame(index)))) for index in sample)
    return _summary(plan, round(ready * plan.frames_total / len(sample)), plan.parts * plan.part_samples)


def _summary(plan: Plan | Conversion, frames_ready: int, samples_total: int) -> Response:
    summary = PlanSummary(
        frames_total=plan.frames_total,
        frames_ready=frames_ready,
        batches_total=plan.batches_total,
        chunks_total=plan.chunks_total,
        duration_s=plan.audio_s,
        samples_total=samples_total,
        warnings=list(plan.warnings),
        input=plan.request,
    )
    return Response(summary.model_dump_json(), media_type="application/json")


@router.get(
    "",
    response_model=JobPage,
    responses=responses("invalid_request", "unauthorized", "forbidden", "queue_unavailable"),
    summary="List jobs",
)
def list_jobs(
    request: Request,
    farm: Reading,
    limit: Annotated[int, Query(ge=1, le=_PAGE)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    status: Status | None = None,
    job_type: Annotated[JobType | None, Query(alias="type")] = None,
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
            and (job_type is None or fields["type"] == job_type)
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
    responses=responses("not_found", "unauthorized", "forbidden", "queue_unavailable"),
    summary="Read a job",
)
def read_job(job_id: str, farm: Reading) -> Response:
    """One job as it is now."""
    return answer(farm.read(job_id))


@router.head("/{job_id}/outputs/{name}", include_in_schema=False)
@router.get(
    "/{job_id}/outputs/{name}",
    response_class=FileResponse,
    responses=responses("url_expired", "not_found"),
    summary="Download an output kept on local disk",
)
def read_output(
    job_id: str, name: str, farm: WholeFarm, expires: int, signature: Annotated[str, Query(max_length=64)]
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
