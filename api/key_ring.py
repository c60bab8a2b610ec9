"""What a gateway knows of keys: Redis' copies of their records, and storage where Redis has none.

Each request asks Redis, so a key that is revoked stops working on every gateway at once. A copy that is missing is read
from storage, so a Redis that lost its data lets the same keys in as before; one that is a minute old is compared with
storage while it serves, so a Redis that was set back to an older state, or missed a change, mends itself. What storage
does not have is remembered for some seconds, and few are looked for at a time: who guesses keys does not keep storage
busy. Leaves out what a key may do (`api.access`) and changing keys (`api.keys`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, cast

import redis.asyncio
import structlog
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError

from api.keys import ANY_KEYS, KEPT_S, KeyRecord, copy_from_text, is_fresh, redis_key, text_from_copy
from api.redis_line import RedisLine
from api.together import Together
from shared.errors import ObjectNotFoundError, QueueUnavailableError, TransientError
from shared.object_store import ObjectStore, has_keys, key_record_key
from shared.redis_connection import reachable

log = structlog.get_logger()
_UNKNOWN: Final = ""
_UNKNOWN_S: Final = 10
_LOOKUPS_AT_A_TIME: Final = 8
_TRY_AGAIN_S: Final = 5.0
# Writes a copy unless it was changed since it was read: who revoked the key meanwhile has the last word.
_KEEP: Final = """
local now = redis.call('GET', KEYS[1]) or ''
if now ~= ARGV[1] then return now end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return ARGV[2]
"""


class KeyRing:
    """Knows keys by their ids. Raises QueueUnavailableError or StorageUnavailableError when it cannot know."""

    def __init__(self, client: redis.asyncio.Redis, line: RedisLine, object_store: ObjectStore) -> None:
        self._line = line
        self._objects = object_store
        self._copies = Together(self._read_copies)
        self._keep = client.register_script(_KEEP)
        self._lookups: dict[str, asyncio.Task[str]] = {}
        self._refreshes: dict[str, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(_LOOKUPS_AT_A_TIME)

    async def record(self, key_id: str) -> KeyRecord | None:
        """What is kept of a key; None when there is no such key."""
        text = await self._known(redis_key(key_id))
        return _record(text) if text else None

    async def has_any(self) -> bool:
        """Whether there is any key, be it one that lets nobody in any more."""
        return await self._known(ANY_KEYS) != "none"

    async def _known(self, key: str) -> str:
        copy = await self._copies(key)
        if copy is None:
            return await asyncio.shield(self._lookup(key))
        text = text_from_copy(copy)
        if text != _UNKNOWN and not is_fresh(copy) and key not in self._refreshes:
            self._refreshes[key] = asyncio.create_task(self._refresh(key, copy))
        return text

    async def _refresh(self, key: str, before: str) -> None:
        """Compare a copy with storage while it serves."""
        try:
            await self._looked_up(key, before)
        except TransientError as error:
            log.warning("a key cannot be compared with storage", error=error.message)
            await asyncio.sleep(_TRY_AGAIN_S)
        finally:
            del self._refreshes[key]

    async def _read_copies(self, wanted: Mapping[str, int]) -> dict[str, list[str | None]]:
        with reachable():
            copies = cast("list[str | None]", await self._line.ask("MGET", *wanted))
        return {key: [copy] * count for (key, count), copy in zip(wanted.items(), copies, strict=True)}

    def _lookup(self, key: str) -> asyncio.Task[str]:
        """Ask storage for what Redis does not know; once for all who want it."""
        task = self._lookups.get(key)
        if task is None:
            task = self._lookups[key] = asyncio.create_task(self._looked_up(key, ""))
            task.add_done_callback(lambda done: self._end_lookup(key, done))
        return task

    def _end_lookup(self, key: str, task: asyncio.Task[str]) -> None:
        del self._lookups[key]
        if not task.cancelled():
            # Heard by all who wait for it; they may be gone.
            task.exception()

    async def _looked_up(self, key: str, before: str) -> str:
        async with self._turns:
            text = await run_in_threadpool(self._stored, key)
        try:
            with reachable():
                args = [before, copy_from_text(text), KEPT_S if text else _UNKNOWN_S]
                return text_from_copy(await self._keep(keys=[key], args=args))
        except QueueUnavailableError:
            # It answered just now, so it is full: storage's word counts as it is.
            return text

    def _stored(self, key: str) -> str:
        if key == ANY_KEYS:
            return "some" if has_keys(self._objects) else "none"
        key_id = key.removeprefix(redis_key(""))
        try:
            return KeyRecord.model_validate_json(self._objects.get(key_record_key(key_id))).model_dump_json()
        except ObjectNotFoundError:
            return _UNKNOWN
        except ValidationError:
            log.error("a key's record in storage cannot be read", key=key_id)  # noqa: TRY400 — it would tell the record
            return _UNKNOWN


@lru_cache(4_096)
def _record(text: str) -> KeyRecord:
    return KeyRecord.model_validate_json(text)
