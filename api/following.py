"""A job followed to its end, over its stream of events, a broken one, or none at all.

Leaves out asking the farm anything else (`api.client`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol, cast

from api.transport import FarmError, Transport
from shared.contracts import TERMINAL, Job, Progress
from shared.job_events import Event, EventKind

_POLL_S: Final = 0.3
_SILENCE_S: Final = 45.0
"""A stream that says nothing for so long is broken: a gateway that has nothing to say says so more often."""
_TRIES: Final = 6
"""How often in a row a stream may break, with growing pauses of about 20 s in all, before the farm is given up."""
_PASSING: Final = ("unreachable", "queue_unavailable", "storage_unavailable", "internal_error", "rate_limited")


class ReadJob(Protocol):
    """Reads a job as it is now."""

    def __call__(self, job_id: str) -> Job:
        """The job. Raises FarmError."""


def followed(transport: Transport, read: ReadJob, job_id: str, on_event: Callable[[Event], None]) -> Iterator[Job]:
    """The job as it is, and again after each of its events until it has ended; `on_event` is told of them first.

    A stream that breaks is taken up where it broke. A gateway without streams is asked again and again.
    """
    job = read(job_id)
    yield job
    last_id, tries = "", 0
    # Told of the end by its status alone, the job is not whole yet.
    while job.finished_at is None:
        try:
            for event in _events(transport, job_id, last_id):
                last_id, tries = event.id or last_id, 0
                on_event(event)
                job = _job_after(job, event)
                yield job
        except FarmError as error:
            if error.code == "not_found":
                yield from _polled(read, job_id)
                return
            if error.code not in _PASSING or tries == _TRIES:
                raise
        if job.finished_at is None:
            time.sleep(_POLL_S * 2**tries)
        tries = min(tries + 1, _TRIES)


def _polled(read: ReadJob, job_id: str) -> Iterator[Job]:
    while True:
        job = read(job_id)
        yield job
        if job.status in TERMINAL:
            return
        time.sleep(_POLL_S)


def _events(transport: Transport, job_id: str, last_id: str) -> Iterator[Event]:
    """A job's events after the one with this id, until the stream ends."""
    headers = {"Last-Event-ID": last_id} if last_id else {}
    path = f"/v1/jobs/{job_id}/events"
    with transport.reached(), transport.http.stream("GET", path, headers=headers, timeout=_SILENCE_S) as answer:
        if not answer.is_success:
            answer.read()
        yield from events_from_lines(transport.checked(answer).iter_lines())


def _job_after(job: Job, event: Event) -> Job:
    match event.kind:
        case "completed":
            return Job.model_validate(event.data, strict=False)
        case "status":
            return job.model_copy(update=event.data)
        case "progress":
            return job.model_copy(update={"progress": Progress.model_validate(event.data, strict=False)})
        case _:
            return job


def events_from_lines(lines: Iterable[str]) -> Iterator[Event]:
    """Server-Sent Events whose data is JSON on one line, as a gateway sends them; comments are left out."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif not line:
            if "event" in fields and "data" in fields:
                yield Event(fields.get("id", ""), cast("EventKind", fields["event"]), json.loads(fields["data"]))
            fields = {}
