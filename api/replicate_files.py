"""Files of Replicate's face: they are uploads. What a model's input names as a file becomes an upload's id.

Leaves out checking and keeping them (`api.uploads`).
"""

from __future__ import annotations

import base64
import binascii
import io
import mimetypes
import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from api.access import Reading, Submitting
from api.guard import FILES_PATH
from api.intake import Jobs
from api.problems import responses
from api.uploads import keep_upload
from shared.errors import FieldError, InvalidRequestError, NotFoundError
from shared.uploads import AudioUpload, ImageUpload

router = APIRouter(prefix=FILES_PATH, tags=["replicate"])
_UNAVAILABLE: Final = ("unauthorized", "forbidden", "queue_unavailable", "storage_unavailable")
_PAGE: Final = 100
_FILE_FIELDS: Final = ("seed_image", "seed_image_id", "mask_image", "source")
_DATA_URL: Final = re.compile(r"data:[^,]{0,200},")
_OWN_URL: Final = re.compile(r"https?://[^/]+/v1/files/(upl_[0-9a-f]{64})")


@router.post(
    "",
    status_code=201,
    responses=responses(
        "malformed_body", "body_too_large", "unsupported_media_type", "invalid_request", "quota_exceeded", *_UNAVAILABLE
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["content"],
                        "properties": {
                            "content": {"type": "string", "format": "binary", "description": "A picture or a sound."},
                            "filename": {"type": "string"},
                            "type": {"type": "string"},
                            "metadata": {"description": "Taken, not kept."},
                        },
                    }
                }
            },
        }
    },
    summary="Upload a file for a prediction's input",
)
async def create_file(request: Request, farm: Submitting) -> dict[str, Any]:
    """Keep a picture or a sound as an upload; `urls.get` of what is answered is what a model's input names it by."""
    # By hand: the clients send `metadata` as a field, as a file or as several fields.
    async with request.form(max_files=2, max_fields=100) as form:
        content = form.get("content")
        if not isinstance(content, UploadFile):
            raise InvalidRequestError(FieldError("content", "required", None, "a file"))
        upload = await run_in_threadpool(keep_upload, farm, content.file)
        name = form.get("filename") or content.filename
        at_s = await run_in_threadpool(_came_at_s, farm, upload)
    return _file(farm, upload, at_s, str(name))


@router.get("/{file_id}", responses=responses("not_found", *_UNAVAILABLE), summary="See a file")
def read_file(file_id: str, farm: Reading) -> dict[str, Any]:
    """What is known of an uploaded file. Its own name is not kept."""
    upload = _known(farm, file_id)
    return _file(farm, upload, _came_at_s(farm, upload))


@router.get("", responses=responses(*_UNAVAILABLE), summary="List files")
def list_files(farm: Reading) -> dict[str, Any]:
    """The caller's uploads, the newest first; the hundred newest."""
    found = farm.uploads.newest(_PAGE)
    return {"previous": None, "next": None, "results": [_file(farm, upload, at_s) for upload, at_s in found]}


@router.delete(
    "/{file_id}",
    status_code=204,
    response_class=Response,
    responses=responses("not_found", *_UNAVAILABLE),
    summary="Delete a file",
)
def delete_file(file_id: str, farm: Submitting) -> Response:
    """Let go of an upload: the caller sees it no more. Jobs that were made with it are not touched."""
    farm.uploads.forget(_known(farm, file_id))
    return Response(status_code=204)


def _known(farm: Jobs, file_id: str) -> ImageUpload | AudioUpload:
    upload = farm.uploads.get(file_id)
    if upload is None:
        raise NotFoundError(f"There is no file {file_id[:80]}.")
    return upload


def _came_at_s(farm: Jobs, upload: ImageUpload | AudioUpload) -> float:
    key = farm.uploads.owner_key(upload)
    return next((at_s for _, at_s in farm.object_store.aged_keys(key)), 0.0)


def _file(farm: Jobs, upload: ImageUpload | AudioUpload, at_s: float, name: str = "") -> dict[str, Any]:
    came_at = datetime.fromtimestamp(at_s, UTC)
    days = farm.settings.keep_uploads_days
    return {
        "id": upload.id,
        "name": name or f"{upload.id[:16]}{mimetypes.guess_extension(upload.media_type) or ''}",
        "content_type": upload.media_type,
        "size": upload.bytes,
        "etag": upload.sha256,
        "checksums": {"sha256": upload.sha256},
        "metadata": {},
        "created_at": came_at.isoformat(),
        "expires_at": (came_at + timedelta(days=days)).isoformat() if days else None,
        "urls": {"get": f"{farm.settings.base_url}{FILES_PATH}/{upload.id}"},
    }


def with_uploads(farm: Jobs, given: dict[str, Any]) -> dict[str, Any]:
    """A model's input with every file in it kept as an upload, by its id. Raises InvalidRequestError."""
    return {name: _upload_id(farm, name, value) if name in _FILE_FIELDS else value for name, value in given.items()}


def _upload_id(farm: Jobs, field: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if match := _OWN_URL.fullmatch(value):
        return match[1]
    if value.startswith(("http:", "https:")):
        raise InvalidRequestError(
            FieldError(field, "files are not fetched from elsewhere", value, f"one of {FILES_PATH}")
        )
    if value.startswith("data:"):
        return _kept(farm, field, value)
    return value


def _kept(farm: Jobs, field: str, url: str) -> str:
    head, _, text = url.partition(",")
    try:
        content = base64.b64decode(text, validate=True) if head.endswith(";base64") else b""
    except (binascii.Error, ValueError):
        content = b""
    if not content:
        allowed = "data:<media type>;base64,<content>"
        raise InvalidRequestError(FieldError(field, "not a data URL that can be read", url, allowed))
    return keep_upload(farm, io.BytesIO(content)).id
