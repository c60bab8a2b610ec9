"""Keys: their text, their records in storage, and what an operator does with them.

A key's text is `rf_`, 20 hexadecimal digits that name it, `_` and 64 that are its secret: 256 bits from the system's
random source. The text is shown once, when the key is made; kept is its SHA-256, which for so many random bits needs
no salt and no slow hash. Records are objects in storage, `keys/{id}.json`; Redis holds copies of them for the gateways
(`api.key_ring`), which a change here replaces at once. Leaves out who asks with a key (`api.access`) and the command
line (`api.keys_cli`).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal, NamedTuple

import redis
from pydantic import BaseModel, ConfigDict, StringConstraints

from shared.errors import NotFoundError, ObjectNotFoundError, QueueUnavailableError, RequestError
from shared.job_moves import PREFIX
from shared.object_store import KEYS_PREFIX, ObjectStore, key_record_key
from shared.redis_connection import reachable

Scope = Literal["submit", "read", "admin"]
KeyState = Literal["active", "expired", "revoked"]
KEPT_S: Final = 86_400
"""A record in Redis serves so long when storage does not answer."""
FRESH_S: Final = 60
"""A copy in Redis that is older is compared with storage."""
ANY_KEYS: Final = f"{PREFIX}keys"
"""Redis' copy of whether there is any key at all: "some" or "none"."""
_TEXT: Final = re.compile(r"rf_([0-9a-f]{20})_[0-9a-f]{64}")
_ID: Final = re.compile(r"key_[0-9a-f]{20}")
_AT_ONCE: Final = 16
_DURABLE_WITHIN_MS: Final = 2_000

Tenant = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""A tenant's name is part of keys in storage and Redis: lower-case letters, digits and hyphens."""
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


class KeyRecord(BaseModel):
    """What is kept of a key: never its text."""

    model_config = ConfigDict(frozen=True)

    id: Annotated[str, StringConstraints(pattern=f"^{_ID.pattern}$")]
    tenant: Tenant
    name: Name
    scopes: tuple[Scope, ...]
    sha256: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    @property
    def state(self) -> KeyState:
        """Whether it lets anybody in now."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= datetime.now(UTC) else "active"

    def is_of(self, text: str) -> bool:
        """Whether this is the key with that text; takes as long for any text."""
        return hmac.compare_digest(self.sha256, _sha256(text))


class Changed(NamedTuple):
    """A key that was made or changed.

    text: of a new key, to be shown this once. is_at_once: whether the gateways know; if not, they will in a minute.
    """

    record: KeyRecord
    text: str | None
    is_at_once: bool


def key_id_from_text(text: str) -> str | None:
    """The id that a key's text names, before anything is known of its secret; None when it is no key of ours."""
    match = _TEXT.fullmatch(text)
    return f"key_{match[1]}" if match else None


def redis_key(key_id: str) -> str:
    """Where Redis holds its copy of a key's record."""
    return f"{PREFIX}key:{key_id}"


def copy_from_text(text: str) -> str:
    """What Redis holds of a text in storage: when it was read, and the text."""
    return f"{time.time():.0f} {text}"


def text_from_copy(copy: str) -> str:
    """The text alone."""
    return copy.partition(" ")[2]


def is_fresh(copy: str) -> bool:
    """Whether a copy was read a short while ago, be it by another's clock."""
    return abs(time.time() - float(copy.partition(" ")[0])) < FRESH_S


class Keys:
    """All keys of a farm, as its operator sees and changes them.

    Every method raises StorageUnavailableError when storage does not answer: then nothing has changed.
    """

    def __init__(self, object_store: ObjectStore, client: redis.Redis) -> None:
        self._objects = object_store
        self._redis = client

    def create(self, tenant: str, name: str, scopes: Collection[Scope], expires_in_s: float | None = None) -> Changed:
        """Make a key. Raises pydantic's ValidationError for a name that may not be."""
        now = datetime.now(UTC)
        public = f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(4)}"
        text = f"rf_{public}_{secrets.token_hex(32)}"
        record = KeyRecord(
            id=f"key_{public}",
            tenant=tenant,
            name=name,
            scopes=tuple(sorted(set(scopes))),
            sha256=_sha256(text),
            created_at=now,
            expires_at=None if expires_in_s is None else now + timedelta(seconds=expires_in_s),
        )
        return Changed(record, text, self._has_told(record))

    def all(self) -> list[KeyRecord]:
        """Every key, also those that let nobody in any more, newest first."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = pool.map(self._read, self._objects.keys(KEYS_PREFIX))
            return sorted((record for record in found if record), key=lambda record: record.id, reverse=True)

    def revoke(self, key_id: str) -> Changed:
        """Let nobody in with this key any more, for good. Raises NotFoundError."""
        record = self._known(key_id)
        if record.revoked_at is None:
            record = record.model_copy(update={"revoked_at": datetime.now(UTC)})
        # Told again also when it was revoked before: the last time may have been cut short.
        return Changed(record, None, self._has_told(record))

    def rotate(self, key_id: str, overlap_s: float) -> tuple[Changed, Changed]:
        """A new key with the tenant, scopes, name and length of life of this one, and this one, which works for
        `overlap_s` more at most. Raises NotFoundError, and RequestError when it lets nobody in any more."""
        old = self._known(key_id)
        if old.state != "active":
            raise RequestError(f"{key_id} is {old.state}; make a new key with: riffarm keys create")
        life = old.expires_at - old.created_at if old.expires_at else None
        new = self.create(old.tenant, old.name, old.scopes, life.total_seconds() if life else None)
        until = datetime.now(UTC) + timedelta(seconds=overlap_s)
        old = old.model_copy(update={"expires_at": min(old.expires_at or until, until)})
        return new, Changed(old, None, self._has_told(old))

    def _known(self, key_id: str) -> KeyRecord:
        record = self._read(key_record_key(key_id)) if _ID.fullmatch(key_id) else None
        if record is None:
            raise NotFoundError(f"There is no key {key_id[:80]}; see: riffarm keys list")
        return record

    def _read(self, key: str) -> KeyRecord | None:
        try:
            return KeyRecord.model_validate_json(self._objects.get(key))
        except ObjectNotFoundError:
            return None

    def _has_told(self, record: KeyRecord) -> bool:
        """Write a record to storage, then to Redis; whether Redis took it."""
        text = record.model_dump_json()
        self._objects.put(key_record_key(record.id), text.encode(), "application/json")
        try:
            with reachable():
                self._redis.set(redis_key(record.id), copy_from_text(text), ex=KEPT_S)
                self._redis.set(ANY_KEYS, copy_from_text("some"), ex=KEPT_S)
                self._make_durable()
        except QueueUnavailableError:
            return False
        return True

    def _make_durable(self) -> None:
        # A Redis that is killed may lose its last second, and a revoked key must not come back with the second before.
        # Without a file of its own, or too old to know the command, it loses all, and storage is asked.
        with suppress(redis.exceptions.ResponseError):
            self._redis.waitaof(1, 0, _DURABLE_WITHIN_MS)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
