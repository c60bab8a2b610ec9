"""Takes requests in: checks what a schema cannot, records the job in storage and then in Redis, queues its first work.

Reads, cancels and lists jobs too. Leaves out HTTP (`api.jobs`), the plan itself (`shared.plan`) and all rendering.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import ipaddress
import json
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Final

import httpx

from shared.catalogue import UPLOAD_PREFIX, ModelEntry, seed_images
from shared.contracts import MAX_DURATION_S, ClipRequest, Job, TrackRequest
from shared.dispatch import Dispatcher
from shared.endings import follow_up_end
from shared.errors import FieldError, InvalidRequestError, RiffarmError
from shared.job_store import JobStore, created_ms_from_job_id, new_job_id
from shared.job_view import JobView
from shared.object_store import ObjectStore, job_manifest_key, upload_key
from shared.plan import Plan, ResolvedRequest, Sources, resolve
from shared.settings import Settings

_PAGE: Final = 200
Filter = Callable[[dict[str, str]], bool]
"""Whether a job with these fields is wanted."""


class Jobs:
    """What the routes need of the farm."""

    def __init__(
        self,
        settings: Settings,
        job_store: JobStore,
        object_store: ObjectStore,
        dispatcher: Dispatcher,
        models: dict[str, ModelEntry],
    ) -> None:
        self.settings = settings
        self.job_store = job_store
        self.object_store = object_store
        self.dispatcher = dispatcher
        self.models = models
        self.view = JobView(settings, object_store)

    def plan(self, request: ResolvedRequest) -> Plan:
        """The plan of a request, checked against what this farm has. Raises InvalidRequestError."""
        errors = [*self._wrong_fields(request)]
        pictures = {}
        for field in ("seed_image", "mask_image"):
            picture_id = getattr(request, field)
            pictures[field] = self._picture_sha256(picture_id) if picture_id else None
            if picture_id and pictures[field] is None:
                errors.append(FieldError(field, "unknown picture", picture_id, [*seed_images(), "an upload's id"]))
        if errors:
            raise InvalidRequestError(*errors)
        sources = Sources(self.models[request.model].revision, pictures["seed_image"], pictures["mask_image"])
        plan = Plan(resolve(request, lambda: secrets.randbelow(2**32)), sources)
        if isinstance(request, TrackRequest) and len(request.keyframes) > plan.frames_total:
            needed_s = (len(request.keyframes) - 1) * plan.params.frame_s
            message = f"{len(request.keyframes)} keyframes need as many frames of {plan.params.frame_s:g} s"
            raise InvalidRequestError(FieldError("duration_s", message, request.duration_s, f"> {needed_s:g}"))
        return plan

    def _wrong_fields(self, request: ResolvedRequest) -> Iterator[FieldError]:
        if request.model not in self.models:
            yield FieldError("model", "unknown model", request.model, [*self.models])
        if request.mask_image and not request.seed_image:
            yield FieldError("mask_image", "a mask needs a seed image to keep", request.mask_image, "with seed_image")
        if len(set(request.formats)) < len(request.formats):
            yield FieldError("formats", "each format once", ", ".join(request.formats), "no repeats")
        if isinstance(request, ClipRequest) and request.variations * request.duration_s > MAX_DURATION_S:
            total_s = request.variations * request.duration_s
            yield FieldError("variations", "too much sound in one job", total_s, f"<= {MAX_DURATION_S} s in all")
        if request.webhook:
            yield from self._wrong_webhook(request.webhook.url)

    def _wrong_webhook(self, address: str) -> Iterator[FieldError]:
        if self.settings.webhook_secret is None:
            yield FieldError("webhook", "this farm has no webhook secret", None, "set RIFFARM_WEBHOOK_SECRET")
        try:
            url = httpx.URL(address)
            is_good = self._may_be_called(url)
        except (httpx.InvalidURL, ValueError):
            is_good = False
        if not is_good:
            yield FieldError("webhook.url", "must be a public https URL without a password", address, "https://…")

    def _may_be_called(self, url: httpx.URL) -> bool:
        if not url.host or url.userinfo or not 0 < (url.port or 443) < 65_536:
            return False
        if url.host in ("localhost", "127.0.0.1", "::1"):
            return self.settings.webhook_allow_loopback and url.scheme in ("http", "https")
        return url.scheme == "https" and not _is_internal(url.host)

    def _picture_sha256(self, picture_id: str) -> str | None:
        if not picture_id.startswith(UPLOAD_PREFIX):
            entry = seed_images().get(picture_id)
            return entry.sha256 if entry else None
        sha256 = picture_id.removeprefix(UPLOAD_PREFIX)
        is_hash = re.fullmatch("[0-9a-f]{64}", sha256)
        return sha256 if is_hash and self.object_store.exists(upload_key(sha256)) else None

    def submit(self, request: ResolvedRequest) -> str:
        """Record a job in storage, then in Redis, queue its first work; its id. All or nothing."""
        plan = self.plan(request)
        job_id = new_job_id()
        fields = _fields_of(plan, created_ms_from_job_id(job_id))
        self.job_store.check()
        self.object_store.put(job_manifest_key(job_id), json.dumps({"id": job_id, **fields}).encode())
        try:
            self.job_store.create(job_id, fields)
            self.dispatcher.move_on(job_id, plan)
        except RiffarmError:
            # The client is told that nothing was recorded, so nothing may stay.
            with contextlib.suppress(RiffarmError):
                self.job_store.discard(job_id)
            with contextlib.suppress(RiffarmError):
                self.object_store.delete(job_manifest_key(job_id))
            raise
        return job_id

    def read(self, job_id: str) -> Job:
        """One job. Raises NotFoundError."""
        return self.view.job(self.job_store.read(job_id))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; one that has ended already stays as it is."""
        self.job_store.finish(job_id, "canceled")
        follow_up_end(job_id, self.job_store, self.object_store, self.dispatcher)
        return self.read(job_id)

    def page(
        self, limit: int, cursor: str | None, is_wanted: Callable[[dict[str, str]], bool]
    ) -> tuple[list[Job], str | None]:
        """Up to `limit` wanted jobs older than the cursor, newest first, and the cursor of the next page."""
        created_ms, job_id = _position(cursor)
        found: list[Job] = []
        while ids := self.job_store.ids_before(created_ms, job_id, _PAGE):
            for fields in self.job_store.read_many(ids):
                created_ms, job_id = float(fields["created_ms"]), fields["id"]
                if is_wanted(fields):
                    found.append(self.view.job(fields))
                if len(found) == limit:
                    return found, _cursor(created_ms, job_id)
        return found, None


def _fields_of(plan: Plan, created_ms: int) -> dict[str, str | int | float]:
    request, sources = plan.request, plan.sources
    named = {
        "model_revision": sources.model_revision,
        "seed_image_sha256": sources.seed_image_sha256,
        "mask_image_sha256": sources.mask_image_sha256,
    }
    return {
        "type": request.type,
        "created_ms": created_ms,
        "input": request.model_dump_json(),
        "sources": json.dumps(named),
        "labels": json.dumps(request.labels),
        "frames_total": plan.frames_total,
        "chunks_total": plan.chunks_total,
        "audio_s": plan.audio_s,
    }


def _is_internal(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".internal", ".local"))


def _cursor(created_ms: float, job_id: str) -> str:
    return base64.urlsafe_b64encode(f"{created_ms:.0f}:{job_id}".encode()).decode().rstrip("=")


def _position(cursor: str | None) -> tuple[float, str]:
    if cursor is None:
        return float("inf"), "~"
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii")
        created_ms, job_id = text.split(":")
        return float(int(created_ms)), job_id
    except (binascii.Error, UnicodeError, ValueError):
        raise InvalidRequestError(FieldError("cursor", "not a cursor of ours", cursor, "'next' of a page")) from None
