"""A gateway's own line to Redis, over a real Valkey."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from api.redis_line import RedisLine
from tests.conftest import Valkey


def connections_made(valkey: Valkey) -> int:
    """How many were ever made, this one among them."""
    with redis.Redis.from_url(valkey.url) as client:
        return int(client.info("stats")["total_connections_received"])


def test_questions_of_many_go_over_one_connection(valkey: Valkey) -> None:
    """A thousand at once, each with its own answer, errors too; texts come back as they were."""

    async def asked() -> list[object]:
        line = RedisLine(valkey.url)
        await asyncio.gather(*(line.ask("SET", f"k{number}", f"ü{number}") for number in range(500)))
        wrong = [line.ask("LPUSH", f"k{number}", "a") for number in range(500)]
        answers = await asyncio.gather(
            *(line.ask("GET", f"k{number}") for number in range(500)), *wrong, return_exceptions=True
        )
        line.close()
        return answers

    before = connections_made(valkey)
    answers = asyncio.run(asked())
    assert answers[:500] == [f"ü{number}" for number in range(500)]
    assert all(isinstance(one, ResponseError) for one in answers[500:])
    # And the one that counts them.
    assert connections_made(valkey) == before + 1 + 1


def test_a_move_is_made_in_a_redis_that_does_not_know_it(valkey: Valkey) -> None:
    """Also after Redis has forgotten its scripts."""

    async def asked() -> list[object]:
        line = RedisLine(valkey.url)
        found = [await line.move("load", "default")]
        await line.ask("SCRIPT", "FLUSH")
        found.append(await line.move("load", "default"))
        line.close()
        return found

    assert asyncio.run(asked()) == [[0, 0, 0], [0, 0, 0]]


def test_it_comes_back_when_redis_does(tmp_path: Path) -> None:
    """While Redis is away each question says so at once; then the next one is answered."""
    valkey = Valkey(tmp_path)

    async def asked() -> None:
        line = RedisLine(valkey.url)
        assert await line.ask("PING") == "PONG"
        valkey.stop()
        with pytest.raises(RedisConnectionError):
            await line.ask("PING")
        await asyncio.to_thread(valkey.start)
        assert await line.ask("PING") == "PONG"
        line.close()

    try:
        asyncio.run(asked())
    finally:
        valkey.stop()


def test_who_stops_waiting_does_not_disturb_the_others(valkey: Valkey) -> None:
    """A question given up is answered to nobody; those behind it get their own."""

    async def asked() -> list[object]:
        line = RedisLine(valkey.url)
        await line.ask("SET", "a", 1)
        given_up = asyncio.ensure_future(line.ask("BLPOP", "empty", 0.2))
        await asyncio.sleep(0)
        after = asyncio.ensure_future(line.ask("GET", "a"))
        await asyncio.sleep(0)
        given_up.cancel()
        found = [await after, await line.ask("GET", "a")]
        line.close()
        return found

    assert asyncio.run(asked()) == ["1", "1"]
