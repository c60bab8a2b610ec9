"""How every process talks to Redis: time-outs, retries, and one error for all the ways in which it does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from shared.errors import QueueUnavailableError

_CONNECTIONS: Final = 32
_PASSING: Final = ("OOM", "MISCONF", "BUSY", "LOADING", "command not allowed when used memory")


def redis_from_url(url: str) -> redis.Redis:
    """A client that answers with text; it connects when it is first used."""
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=10,
        socket_connect_timeout=3,
        socket_keepalive=True,
        health_check_interval=10,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 3),
    )


def async_redis_from_url(url: str) -> redis.asyncio.Redis:
    """The same for asyncio. Its questions are small and many wait for each: it gives up sooner, and makes do with few
    connections."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=5,
        decode_responses=True,
        socket_timeout=5,
        socket_connect_timeout=3,
        socket_keepalive=True,
        health_check_interval=10,
        retry=AsyncRetry(ExponentialBackoff(cap=0.5, base=0.05), 1),
    )
    return redis.asyncio.Redis.from_pool(pool)


@contextmanager
def reachable() -> Iterator[None]:
    """Make QueueUnavailableError of every failure that passes once Redis is well again."""
    try:
        yield
    except (
        redis.exceptions.ConnectionError,
        redis.exceptions.TimeoutError,
        redis.exceptions.ReadOnlyError,
    ) as error:
        raise QueueUnavailableError(f"Redis does not answer: {error}") from error
    except redis.exceptions.ResponseError as error:
        # At its memory limit, on a full disk, or kept busy: it will pass.
        if str(error).startswith(_PASSING):
            raise QueueUnavailableError(f"Redis does not take writes: {error}") from error
        raise
