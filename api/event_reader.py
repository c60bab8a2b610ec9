"""The gateway's one reader of Redis for all the event streams it serves: two connections, however many follow.

One connection hears which jobs have something new, whichever they are; the other fetches it for all who wait, one
round trip for many jobs, and once for all who follow a job from the same place. Each follower reads on from the last
event it passed on, so that neither a lost message nor a slow client can make a gap, and nothing piles up for it here.
Leaves out HTTP (`api.events`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import redis.asyncio
import structlog
from redis.exceptions import RedisError

from shared.contracts import TERMINAL, Status
from shared.job_events import Event, event_from_entry
from shared.job_moves import EVENTS_CHANNEL, job_key

log = structlog.get_logger()
CLIENT_NAME: Final = "riffarm-events"
_READ_AT_ONCE: Final = 128
"""Followers served by one round trip."""
_EVENTS_AT_ONCE: Final = 64
_LOOK_AGAIN_S: Final = 15.0
"""After this long without news a follower looks for itself: a connection can be dead without anybody noticing."""
_PAUSE_S: Final = 0.5


class News(NamedTuple):
    """What came after an event, oldest first, and the job's status; None when the job is gone."""

    events: list[Event]
    status: Status | None


class EventReader:
    """Reads events for all followers of this process, as long as its block lasts."""

    def __init__(self, redis_url: str) -> None:
        self._redis = redis.asyncio.Redis.from_url(
            redis_url,
            decode_responses=True,
            socket_connect_timeout=3,
            socket_keepalive=True,
            health_check_interval=10,
            client_name=CLIENT_NAME,
        )
        self.is_closed = False
        self._followers: dict[str, set[Follower]] = {}
        self._wanted: dict[tuple[str, str], asyncio.Future[News]] = {}
        self._is_wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._fetch())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        running = set(self._tasks)
        while running:
            for task in running:
                task.cancel()
            # Again and again: a connection that is just being made can swallow a cancellation.
            _, running = await asyncio.wait(running, timeout=0.1)
        await self._redis.aclose()

    def close(self) -> None:
        """Let every stream end; who follows comes back to another gateway, or to this one when it is up again."""
        self.is_closed = True
        self._wake([*self._followers])

    @contextmanager
    def following(self, job_id: str) -> Iterator[Follower]:
        """Follow a job inside the block."""
        follower = Follower(self, job_id)
        self._followers.setdefault(job_id, set()).add(follower)
        try:
            yield follower
        finally:
            self._followers[job_id].remove(follower)
            if not self._followers[job_id]:
                del self._followers[job_id]

    async def news(self, job_id: str, last_id: str) -> News:
        """What is there after the event with this id, at once; waits only for a Redis that does not answer."""
        future = self._wanted.get((job_id, last_id))
        if future is None:
            future = self._wanted[job_id, last_id] = asyncio.get_running_loop().create_future()
            self._is_wanted.set()
        # Others may wait for the same answer.
        return await asyncio.shield(future)

    async def _listen(self) -> None:
        while True:
            with _noted("events are not heard"):
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(EVENTS_CHANNEL)
                    # What was told while nobody listened.
                    self._wake([*self._followers])
                    async for message in channel.listen():
                        self._wake([message["data"]])
            await asyncio.sleep(_PAUSE_S)

    def _wake(self, job_ids: list[Any]) -> None:
        for job_id in job_ids:
            for follower in self._followers.get(job_id, ()):
                follower.has_news.set()

    async def _fetch(self) -> None:
        while True:
            await self._is_wanted.wait()
            keys = list(self._wanted)[:_READ_AT_ONCE]
            answers: list[Any] = []
            with _noted("events are not read"):
                answers = await self._answers(keys)
            if not answers:
                await asyncio.sleep(_PAUSE_S)
                continue
            for index, key in enumerate(keys):
                self._wanted.pop(key).set_result(_news(*answers[2 * index : 2 * index + 2]))
            if not self._wanted:
                self._is_wanted.clear()

    async def _answers(self, keys: list[tuple[str, str]]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for job_id, last_id in keys:
                # In this order: what an end tells was there before the status that is read after it.
                pipe.hget(job_key(job_id), "status")
                pipe.xrange(job_key(job_id, ":events"), f"({last_id}", "+", _EVENTS_AT_ONCE)
            answers: list[Any] = await pipe.execute()
        return answers


class Follower:
    """One stream's place at the reader."""

    def __init__(self, reader: EventReader, job_id: str) -> None:
        self.has_news = asyncio.Event()
        self._reader = reader
        self._job_id = job_id

    async def news(self, last_id: str) -> News:
        """What came after the event with this id ("0": from the first on), once there is something, or after a while.

        Without a status the job is gone, or the reader is closed.
        """
        # Before looking: what comes meanwhile is not missed.
        self.has_news.clear()
        news = await self.look(last_id)
        if news.events or news.status is None or news.status in TERMINAL:
            return news
        with suppress(TimeoutError):
            await asyncio.wait_for(self.has_news.wait(), _LOOK_AGAIN_S)
        return await self.look(last_id)

    async def look(self, last_id: str) -> News:
        """What is there after the event with this id, at once."""
        return News([], None) if self._reader.is_closed else await self._reader.news(self._job_id, last_id)


def _news(status: Status | None, entries: list[tuple[str, dict[str, str]]]) -> News:
    return News([event_from_entry(entry) for entry in entries], status)


@contextmanager
def _noted(sentence: str) -> Iterator[None]:
    """Let nothing that Redis does end the reader."""
    try:
        yield
    except (RedisError, OSError) as error:
        log.warning(sentence, error=str(error))
