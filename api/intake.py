"""Takes requests in: checks what a schema cannot, records the job in storage and then in Redis, queues its first work.

Reads, cancels and lists jobs too. Leaves out HTTP (`api.jobs`), the plan itself (`shared.plan`) and all rendering.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import ipaddress
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Final

import httpx

from api.lengths import wrong_lengths
from shared.catalogue import ModelEntry, seed_images
from shared.contracts import MAX_DURATION_S, TERMINAL, ClipRequest, ConvertRequest, Job, RemixRequest, TrackRequest
from shared.dispatch import Dispatcher, render_queue
from shared.endings import follow_up_end, remove_job
from shared.errors import FieldError, InvalidRequestError, RiffarmError
from shared.job_store import JobStore, created_ms_from_job_id, new_job_id
from shared.job_view import JobView
from shared.object_store import ObjectStore, job_manifest_key, job_paused_key, job_result_key, job_retry_key
from shared.plan import Conversion, Plan, RenderRequest, ResolvedRequest, Sources
from shared.resolving import resolve
from shared.settings import Settings
from shared.spectrogram_params import SpectrogramParams
from shared.uploads import AudioUpload, ImageUpload, upload_from_id

_PAGE: Final = 200
_GRID: Final = SpectrogramParams()
_MIN_REMIX_S: Final = 0.1
_MIN_PIXELS: Final = 64
"""Rows and columns below which a picture shows no spectrogram."""
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

    def plan(self, request: ResolvedRequest) -> Plan | Conversion:
        """The plan of a request, checked against what this farm has. Raises InvalidRequestError."""
        plan = self._conversion(request) if isinstance(request, ConvertRequest) else self._rendering(request)
        if errors := [*self._wrong_common_fields(request)]:
            raise InvalidRequestError(*errors)
        return plan

    def _conversion(self, request: ConvertRequest) -> Conversion:
        upload = upload_from_id(self.object_store, request.source)
        if upload is None:
            raise InvalidRequestError(FieldError("source", "unknown upload", request.source, "an upload's id"))
        low, high = request.f_min_hz or _GRID.f_min_hz, request.f_max_hz or _GRID.f_max_hz
        if low >= high:
            field = "f_min_hz" if request.f_min_hz is not None else "f_max_hz"
            raise InvalidRequestError(FieldError(field, "f_min_hz must lie below f_max_hz", low, f"< {high:g}"))
        return Conversion(request, Sources(model_revision=""), getattr(upload, "duration_s", 0.0))

    def _rendering(self, request: RenderRequest) -> Plan:
        if request.model not in self.models:
            raise InvalidRequestError(FieldError("model", "unknown model", request.model, [*self.models]))
        model = self.models[request.model]
        own = {name: value for name, value in asdict(model.defaults).items() if value is not None}
        sources = replace(self._sources(request), model_revision=model.revision, defaults=own, grid=model.grid)
        plan = Plan(resolve(request, sources, lambda: secrets.randbelow(2**32)), sources)
        if errors := [*wrong_lengths(plan)]:
            raise InvalidRequestError(*errors)
        return plan

    def _sources(self, request: RenderRequest) -> Sources:
        return self._remix_sources(request) if isinstance(request, RemixRequest) else self._picture_sources(request)

    def _remix_sources(self, request: RemixRequest) -> Sources:
        upload = upload_from_id(self.object_store, request.source)
        if not isinstance(upload, AudioUpload):
            message = "this upload is a picture, not a sound" if upload else "unknown upload"
            raise InvalidRequestError(FieldError("source", message, request.source, "an uploaded sound's id"))
        end_s = upload.duration_s if request.end_s is None else request.end_s
        if end_s > upload.duration_s:
            raise InvalidRequestError(
                FieldError("end_s", "lies beyond the source's end", end_s, f"<= {upload.duration_s:g}")
            )
        if end_s - request.start_s < _MIN_REMIX_S:
            field = "start_s" if request.end_s is None else "end_s"
            message = f"the source is {upload.duration_s:g} s long; what is remixed must last {_MIN_REMIX_S:g} s"
            raise InvalidRequestError(FieldError(field, message, getattr(request, field), "end_s after start_s"))
        return Sources("", source_sha256=upload.sha256, source_s=upload.duration_s)

    def _picture_sources(self, request: ClipRequest | TrackRequest) -> Sources:
        errors: list[FieldError] = []
        seed_sha256, mask_sha256 = (
            self._picture_sha256(field, getattr(request, field), errors) for field in ("seed_image", "mask_image")
        )
        if request.mask_image and not request.seed_image:
            errors.append(
                FieldError("mask_image", "a mask needs a seed image to keep", request.mask_image, "with seed_image")
            )
        if isinstance(request, ClipRequest) and request.variations * request.duration_s > MAX_DURATION_S:
            total_s = request.variations * request.duration_s
            errors.append(
                FieldError("variations", "too much sound in one job", total_s, f"<= {MAX_DURATION_S} s in all")
            )
        if not errors and request.mask_image and request.seed_image:
            errors += self._wrong_mask(request.mask_image, request.seed_image)
        if errors:
            raise InvalidRequestError(*errors)
        seed_image = seed_images().get(request.seed_image or "")
        return Sources("", seed_sha256, mask_sha256, seed_image.beats if seed_image else None)

    def _wrong_mask(self, mask_image: str, seed_image: str) -> Iterator[FieldError]:
        mask, seed = (self._size(picture) for picture in (mask_image, seed_image))
        if mask != seed:
            message = f"the mask is {mask[0]}×{mask[1]} and the seed image {seed[0]}×{seed[1]}"
            yield FieldError("mask_image", message, mask_image, "a mask of the seed image's size")
        upload = upload_from_id(self.object_store, mask_image)
        if isinstance(upload, ImageUpload) and upload.brightest == 0:
            yield FieldError(
                "mask_image", "the mask is all black, so everything is kept", mask_image, "white where to repaint"
            )

    def _size(self, picture_id: str) -> tuple[int, int]:
        upload = upload_from_id(self.object_store, picture_id)
        if isinstance(upload, ImageUpload):
            return upload.width, upload.height
        return seed_images()[picture_id].columns, _GRID.mel_bins

    def _wrong_common_fields(self, request: ResolvedRequest) -> Iterator[FieldError]:
        if len(set(request.formats)) < len(request.formats):
            yield FieldError("formats", "each format once", ", ".join(request.formats), "no repeats")
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

    def _picture_sha256(self, field: str, picture_id: str | None, errors: list[FieldError]) -> str | None:
        """The hash of the picture named in a field; what is wrong with it is added to `errors`."""
        if picture_id is None:
            return None
        if picture_id in seed_images():
            return seed_images()[picture_id].sha256
        upload = upload_from_id(self.object_store, picture_id)
        if isinstance(upload, ImageUpload) and min(upload.width, upload.height) < _MIN_PIXELS:
            size = f"{upload.width}×{upload.height}"
            errors.append(FieldError(field, "the picture is too small", size, f">= {_MIN_PIXELS}×{_MIN_PIXELS}"))
            return None
        if isinstance(upload, ImageUpload):
            return upload.sha256
        message = (
            "this upload is a sound: remix it, or convert it to a picture"
            if isinstance(upload, AudioUpload)
            else "unknown picture"
        )
        errors.append(FieldError(field, message, picture_id, [*seed_images(), "a picture's upload id"]))
        return None

    def submit(self, request: ResolvedRequest) -> str:
        """Record a job in storage, then in Redis, queue its first work; its id. All or nothing."""
        plan = self.plan(request)
        job_id = new_job_id()
        fields = fields_of_plan(plan, created_ms_from_job_id(job_id), self.settings.job_window)
        self.job_store.check()
        self.object_store.put(job_manifest_key(job_id), json.dumps({"id": job_id, **fields}).encode())
        try:
            queues = self.job_store.create(job_id, fields)
            for sentence in plan.warnings:
                self.job_store.warn(job_id, sentence)
        except RiffarmError:
            # The client is told that nothing was recorded, so nothing may stay.
            for undo in (self._undo_record, self._undo_manifest):
                with contextlib.suppress(RiffarmError):
                    undo(job_id)
            raise
        self.dispatcher.send_tickets(queues)
        return job_id

    def _undo_record(self, job_id: str) -> None:
        self.job_store.finish(job_id, "canceled")
        self.job_store.forget(job_id)

    def _undo_manifest(self, job_id: str) -> None:
        self.object_store.delete(job_manifest_key(job_id))

    def read(self, job_id: str) -> Job:
        """One job. Raises NotFoundError."""
        return self.view.job(self.job_store.read(job_id))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; one that has ended already stays as it is."""
        self.job_store.finish(job_id, "canceled")
        follow_up_end(job_id, self.job_store, self.object_store, self.dispatcher)
        return self.read(job_id)

    def pause(self, job_id: str) -> Job:
        """Begin nothing more of a job; one that is paused or has ended stays as it is."""
        if self.job_store.status(job_id) in ("queued", "running"):
            # First in storage: a farm that is recovered from there must not render what was to wait.
            self.object_store.put(job_paused_key(job_id), b"{}", "application/json")
            self.job_store.pause(job_id)
        return self.read(job_id)

    def resume(self, job_id: str) -> Job:
        """Let a paused job go on; any other stays as it is."""
        if self.job_store.status(job_id) not in (None, *TERMINAL):
            # Of a running job too: a pause that was cut short may have left it.
            self.object_store.delete(job_paused_key(job_id))
            self.dispatcher.send_tickets(self.job_store.resume(job_id) or ())
        return self.read(job_id)

    def retry(self, job_id: str) -> Job:
        """Let a failed or canceled job go on from what it has; any other stays as it is."""
        fields = self.job_store.read(job_id)
        if fields["status"] in ("failed", "canceled"):
            runs = int(fields["runs"])
            # First in storage, where the result of the run before counts no more then, also when who ended that run
            # writes it only now.
            self.object_store.delete(job_paused_key(job_id))
            self.object_store.put(job_retry_key(job_id, runs + 1), b"{}", "application/json")
            self.object_store.delete(job_result_key(job_id, runs))
            self.dispatcher.send_tickets(self.job_store.retry(job_id, runs) or ())
        return self.read(job_id)

    def delete(self, job_id: str) -> None:
        """Cancel a job if it lives, and remove it with all that is its own; what it shares with others (frames,
        uploads) stays. Safe to call again after a failure; raises NotFoundError once it is gone."""
        self.cancel(job_id)
        while not remove_job(job_id, self.job_store, self.object_store):
            # It was retried meanwhile.
            self.cancel(job_id)

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


def fields_of_plan(plan: Plan | Conversion, created_ms: int, window: int) -> dict[str, str | int | float]:
    """What is recorded of a new job: what it is, how much work it is, and which queue it waits in."""
    request = plan.request
    fields: dict[str, str | int | float] = {
        "type": request.type,
        "created_ms": created_ms,
        "input": request.model_dump_json(),
        "sources": json.dumps(asdict(plan.sources)),
        "labels": json.dumps(request.labels),
        "frames_total": plan.frames_total,
        "batches_total": plan.batches_total,
        "chunks_total": plan.chunks_total,
        "audio_s": plan.audio_s,
        "tenant": "default",
        "priority": request.priority,
        "window": window,
    }
    if request.expires_in_s:
        fields["expires_ms"] = created_ms + 1_000 * request.expires_in_s
    if isinstance(request, ConvertRequest):
        return fields | {"ready:sound": "deliver", "delivering": 1}
    return fields | {"render_queue": render_queue(request.model)}


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
