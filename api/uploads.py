"""Pictures and sounds of one's own.

An upload is checked by decoding it, within limits read from its header first, and kept under its content's hash.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final

from fastapi import APIRouter, Depends, File, Request, UploadFile
from PIL import Image, UnidentifiedImageError
from starlette.exceptions import HTTPException

from api.access import Submitting
from api.guard import UPLOADS_PATH
from api.intake import Jobs
from api.problems import responses
from shared.audio_source import NotAudioError, open_audio
from shared.catalogue import UPLOAD_PREFIX
from shared.errors import FieldError, InvalidRequestError
from shared.uploads import AudioUpload, ImageUpload, Upload

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
router = APIRouter(tags=["uploads"])


async def _one_content(request: Request) -> None:
    """Raise InvalidRequestError for a form with more in it than one file."""
    names = [name for name, _ in (await request.form()).multi_items()]
    if others := [name for name in names if name != "content"]:
        raise InvalidRequestError(FieldError(others[0][:80], "unknown field", None, "content"))
    if len(names) > 1:
        raise InvalidRequestError(FieldError("content", "given twice", None, "once"))


@router.post(
    UPLOADS_PATH,
    status_code=201,
    responses=responses(
        "unauthorized",
        "forbidden",
        "body_too_large",
        "unsupported_media_type",
        "invalid_request",
        "quota_exceeded",
        "storage_unavailable",
    ),
    summary="Upload a picture or a sound",
)
def upload(
    farm: Submitting,
    content: Annotated[UploadFile, File(description=_TAKEN)],
    nothing_else: Annotated[None, Depends(_one_content)],
) -> Upload:
    """Keep a spectrogram picture, a mask or a sound to use in jobs. The same file twice is kept once."""
    return keep_upload(farm, content.file)


def keep_upload(farm: Jobs, content: BinaryIO) -> ImageUpload | AudioUpload:
    """Check a file by decoding it and keep it; what is known of it.

    Raises InvalidRequestError for one that is damaged or too large, HTTPException (415) for other kinds of content,
    QuotaExceededError when the tenant has too much already.
    """
    # The decoders want a file with a name; a long sound has no place in memory.
    with tempfile.NamedTemporaryFile(prefix="riffarm-") as file:
        shutil.copyfileobj(content, file)
        file.flush()
        path = Path(file.name)
        checked = _checked_image(path) or _checked_audio(path)
        if checked is None:
            raise HTTPException(415, f"The upload is not {_TAKEN}.")
        farm.uploads.keep(checked, path, farm.room.upload_bytes if farm.room else None)
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
