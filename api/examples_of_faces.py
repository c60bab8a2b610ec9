"""What the OpenAPI document shows of the drop-in faces' bodies.

Leaves out the farm's own (`api.examples`).
"""

from __future__ import annotations

from typing import Any, Final

from api.examples import BASE, JOB_ID, SHA256, UPLOAD_ID, Examples

_JSON: Final = "application/json"
_TEXT: Final = "text/plain"
_URL: Final = f"{BASE}/v1/predictions/{JOB_ID}"
_MODEL_URL: Final = f"{BASE}/v1/models/riffarm/clip"
_PREDICTION: Final[dict[str, Any]] = {
    "id": JOB_ID,
    "model": "riffarm/clip",
    "version": SHA256,
    "input": {"prompt": "jazz piano", "seed": 42},
    "output": None,
    "logs": "Using seed: 42",
    "error": None,
    "status": "starting",
    "source": "api",
    "data_removed": False,
    "created_at": "2026-03-01T12:00:00.000000Z",
    "started_at": None,
    "completed_at": None,
    "deadline": None,
    "metrics": {},
    "urls": {
        "get": _URL,
        "cancel": f"{_URL}/cancel",
        "stream": f"{BASE}/v1/files/{JOB_ID}/stream?expires=1772452803&signature={SHA256}",
        "web": _URL,
    },
}
_VERSION: Final = {
    "id": SHA256,
    "created_at": "2022-12-15T00:00:00.000000Z",
    "cog_version": "0.16.0",
    "openapi_schema": {"openapi": "3.0.2", "components": {"schemas": {"Input": {"type": "object"}}}},
}
_MODEL: Final = {"url": _MODEL_URL, "owner": "riffarm", "name": "clip", "latest_version": _VERSION}
_FILE: Final = {
    "id": UPLOAD_ID,
    "name": "song.flac",
    "content_type": "audio/flac",
    "size": 5_123_456,
    "urls": {"get": f"{BASE}/v1/files/{UPLOAD_ID}"},
}
_END: Final = {"prompt": "church bells", "seed": 42, "denoising": 0.75, "guidance": 7.0}
_INFERENCE: Final = {
    "start": _END,
    "end": _END | {"prompt": "jazz piano"},
    "alpha": 0.25,
    "num_inference_steps": 50,
    "seed_image_id": "og_beat",
}
_OWN_ERRORS: Final = {
    "400": "alpha: Input should be less than or equal to 1",
    "401": "The key is missing or wrong.",
    "403": "This key lacks the scope 'submit'.",
    "500": "The job cannot be rendered.",
    "413": "At most 1000000 bytes are taken here.",
    "429": "Too many requests; try again in 12 s.",
    "503": "Not done within 60 s; ask again, what is rendered by then is kept.",
}
OF_FACES: Final = {
    "replicate_create_prediction": Examples(
        {_JSON: {"A clip": {"version": "riffarm/clip", "input": {"prompt": "jazz piano", "seed": 42}}}},
        {"201": _PREDICTION},
    ),
    "replicate_create_prediction_of_model": Examples(
        {_JSON: {"A clip": {"input": {"prompt": "jazz piano", "seed": 42}}}}, {"201": _PREDICTION}
    ),
    "replicate_list_predictions": Examples(
        responses={"200": {"previous": None, "next": None, "results": [_PREDICTION]}}
    ),
    "replicate_read_prediction": Examples(responses={"200": _PREDICTION}),
    "replicate_cancel_prediction": Examples(responses={"200": _PREDICTION | {"status": "canceled"}}),
    "replicate_read_webhook_secret": Examples(
        responses={"200": {"key": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwUPD8ILPZIo0="}}
    ),
    "replicate_read_account": Examples(
        responses={"200": {"type": "organization", "username": "studio", "name": "studio", "github_url": None}}
    ),
    "replicate_list_hardware": Examples(responses={"200": [{"sku": "riffarm", "name": "This farm's workers"}]}),
    "replicate_read_model": Examples(responses={"200": _MODEL}),
    "replicate_list_versions": Examples(responses={"200": {"previous": None, "next": None, "results": [_VERSION]}}),
    "replicate_read_version": Examples(responses={"200": _VERSION}),
    "replicate_create_file": Examples(responses={"201": _FILE}),
    "replicate_list_files": Examples(responses={"200": {"previous": None, "next": None, "results": [_FILE]}}),
    "replicate_read_file": Examples(responses={"200": _FILE}),
    "replicate_follow_prediction": Examples(
        responses={"200": "event: logs\nid: 1772366400210-0\ndata: Using seed: 42\n\nevent: done\ndata: {}\n\n"}
    ),
    "riffusion_run_inference": Examples(
        {_JSON: {"A frame between two prompts": _INFERENCE}},
        {
            "200": {
                "image": "data:image/jpeg;base64,/9j/4AAQ…",
                "audio": "data:audio/mpeg;base64,SUQzBAAA…",
                "duration_s": 5.12,
            },
            **_OWN_ERRORS,
        },
    ),
}
