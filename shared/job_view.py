"""A job as the client sees it, from its fields in Redis; the same for an HTTP answer and a webhook's body.

Owns the signed URLs of outputs on local disk too, since both sides hand them out.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

from pydantic_core import to_json

from shared.contracts import (
    JOB_REQUEST,
    Job,
    JobFailure,
    JobUrls,
    Metrics,
    Output,
    OutputPlace,
    Preview,
    Progress,
)
from shared.job_moves import unsaid_fields
from shared.object_store import ObjectStore
from shared.outputs import output_object, place_of
from shared.plan import ResolvedRequest
from shared.settings import Settings

# What a stage's end adds to the fraction: rendering dominates, sound follows, files are quick.
_SHARES: Final = {"render": 0.85, "sound": 0.13}
_LONG: Final = 4_000
"""Characters of a request too long to be kept."""
_URLS: Final = tuple(JobUrls.model_fields)
_PREVIEWS: Final = 8
"""Frames under way that a job shows; their pictures would outweigh all else it says."""


def output_signature(secret: str, job_id: str, name: str, expires_s: int) -> str:
    """Hex HMAC-SHA256 that lets whoever holds the URL read one output until `expires_s` (Unix seconds)."""
    return hmac.new(secret.encode(), f"{job_id}/{name}/{expires_s}".encode(), hashlib.sha256).hexdigest()


class JobView:
    """Turns fields into jobs, with URLs that work from outside."""

    def __init__(self, settings: Settings, object_store: ObjectStore) -> None:
        self._base_url = settings.base_url
        self._secret = settings.secret.get_secret_value()
        self._ttl_s = settings.output_url_ttl_s
        self._object_store = object_store

    def url(self, job_id: str) -> str:
        """Where a job is read; what belongs to it is below."""
        return f"{self._base_url}/v1/jobs/{job_id}"

    def new_fields(
        self, fields: Mapping[str, object], job_id: str, queue_position: int, warnings: Sequence[str]
    ) -> dict[str, str]:
        """The fields of the job that has just been recorded with these, before anybody begins it."""
        texts = {name: str(value) for name, value in fields.items()}
        seen = {"queue_position": str(queue_position or ""), "warnings": json.dumps(sorted(warnings)), "previews": "[]"}
        return unsaid_fields() | texts | seen | {"id": job_id}

    def job(self, fields: dict[str, str]) -> Job:
        """The job recorded in `fields` (`JobStore.read`)."""
        said = self._said(fields)
        kinds = {"urls": JobUrls, "metrics": Metrics, "progress": Progress}
        parts = {name: kind(**said[name]) for name, kind in kinds.items()}
        return Job.model_construct(**said | parts | {"input": _request_from_json(fields["input"])})

    def text(self, fields: dict[str, str]) -> str:
        """The same as JSON: what `job` would say, for those who only pass it on."""
        # The request is JSON already. What comes before it says nothing that a client wrote.
        return to_json(self._said(fields)).decode().replace('"input":null', f'"input":{fields["input"]}', 1)

    def _said(self, fields: dict[str, str]) -> dict[str, Any]:
        """What there is to say of a job but its request."""
        job_id, place = fields["id"], place_of(fields)
        url = self.url(job_id)
        return {
            "id": job_id,
            "type": fields["type"],
            "status": fields["status"],
            "stage": fields["stage"] or None,
            "created_at": _time(fields["created_ms"]),
            "started_at": _time(fields.get("started_ms")),
            "finished_at": _time(fields.get("finished_ms")),
            "progress": _progress(fields, time.time()),
            "queue_position": int(fields["queue_position"]) if fields["queue_position"] else None,
            "input": None,
            "outputs": [self._output(job_id, output, place) for output in _listed(fields.get("outputs", "[]"))],
            "previews": _previews(fields),
            "error": JobFailure(**json.loads(fields["error"])) if fields.get("error") else None,
            "attempts": 1 + int(fields["runs"]),
            "warnings": _listed(fields["warnings"]),
            "metrics": _metrics(fields),
            "labels": json.loads(fields["labels"]),
            "batch_id": fields.get("batch_id"),
            "urls": {name: url if name == "self" else f"{url}/{name}" for name in _URLS},
        }

    def _output(self, job_id: str, output: dict[str, Any], place: OutputPlace | None) -> Output:
        expires_s = int(time.time()) + self._ttl_s
        name, media_type = output["name"], output["media_type"]
        store, key = output_object(self._object_store, place, job_id, output)
        url = store.url(key, self._ttl_s, name, media_type)
        if url is None:
            signature = output_signature(self._secret, job_id, name, expires_s)
            url = f"{self.url(job_id)}/outputs/{quote(name)}?expires={expires_s}&signature={signature}"
        return Output(**output, url=url, url_expires_at=datetime.fromtimestamp(expires_s, UTC))


def _request_from_json(text: str) -> ResolvedRequest:
    # Who follows a job reads it again and again.
    return _kept_request(text) if len(text) < _LONG else JOB_REQUEST.validate_json(text)


@lru_cache(maxsize=1_024)
def _kept_request(text: str) -> ResolvedRequest:
    return JOB_REQUEST.validate_json(text)


def _listed(text: str) -> list[Any]:
    # Most are empty, and every job has several.
    return [] if text == "[]" else json.loads(text)


def _time(ms: str | None) -> datetime | None:
    return datetime.fromtimestamp(int(ms) / 1_000, UTC) if ms else None


def _previews(fields: Mapping[str, str]) -> list[Preview]:
    """Of the first frames under way."""
    previews = [Preview(**preview) for preview in _listed(fields["previews"])]
    return sorted(previews, key=lambda preview: preview.frame)[:_PREVIEWS]


def progress_from_fields(fields: Mapping[str, str], now_s: float) -> Progress:
    """How far the job with these fields was at `now_s` (Unix seconds)."""
    return Progress(**_progress(fields, now_s))


def _progress(fields: Mapping[str, str], now_s: float) -> dict[str, Any]:
    frames_done, frames_total = int(fields["frames_done"]), int(fields["frames_total"])
    # A conversion has neither frames nor chunks.
    sounded = int(fields["chunks_done"]) / max(1, int(fields["chunks_total"]))
    is_done = fields["status"] == "succeeded"
    fraction = 1.0 if is_done else _SHARES["render"] * frames_done / max(1, frames_total) + _SHARES["sound"] * sounded
    return {
        "frames_done": frames_done,
        "frames_total": frames_total,
        "frames_reused": int(fields["frames_reused"]),
        "fraction": round(fraction, 4),
        "audio_s_ready": round(float(fields["audio_s"]) * sounded, 2),
        "eta_s": _eta_s(fields, fraction, now_s),
    }


def _eta_s(fields: Mapping[str, str], fraction: float, now_s: float) -> float | None:
    if fields["status"] != "running" or not fraction:
        return None
    elapsed_s = now_s - int(fields["started_ms"]) / 1_000
    return round(elapsed_s * (1 - fraction) / fraction, 1)


def _metrics(fields: dict[str, str]) -> dict[str, float | None]:
    created_ms = int(fields["created_ms"])
    started_ms, finished_ms = fields.get("started_ms"), fields.get("finished_ms")
    audio_s = float(fields["audio_s"])
    took_s = (int(finished_ms) - created_ms) / 1_000 if finished_ms else None
    return {
        "queued_s": (int(started_ms) - created_ms) / 1_000 if started_ms else None,
        "render_s": int(fields["render_ms"]) / 1_000,
        "sound_s": int(fields["sound_ms"]) / 1_000,
        "encode_s": int(fields["encode_ms"]) / 1_000,
        "gpu_s": int(fields["gpu_ms"]) / 1_000,
        "audio_s": audio_s,
        "realtime_factor": round(audio_s / took_s, 3) if took_s and fields["status"] == "succeeded" else None,
    }
