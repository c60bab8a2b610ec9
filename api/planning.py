"""A request's plan, and what is wrong with it that a schema cannot see: what does not fit, or is not there.

Leaves out types and ranges (`shared.contracts`), lengths (`api.lengths`) and the plan itself (`shared.plan`).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Final

from api.lengths import wrong_lengths
from shared.catalogue import ModelDefaults, ModelEntry, seed_images
from shared.contracts import (
    MAX_DURATION_S,
    ClipRequest,
    ConvertRequest,
    OutputPlace,
    RemixRequest,
    TrackRequest,
    Webhook,
)
from shared.errors import FieldError, InvalidRequestError
from shared.object_store import bucket_from_url
from shared.plan import Conversion, Plan, RenderRequest, ResolvedRequest, Sources
from shared.resolving import resolve
from shared.settings import Settings
from shared.spectrogram_params import SpectrogramParams
from shared.uploads import AudioUpload, ImageUpload, TenantUploads
from shared.webhook_urls import WebhookRules

_GRID: Final = SpectrogramParams()
_MIN_REMIX_S: Final = 0.1
_DEFAULTS: Final = [field.name for field in fields(ModelDefaults)]
_FEW_KEYFRAMES: Final = 16
_MIN_PIXELS: Final = 64
"""Rows and columns below which a picture shows no spectrogram."""


def is_quick(request: ResolvedRequest) -> bool:
    """Whether a request is planned at once: storage is not asked, and little is to be counted."""
    if not isinstance(request, ClipRequest | TrackRequest):
        return False
    pictures = (request.seed_image, request.mask_image)
    is_short = isinstance(request, ClipRequest) or len(request.keyframes) <= _FEW_KEYFRAMES
    return is_short and all(picture is None or picture in seed_images() for picture in pictures)


class Planner:
    """Plans one tenant's requests against its uploads, and the farm's models and settings."""

    def __init__(self, settings: Settings, uploads: TenantUploads, models: dict[str, ModelEntry]) -> None:
        self.settings = settings
        self.models = models
        self._uploads = uploads

    def plan(self, request: ResolvedRequest) -> Plan | Conversion:
        """The plan of a request, checked against what this farm has. Raises InvalidRequestError."""
        plan = self._conversion(request) if isinstance(request, ConvertRequest) else self._rendering(request)
        if errors := [*self._wrong_common_fields(request)]:
            raise InvalidRequestError(*errors)
        return plan

    def _conversion(self, request: ConvertRequest) -> Conversion:
        upload = self._uploads.get(request.source)
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
        own = {name: value for name in _DEFAULTS if (value := getattr(model.defaults, name)) is not None}
        sources = replace(self._sources(request), model_revision=model.revision, defaults=own, grid=model.grid)
        plan = Plan(resolve(request, sources, lambda: secrets.randbelow(2**32)), sources)
        if errors := [*wrong_lengths(plan)]:
            raise InvalidRequestError(*errors)
        return plan

    def _sources(self, request: RenderRequest) -> Sources:
        return self._remix_sources(request) if isinstance(request, RemixRequest) else self._picture_sources(request)

    def _remix_sources(self, request: RemixRequest) -> Sources:
        upload = self._uploads.get(request.source)
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
        if isinstance(request, ClipRequest) and request.alpha and request.end is None:
            errors.append(FieldError("alpha", "there is no end to go to", request.alpha, "with end, or 0"))
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
        upload = self._uploads.get(mask_image)
        if isinstance(upload, ImageUpload) and upload.brightest == 0:
            yield FieldError(
                "mask_image", "the mask is all black, so everything is kept", mask_image, "white where to repaint"
            )

    def _size(self, picture_id: str) -> tuple[int, int]:
        upload = self._uploads.get(picture_id)
        if isinstance(upload, ImageUpload):
            return upload.width, upload.height
        return seed_images()[picture_id].columns, _GRID.mel_bins

    def _wrong_common_fields(self, request: ResolvedRequest) -> Iterator[FieldError]:
        if len(set(request.formats)) < len(request.formats):
            yield FieldError("formats", "each format once", ", ".join(request.formats), "no repeats")
        if request.webhook:
            yield from self._wrong_webhook(request.webhook)
        if request.output:
            yield from self._wrong_place(request.output)

    def _wrong_place(self, place: OutputPlace) -> Iterator[FieldError]:
        allowed = self.settings.output_bucket_names
        if bucket_from_url(self.settings.storage_url) is None:
            message = "this farm keeps its files on a disk and delivers to no bucket; leave output out"
            yield FieldError("output.bucket", message, place.bucket)
        elif place.bucket not in allowed:
            message = "not a bucket that this farm delivers to" if allowed else "this farm delivers to no bucket"
            yield FieldError("output.bucket", message, place.bucket, allowed)

    def _wrong_webhook(self, webhook: Webhook) -> Iterator[FieldError]:
        try:
            WebhookRules.from_settings(self.settings).receiver(webhook.url)
        except ValueError as error:
            yield FieldError("webhook.url", str(error), webhook.url, "a public https URL: https://example.com/hook")
        if len(set(webhook.events)) < len(webhook.events):
            yield FieldError("webhook.events", "each event once", ", ".join(webhook.events), "no repeats")

    def _picture_sha256(self, field: str, picture_id: str | None, errors: list[FieldError]) -> str | None:
        """The hash of the picture named in a field; what is wrong with it is added to `errors`."""
        if picture_id is None:
            return None
        if picture_id in seed_images():
            return seed_images()[picture_id].sha256
        upload = self._uploads.get(picture_id)
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
