"""What the OpenAPI document shows of bodies: requests as clients send them, and answers as they come.

Owns the examples by operation. Leaves out those of problems (`api.problem_pages`), and where they are put
(`api.document`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from shared.contracts import JOB_REQUEST

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
        {"prompt": "slow ambient strings, no drums", "seed": 4},
        {"prompt": "fast techno synth, four on the floor drums", "seed": 2, "at_s": 30.72},
    ],
    "duration_s": 40.96,
    "alpha_curve": "smooth",
    "labels": {"album": "night"},
}
TRACK["keyframes"][0]["at_s"] = 0  # type: ignore[index]
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


_URLS: Final = ("events", "frames", "deliveries", "cancel", "pause", "resume", "retry")
_DONE: Final = {
    "status": "succeeded",
    "started_at": "2026-03-01T12:00:00.210Z",
    "finished_at": "2026-03-01T12:00:03.730Z",
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


PARAMETERS: Final[dict[str, tuple[str, object]]] = {
    "job_id": ("The job's id.", JOB_ID),
    "delivery_id": ("The delivery's id.", DELIVERY_ID),
    "number": ("The frame's number, from 0.", 0),
    "seed_image_id": ("The seed image's id.", "og_beat"),
    "name": ("Its name.", "w1"),
    "limit": ("How many on a page, 1..200.", 50),
    "cursor": ("Where the page begins: part of `next` of the page before.", CURSOR),
    "status": ("Only jobs in this state.", "running"),
    "type": ("Only jobs of this type.", "track"),
    "batch_id": ("Only jobs of this batch.", BATCH_ID),
    "created_after": ("Only jobs made after this time (RFC 3339; UTC when it names no zone).", "2026-03-01T00:00:00Z"),
    "created_before": (
        "Only jobs made before this time (RFC 3339; UTC when it names no zone).",
        "2026-03-02T00:00:00Z",
    ),
    "expires": ("Until when the link works, in seconds since 1970; part of the output's `url`.", 1_772_452_803),
    "signature": ("What makes the link good; part of the output's `url`.", SHA256),
    "code": ("The problem's code.", "invalid_request"),
    "prefer": ("`wait=N`: answer when the job ends, after N seconds (1..60) at the latest.", "wait=10"),
    "idempotency-key": (
        "1..255 printable ASCII characters of your own: sent again within 24 hours, the request answers what it "
        "answered first, with `Idempotent-Replayed: true`.",
        "album-night-track-07",
    ),
    "last-event-id": ("The `id` of the last event you have; the stream goes on after it.", "1772366400210-0"),
    "range": ("Part of the file: `bytes=FIRST-LAST`.", "bytes=0-65535"),
}
"""Parameters by name: what they are where a route does not say, and what one looks like."""
_JSON: Final = "application/json"
_SUBMITTED: Final = Examples({_JSON: REQUESTS}, {"202": JOB})
BY_OPERATION: Final = {
    "submit_job": _SUBMITTED,
    "read_job": Examples(responses={"200": JOB_DONE}),
    "list_jobs": Examples(responses={"200": {"data": [JOB_DONE], "next": f"{BASE}/v1/jobs?limit=1&cursor={CURSOR}"}}),
    "follow_job": Examples(responses={"200": EVENTS}),
}
