"""The Python client: what a program, or the command line, needs to use a farm.

Synchronous. Owns every call of the contract as a method. Leaves out trying again and errors (`api.transport`),
following (`api.following`), downloading (`api.downloads`), and showing anything to anybody.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from api.answers import BatchAnswer, Delivery, WebhookSecretAnswer
from api.downloads import download
from api.farm_answers import FarmReport, WorkerList, WorkerReport
from api.following import followed
from api.frames import FrameReport
from api.transport import PATIENCE_S, FarmError, Transport
from shared.contracts import Job, Output, PlanSummary
from shared.job_events import Event

__all__ = ["DEFAULT_URL", "Client", "FarmError"]
DEFAULT_URL: Final = "http://127.0.0.1:8000"


class Client:
    """A connection to one farm, for any number of threads at once: they share its pool of connections and nothing else.

    Every method raises FarmError with a sentence that says what to do; its `code` is the problem's, or `unreachable`.
    What passes is waited for first, up to `patience_s` in all: a lost connection (not one that never was), a request
    of the same key in flight, a limit, a full farm, storage or queue that do not answer, for as long as the farm says.
    Every POST carries an Idempotency-Key of its own at all its tries, so that it is done once.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        timeout_s: float = 75.0,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """timeout_s: how long one try may be silent. patience_s: for how long to try again; 0 is one try."""
        if api_key and not api_key.isascii():
            raise FarmError("the API key has characters that no key has; check RIFFARM_API_KEY", "unauthorized")
        try:
            self._transport = Transport(url, api_key, timeout_s, patience_s)
        except httpx.InvalidURL as error:
            raise FarmError(f"{url!r} is no address of a farm ({error}); one looks like {DEFAULT_URL}") from error
        self._patience_s = patience_s
        self.url = self._transport.url

    @classmethod
    def from_environment(cls, url: str | None = None) -> Client:
        """A client for `url`, else RIFFARM_URL, else this machine's port 8000; key from RIFFARM_API_KEY."""
        return cls(url or os.environ.get("RIFFARM_URL") or DEFAULT_URL, os.environ.get("RIFFARM_API_KEY"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all connections; `with` does it by itself."""
        self._transport.http.close()

    def is_farm(self) -> bool:
        """Whether a riffarm gateway answers at the URL. Never raises."""
        try:
            answer = self._transport.http.get("/health", timeout=2.0)
            return answer.is_success and answer.json().get("service") == "riffarm"
        except (httpx.HTTPError, ValueError):
            return False

    # Jobs

    def submit(self, request: Mapping[str, Any], wait_s: int = 0, idempotency_key: str | None = None) -> Job:
        """Submit a job; with `wait_s` (1..60) answer early when it ends by then.

        idempotency_key: one of your own (1..255 printable ASCII) makes the same call in another process, within 24
        hours, answer the job that the first one made.
        Codes beside those of every call: invalid_request, idempotency_mismatch, quota_exceeded, farm_full.
        """
        headers = {"Prefer": f"wait={wait_s}"} if wait_s else {}
        answer = self._transport.call(
            "POST", "/v1/jobs", json=dict(request), headers=headers, idempotency_key=idempotency_key
        )
        return _job(answer)

    def submit_batch(self, requests: Iterable[Mapping[str, Any]], idempotency_key: str | None = None) -> BatchAnswer:
        """Submit up to 1,000 requests at once; what became of each, in order: a job, or the problem with it.

        idempotency_key: as of submit. Codes beside those of every call: invalid_request, body_too_large,
        idempotency_mismatch. A request that is refused alone is no error: see the answer's `data`.
        """
        lines = "\n".join(json.dumps(dict(request), ensure_ascii=False) for request in requests)
        answer = self._transport.call(
            "POST",
            "/v1/jobs/batch",
            content=lines.encode(),
            headers={"Content-Type": "application/x-ndjson"},
            idempotency_key=idempotency_key,
        )
        return BatchAnswer.model_validate_json(answer.content)

    def plan(self, request: Mapping[str, Any]) -> PlanSummary:
        """What a request would render; nothing is queued. Codes: as of submit."""
        return PlanSummary.model_validate_json(self._call("POST", "/v1/jobs/plan", json=dict(request)).content)

    def job(self, job_id: str) -> Job:
        """A job as it is now. Codes: not_found."""
        return _job(self._call("GET", f"/v1/jobs/{_part(job_id)}"))

    def jobs(self, **filters: str | int) -> Iterator[Job]:
        """Jobs, newest first, page by page: `status`, `type`, `batch_id`, `created_after`, `created_before`, `limit` a
        page, and `**{"label.name": "value"}`. Codes: invalid_request."""
        for one in self._pages("/v1/jobs", filters):
            yield Job.model_validate(one, strict=False)

    def frames(self, job_id: str) -> Iterator[FrameReport]:
        """A job's frames in order, page by page. Codes: not_found."""
        for one in self._pages(f"/v1/jobs/{_part(job_id)}/frames", {"limit": 200}):
            yield FrameReport.model_validate(one)

    def follow(self, job_id: str, on_event: Callable[[Event], None] = lambda event: None) -> Iterator[Job]:
        """The job as it is, and again after each of its events until it has ended; `on_event` is told of them first.

        A stream that breaks is taken up where it broke. Codes: not_found.
        """
        return followed(self._transport, self.job, job_id, on_event)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job. As all that can be done to one, safe to do twice; where it does not apply nothing changes.
        Codes: not_found."""
        return self._done(job_id, "cancel")

    def pause(self, job_id: str) -> Job:
        """Begin nothing more of a job. Codes: not_found."""
        return self._done(job_id, "pause")

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on. Codes: not_found."""
        return self._done(job_id, "resume")

    def retry(self, job_id: str) -> Job:
        """Have what is missing of a failed or canceled job rendered. Codes: not_found, quota_exceeded, farm_full."""
        return self._done(job_id, "retry")

    def delete(self, job_id: str) -> None:
        """Cancel a job if it lives, and remove it with its outputs. Codes: not_found."""
        self._call("DELETE", f"/v1/jobs/{_part(job_id)}")

    # Webhooks

    def deliveries(self, job_id: str) -> Iterator[Delivery]:
        """What was posted to a job's webhook, newest first, with how its receiver answered. Codes: not_found."""
        for one in self._pages(f"/v1/jobs/{_part(job_id)}/deliveries", {"limit": 200}):
            yield Delivery.model_validate(one)

    def replay(self, job_id: str, delivery_id: str) -> Delivery:
        """Send a delivery again, under the same webhook-id. Codes: not_found."""
        path = f"/v1/jobs/{_part(job_id)}/deliveries/{_part(delivery_id)}/replay"
        return Delivery.model_validate_json(self._call("POST", path).content)

    def webhook_secret(self) -> WebhookSecretAnswer:
        """The secret that signs your webhooks. Codes: forbidden (it needs the scope `admin`)."""
        return WebhookSecretAnswer.model_validate_json(self._call("GET", "/v1/webhooks/secret").content)

    def rotate_webhook_secret(self) -> WebhookSecretAnswer:
        """A new secret; for 24 hours webhooks carry two signatures, the new one first. Codes: forbidden."""
        return WebhookSecretAnswer.model_validate_json(self._call("POST", "/v1/webhooks/secret/rotate").content)

    # Files

    def upload(self, file: Path) -> str:
        """Upload a picture or audio; the id that a request's seed_image, mask_image or source takes.

        Codes: body_too_large, unsupported_media_type, invalid_request (damaged), quota_exceeded; unreadable for a file
        that is not there or may not be read.
        """
        try:
            content = file.open("rb")
        except OSError as error:
            raise FarmError(f"{file} cannot be read: {error.strerror}", "unreadable") from error
        with content:
            answer = self._call("POST", "/v1/uploads", files={"content": (file.name, content)})
        return str(answer.json()["id"])

    def download(self, output: Output, path: Path) -> None:
        """Download an output and check it by its SHA-256; `path` appears whole or not at all.

        What came before a lost connection stays beside it under a hidden name, and a later call asks for the rest
        alone. Codes: url_expired (read the job again), unreachable.
        """
        trusts_environment = self._transport.trusts_environment
        download(output, path, patience_s=self._patience_s, trusts_environment=trusts_environment)

    # The farm

    def farm(self) -> FarmReport:
        """The farm's queues and workers."""
        return FarmReport.model_validate_json(self._call("GET", "/v1/farm").content)

    def models(self) -> list[str]:
        """Names of the models that a request can ask for."""
        return [one["name"] for one in self._call("GET", "/v1/models").json()["data"]]

    def seed_images(self) -> list[str]:
        """Ids of the built-in seed images."""
        return [one["id"] for one in self._call("GET", "/v1/seed-images").json()["data"]]

    def drain(self, worker: str) -> list[WorkerReport]:
        """Have the workers of this name hand back what they are at and take nothing more; how they are.
        Codes: not_found, forbidden."""
        return self._told_worker(worker, "drain")

    def lift(self, worker: str) -> list[WorkerReport]:
        """Let the benched workers of this name work again; how they are. Codes: not_found, forbidden."""
        return self._told_worker(worker, "lift")

    def _told_worker(self, name: str, action: str) -> list[WorkerReport]:
        answer = self._call("POST", f"/v1/farm/workers/{_part(name)}/{action}")
        return WorkerList.model_validate_json(answer.content).data

    def _done(self, job_id: str, action: str) -> Job:
        return _job(self._call("POST", f"/v1/jobs/{_part(job_id)}/{action}"))

    def _pages(self, path: str, query: Mapping[str, str | int]) -> Iterator[dict[str, Any]]:
        cursor: dict[str, str] = {}
        while True:
            page = self._call("GET", path, params={**query, **cursor}).json()
            yield from page["data"]
            if page["next"] is None:
                return
            cursor = {"cursor": httpx.URL(page["next"]).params["cursor"]}

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self._transport.call(method, path, **options)


def _job(answer: httpx.Response) -> Job:
    return Job.model_validate_json(answer.content)


def _part(text: str) -> str:
    """Text as one part of a path: what a user gives can lead nowhere else."""
    return quote(text, safe="")
