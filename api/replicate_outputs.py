"""What a prediction makes, passed on by the gateway: its output files with ranges, and its stream of events.

The links need no key, as each carries a signature: some clients send their key to them and some do not, none follows a
redirect, and S3 refuses its own signed links when a key comes with them. Leaves out predictions (`api.replicate`).
"""

from __future__ import annotations

import hmac
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.exceptions import HTTPException

from api.access import WholeFarm
from api.event_reader import EventReader, Follower
from api.intake import Jobs
from api.problems import responses
from shared.contracts import TERMINAL, Job
from shared.errors import NotFoundError, RiffarmError
from shared.job_view import output_signature
from shared.object_store import content_disposition
from shared.outputs import output_object, place_of
from shared.predictions import STREAM, PredictionView, log_lines

router = APIRouter(prefix="/v1", tags=["replicate"])
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_PLACE: Final = re.compile(r"(\d{1,9})\.(\d{1,9})")
_UNBUFFERED: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_RESPONSES: Final = responses("url_expired", "not_found", "queue_unavailable")

Expires = Annotated[int, Query(ge=0, lt=2**53)]
Signature = Annotated[str, Query(max_length=64)]


def _check(farm: Jobs, job_id: str, name: str, expires: int, signature: str) -> None:
    wanted = output_signature(farm.settings.secret.get_secret_value(), job_id, name, expires)
    if not hmac.compare_digest(signature.encode(), wanted.encode()) or expires < time.time():
        raise HTTPException(403, "This link is expired or was changed. Get the prediction again for a fresh one.")


@router.head("/predictions/{prediction_id}/outputs/{name}", include_in_schema=False)
@router.get(
    "/predictions/{prediction_id}/outputs/{name}",
    response_class=StreamingResponse,
    responses=_RESPONSES
    | responses("storage_unavailable")
    | {206: {"description": "The range that was asked for."}, 416: {"description": "There is no such range."}},
    summary="Download a prediction's output",
)
def read_output(
    prediction_id: str,
    name: str,
    farm: WholeFarm,
    expires: Expires,
    signature: Signature,
    range_: Annotated[str, Header(alias="range")] = "",
    if_range: Annotated[str, Header()] = "",
) -> Response:
    """A finished file, wherever it is kept. Takes one range; the signed links in a prediction's `output` lead here."""
    _check(farm, prediction_id, name, expires, signature)
    fields = farm.job_store.read(prediction_id)
    found = next((one for one in json.loads(fields.get("outputs", "[]")) if one["name"] == name), None)
    if found is None:
        raise NotFoundError(f"The output {name[:80]} is not there any more.")
    store, key = output_object(farm.object_store, place_of(fields), prediction_id, found)
    if not store.exists(key):
        raise NotFoundError(f"The output {name[:80]} is not there any more.")
    etag, size = f'"{found["sha256"]}"', int(found["bytes"])
    headers = {"Accept-Ranges": "bytes", "ETag": etag, "Content-Disposition": content_disposition(name)}
    part = _range(range_, size) if if_range in ("", etag) else None
    if part is not None and not part:
        raise HTTPException(416, headers={"Content-Range": f"bytes */{size}"})
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    sent = range(size) if part is None else part
    headers["Content-Length"] = str(len(sent))
    pieces = store.pieces(key, sent.start, sent.stop)
    return StreamingResponse(pieces, 200 if part is None else 206, headers, media_type=found["media_type"])


def _range(wanted: str, size: int) -> range | None:
    """The bytes that a Range header asks for, empty when there are none; None when it is no range that we know."""
    match = _RANGE.fullmatch(wanted.strip())
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        return range(max(0, size - int(last)), size)
    return range(int(first), min(int(last) + 1, size) if last else size)


async def _signed_job_id(prediction_id: str, farm: WholeFarm, expires: Expires, signature: Signature) -> str:
    # A dependency: once a stream has begun there is no answering 403 or 404.
    _check(farm, prediction_id, STREAM, expires, signature)
    await run_in_threadpool(farm.job_store.read, prediction_id)
    return prediction_id


@router.get(
    "/files/{prediction_id}/stream",
    response_class=StreamingResponse,
    responses=_RESPONSES | {200: {"content": {"text/event-stream": {}}, "description": "Events, as they come."}},
    summary="Follow a prediction",
)
async def follow_prediction(
    request: Request,
    farm: WholeFarm,
    job_id: Annotated[str, Depends(_signed_job_id)],
    last_event_id: Annotated[str, Header(max_length=64)] = "",
) -> Response:
    """A prediction's events in Replicate's form: `logs` a line at a time, `output` a URL at a time, then `error` with a
    sentence if it failed, and `done`. Goes on after `Last-Event-ID`; `urls.stream` of a prediction leads here."""
    # Below /v1/files: from such an address the JavaScript client takes what it is sent for files.
    return StreamingResponse(
        _told(request.app.state.event_reader, farm, job_id, last_event_id),
        headers=_UNBUFFERED,
        media_type="text/event-stream",
    )


async def _told(reader: EventReader, farm: Jobs, job_id: str, last_event_id: str) -> AsyncIterator[bytes]:
    told = _Told(PredictionView(farm.settings), last_event_id)
    # It is too late for an answer of its own: who comes back for the rest hears what is wrong.
    with suppress(RiffarmError), reader.following(job_id) as follower:
        async for job in _changes(farm, job_id, follower):
            if job is None:
                yield KEEPALIVE_COMMENT
                continue
            for event in told.news(job):
                yield event


async def _changes(farm: Jobs, job_id: str, follower: Follower) -> AsyncIterator[Job | None]:
    """The job after each of its events, until it has ended or is gone; None when there was none for a while."""
    last_id = "0"
    while True:
        job = farm.view.job(await run_in_threadpool(farm.job_store.read, job_id))
        yield job
        if job.status in TERMINAL:
            return
        news = await follower.news(last_id)
        while not news.events and news.status not in (None, *TERMINAL):
            yield None
            news = await follower.news(last_id)
        if news.status is None:
            return
        last_id = news.events[-1].id if news.events else last_id


class _Told:
    """What a stream has told of its prediction: the id of an event says how many lines and outputs there were by it."""

    def __init__(self, view: PredictionView, last_event_id: str) -> None:
        match = _PLACE.fullmatch(last_event_id)
        self._lines, self._outputs = map(int, match.groups()) if match else (0, 0)
        self._view = view

    def news(self, job: Job) -> list[bytes]:
        """The events that tell what has been added."""
        events = []
        for line in log_lines(job)[self._lines :]:
            self._lines += 1
            events.append(self._event("logs", line))
        if job.status not in TERMINAL:
            return events
        for url in self._view.output_urls(job)[self._outputs :]:
            self._outputs += 1
            events.append(self._event("output", url))
        if job.error:
            events.append(self._event("error", job.error.message))
        reason = {"failed": {"reason": "error"}, "canceled": {"reason": "canceled"}}.get(job.status, {})
        return [*events, self._event("done", json.dumps(reason))]

    def _event(self, kind: str, data: Any) -> bytes:
        return format_sse_event(id=f"{self._lines}.{self._outputs}", event=kind, data_str=data)
