"""How much each tenant may ask of the farm: requests a minute, unfinished jobs, sound in them, bytes of uploads.

Owns the numbers, the count of requests, and what a client is told of it in headers. Leaves out the count of jobs
(`shared/job_moves.lua`), the rule for them (`shared.quotas`), and uploads (`shared.uploads`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import redis.asyncio
from limits import RateLimitItemPerMinute
from limits.aio.storage import RedisStorage
from redis.exceptions import ResponseError

from api.redis_line import RedisLine
from api.together import Together
from shared.errors import QueueUnavailableError, RateLimitedError
from shared.job_moves import PREFIX
from shared.quotas import Load, Quota
from shared.redis_connection import reachable
from shared.settings import Settings

_WINDOW_S: Final = 60
_POLICY: Final = "requests"
_TENANTS_AT_A_TIME: Final = 16
_OWED_S: Final = 0.05
"""How long requests may be counted here alone before the other gateways hear of them."""
_FRESH_S: Final = 0.25
_NEAR: Final = 0.1
"""Of a limit: with no more than that left, or the least below, every request asks Redis, and limits hold exactly."""
_NEAR_REQUESTS: Final = 100
_NEAR_LOAD: Final = Load(100, 100, 36_000_000)
_MOST_TALLIES: Final = 4_096


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


class _Tally:
    """What is known of one tenant's requests in a minute; `owed` of them Redis has not heard of."""

    __slots__ = ("minute", "number", "owed", "until_s")

    def __init__(self, minute: int, number: int) -> None:
        self.minute = minute
        self.number = number
        self.owed = 0
        self.until_s = time.monotonic() + _FRESH_S


class Meter:
    """Counts the requests of all tenants, with `limits` on Redis.

    Who is far from its limit is counted here, and Redis told twenty times a second; who is near it is counted there, so
    that all gateways of a farm come to the same.
    """

    def __init__(self, client: redis.asyncio.Redis, line: RedisLine) -> None:
        self._line = line
        # The library's address says only which kind of store it is: the connections are ours.
        pool: Any = client.connection_pool
        self._storage = RedisStorage(
            "async+redis://", implementation="redispy", key_prefix=f"{PREFIX}requests", connection_pool=pool
        )
        self._tallies: dict[str, _Tally] = {}
        self._loads: dict[str, tuple[Load, float]] = {}
        self._count = Together(self._counted)
        self._read_load = Together(self._read_loads)
        self._turns = asyncio.Semaphore(_TENANTS_AT_A_TIME)
        self._settling: set[asyncio.Task[None]] = set()

    async def count(self, tenant: str, limit: int) -> int | None:
        """Count one request: its number within the minute, None where Redis is too full to count.

        Raises QueueUnavailableError.
        """
        tally = self._tallies.get(tenant)
        is_fresh = tally and tally.minute == _minute() and tally.until_s > time.monotonic()
        if not tally or not is_fresh or _is_near(tally.number, limit, _NEAR_REQUESTS):
            return await self._count(tenant)
        tally.number += 1
        tally.owed += 1
        if tally.owed == 1:
            asyncio.get_running_loop().call_later(_OWED_S, self._settle, tenant, tally)
        return tally.number

    async def load(self, tenant: str, quota: Quota) -> Load:
        """What of a tenant, and of the farm, has not ended: as it is, or as it was where the quota is far away.

        Raises QueueUnavailableError.
        """
        load, until_s = self._loads.get(tenant, (None, 0.0))
        if load and until_s > time.monotonic() and not any(map(_is_near, load, quota, _NEAR_LOAD)):
            return load
        return await self._read_load(tenant)

    def _settle(self, tenant: str, tally: _Tally) -> None:
        task = asyncio.ensure_future(self._settled(tenant, tally))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settled(self, tenant: str, tally: _Tally) -> None:
        owed, tally.owed = tally.owed, 0
        if not owed:
            return
        with contextlib.suppress(QueueUnavailableError), reachable():
            if (number := await self._requests(tenant, owed, tally.minute)) is not None:
                tally.number = number + tally.owed
                tally.until_s = time.monotonic() + _FRESH_S

    async def _counted(self, wanted: Mapping[str, int]) -> dict[str, list[int | None]]:
        minute = _minute()
        with reachable():
            numbers = {tenant: more + self._owed(tenant, minute) for tenant, more in wanted.items()}
            last = await asyncio.gather(*(self._requests(tenant, more, minute) for tenant, more in numbers.items()))
        if len(self._tallies) > _MOST_TALLIES:
            self._tallies.clear()
        self._tallies |= {
            tenant: _Tally(minute, end) for tenant, end in zip(wanted, last, strict=True) if end is not None
        }
        return {tenant: _numbers(end, more) for (tenant, more), end in zip(wanted.items(), last, strict=True)}

    def _owed(self, tenant: str, minute: int) -> int:
        """What Redis has not heard of, and is told now."""
        tally = self._tallies.get(tenant)
        if not tally or tally.minute != minute:
            return 0
        owed, tally.owed = tally.owed, 0
        return owed

    async def _requests(self, tenant: str, more: int, minute: int) -> int | None:
        # A window of its own for each minute of the clock: when it ends is known without asking.
        item = RateLimitItemPerMinute(1)
        try:
            async with self._turns:
                return await self._storage.incr(item.key_for(tenant, str(minute)), _WINDOW_S, more)
        except ResponseError:
            # Full, it still answers what it knows: reading and canceling go on, uncounted.
            return None

    async def _read_loads(self, wanted: Mapping[str, int]) -> dict[str, list[Load]]:
        with reachable():
            farm_jobs, *loads = await self._line.move("load", *wanted)
        until_s = time.monotonic() + _OWED_S
        found = {
            tenant: Load(farm_jobs, jobs, audio_ms)
            for tenant, jobs, audio_ms in zip(wanted, loads[::2], loads[1::2], strict=True)
        }
        if len(self._loads) > _MOST_TALLIES:
            self._loads.clear()
        self._loads |= {tenant: (load, until_s) for tenant, load in found.items()}
        return {tenant: [load] * wanted[tenant] for tenant, load in found.items()}


def _is_near(had: int, most: int, least: int) -> bool:
    return most - had <= max(least, _NEAR * most)


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
