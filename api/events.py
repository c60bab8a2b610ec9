"""What happens to a job, over HTTP: its events as a stream, its frames as a list, each frame's picture.

Owns the form of events (Server-Sent Events) and of pages of frames. Leaves out reading Redis for the streams
(`api.event_reader`), and who writes events (`shared.job_store`).
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from api.event_reader import EventReader, Follower
from api.frames import FramePage, FrameReport, FrameState, report_from_record
from api.jobs import Farm, authorized
from api.problems import responses
from shared.contracts import TERMINAL
from shared.dispatch import plan_of
from shared.errors import FieldError, InvalidRequestError, NotFoundError, ObjectNotFoundError, RiffarmError
from shared.job_store import Event
from shared.job_view import progress_from_fields
from shared.object_store import frame_key
from shared.plan import Conversion, frame_hash

_EVENT_ID: Final = re.compile(r"\d{1,15}-\d{1,15}")
_CURSOR: Final = re.compile(r"\d{1,9}")
_PAGE: Final = 200
router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


async def _job_fields(job_id: str, farm: Farm) -> dict[str, str]:
    # A dependency: once a stream has begun there is no answering 404.
    return await run_in_threadpool(farm.job_store.read, job_id)


JobFields = Annotated[dict[str, str], Depends(_job_fields)]


def _last_id(last_event_id: Annotated[str | None, Header()] = None) -> str | None:
    if last_event_id and not _EVENT_ID.fullmatch(last_event_id):
        error = FieldError("Last-Event-ID", "not an event's id", last_event_id, "the id of an event of this job")
        raise InvalidRequestError(error)
    return last_event_id or None


async def _follower(request: Request, job: JobFields) -> AsyncIterator[Follower]:
    reader: EventReader = request.app.state.event_reader
    with reader.following(job["id"]) as follower:
        yield follower


@router.get(
    "/{job_id}/events",
    response_class=EventSourceResponse,
    dependencies=authorized,
    responses=responses("invalid_request", "not_found", "unauthorized", "queue_unavailable"),
    summary="Follow a job",
)
async def follow_job(
    job: JobFields,
    farm: Farm,
    last_id: Annotated[str | None, Depends(_last_id)],
    follower: Annotated[Follower, Depends(_follower)],
) -> AsyncIterator[ServerSentEvent]:
    """A job's events from its first on, as they come, to `completed`, whose data is the whole job.

    `status` {status, stage}, `progress` (as in the job), `frame` (as in the job's frames), `preview` (as in the job),
    `log` {message, …}. With `Last-Event-ID` the stream goes on after that event. Of a job that has ended only
    `completed` comes.
    """
    is_over = last_id is None and job["status"] in TERMINAL
    last_id = last_id or "0"
    while not is_over:
        events, _ = await follower.news(last_id)
        is_over = not events
        for event in events:
            last_id = event.id
            if event.kind == "completed":
                is_over = True
                break
            yield ServerSentEvent(id=event.id, event=event.kind, data=_data(event, job, farm.view.url(job["id"])))
    try:
        ended = await run_in_threadpool(farm.read, job["id"])
    except RiffarmError:
        # Too late for an answer of its own: who comes back for the rest hears why.
        return
    if ended.status in TERMINAL:
        yield ServerSentEvent(id=None if last_id == "0" else last_id, event="completed", data=ended)


def _data(event: Event, job: dict[str, str], url: str) -> Any:
    """What a client is told, from what is kept."""
    match event.kind:
        case "progress":
            counted = {name: str(value) for name, value in event.data.items()}
            told_s = int(event.id.partition("-")[0]) / 1_000
            return progress_from_fields(job | counted | {"status": "running"}, told_s)
        case "frame":
            return report_from_record(event.data["frame"], event.data, f"{url}/frames")
        case _:
            return event.data


@router.get(
    "/{job_id}/frames",
    response_model=FramePage,
    dependencies=authorized,
    responses=responses("invalid_request", "not_found", "unauthorized", "queue_unavailable"),
    summary="List a job's frames",
)
def list_frames(
    job: JobFields,
    farm: Farm,
    limit: Annotated[int, Query(ge=1, le=_PAGE)] = 50,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """A job's frames in order: how far each is, and how it was made."""
    if cursor is not None and not _CURSOR.fullmatch(cursor):
        raise InvalidRequestError(FieldError("cursor", "not a cursor of ours", cursor, "'next' of a page"))
    first, total = int(cursor or 0), int(job["frames_total"])
    numbers = range(first, min(first + limit, total))
    url = f"{farm.view.url(job['id'])}/frames"
    records = farm.job_store.frames(job["id"], numbers)
    under_way = {preview["frame"] for preview in json.loads(job["previews"])}
    has_ended = job["status"] in TERMINAL

    def state(number: int) -> FrameState:
        return "missing" if has_ended else "rendering" if number in under_way else "waiting"

    reports = [
        report_from_record(number, records[number], url)
        if number in records
        else FrameReport(number=number, state=state(number))
        for number in numbers
    ]
    next_url = f"{url}?limit={limit}&cursor={numbers.stop}" if numbers.stop < total else None
    return Response(FramePage(data=reports, next=next_url).model_dump_json(), media_type="application/json")


@router.get(
    "/{job_id}/frames/{number}/picture",
    response_class=Response,
    dependencies=authorized,
    responses=responses("invalid_request", "not_found", "unauthorized", "queue_unavailable", "storage_unavailable")
    | {200: {"content": {"image/png": {}}, "description": "The spectrogram."}},
    summary="See a frame",
)
def read_picture(job: JobFields, farm: Farm, number: Annotated[int, Path(ge=0, le=10**9)]) -> Response:
    """A finished frame's spectrogram, as it was stored."""
    plan = plan_of(job)
    if isinstance(plan, Conversion) or number >= plan.frames_total:
        raise NotFoundError(f"This job has {plan.frames_total} frames, counted from 0.")
    name = frame_hash(plan.frame(number))
    try:
        picture = farm.object_store.get(frame_key(name))
    except ObjectNotFoundError:
        raise NotFoundError(f"Frame {number} is not rendered yet.") from None
    # Its name is the hash of all that determines it: it never changes.
    headers = {"ETag": f'"{name}"', "Cache-Control": "private, max-age=31536000, immutable"}
    return Response(picture, headers=headers, media_type="image/png")
