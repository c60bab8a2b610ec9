"""Pictures and sounds of one's own, and the catalogue of what the farm has.

An upload is checked by decoding it, within limits read from its header first, and kept under its content's hash.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

from fastapi import APIRouter, File, UploadFile
from fastapi.responses import FileResponse
from PIL import Image, UnidentifiedImageError
from starlette.exceptions import HTTPException

from api.access import Reading, Submitting
from api.guard import UPLOADS_PATH
from api.intake import Jobs
from api.problems import responses
from shared.audio_source import NotAudioError, open_audio
from shared.catalogue import UPLOAD_PREFIX, seed_images
from shared.errors import FieldError, InvalidRequestError, NotFoundError
from shared.uploads import AudioUpload, ImageUpload, Upload, put_upload

_PICTURES: Final = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
_SOUNDS: Final = {
    "WAV": "audio/wav",
    "WAVEX": "audio/wav",
    "RF64": "audio/wav",
    "FLAC": "audio/flac",
    "MP3": "audio/mpeg",
    "OGG": "audio/ogg",
}
_TAKEN: Final = "a picture (PNG, JPEG, WebP) or sound (WAV, FLAC, MP3, Ogg Vorbis, Opus)"
_MAX_PIXELS: Final = 50_000_000
router = APIRouter(tags=["uploads and catalogue"])


@router.post(
    UPLOADS_PATH,
    status_code=201,
    responses=responses(
        "unauthorized",
        "forbidden",
        "body_too_large",
        "unsupported_media_type",
        "invalid_request",
        "storage_unavailable",
    ),
    summary="Upload a picture or a sound",
)
def upload(farm: Submitting, content: Annotated[UploadFile, File(description=_TAKEN)]) -> Upload:
    """Keep a spectrogram picture, a mask or a sound to use in jobs. The same file twice is kept once."""
    return keep_upload(farm, content.file)


def keep_upload(farm: Jobs, content: BinaryIO) -> ImageUpload | AudioUpload:
    """Check a file by decoding it and keep it; what is known of it.

    Raises InvalidRequestError for one that is damaged or too large, HTTPException (415) for other kinds of content.
    """
    # The decoders want a file with a name; a long sound has no place in memory.
    with tempfile.NamedTemporaryFile(prefix="riffarm-") as file:
        shutil.copyfileobj(content, file)
        file.flush()
        path = Path(file.name)
        checked = _checked_image(path) or _checked_audio(path)
        if checked is None:
            raise HTTPException(415, f"The upload is not {_TAKEN}.")
        put_upload(farm.object_store, checked, path)
    return checked


def _checked_image(path: Path) -> ImageUpload | None:
    """The picture in a file; None when it is none. Raises InvalidRequestError when it is damaged or too large."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of decompression bombs by itself; our own limit is the stricter one.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=list(_PICTURES)) as image:
                if image.width * image.height > _MAX_PIXELS:
                    size = f"{image.width}×{image.height}"
                    raise InvalidRequestError(FieldError("content", "too many pixels", size, f"<= {_MAX_PIXELS}"))
                image.load()
                media_type = _PICTURES[str(image.format)]
                _, brightest = image.convert("L").getextrema()
                return ImageUpload(
                    **_identity(path, media_type), width=image.width, height=image.height, brightest=brightest
                )
    except UnidentifiedImageError:
        return None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _refused(f"cannot be decoded: {error}", "a whole picture") from None


def _checked_audio(path: Path) -> AudioUpload | None:
    """The sound in a file; None when it is none, or of a kind not taken. Raises InvalidRequestError as for pictures."""
    try:
        with open_audio(path) as source:
            if source.container not in _SOUNDS:
                return None
            samples = sum(len(block) for block in source.blocks())
            return AudioUpload(
                **_identity(path, _SOUNDS[source.container]),
                duration_s=round(samples / source.sample_rate_hz, 6),
                sample_rate_hz=source.sample_rate_hz,
                channels=source.channels,
            )
    except NotAudioError:
        return None
    except ValueError as error:
        raise _refused(str(error), "a whole sound within the limits") from None


def _identity(path: Path, media_type: str) -> dict[str, Any]:
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"id": UPLOAD_PREFIX + sha256, "media_type": media_type, "bytes": path.stat().st_size}


def _refused(message: str, allowed: str) -> InvalidRequestError:
    return InvalidRequestError(FieldError("content", message, None, allowed))


@router.get("/v1/models", responses=responses("unauthorized", "forbidden"), summary="List models")
def list_models(farm: Reading) -> dict[str, list[dict[str, Any]]]:
    """The models a request can name."""
    entries = farm.models.values()
    return {"data": [{"name": one.name, "revision": one.revision, "description": one.description} for one in entries]}


@router.get("/v1/seed-images", responses=responses("unauthorized", "forbidden"), summary="List seed images")
def list_seed_images(farm: Reading) -> dict[str, list[dict[str, Any]]]:
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
    responses=responses("not_found", "unauthorized", "forbidden"),
    summary="See a seed image",
)
def read_seed_image(seed_image_id: str, farm: Reading) -> FileResponse:
    """A built-in seed image's picture."""
    entry = seed_images().get(seed_image_id)
    if entry is None:
        raise NotFoundError(f"There is no seed image {seed_image_id}; there are {', '.join(seed_images())}.")
    return FileResponse(entry.path, media_type="image/png")
