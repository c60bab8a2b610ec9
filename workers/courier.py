"""The courier: a process that posts deliveries to webhooks, hundreds at a time, each for 15 s at most.

`python -m workers.courier`. Several may run, and each may be killed at any time: a delivery that it was at is posted
again once its lease runs out. Owns one attempt, from taking a delivery to noting what came of it. Leaves out which
delivery is next (`shared.deliveries`) and the post itself (`workers.webhooks`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import secrets
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Final, NamedTuple

import structlog

from shared.deliveries import RETRIED, Attempt, Deliveries, Delivery, Outcome, outcome
from shared.errors import NotFoundError, TransientError
from shared.job_store import JobStore
from shared.job_view import JobView
from shared.logs import configure_logs
from shared.object_store import ObjectStore, job_told_key, object_store_from_url
from shared.predictions import PredictionView
from shared.settings import Settings, settings_from_environment
from shared.webhook_secrets import WebhookSecrets
from shared.webhook_urls import WebhookRules
from workers.webhooks import (
    TIMEOUT_S,
    Poster,
    WebhookFailedError,
    prediction_body,
    webhook_body,
    webhook_headers,
)

log = structlog.get_logger()
AT_ONCE: Final = 1_000
"""Posts under way at a time; one is a socket and a few kilobytes."""
_LEASE_S: Final = TIMEOUT_S + 15.0
_LOOK_EVERY_S: Final = 0.1
_PAUSE_S: Final = 1.0
_GRACE_S: Final = 5.0
_STORE_THREADS: Final = 16


class _Letter(NamedTuple):
    """A delivery that is ready to be posted."""

    delivery: Delivery
    runs: int
    headers: dict[str, str]
    body: bytes


class Courier:
    """Takes deliveries that are due and sees each through."""

    def __init__(
        self, settings: Settings, job_store: JobStore, object_store: ObjectStore, at_once: int = AT_ONCE
    ) -> None:
        self._name = f"{socket.gethostname()}/{secrets.token_hex(4)}"
        self._jobs = job_store
        self._objects = object_store
        self._deliveries = Deliveries(job_store.redis)
        self._secrets = WebhookSecrets(settings, job_store.redis, object_store)
        self._view = JobView(settings, object_store)
        self._predictions = PredictionView(settings)
        self._poster = Poster(WebhookRules.from_settings(settings), at_once)
        self._at_once = at_once
        self._under_way: set[asyncio.Task[None]] = set()
        # Apart from what talks to Redis: a storage that hangs holds up no delivery.
        self._markers = ThreadPoolExecutor(_STORE_THREADS, thread_name_prefix="marker")

    async def run(self, is_stopping: asyncio.Event) -> None:
        """Post what is due until told to stop; then give what is under way a few seconds, and back what is left."""
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_STORE_THREADS))
        while not is_stopping.is_set():
            pause_s = _LOOK_EVERY_S
            try:
                if await self._take():
                    continue
            except TransientError as error:
                log.warning("no deliveries taken", error=error.message)
                pause_s = _PAUSE_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(is_stopping.wait(), pause_s)
        if self._under_way:
            _, left = await asyncio.wait(self._under_way, timeout=_GRACE_S)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _take(self) -> int:
        """Begin what is due and what there is room for; how many."""
        room = self._at_once - len(self._under_way)
        taken = await asyncio.to_thread(self._deliveries.take, self._name, room, _LEASE_S)
        for delivery_id, token in taken:
            task = asyncio.create_task(self._see_through(delivery_id, token))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        return len(taken)

    async def _see_through(self, delivery_id: str, token: str) -> None:
        try:
            letter = await asyncio.to_thread(self._letter, delivery_id)
            if letter is None:
                await asyncio.to_thread(self._deliveries.drop, delivery_id, token)
                return
            await self._post(letter, token)
        except asyncio.CancelledError:
            await asyncio.to_thread(self._deliveries.give_back, delivery_id, token)
            raise
        except TransientError as error:
            # Its lease runs out, and it is posted again.
            log.warning("delivery not seen through", delivery=delivery_id, error=error.message)
        except Exception:
            # One that makes trouble holds up no other.
            log.exception("delivery failed", delivery=delivery_id)

    def _letter(self, delivery_id: str) -> _Letter | None:
        """What is to be posted, made from what is known now; None when the job is gone."""
        delivery = self._deliveries.read(delivery_id)
        if delivery is None:
            return None
        try:
            fields = delivery.job_fields(delivery.fields or self._jobs.read(delivery.job_id))
        except NotFoundError:
            return None
        now = datetime.now(UTC)
        at = now if delivery.event == "job.progress" else datetime.fromtimestamp(delivery.at_ms / 1_000, UTC)
        job = self._view.job(fields)
        is_prediction = job.input.webhook is not None and job.input.webhook.form == "prediction"
        body = (
            prediction_body(self._predictions.prediction(job))
            if is_prediction
            else webhook_body(delivery.event, job, at)
        )
        secrets = self._secrets.of(delivery.tenant).signing(now.timestamp())
        headers = webhook_headers(delivery.id, body, secrets, now, fields.get("request_id", ""))
        return _Letter(delivery, int(fields["runs"]), headers, body)

    async def _post(self, letter: _Letter, token: str) -> None:
        delivery, started_s = letter.delivery, time.monotonic()
        at_ms, status, error, retry_after_s = round(1_000 * time.time()), None, None, None
        try:
            status, retry_after_s = await self._poster.post(delivery.url, letter.headers, letter.body)
        except WebhookFailedError as failure:
            error = failure.message
        attempt = Attempt(at_ms, round(1_000 * (time.monotonic() - started_s)), status, error)
        result = outcome(delivery.event, delivery.tries, status, retry_after_s)
        if not await asyncio.to_thread(self._deliveries.note, delivery.id, token, attempt, result):
            return
        _log(letter, attempt, result)
        if delivery.event in RETRIED and result.state != "pending" and not delivery.fields:
            self._markers.submit(self._mark_told, delivery.job_id, letter.runs)

    def _mark_told(self, job_id: str, runs: int) -> None:
        """Note in storage that the job's end needs no more telling, also when Redis is lost."""
        try:
            self._objects.put(job_told_key(job_id, runs), b"{}", "application/json")
        except TransientError as error:
            log.warning("not noted as told; a loss of Redis would tell it again", error=error.message)


def _log(letter: _Letter, attempt: Attempt, result: Outcome) -> None:
    delivery = letter.delivery
    known = {"delivery": delivery.id, "job": delivery.job_id, "request": letter.headers.get("x-request-id", "")}
    said = {"event_type": delivery.event, "status": attempt.status, "error": attempt.error, "ms": attempt.ms}
    if result.state == "delivered":
        log.info("delivered", **known, **said)
    else:
        log.warning("not delivered", **known, **said, state=result.state, wait_s=round(result.wait_s))


async def _run(settings: Settings) -> None:
    is_stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, is_stopping.set)
    jobs = JobStore(settings.redis_url)
    objects = object_store_from_url(settings.storage_url, settings.s3_endpoint_url, settings.s3_public_endpoint_url)
    await Courier(settings, jobs, objects).run(is_stopping)
    # A thread may still ask for a name, for longer than anybody should wait for it.
    os._exit(0)


def main() -> None:
    """Post deliveries until SIGTERM or SIGINT."""
    settings = settings_from_environment()
    configure_logs(settings.log_format, "courier")
    # Each post is a socket, and 1,024 is a common limit.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(_run(settings))


if __name__ == "__main__":
    main()
