"""The Python client and the command line following a job: over a stream, a broken one, and none at all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx
import pytest

from api.client import Client, FarmError
from shared.contracts import Job
from shared.job_events import Event
from shared.job_store import JobStore
from shared.settings import Settings
from tests.conftest import free_port
from tests.integration.gateway_probes import CLIP, PREVIEW, RENDERED, TRACK, served, submitted, taken


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    """A gateway that listens: only a real one streams."""
    with served(settings) as address:
        yield address


@contextmanager
def gateway_between(url: str, streams: Callable[[BaseHTTPRequestHandler, httpx.Response], None]) -> Iterator[str]:
    """A gateway that passes everything on, but leaves event streams to `streams`: its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name: value for name, value in self.headers.items() if name.lower() == "last-event-id"}
            with httpx.stream("GET", url + self.path, headers=headers) as answer:
                if self.path.endswith("/events"):
                    streams(self, answer)
                    return
                body = answer.read()
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 — the library's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def steps_of_a_worker(job_store: JobStore, job_id: str) -> Iterator[Any]:
    """What happens to a job, one step each time it is asked for."""
    attempt = taken(job_store, job_id)
    yield
    yield job_store.add_event(job_id, "preview", PREVIEW)
    yield job_store.record_frames(attempt, {0: RENDERED})
    yield job_store.record_frames(attempt, {1: RENDERED | {"s": 0.75}})
    yield job_store.finish(job_id, "canceled")


KINDS = ["status", "status", "preview", *["log", "frame", "progress"] * 2, "status", "completed"]


def followed(url: str, job_id: str, job_store: JobStore) -> tuple[list[Job], list[Event]]:
    """All that a client sees of a job that goes on while it looks."""
    steps, seen = steps_of_a_worker(job_store, job_id), []
    events: list[Event] = []
    with Client(url) as client:
        for job in client.follow(job_id, events.append):
            seen.append(job)
            next(steps, None)
    return seen, events


def test_a_followed_job_is_seen_after_each_event(url: str, job_store: JobStore) -> None:
    """Its status, its progress and its end, and every event on the side."""
    job_id = submitted(url, TRACK)
    seen, events = followed(url, job_id, job_store)
    kinds = [event.kind for event in events]
    assert kinds == KINDS
    assert [event.data["seconds"] for event in events if event.kind == "frame"] == [1.25, 0.75]
    assert [job.progress.frames_done for job in seen] == [0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert [job.status for job in seen[:3]] == ["queued", "queued", "running"]
    with Client(url) as client:
        assert seen[-1] == client.job(job_id)
        assert [job.status for job in client.follow(job_id)] == ["canceled"]


def test_a_stream_that_breaks_is_taken_up_where_it_broke(url: str, job_store: JobStore) -> None:
    """However often: every event is seen once, in order."""
    asked_after: list[str | None] = []

    def breaking(handler: BaseHTTPRequestHandler, answer: httpx.Response) -> None:
        asked_after.append(handler.headers.get("Last-Event-ID"))
        handler.send_response(200)
        # More than will come: what is cut off then is no proper end.
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        events = 0
        for line in answer.iter_lines():
            handler.wfile.write(f"{line}\n".encode())
            events += not line
            if events == 2:
                return

    job_id = submitted(url, TRACK)
    with gateway_between(url, breaking) as address:
        seen, events = followed(address, job_id, job_store)
    kinds = [event.kind for event in events]
    assert kinds == KINDS
    assert seen[-1].status == "canceled"
    assert asked_after == [None, *(event.id for event in events[1:-1:2])]


def test_a_gateway_without_streams_is_asked_again_and_again(url: str, job_store: JobStore) -> None:
    """The job is seen to its end all the same."""

    def missing(handler: BaseHTTPRequestHandler, answer: httpx.Response) -> None:
        body = json.dumps({"code": "not_found", "detail": "There is no such thing here."}).encode()
        handler.send_response(404)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    job_id = submitted(url, CLIP)
    with gateway_between(url, missing) as address:
        seen, events = followed(address, job_id, job_store)
    assert (seen[-1].status, events) == ("canceled", [])


def test_following_what_is_not_there_is_an_error(url: str) -> None:
    """No such job; no such farm."""
    with Client(url) as client, pytest.raises(FarmError, match="no job"):
        next(client.follow("job_0"))
    with Client(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(FarmError, match="riffarm up"):
        next(client.follow("job_0"))


def test_the_command_line_shows_a_table_of_frames(url: str, job_store: JobStore) -> None:
    """Seconds, memory, worker and attempts of each; as JSON for programs."""
    job_id = submitted(url, TRACK)
    job_store.record_frames(taken(job_store, job_id), {0: RENDERED, 1: {"reused": True}})

    def shown(*options: str) -> str:
        command = [sys.executable, "-m", "api.cli", "show", job_id, "--url", url, *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert json.loads(shown())["id"] == job_id
    lines = shown("--frames").splitlines()
    assert any(all(word in line for word in ("finished", "1.25", "900 MB", "w1")) for line in lines)
    assert sum("waiting" in line for line in lines) == 6
    frames = json.loads(shown("--frames", "--json"))
    assert [frame["state"] for frame in frames] == ["finished"] * 2 + ["waiting"] * 6
