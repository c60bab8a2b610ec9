"""What is known of an upload: its kind and size, kept beside its content so that nobody need decode it again; and whose
it is.

The same content is kept once, by its hash, and workers read it by that; a tenant has what it has uploaded itself.
Owns the two shapes and where they are kept. Leaves out checking a file (`api.uploads`), its content, and when it is
removed (`workers.retention`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from shared.catalogue import UPLOAD_PREFIX
from shared.errors import ObjectNotFoundError, QuotaExceededError
from shared.object_store import ObjectStore, upload_key, upload_owner_key, upload_owner_prefix

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


_RETRY_AFTER_S: Final = 3_600

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


class TenantUploads:
    """The uploads of one tenant. Every method raises StorageUnavailableError when storage does not answer."""

    def __init__(self, object_store: ObjectStore, tenant: str) -> None:
        self._objects = object_store
        self._tenant = tenant

    def get(self, upload_id: str) -> ImageUpload | AudioUpload | None:
        """What is known of the tenant's upload with this id; None when there is none, also for another's."""
        upload = upload_from_id(self._objects, upload_id)
        return upload if upload and self._objects.exists(self.owner_key(upload)) else None

    def keep(self, upload: ImageUpload | AudioUpload, content: Path, most_bytes: int | None = None) -> None:
        """Keep an upload. Raises QuotaExceededError when the tenant would have more than `most_bytes` then."""
        owner_key = self.owner_key(upload)
        is_new = not self._objects.exists(owner_key)
        # Counted with what others upload at the same time: before looking, this one is among them.
        self._objects.put(owner_key, b"")
        if most_bytes is not None and is_new and self.total_bytes() > most_bytes:
            self._objects.delete(owner_key)
            raise QuotaExceededError(
                f"You may keep {most_bytes} bytes of uploads, and with these {upload.bytes} there would be more; "
                "there is room again when old ones are removed.",
                _RETRY_AFTER_S,
            )
        put_upload(self._objects, upload, content)

    def newest(self, most: int) -> list[tuple[ImageUpload | AudioUpload, float]]:
        """Up to `most` of the tenant's uploads, the newest first, each with when it came (Unix seconds)."""
        aged = sorted(self._objects.aged_keys(upload_owner_prefix(self._tenant)), key=lambda one: one[1], reverse=True)
        named = ((UPLOAD_PREFIX + key.rpartition("/")[2].partition("-")[0], at_s) for key, at_s in aged[:most])
        found = ((upload_from_id(self._objects, upload_id), at_s) for upload_id, at_s in named)
        return [(upload, at_s) for upload, at_s in found if upload]

    def forget(self, upload: ImageUpload | AudioUpload) -> None:
        """Let go of an upload. Its content stays for the jobs that need it, and for other tenants who have it."""
        self._objects.delete(self.owner_key(upload))

    def total_bytes(self) -> int:
        """How much the tenant has."""
        return sum(int(key.rpartition("-")[2]) for key in self._objects.keys(upload_owner_prefix(self._tenant)))

    def owner_key(self, upload: ImageUpload | AudioUpload) -> str:
        """Where it is kept that the tenant has this upload; its age is the upload's."""
        return upload_owner_key(self._tenant, upload.sha256, upload.bytes)


def _facts_key(sha256: str) -> str:
    return f"{upload_key(sha256)}.json"
