"""The Python client: what a program, or the command line, needs to use a farm.

Synchronous. Leaves out showing anything to anybody.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast
from urllib.parse import quote

import httpx

from api.farm_report import FarmReport, WorkerList, WorkerReport
from api.frames import FrameReport
from shared.contracts import TERMINAL, Job, Output, PlanSummary, Progress
from shared.errors import RiffarmError
from shared.job_events import Event, EventKind

DEFAULT_URL: Final = "http://127.0.0.1:8000"
_POLL_S: Final = 0.3
_SILENCE_S: Final = 45.0
"""A stream that says nothing for so long is broken: a gateway that has nothing to say says so more often."""
_TRIES: Final = 6
"""How often in a row a stream may break, with growing pauses of about 20 s in all, before the farm is given up."""
_PASSING: Final = ("unreachable", "queue_unavailable", "storage_unavailable", "internal_error")


class FarmError(RiffarmError):
    """The farm refused the request or cannot be reached."""

    def __init__(self, message: str, code: str = "unreachable") -> None:
        super().__init__(message)
        self.code = code


class Client:
    """A connection to one farm. Every method raises FarmError with a sentence that says what to do."""

    def __init__(self, url: str = DEFAULT_URL, api_key: str | None = None, timeout_s: float = 75.0) -> None:
        if api_key and not api_key.isascii():
            raise FarmError("the API key has characters that no key has; check RIFFARM_API_KEY", "unauthorized")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.url = url.rstrip("/")
        # A proxy of the environment cannot reach this machine's own addresses.
        self._trusts_environment = httpx.URL(self.url).host not in ("127.0.0.1", "localhost", "::1")
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=timeout_s, trust_env=self._trusts_environment
        )

    @classmethod
    def from_environment(cls, url: str | None = None) -> Client:
        """A client for `url`, else RIFFARM_URL, else this machine's port 8000; key from RIFFARM_API_KEY."""
        return cls(url or os.environ.get("RIFFARM_URL") or DEFAULT_URL, os.environ.get("RIFFARM_API_KEY"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def is_farm(self) -> bool:
        """Whether a riffarm gateway answers at the URL."""
        try:
            answer = self._http.get("/health", timeout=2.0)
            return answer.is_success and answer.json().get("service") == "riffarm"
        except (httpx.HTTPError, ValueError):
            return False

    def submit(self, request: Mapping[str, Any], wait_s: int = 0) -> Job:
        """Submit a job; with `wait_s` (1..60) answer early when it ends by then."""
        headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
        return _job(self._call("POST", "/v1/jobs", json=dict(request), headers=headers))

    def plan(self, request: Mapping[str, Any]) -> PlanSummary:
        """What a request would render."""
        return PlanSummary.model_validate_json(self._call("POST", "/v1/jobs/plan", json=dict(request)).content)

    def job(self, job_id: str) -> Job:
        """A job as it is now."""
        return _job(self._call("GET", f"/v1/jobs/{job_id}"))

    def jobs(self, **filters: str | int) -> Iterator[Job]:
        """Jobs, newest first, page by page."""
        for one in self._pages("/v1/jobs", filters):
            yield Job.model_validate(one, strict=False)

    def _pages(self, path: str, query: Mapping[str, str | int]) -> Iterator[dict[str, Any]]:
        cursor: dict[str, str] = {}
        while True:
            page = self._call("GET", path, params={**query, **cursor}).json()
            yield from page["data"]
            if page["next"] is None:
                return
            cursor = {"cursor": httpx.URL(page["next"]).params["cursor"]}

    def cancel(self, job_id: str) -> Job:
        """Cancel a job. As all that can be done to one, safe to do twice; where it does not apply nothing changes."""
        return self._done(job_id, "cancel")

    def pause(self, job_id: str) -> Job:
        """Begin nothing more of a job."""
        return self._done(job_id, "pause")

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on."""
        return self._done(job_id, "resume")

    def retry(self, job_id: str) -> Job:
        """Have what is missing of a failed or canceled job rendered."""
        return self._done(job_id, "retry")

    def _done(self, job_id: str, action: str) -> Job:
        return _job(self._call("POST", f"/v1/jobs/{job_id}/{action}"))

    def delete(self, job_id: str) -> None:
        """Cancel a job if it lives, and remove it with its outputs."""
        self._call("DELETE", f"/v1/jobs/{job_id}")

    def farm(self) -> FarmReport:
        """The farm's queues and workers."""
        return FarmReport.model_validate_json(self._call("GET", "/v1/farm").content)

    def drain(self, worker: str) -> list[WorkerReport]:
        """Have the workers of this name hand back what they are at and take nothing more; how they are."""
        return self._told_worker(worker, "drain")

    def lift(self, worker: str) -> list[WorkerReport]:
        """Let the benched workers of this name work again; how they are."""
        return self._told_worker(worker, "lift")

    def _told_worker(self, name: str, action: str) -> list[WorkerReport]:
        answer = self._call("POST", f"/v1/farm/workers/{quote(name, safe='')}/{action}")
        return WorkerList.model_validate_json(answer.content).data

    def frames(self, job_id: str) -> Iterator[FrameReport]:
        """A job's frames in order, page by page."""
        for one in self._pages(f"/v1/jobs/{job_id}/frames", {"limit": 200}):
            yield FrameReport.model_validate(one)

    def follow(self, job_id: str, on_event: Callable[[Event], None] = lambda event: None) -> Iterator[Job]:
        """The job as it is, and again after each of its events until it has ended; `on_event` is told of them first.

        A stream that breaks is taken up where it broke. A gateway without streams is asked again and again.
        """
        job = self.job(job_id)
        yield job
        last_id, tries = "", 0
        # Told of the end by its status alone, the job is not whole yet.
        while job.finished_at is None:
            try:
                for event in self._events(job_id, last_id):
                    last_id, tries = event.id or last_id, 0
                    on_event(event)
                    job = _job_after(job, event)
                    yield job
            except FarmError as error:
                if error.code == "not_found":
                    yield from self._polled(job_id)
                    return
                if error.code not in _PASSING or tries == _TRIES:
                    raise
            if job.finished_at is None:
                time.sleep(_POLL_S * 2**tries)
            tries = min(tries + 1, _TRIES)

    def _polled(self, job_id: str) -> Iterator[Job]:
        while True:
            job = self.job(job_id)
            yield job
            if job.status in TERMINAL:
                return
            time.sleep(_POLL_S)

    def _events(self, job_id: str, last_id: str) -> Iterator[Event]:
        """A job's events after the one with this id, until the stream ends."""
        headers = {"Last-Event-ID": last_id} if last_id else {}
        path = f"/v1/jobs/{job_id}/events"
        with self._reached(), self._http.stream("GET", path, headers=headers, timeout=_SILENCE_S) as answer:
            if not answer.is_success:
                answer.read()
            yield from _events_from_lines(self._checked(answer).iter_lines())

    def upload(self, file: Path) -> str:
        """Upload a picture or audio; the id that a request's seed_image, mask_image or source takes."""
        with file.open("rb") as content:
            answer = self._call("POST", "/v1/uploads", files={"content": (file.name, content)})
        return str(answer.json()["id"])

    def download(self, output: Output, path: Path) -> None:
        """Download an output and check it; `path` appears whole or not at all."""
        partial = path.with_name(f".{path.name}.part")
        digest = hashlib.sha256()
        try:
            # The URL carries its own authority: the key stays with the gateway.
            with (
                httpx.stream("GET", output.url, timeout=60.0, trust_env=self._trusts_environment) as answer,
                partial.open("wb") as file,
            ):
                if not answer.is_success:
                    raise FarmError(f"{output.name} cannot be downloaded: the farm answered {answer.status_code}")
                for part in answer.iter_bytes():
                    digest.update(part)
                    file.write(part)
            if digest.hexdigest() != output.sha256:
                raise FarmError(f"{output.name} was damaged on its way; download it again")
            partial.replace(path)
        except (httpx.HTTPError, OSError) as error:
            raise FarmError(f"{output.name} cannot be downloaded to {path}: {error}") from error
        finally:
            partial.unlink(missing_ok=True)

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        with self._reached():
            return self._checked(self._http.request(method, path, **options))

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise FarmError(f"no farm answers at {self.url} ({error}); start one with: riffarm up") from error

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        """The answer, when it is no problem."""
        if answer.is_success:
            return answer
        try:
            problem = answer.json()
            errors = "".join(f"; allowed: {one['allowed']}" for one in problem.get("errors", [])[:1] if one["allowed"])
            raise FarmError(f"{problem['detail']}{errors}", problem["code"])
        except (ValueError, KeyError, TypeError):
            raise FarmError(f"{self.url} answered {answer.status_code}, which is not a riffarm's answer") from None


def _job(answer: httpx.Response) -> Job:
    return Job.model_validate_json(answer.content)


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


def _events_from_lines(lines: Iterable[str]) -> Iterator[Event]:
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
