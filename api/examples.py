"""What the OpenAPI document shows of bodies: requests as clients send them, and answers as they come.

Leaves out those of faces, parameters and problems, each a module of its own, and where they are put (`api.document`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from api.problems import problem_body
from shared.contracts import JOB_REQUEST
from shared.errors import FieldError

BASE: Final = "https://farm.example"
JOB_ID: Final = "job_019ab3c5d2e4f60718293a4b5c6d"
BATCH_ID: Final = "bat_019ab3c5d2e4f60718293a4b5c6d"
UPLOAD_ID: Final = "upl_9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
DELIVERY_ID: Final = "dlv_019ab3c5d2e4f60718293a4b5c6d"
CURSOR: Final = "MTc3MjM2NjQwMDAwMDpqb2JfMDE5YWIzYzVkMmU0ZjYwNzE4MjkzYTRiNWM2ZA"
SHA256: Final = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"

CLIP: Final = {"type": "clip", "prompt": "jazz piano, (soft:1.3) brushes", "seed": 42, "formats": ["flac", "mp3"]}
TRACK: Final = {
    "type": "track",
    "keyframes": [
        {"prompt": "slow ambient strings, no drums", "seed": 4, "at_s": 0},
        {"prompt": "fast techno synth, four on the floor drums", "seed": 2, "at_s": 30.72},
    ],
    "duration_s": 40.96,
    "alpha_curve": "smooth",
    "labels": {"album": "night"},
}
REMIX: Final = {
    "type": "remix",
    "source": UPLOAD_ID,
    "start_s": 12.5,
    "end_s": 42.5,
    "keyframes": [{"prompt": "rock guitar, rock drums"}],
    "denoising_strength": 0.6,
}
CONVERT: Final = {"type": "convert", "source": UPLOAD_ID, "stereo": True, "f_max_hz": 16_000, "quality": "high"}
REQUESTS: Final = {"A clip": CLIP, "A track": TRACK, "A remix": REMIX, "A conversion": CONVERT}


def resolved(request: dict[str, Any]) -> dict[str, Any]:
    """A request as its job's `input` has it."""
    chosen = {"sampler": "dpmpp_2m_karras", "num_inference_steps": 16, "guidance_scale": 5.0}
    whole: dict[str, Any] = JOB_REQUEST.validate_python(request).model_dump(mode="json")
    return whole | {name: value for name, value in chosen.items() if name in whole}


def job(**changes: Any) -> dict[str, Any]:
    """A clip's job as it is answered; one that has just been taken unless changed."""
    url = f"{BASE}/v1/jobs/{JOB_ID}"
    return {
        "id": JOB_ID,
        "type": "clip",
        "status": "queued",
        "stage": None,
        "created_at": "2026-03-01T12:00:00Z",
        "started_at": None,
        "finished_at": None,
        "progress": {
            "frames_done": 0,
            "frames_total": 1,
            "frames_reused": 0,
            "fraction": 0.0,
            "audio_s_ready": 0.0,
            "eta_s": None,
        },
        "queue_position": 1,
        "input": resolved(CLIP),
        "outputs": [],
        "previews": [],
        "error": None,
        "attempts": 1,
        "warnings": [],
        "metrics": {
            "queued_s": None,
            "render_s": 0.0,
            "sound_s": 0.0,
            "encode_s": 0.0,
            "gpu_s": 0.0,
            "audio_s": 5.12,
            "realtime_factor": None,
        },
        "labels": {},
        "batch_id": None,
        "urls": {"self": url} | {name: f"{url}/{name}" for name in _URLS},
    } | changes


_ENDED_AT: Final = "2026-03-01T12:00:03.730Z"
_URLS: Final = ("events", "frames", "deliveries", "cancel", "pause", "resume", "retry")
_DONE: Final = {
    "status": "succeeded",
    "started_at": "2026-03-01T12:00:00.210Z",
    "finished_at": _ENDED_AT,
    "progress": {
        "frames_done": 1,
        "frames_total": 1,
        "frames_reused": 0,
        "fraction": 1.0,
        "audio_s_ready": 5.12,
        "eta_s": None,
    },
    "queue_position": None,
    "outputs": [
        {
            "name": "clip.flac",
            "media_type": "audio/flac",
            "bytes": 412_803,
            "sha256": SHA256,
            "duration_s": 5.12,
            "is_preview": False,
            "url": f"{BASE}/v1/jobs/{JOB_ID}/outputs/clip.flac?expires=1772452803&signature={SHA256}",
            "url_expires_at": "2026-03-02T12:00:03Z",
        }
    ],
    "metrics": {
        "queued_s": 0.21,
        "render_s": 2.4,
        "sound_s": 0.6,
        "encode_s": 0.3,
        "gpu_s": 0.0,
        "audio_s": 5.12,
        "realtime_factor": 1.373,
    },
}
JOB: Final = job()
JOB_DONE: Final = job(**_DONE)
EVENTS: Final = """\
id: 0-0
event: status
data: {"status": "queued", "stage": null}

id: 1772366400210-0
event: status
data: {"status": "running", "stage": "rendering"}

id: 1772366402610-0
event: frame
data: {"number": 0, "state": "finished", "seconds": 2.4, "memory_mb": 900.0, "worker": "w1", "attempts": 1, "reused": false, "picture": "https://farm.example/v1/jobs/job_019ab3c5d2e4f60718293a4b5c6d/frames/0/picture"}

"""  # noqa: E501


@dataclass(frozen=True)
class Examples:
    """Of one operation: requests by media type and name, responses by status."""

    requests: dict[str, dict[str, Any]] = field(default_factory=dict)
    responses: dict[str, Any] = field(default_factory=dict)


_JSON: Final = "application/json"
_LINES: Final = "application/x-ndjson"
_DELIVERY: Final = {
    "id": DELIVERY_ID,
    "job_id": JOB_ID,
    "event": "job.succeeded",
    "url": "https://example.com/hooks/riffarm",
    "state": "delivered",
    "created_at": "2026-03-01T12:00:03.730Z",
    "next_attempt_at": None,
    "attempts": [
        {"at": "2026-03-01T12:00:03.741Z", "ms": 15_000, "status": None, "error": "no answer within 15 s"},
        {"at": "2026-03-01T12:00:24.012Z", "ms": 84, "status": 204, "error": None},
    ],
}
_SECRET: Final = {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "previous_secret_expires_at": _ENDED_AT}
_REFUSED: Final = problem_body(
    "invalid_request",
    "prompt: required",
    "req_5f0c7be1a2d34c98",
    (FieldError("prompt", "required"),),
)
_BATCH: Final = {
    "batch_id": BATCH_ID,
    "accepted": 1,
    "refused": 1,
    "data": [
        {"index": 0, "status": 202, "job": job(batch_id=BATCH_ID), "problem": None},
        {"index": 1, "status": 422, "job": None, "problem": _REFUSED},
    ],
}
_FRAME: Final = {
    "number": 0,
    "state": "finished",
    "seconds": 2.4,
    "memory_mb": 900.0,
    "worker": "w1",
    "attempts": 1,
    "reused": False,
    "picture": f"{BASE}/v1/jobs/{JOB_ID}/frames/0/picture",
}
_UPLOAD: Final = {
    "kind": "audio",
    "id": UPLOAD_ID,
    "media_type": "audio/flac",
    "bytes": 5_123_456,
    "duration_s": 61.44,
    "sample_rate_hz": 44_100,
    "channels": 2,
}
_SEED_IMAGE: Final = {
    "id": "og_beat",
    "title": "A plain beat",
    "description": "Kick, snare and hats.",
    "tempo_bpm": 93.75,
    "beats": 8,
    "meter": "4/4",
    "duration_s": 5.12,
    "picture": "/v1/seed-images/og_beat/picture",
}
_WORKER: Final = {
    "name": "w1",
    "id": "w1/5f0c7be1",
    "state": "busy",
    "reason": None,
    "device": "cuda",
    "queues": ["render", "sound", "deliver"],
    "models": ["riffarm-mini"],
    "job": JOB_ID,
    "item": "b0",
    "items_done": 41,
    "frames_per_minute": 24.5,
    "heartbeat_age_s": 1.3,
}
_FARM: Final = {
    "estimated_wait_s": 12.4,
    "queues": [
        {
            "queue": "render.riffarm-mini",
            "jobs": 3,
            "frames": 17,
            "audio_s": 62.4,
            "items": 3,
            "seconds": 12.4,
            "jobs_waiting": {"interactive": 0, "normal": 2, "bulk": 0},
            "workers": 1,
            "wait_s": 12.4,
        }
    ],
    "workers": [_WORKER],
    "rates": [{"minutes": 15, "frames_per_minute": 24.5, "jobs_per_minute": 3.1, "audio_s_per_minute": 118.2}],
    "sweep": None,
}
_WORKERS: Final = {"200": {"data": [_WORKER]}}
_CHECKS: Final = {"redis": None, "storage": None, "workers": None}
_PLAN: Final = {
    "frames_total": 1,
    "frames_ready": 0,
    "batches_total": 1,
    "chunks_total": 1,
    "duration_s": 5.12,
    "samples_total": 225_792,
    "cost": {"render_s": 2.4, "sound_s": 0.6, "gpu_s": 0.0, "wait_s": 12.4, "unknown": {}},
    "bytes": {"flac": 412_803, "mp3": 123_300},
    "warnings": [],
    "input": resolved(CLIP),
}
OWN: Final = {
    "submit_job": Examples({_JSON: REQUESTS}, {"202": JOB}),
    "submit_batch": Examples(
        {
            _JSON: {"Two requests": [CLIP, TRACK]},
            _LINES: {"Two requests": "".join(json.dumps(one) + "\n" for one in (CLIP, TRACK))},
        },
        {"200": _BATCH},
    ),
    "plan_job": Examples({_JSON: REQUESTS}, {"200": _PLAN}),
    "read_job": Examples(responses={"200": JOB_DONE}),
    "list_jobs": Examples(responses={"200": {"data": [JOB_DONE], "next": f"{BASE}/v1/jobs?limit=1&cursor={CURSOR}"}}),
    "cancel_job": Examples(responses={"200": job(status="canceled", finished_at=_ENDED_AT, queue_position=None)}),
    "pause_job": Examples(responses={"200": job(status="paused", queue_position=None)}),
    "resume_job": Examples(responses={"200": JOB}),
    "retry_job": Examples(responses={"200": job(attempts=2)}),
    "follow_job": Examples(responses={"200": EVENTS}),
    "list_frames": Examples(responses={"200": {"data": [_FRAME], "next": None}}),
    "list_deliveries": Examples(responses={"200": {"data": [_DELIVERY], "next": None}}),
    "replay_delivery": Examples(responses={"202": _DELIVERY | {"state": "pending", "next_attempt_at": _ENDED_AT}}),
    "read_webhook_secret": Examples(responses={"200": _SECRET | {"previous_secret_expires_at": None}}),
    "rotate_webhook_secret": Examples(responses={"200": _SECRET}),
    "upload": Examples(responses={"201": _UPLOAD}),
    "list_models": Examples(
        responses={"200": {"data": [{"name": "riffarm-mini", "revision": "1", "description": "The built-in model."}]}}
    ),
    "list_seed_images": Examples(responses={"200": {"data": [_SEED_IMAGE]}}),
    "health": Examples(responses={"200": {"status": "ok", "service": "riffarm"}}),
    "ready": Examples(
        responses={
            "200": {"ready": True, "checks": _CHECKS, "warnings": []},
            "503": {"ready": False, "checks": _CHECKS | {"workers": "no worker serves render"}, "warnings": []},
        }
    ),
    "read_farm": Examples(responses={"200": _FARM}),
    "metrics": Examples(responses={"200": "riffarm_redis_up 1.0\n"}),
    "drain_worker": Examples(responses=_WORKERS),
    "lift_worker": Examples(responses=_WORKERS),
}
