"""What happens to a job, over HTTP: its events as a stream, its frames as a list, each frame's picture.

Owns the form of events (Server-Sent Events) and of pages of frames. Leaves out reading Redis for the streams
(`api.event_reader`), and who writes events (`shared.job_store`).
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from api import access
from api.access import Reading
from api.event_reader import EventReader, Follower
from api.file_answers import UNMODIFIED, has_it, not_modified
from api.frames import FramePage, FrameReport, report_from_record, report_of_unfinished
from api.intake import Jobs
from api.problems import responses
from shared.contracts import TERMINAL
from shared.dispatch import plan_of
from shared.errors import FieldError, InvalidRequestError, NotFoundError, ObjectNotFoundError, RiffarmError
from shared.frames import frame_hash
from shared.job_events import Event
from shared.job_view import progress_from_fields
from shared.object_store import frame_key
from shared.plan import Conversion

_EVENT_ID: Final = re.compile(r"\d{1,15}-\d{1,15}")
_CURSOR: Final = re.compile(r"\d{1,9}")
_PAGE: Final = 200
_MEDIA_TYPE: Final = "text/event-stream"
_ASK_AGAIN_S: Final = 15.0
"""A key that is revoked ends its streams after so long, or with the next event after that."""
_UNBUFFERED: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


async def _job_fields(job_id: str, farm: Reading) -> dict[str, str]:
    # A dependency: once a stream has begun there is no answering 404.
    return await run_in_threadpool(farm.fields, job_id)


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
    response_class=StreamingResponse,
    responses=responses("invalid_request", "not_found", "unauthorized", "forbidden", "queue_unavailable")
    | {200: {"content": {_MEDIA_TYPE: {}}, "description": "Events, as they come."}},
    summary="Follow a job",
)
async def follow_job(
    request: Request,
    job: JobFields,
    farm: Reading,
    last_id: Annotated[str | None, Depends(_last_id)],
    follower: Annotated[Follower, Depends(_follower)],
) -> Response:
    """A job's events from its first on, as they come, to `completed`, whose data is the whole job.

    `status` {status, stage}, `progress` (as in the job), `frame` (as in the job's frames), `preview` (as in the job),
    `log` {message, …}. With `Last-Event-ID` the stream goes on after that event. Of a job that has ended only
    `completed` comes.
    """
    # Not the framework's own response: that one takes a client that goes away for a mistake of the gateway.
    has_ended = last_id is None and job["status"] in TERMINAL
    is_still_in = partial(access.is_still_in, request)
    stream = _ended(job["id"], farm, "") if has_ended else _told(job, farm, follower, last_id or "0", is_still_in)
    return StreamingResponse(stream, headers=_UNBUFFERED, media_type=_MEDIA_TYPE)


async def _told(
    job: dict[str, str], farm: Jobs, follower: Follower, last_id: str, is_still_in: Callable[[], Awaitable[bool]]
) -> AsyncIterator[bytes]:
    url, asked_s = farm.view.url(job["id"]), time.monotonic()
    if last_id == "0":
        yield format_sse_event(id="0-0", event="status", data_str=await _first_status(job, follower))
    news = await follower.news(last_id)
    while news.events or news.status not in (None, *TERMINAL):
        if time.monotonic() - asked_s > _ASK_AGAIN_S:
            asked_s = time.monotonic()
            if not await is_still_in():
                # Whoever comes back hears why.
                return
        if not news.events:
            yield KEEPALIVE_COMMENT
        for event in news.events:
            last_id = event.id
            if event.kind != "completed":
                yield format_sse_event(id=event.id, event=event.kind, data_str=_data(event, job, url))
                # Lets the server notice that the client has gone.
                await asyncio.sleep(0)
        news = await follower.news(last_id)
    async for part in _ended(job["id"], farm, last_id):
        yield part


async def _first_status(job: dict[str, str], follower: Follower) -> str:
    """The status that the first event is preceded by: that of a job that waits is not kept, since thousands may."""
    first = {"status": "queued", "stage": None}
    if job["status"] != "queued":
        events = (await follower.look("0")).events
        if not events or events[0].kind != "status":
            # What was first is gone: there was too much to tell, or the farm was recovered from storage.
            first = {"status": job["status"], "stage": job["stage"] or None}
    return json.dumps(first)


async def _ended(job_id: str, farm: Jobs, last_id: str) -> AsyncIterator[bytes]:
    """`completed` with the whole job, unless it has not ended or cannot be read."""
    # It is too late for an answer of its own: who comes back for the rest hears what is wrong.
    with suppress(RiffarmError):
        job = await run_in_threadpool(farm.read, job_id)
        if job.status in TERMINAL:
            yield format_sse_event(id=last_id or None, event="completed", data_str=job.model_dump_json())


def _data(event: Event, job: dict[str, str], url: str) -> str:
    """What a client is told, in JSON, from what is kept."""
    match event.kind:
        case "progress":
            counted = {name: str(value) for name, value in event.data.items()}
            told_s = int(event.id.partition("-")[0]) / 1_000
            return progress_from_fields(job | counted | {"status": "running"}, told_s).model_dump_json()
        case "frame":
            return report_from_record(event.data["frame"], event.data, f"{url}/frames").model_dump_json()
        case _:
            return json.dumps(event.data)


@router.get(
    "/{job_id}/frames",
    response_model=FramePage,
    responses=responses("invalid_request", "not_found", "unauthorized", "forbidden", "queue_unavailable"),
    summary="List a job's frames",
)
def list_frames(
    job: JobFields,
    farm: Reading,
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
    plan, begun = plan_of(job), farm.job_store.begun(job["id"])
    shown = {preview["frame"] for preview in json.loads(job["previews"])}

    def unfinished(number: int) -> FrameReport:
        # A conversion has no frames.
        if isinstance(plan, Conversion) or job["status"] in TERMINAL:
            return FrameReport(number=number, state="missing")
        batches = [begun[name] for one in plan.batches_of_frame(number) if (name := f"b{one}") in begun]
        return report_of_unfinished(number, batches, is_shown=number in shown)

    reports = [
        report_from_record(number, records[number], url) if number in records else unfinished(number)
        for number in numbers
    ]
    next_url = f"{url}?limit={limit}&cursor={numbers.stop}" if numbers.stop < total else None
    return Response(FramePage(data=reports, next=next_url).model_dump_json(), media_type="application/json")


@router.get(
    "/{job_id}/frames/{number}/picture",
    response_class=Response,
    responses=responses(
        "invalid_request", "not_found", "unauthorized", "forbidden", "queue_unavailable", "storage_unavailable"
    )
    | {200: {"content": {"image/png": {}}, "description": "The spectrogram."}}
    | UNMODIFIED,
    summary="See a frame",
)
def read_picture(
    request: Request, job: JobFields, farm: Reading, number: Annotated[int, Path(ge=0, le=10**9)]
) -> Response:
    """A finished frame's spectrogram, as it was stored."""
    plan = plan_of(job)
    if isinstance(plan, Conversion) or number >= plan.frames_total:
        raise NotFoundError(f"This job has {plan.frames_total} frames, counted from 0.")
    name = frame_hash(plan.frame(number))
    etag = f'"{name}"'
    try:
        if has_it(request, etag) and farm.object_store.exists(frame_key(name)):
            return not_modified(etag)
        picture = farm.object_store.get(frame_key(name))
    except ObjectNotFoundError:
        raise NotFoundError(f"Frame {number} is not rendered yet.") from None
    # Its name is the hash of all that determines it: it never changes.
    headers = {"ETag": etag, "Cache-Control": "private, max-age=31536000, immutable"}
    return Response(picture, headers=headers, media_type="image/png")
