"""A job as its client sees it, made from its fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shared.contracts import JOB_REQUEST, Job
from shared.job_moves import unsaid_fields
from shared.job_view import JobView
from shared.object_store import LocalDiskStore
from shared.settings import Settings

_FILE = {
    "name": "clip.flac",
    "media_type": "audio/flac",
    "bytes": 7,
    "sha256": "0" * 64,
    "duration_s": 5.12,
}
_PREVIEW = {"frame": 0, "step": 3, "steps": 20, "image": "data:image/webp;base64,UklGRg=="}
_REQUESTS: list[dict[str, Any]] = [
    {"type": "clip", "prompt": "slow strings", "seed": 4, "formats": ["flac", "mp3"], "labels": {"input": "null"}},
    {"type": "clip", "prompt": '"input":null \\ \u00e9 \u2028', "variations": 2, "end": {"prompt": "techno"}},
    {"type": "track", "keyframes": [{"prompt": "a", "at_s": 0.0}, {"prompt": "b", "at_s": 20.0}], "duration_s": 40.0},
    {"type": "remix", "source": "upl_1", "keyframes": [{"prompt": "choir"}], "webhook": {"url": "https://a.example/"}},
    {"type": "convert", "source": "upl_1", "f_min_hz": 20.5},
]
_BEGUN = {"started_ms": 1_760_000_000_500}
_STATES: list[dict[str, Any]] = [
    {},
    {
        "status": "running",
        "stage": "rendering",
        "started_ms": 1_760_000_000_500,
        "frames_done": 1,
        "previews": [_PREVIEW],
    },
    {"status": "succeeded", **_BEGUN, "finished_ms": 1_760_000_009_001, "outputs": [_FILE]},
    {"status": "failed", "error": {"code": "poison", "message": '"input":null', "retryable": True}, "runs": 2},
    {"status": "canceled", "batch_id": "bat_1", "warnings": ["It turns.", '"input":null']},
]


@pytest.mark.parametrize("state", _STATES, ids=lambda one: one.get("status", "queued"))
@pytest.mark.parametrize("request_", _REQUESTS, ids=lambda one: one["type"])
def test_a_jobs_text_is_the_job_as_json(
    request_: dict[str, Any], state: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is passed on without being read says the same, byte for byte, and can be read."""
    monkeypatch.setattr("shared.job_view.time.time", lambda: 1_760_000_010.5)
    settings = Settings(redis_url="redis://nowhere", storage_url=f"file:{tmp_path}", secret="s" * 40)
    view = JobView(settings, LocalDiskStore(tmp_path))
    said = {name: one if isinstance(one, str) else json.dumps(one) for name, one in state.items()}
    job_request = JOB_REQUEST.validate_python(request_)
    fields = {
        **unsaid_fields(),
        "id": "job_0199",
        "type": request_["type"],
        "created_ms": "1760000000000",
        "input": job_request.model_dump_json(),
        "labels": json.dumps(request_.get("labels", {})),
        "frames_total": "8",
        "chunks_total": "1",
        "audio_s": "40.96",
        "queue_position": "" if state else "3",
        "warnings": "[]",
        "previews": "[]",
        **said,
    }

    text = view.text(fields)

    assert text == view.job(fields).model_dump_json()
    assert Job.model_validate_json(text).input == job_request
