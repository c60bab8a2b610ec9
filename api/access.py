"""Who may come in and do what: bearer keys with their tenant and scopes, or loopback alone where there are none.

Owns the dependencies that routes take. Leaves out what every request meets before that (`api.guard`), what keys are
(`api.keys`) and how a gateway knows them (`api.key_ring`).
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, Final, get_args
from urllib.parse import urlsplit

import redis.asyncio
from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from api.intake import Jobs
from api.key_ring import KeyRing
from api.keys import Scope, key_id_from_text
from api.limits import Meter, Standing, limits_from_settings
from api.redis_line import RedisLine
from shared.errors import AccessDeniedError, ForbiddenError, TransientError
from shared.object_store import ObjectStore
from shared.quotas import Quota, Room
from shared.settings import Settings


def is_loopback(host: str) -> bool:
    """Whether an address or name to listen on is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=256)
def _is_of_loopback(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the tenant whose jobs, uploads and outputs it sees, what it may do, and the key it came with.

    key_id: None for the key of the settings, and on a farm without keys. is_limited: as one with a key is; on a farm
    without keys nobody is but for mistakes.
    """

    tenant: str
    scopes: frozenset[Scope]
    key_id: str | None = None
    is_limited: bool = True


OPERATOR: Final = Caller("default", frozenset(get_args(Scope)))
"""Whoever has the key of the settings."""
ANYBODY: Final = replace(OPERATOR, is_limited=False)
"""Everybody on a farm without keys."""
_BEARER: Final = HTTPBearer(
    scheme_name="key",
    bearerFormat="rf_…",
    auto_error=False,
    description="A key of the farm. Each call needs one scope: `read`, `submit` or `admin`, as it says. A farm without "
    "keys serves its own machine alone, and needs none.",
)


class Access:
    """The gateway's door."""

    def __init__(
        self, settings: Settings, client: redis.asyncio.Redis, line: RedisLine, object_store: ObjectStore
    ) -> None:
        self._settings = settings
        self._keys = KeyRing(client, line, object_store)
        self._meter = Meter(client, line)
        self._limits = {has_key: limits_from_settings(settings, has_key=has_key) for has_key in (True, False)}

    async def caller(self, request: Request) -> Caller:
        """Who asks. Raises AccessDeniedError; QueueUnavailableError and StorageUnavailableError when it cannot know."""
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        # Replicate's older clients call it a token.
        text = text.strip() if scheme.lower() in ("bearer", "token") else ""
        if self._is_operators(text):
            return OPERATOR
        if caller := await self._caller_from_key(text):
            return caller
        if await self.needs_key():
            raise AccessDeniedError
        self._refuse_others(request)
        return ANYBODY

    async def needs_key(self) -> bool:
        """Whether callers need a key: where there is any, and where others could call. Raises as `caller`."""
        is_open = self._settings.gateway_key is None and is_loopback(self._settings.host)
        return not is_open or await self._keys.has_any()

    async def is_still_in(self, caller: Caller) -> bool:
        """Whether a caller's key still lets it in; not known to be otherwise."""
        if caller.key_id is None:
            return True
        try:
            record = await self._keys.record(caller.key_id)
        except TransientError:
            return True
        return record is not None and record.state == "active"

    async def standing(self, caller: Caller, *, adds: bool) -> tuple[Standing, Room | None]:
        """Count a request; how the caller stands then, and what it may add to the farm if it `adds`.

        Raises QueueUnavailableError.
        """
        limits, room = self._limits[caller.is_limited], None
        number = await self._meter.count(caller.tenant, limits.requests_per_minute)
        if adds:
            quota = Quota(self._settings.max_queued_jobs, limits.jobs, 1_000 * limits.audio_s)
            room = Room(quota, await self._meter.load(caller.tenant, quota), limits.upload_bytes)
        return Standing.now(number, limits.requests_per_minute), room

    def _refuse_others(self, request: Request) -> None:
        """A farm without a key serves this machine alone, and of other sites' pages in a browser on it those named."""
        # Any page can send a form to us, or point its own name at us.
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        is_known = not origin or _is_of_loopback(origin) or origin in self._settings.origins
        if not _is_of_loopback(f"//{host}") or not is_known:
            raise AccessDeniedError(
                "A farm without a key serves its own machine alone; make a key with: riffarm keys create"
            )

    def _is_operators(self, text: str) -> bool:
        key = self._settings.gateway_key
        return key is not None and hmac.compare_digest(text.encode(), key.get_secret_value().encode())

    async def _caller_from_key(self, text: str) -> Caller | None:
        key_id = key_id_from_text(text)
        record = await self._keys.record(key_id) if key_id else None
        if record is None or not record.is_of(text):
            return None
        if record.state != "active":
            # Only who has the key hears that.
            raise AccessDeniedError(f"This key is {record.state}.")
        return Caller(record.tenant, frozenset(record.scopes), record.id)


async def admitted(request: Request, scope: Scope) -> Jobs:
    """The farm as whoever asks sees it, if it may do what the scope says; the caller is kept as `request.state.caller`.

    Raises AccessDeniedError without a valid key, ForbiddenError when the key lacks the scope, RateLimitedError after
    too many requests, QueueUnavailableError and StorageUnavailableError when it cannot be known.
    """
    access: Access = request.app.state.access
    jobs: Jobs = request.app.state.jobs
    state: Any = request.state
    if not hasattr(state, "caller"):
        state.caller = await access.caller(request)
    if not hasattr(state, "answer_headers"):
        await _count(access, state, scope)
    if scope not in state.caller.scopes:
        raise ForbiddenError(f"This key lacks the scope '{scope}'.")
    return jobs.of(state.caller.tenant, state.room)


async def _count(access: Access, state: Any, scope: Scope) -> None:
    standing, state.room = await access.standing(state.caller, adds=scope == "submit")
    state.answer_headers = standing.headers()
    standing.check()


def _as_seen_by(scope: Scope) -> Callable[..., Awaitable[Jobs]]:
    async def jobs_of_caller(request: Request, documented: Annotated[object, Security(_BEARER)]) -> Jobs:
        return await admitted(request, scope)

    return jobs_of_caller


async def is_still_in(request: Request) -> bool:
    """Whether whoever was admitted would still be: for answers that go on for hours."""
    access: Access = request.app.state.access
    return await access.is_still_in(request.state.caller)


async def _as_it_is(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.jobs
    return jobs


Reading = Annotated[Jobs, Security(_as_seen_by("read"), scopes=["read"])]
"""The farm as a caller sees it who may read."""
Submitting = Annotated[Jobs, Security(_as_seen_by("submit"), scopes=["submit"])]
"""The farm as a caller sees it who may submit jobs and change them."""
Operating = Annotated[Jobs, Security(_as_seen_by("admin"), scopes=["admin"])]
"""The farm as a caller sees it who may operate it."""
WholeFarm = Annotated[Jobs, Depends(_as_it_is)]
"""The farm, for routes that anybody may ask."""
