"""Pictures of one's own, and the catalogue of what the farm has.

An upload is checked by decoding it, within limits read from its header first, and kept under its content's hash.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, File, Request, UploadFile
from fastapi.responses import FileResponse
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from api.access import UPLOADS_PATH, require_key
from api.problems import responses
from shared.catalogue import UPLOAD_PREFIX, seed_images
from shared.errors import FieldError, InvalidRequestError, NotFoundError
from shared.object_store import upload_key

_FORMATS: Final = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
_MAX_PIXELS: Final = 50_000_000
router = APIRouter(tags=["uploads and catalogue"])
authorized = [Depends(require_key)]


class Upload(BaseModel):
    """An uploaded picture; `id` goes into a request's `seed_image` or `mask_image`."""

    id: str
    media_type: str
    bytes: int
    width: int
    height: int


@router.post(
    UPLOADS_PATH,
    status_code=201,
    dependencies=authorized,
    responses=responses(
        "unauthorized", "body_too_large", "unsupported_media_type", "invalid_request", "storage_unavailable"
    ),
    summary="Upload a picture",
)
def upload(request: Request, content: Annotated[UploadFile, File(description="PNG, JPEG or WebP")]) -> Upload:
    """Keep a spectrogram picture or a mask to use in jobs. The same picture twice is kept once."""
    data = content.file.read()
    image = _checked_image(data)
    sha256 = hashlib.sha256(data).hexdigest()
    media_type = _FORMATS[str(image.format)]
    request.app.state.jobs.object_store.put(upload_key(sha256), data, media_type)
    return Upload(
        id=UPLOAD_PREFIX + sha256, media_type=media_type, bytes=len(data), width=image.width, height=image.height
    )


def _checked_image(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns of decompression bombs by itself; our own limit is the stricter one.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=list(_FORMATS))
            if image.width * image.height > _MAX_PIXELS:
                size = f"{image.width}×{image.height}"
                raise InvalidRequestError(FieldError("content", "too many pixels", size, f"<= {_MAX_PIXELS}"))
            image.load()
    except UnidentifiedImageError:
        raise HTTPException(415, "The upload is not a PNG, JPEG or WebP picture.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidRequestError(
            FieldError("content", f"cannot be decoded: {error}", None, "a whole picture")
        ) from None
    return image


@router.get("/v1/models", dependencies=authorized, responses=responses("unauthorized"), summary="List models")
def list_models(request: Request) -> dict[str, list[dict[str, Any]]]:
    """The models a request can name."""
    entries = request.app.state.jobs.models.values()
    return {"data": [{"name": one.name, "revision": one.revision, "description": one.description} for one in entries]}


@router.get("/v1/seed-images", dependencies=authorized, responses=responses("unauthorized"), summary="List seed images")
def list_seed_images() -> dict[str, list[dict[str, Any]]]:
    """The built-in seed images, with their tempo and exact length."""
    return {
        "data": [
            {
                "id": one.id,
                "title": one.title,
                "description": one.description,
                "tempo_bpm": one.tempo_bpm,
                "beats": one.beats,
                "meter": one.meter,
                "duration_s": one.duration_s,
                "picture": f"/v1/seed-images/{one.id}/picture",
            }
            for one in seed_images().values()
        ]
    }


@router.get(
    "/v1/seed-images/{seed_image_id}/picture",
    response_class=FileResponse,
    dependencies=authorized,
    responses=responses("not_found", "unauthorized"),
    summary="See a seed image",
)
def read_seed_image(seed_image_id: str) -> FileResponse:
    """A built-in seed image's picture."""
    entry = seed_images().get(seed_image_id)
    if entry is None:
        raise NotFoundError(f"There is no seed image {seed_image_id}; there are {', '.join(seed_images())}.")
    return FileResponse(entry.path, media_type="image/png")
