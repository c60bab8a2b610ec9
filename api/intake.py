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
from dataclasses import asdict
from typing import Final

import httpx

from shared.catalogue import ModelEntry, seed_images
from shared.contracts import MAX_DURATION_S, ClipRequest, ConvertRequest, Job, TrackRequest
from shared.dispatch import Dispatcher
from shared.endings import follow_up_end
from shared.errors import FieldError, InvalidRequestError, RiffarmError
from shared.job_store import JobStore, created_ms_from_job_id, new_job_id
from shared.job_view import JobView
from shared.object_store import ObjectStore, job_manifest_key
from shared.plan import Conversion, Plan, RenderRequest, ResolvedRequest, Sources, frame_length, resolve
from shared.settings import Settings
from shared.spectrogram_params import FRAME_COLUMNS, SpectrogramParams
from shared.uploads import AudioUpload, ImageUpload, upload_from_id

_PAGE: Final = 200
_GRID: Final = SpectrogramParams()
_MIN_LOOP_S: Final = 1.0
_WIDEST: Final = 2
"""How many times longer or shorter than usual a tempo may make a frame: models are trained on one length."""
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
        errors = [*self._wrong_fields(request)]
        pictures = {field: self._picture_sha256(field, request, errors) for field in ("seed_image", "mask_image")}
        if errors:
            raise InvalidRequestError(*errors)
        seed_image = seed_images().get(request.seed_image or "")
        sources = Sources(
            self.models[request.model].revision,
            pictures["seed_image"],
            pictures["mask_image"],
            seed_image.beats if seed_image else None,
        )
        plan = Plan(resolve(request, lambda: secrets.randbelow(2**32)), sources)
        if errors := [*_wrong_lengths(plan)]:
            raise InvalidRequestError(*errors)
        return plan

    def _wrong_fields(self, request: RenderRequest) -> Iterator[FieldError]:
        if request.model not in self.models:
            yield FieldError("model", "unknown model", request.model, [*self.models])
        if request.mask_image and not request.seed_image:
            yield FieldError("mask_image", "a mask needs a seed image to keep", request.mask_image, "with seed_image")
        if isinstance(request, ClipRequest) and request.variations * request.duration_s > MAX_DURATION_S:
            total_s = request.variations * request.duration_s
            yield FieldError("variations", "too much sound in one job", total_s, f"<= {MAX_DURATION_S} s in all")

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

    def _picture_sha256(self, field: str, request: RenderRequest, errors: list[FieldError]) -> str | None:
        """The hash of the picture named in a field; what is wrong with it is added to `errors`."""
        picture_id: str | None = getattr(request, field)
        if picture_id is None:
            return None
        if picture_id in seed_images():
            return seed_images()[picture_id].sha256
        upload = upload_from_id(self.object_store, picture_id)
        if isinstance(upload, ImageUpload):
            return upload.sha256
        message = "this upload is a sound, not a picture" if isinstance(upload, AudioUpload) else "unknown picture"
        errors.append(FieldError(field, message, picture_id, [*seed_images(), "a picture's upload id"]))
        return None

    def submit(self, request: ResolvedRequest) -> str:
        """Record a job in storage, then in Redis, queue its first work; its id. All or nothing."""
        plan = self.plan(request)
        job_id = new_job_id()
        fields = _fields_of(plan, created_ms_from_job_id(job_id))
        self.job_store.check()
        self.object_store.put(job_manifest_key(job_id), json.dumps({"id": job_id, **fields}).encode())
        try:
            self.job_store.create(job_id, fields)
            for sentence in plan.warnings:
                self.job_store.warn(job_id, sentence)
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


def _wrong_lengths(plan: Plan) -> Iterator[FieldError]:
    """What does not fit: a tempo into a frame, keyframes into the track, a loop into columns."""
    request, duration_s = plan.request, plan.request.duration_s
    if request.tempo_bpm is not None:
        at_1_bpm = frame_length(1.0, plan.sources.seed_image_beats, plan.params)
        if not FRAME_COLUMNS / _WIDEST <= plan.frame_length <= FRAME_COLUMNS * _WIDEST:
            slowest, fastest = (at_1_bpm / FRAME_COLUMNS / _WIDEST, at_1_bpm / FRAME_COLUMNS * _WIDEST)
            message = f"the {plan.sources.seed_image_beats} beats of {request.seed_image} do not fit a frame"
            allowed = f"{float(slowest):g}..{float(fastest):g}"
            yield FieldError("tempo_bpm", message, request.tempo_bpm, allowed)
    if not isinstance(request, TrackRequest):
        return
    count = len(request.keyframes)
    if count > plan.frames_total:
        needed_s = float((count - 1) * plan.frame_length) / plan.params.columns_per_s
        message = f"{count} keyframes need as many frames of {float(plan.frame_length) / plan.params.columns_per_s:g} s"
        yield FieldError("duration_s", message, duration_s, f"> {needed_s:g}")
    if request.loop and plan.part_samples % plan.params.hop_length:
        below = plan.part_samples // plan.params.hop_length / plan.params.columns_per_s
        allowed = f"{below:g} or {below + 1 / plan.params.columns_per_s:g}"
        yield FieldError("duration_s", "a loop is whole columns of 10 ms long", duration_s, allowed)
    if request.loop and duration_s < _MIN_LOOP_S:
        yield FieldError("duration_s", "too short for a loop", duration_s, f">= {_MIN_LOOP_S:g}")


def _fields_of(plan: Plan | Conversion, created_ms: int) -> dict[str, str | int | float]:
    request = plan.request
    return {
        "type": request.type,
        "created_ms": created_ms,
        "input": request.model_dump_json(),
        "sources": json.dumps(asdict(plan.sources)),
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
