"""A gateway's own line to Redis: one connection, over which the questions of all requests go one after the other, none
waiting for the answer to another.

For the few questions that nearly every request asks: redis-py's client takes ten times as long over each, nearly all of
it for itself. Owns the connection: it is made when it is needed and made anew when it breaks, and a Redis that does not
answer in time is given up. Leaves out what is asked, and what failures mean (`shared.redis_connection.reachable`).
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import time
from collections import deque
from functools import cache
from typing import Any, Final, cast

import hiredis
from redis.connection import SSLConnection, parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.job_moves import moves

_CONNECT_S: Final = 3.0
_ANSWER_S: Final = 5.0
_LOOK_EVERY_S: Final = 1.0
_ERRORS: Final[dict[str, type[ResponseError]]] = {"NOSCRIPT": NoScriptError, "READONLY": ReadOnlyError}
Part = str | int | float


class RedisLine:
    """Asks the Redis that a URL names. Failures are redis-py's errors."""

    def __init__(self, url: str) -> None:
        self._options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]  # it has no types
        self._wire: _Wire | None = None
        self._lock = asyncio.Lock()

    async def ask(self, *command: Part) -> Any:
        """The answer to a command, texts as str. One that broke off with its connection is sent once more, so only what
        may be done twice is to be asked."""
        try:
            return await self._asked(command)
        except RedisConnectionError:
            return await self._asked(command)

    async def move(self, name: str, *arguments: Part) -> Any:
        """Make a move of shared/job_moves.lua, which may be made twice."""
        try:
            return await self.ask("EVALSHA", _sha(name), 0, *arguments)
        except NoScriptError:
            return await self.ask("EVAL", moves()[name], 0, *arguments)

    async def _asked(self, command: tuple[Part, ...]) -> Any:
        wire = self._wire
        if wire is None or wire.is_closed:
            wire = await self._connected()
        return await wire.ask(command)

    async def _connected(self) -> _Wire:
        async with self._lock:
            if self._wire is None or self._wire.is_closed:
                try:
                    async with asyncio.timeout(_CONNECT_S):
                        self._wire = await self._new_wire()
                except TimeoutError:
                    raise RedisTimeoutError("no connection in time") from None
                except OSError as error:
                    raise RedisConnectionError(str(error)) from error
            return self._wire

    async def _new_wire(self) -> _Wire:
        loop, options = asyncio.get_running_loop(), self._options
        if path := options.get("path"):
            _, wire = await loop.create_unix_connection(_Wire, path)
        else:
            host, port = options.get("host", "localhost"), options.get("port", 6379)
            _, wire = await loop.create_connection(_Wire, host, port, ssl=_tls(options))
        if password := options.get("password"):
            await wire.ask(("AUTH", options.get("username") or "default", password))
        if database := options.get("db"):
            await wire.ask(("SELECT", database))
        return wire

    def close(self) -> None:
        """Let the connection go."""
        if self._wire:
            self._wire.close()


class _Wire(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(encoding="utf-8", errors="surrogateescape")
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._unsent: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._watch: asyncio.TimerHandle | None = None
        self.is_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands."""
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, command: tuple[Part, ...]) -> asyncio.Future[Any]:
        """Send a command; its answer, to be waited for."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.is_closed:
            future.set_exception(RedisConnectionError("the connection was closed"))
            return future
        if not self._unsent:
            # What other requests ask in the same turn goes with it, in one call of the system.
            self._loop.call_soon(self._send)
        self._unsent.append(hiredis.pack_command(cast("Any", command)))
        self._waiting.append((future, time.monotonic()))
        if self._watch is None:
            self._watch = self._loop.call_later(_LOOK_EVERY_S, self._look)
        return future

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if not self.is_closed:
            self._transport.write(b"".join(unsent))

    def data_received(self, data: bytes) -> None:
        """Answers come in the order of the questions."""
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not False:
            future, _ = self._waiting.popleft()
            if future.done():
                # Nobody waits any more.
                continue
            if isinstance(answer, hiredis.ReplyError):
                text = str(answer)
                future.set_exception(_ERRORS.get(text.partition(" ")[0], ResponseError)(text))
            else:
                future.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        """It broke."""
        self._fail(RedisConnectionError(f"the connection broke: {error or 'closed by Redis'}"))

    def close(self) -> None:
        """End it."""
        self._fail(RedisConnectionError("the connection was closed"))
        self._transport.close()

    def _look(self) -> None:
        """Give up a Redis that has not answered in time."""
        self._watch = None
        if self._waiting:
            if time.monotonic() - self._waiting[0][1] > _ANSWER_S:
                self._fail(RedisTimeoutError("no answer in time"))
                self._transport.abort()
            else:
                self._watch = self._loop.call_later(_LOOK_EVERY_S, self._look)

    def _fail(self, error: Exception) -> None:
        self.is_closed = True
        if self._watch:
            self._watch.cancel()
        waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(error)


@cache
def _sha(name: str) -> str:
    return hashlib.sha1(moves()[name].encode(), usedforsecurity=False).hexdigest()


def _tls(options: dict[str, Any]) -> ssl.SSLContext | None:
    if options.get("connection_class") is not SSLConnection:
        return None
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
