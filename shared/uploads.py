"""What is known of an upload: its kind and size, kept beside its content so that nobody need decode it again.

Owns the two shapes and where they are kept. Leaves out checking a file (`api.uploads`) and its content.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from shared.catalogue import UPLOAD_PREFIX
from shared.errors import ObjectNotFoundError
from shared.object_store import ObjectStore, upload_key

_ID: Final = re.compile(UPLOAD_PREFIX + "([0-9a-f]{64})")


class _Upload(BaseModel):
    model_config = ConfigDict(frozen=True)

    id: str = Field(description="upl_ and the content's SHA-256: what a request names it by.")
    media_type: str = Field(description="As audio/flac, image/png; found by decoding.")
    bytes: int = Field(description="Size in bytes.")

    @property
    def sha256(self) -> str:
        """The content's hash, in hexadecimal digits."""
        return self.id.removeprefix(UPLOAD_PREFIX)


class ImageUpload(_Upload):
    """An uploaded picture: a `seed_image`, a `mask_image`, or a spectrogram to convert to sound."""

    kind: Literal["image"] = "image"
    width: int = Field(description="In pixels; a column of 10 ms each, on the usual grid.")
    height: int = Field(description="In pixels.")
    brightest: int = Field(255, description="The lightest grey in it, 0..255: a mask of 0 repaints nothing.")


class AudioUpload(_Upload):
    """An uploaded sound; `duration_s` was found by decoding all of it."""

    kind: Literal["audio"] = "audio"
    duration_s: float = Field(description="Its length in seconds, found by decoding all of it.")
    sample_rate_hz: int = Field(description="Samples per second.")
    channels: int = Field(description="1 mono, 2 stereo.")


Upload = Annotated[ImageUpload | AudioUpload, Field(discriminator="kind")]
_UPLOAD: Final[TypeAdapter[ImageUpload | AudioUpload]] = TypeAdapter(Upload)


def put_upload(object_store: ObjectStore, upload: ImageUpload | AudioUpload, content: Path) -> None:
    """Keep an upload. What is known of it is written last: an upload that is known is there."""
    object_store.put_file(upload_key(upload.sha256), content, upload.media_type)
    object_store.put(_facts_key(upload.sha256), upload.model_dump_json().encode(), "application/json")


def upload_from_id(object_store: ObjectStore, upload_id: str) -> ImageUpload | AudioUpload | None:
    """What is known of the upload with this id, in one read of a small object; None when there is none."""
    match = _ID.fullmatch(upload_id)
    if match is None:
        return None
    try:
        return _UPLOAD.validate_json(object_store.get(_facts_key(match[1])))
    except ObjectNotFoundError:
        return None


def _facts_key(sha256: str) -> str:
    return f"{upload_key(sha256)}.json"
