"""How much each tenant may ask of the farm: requests a minute, unfinished jobs, sound in them, bytes of uploads.

Owns the numbers, the count of requests, and what a client is told of it in headers. Leaves out the count of jobs
(`shared/job_moves.lua`), the rule for them (`shared.quotas`), and uploads (`shared.uploads`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import redis.asyncio
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from redis.exceptions import ResponseError

from api.redis_line import RedisLine
from api.together import Together
from shared.errors import RateLimitedError
from shared.job_store import PREFIX
from shared.quotas import Load
from shared.redis_connection import reachable
from shared.settings import Settings

_WINDOW_S: Final = 60
_POLICY: Final = "requests"
_TENANTS_AT_A_TIME: Final = 16


class Limits(NamedTuple):
    """What one tenant may have at a time."""

    requests_per_minute: int
    jobs: int
    audio_s: int
    upload_bytes: int


WITH_KEYS: Final = Limits(6_000, 10_000, 360_000, 50_000_000_000)
"""What holds unless set otherwise: a hundred hours of sound, 50 GB."""
WITHOUT_KEYS: Final = Limits(1_000_000, 1_000_000, 36_000_000, 5_000_000_000_000)
"""The same of a farm that serves its own machine alone: mistakes end here, nothing else."""


def limits_from_settings(settings: Settings, *, has_key: bool) -> Limits:
    """The limits of callers with a key, or on a farm without keys."""
    wanted = Limits(
        settings.limit_requests_per_minute or 0,
        settings.limit_jobs or 0,
        settings.limit_audio_s or 0,
        settings.limit_upload_bytes or 0,
    )
    default = WITH_KEYS if has_key else WITHOUT_KEYS
    return Limits(*(own or usual for own, usual in zip(wanted, default, strict=True)))


class Meter:
    """Counts the requests of all tenants, with `limits` on Redis; what comes at once is counted at once."""

    def __init__(self, client: redis.asyncio.Redis, line: RedisLine) -> None:
        self._line = line
        # The library's address says only which kind of store it is: the connections are ours.
        pool: Any = client.connection_pool
        self._storage = RedisStorage(
            "async+redis://", implementation="redispy", key_prefix=f"{PREFIX}requests", connection_pool=pool
        )
        self._count = Together(self._counted)
        self._read_load = Together(self._loads)
        self._turns = asyncio.Semaphore(_TENANTS_AT_A_TIME)

    def count(self, tenant: str) -> asyncio.Future[int | None]:
        """Count one request: its number within the minute, None where Redis is too full to count.

        Raises QueueUnavailableError.
        """
        return self._count(tenant)

    def load(self, tenant: str) -> asyncio.Future[Load]:
        """What of a tenant, and of the farm, has not ended. Raises QueueUnavailableError."""
        return self._read_load(tenant)

    async def _counted(self, wanted: Mapping[str, int]) -> dict[str, list[int | None]]:
        with reachable():
            last = await asyncio.gather(*(self._requests(tenant, more) for tenant, more in wanted.items()))
        return {tenant: _numbers(end, more) for (tenant, more), end in zip(wanted.items(), last, strict=True)}

    async def _requests(self, tenant: str, more: int) -> int | None:
        # A window of its own for each minute of the clock: when it ends is known without asking.
        item = RateLimitItemPerMinute(1)
        try:
            async with self._turns:
                return await self._storage.incr(item.key_for(tenant, str(_minute())), _WINDOW_S, more)
        except ResponseError:
            # Full, it still answers what it knows: reading and canceling go on, uncounted.
            return None

    async def _loads(self, wanted: Mapping[str, int]) -> dict[str, list[Load]]:
        with reachable():
            farm_jobs, *loads = await self._line.move("load", *wanted)
        return {
            tenant: [Load(farm_jobs, jobs, audio_ms)] * count
            for (tenant, count), jobs, audio_ms in zip(wanted.items(), loads[::2], loads[1::2], strict=True)
        }


def _now_s() -> float:
    return time.time()


def _minute() -> int:
    return int(_now_s()) // _WINDOW_S


def _numbers(last: int | None, count: int) -> list[int | None]:
    return [None] * count if last is None else [*range(last - count + 1, last + 1)]


class Standing(NamedTuple):
    """How a caller stands with its requests in this minute."""

    number: int | None
    limit: int
    seconds_left: int

    @classmethod
    def now(cls, number: int | None, limit: int) -> Standing:
        """As the clock stands."""
        return cls(number, limit, _WINDOW_S - int(_now_s()) % _WINDOW_S)

    def check(self) -> None:
        """Raise RateLimitedError for a request too many."""
        if self.number is not None and self.number > self.limit:
            raise RateLimitedError(
                f"You may send {self.limit} requests a minute; the next minute begins in {self.seconds_left} s.",
                self.seconds_left,
            )

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What the answer says of it, as the IETF's draft has it."""
        policy = f'"{_POLICY}";q={self.limit};w={_WINDOW_S}'
        if self.number is None:
            return [(b"ratelimit-policy", policy.encode())]
        left = f'"{_POLICY}";r={max(0, self.limit - self.number)};t={self.seconds_left}'
        return [(b"ratelimit-policy", policy.encode()), (b"ratelimit", left.encode())]
