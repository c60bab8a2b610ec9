"""Connections to receivers of webhooks: to addresses that were checked, and to nothing else.

A name is resolved once for each connection; all its addresses must be allowed, and the connection goes to one of them
by number. So an answer that changes afterwards changes nothing, and a refused address gets not as much as a packet. TLS
and `Host` keep the name. Owns the limits of what is read. Leaves out which addresses are allowed
(`shared.webhook_urls`) and what is sent (`workers.webhooks`).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from typing import Any, Final

import httpcore

from shared.webhook_urls import WebhookRules

_CONNECT_S: Final = 4.0
"""How long an address may take to answer before the next is tried."""
_ADDRESSES: Final = 3
_READ_BYTES: Final = 1_024
_MAX_BYTES: Final = 65_536
"""What is read of an answer in all, its head included."""


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Opens connections for httpcore. `resolvers`: threads that ask for names, one for each connection at a time."""

    def __init__(self, rules: WebhookRules, resolvers: ThreadPoolExecutor) -> None:
        self._rules = rules
        self._resolvers = resolvers
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of a host that answers. Raises ConnectError, also when one is not allowed."""
        failure: Exception = httpcore.ConnectError("the name has no address")
        for address in await self._addresses(host, port):
            try:
                return _Limited(await self._plain.connect_tcp(address, port, timeout=_CONNECT_S))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _addresses(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._resolvers, _resolved, host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError("the name cannot be resolved") from error
        if not all(self._rules.may_connect(host, address) for address in found):
            # Which one is not said: what names mean inside is nobody's business.
            raise httpcore.ConnectError("refused: the name leads to an address that is not public")
        return found[:_ADDRESSES]


def _resolved(host: str, port: int) -> list[str]:
    """A host's addresses as its resolver orders them, but IPv6 and IPv4 in turn."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    v6, v4 = ([one for one in addresses if (":" in one) is is_v6] for is_v6 in (True, False))
    first, second = (v6, v4) if ":" in addresses[0] else (v4, v6)
    return [one for pair in zip_longest(first, second) for one in pair if one]


class _Limited(httpcore.AsyncNetworkStream):
    """A stream of which little is read at a time, and not more than _MAX_BYTES in all."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._left = _MAX_BYTES

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = await self._stream.read(min(max_bytes, _READ_BYTES), timeout)
        self._left -= len(data)
        if self._left < 0:
            raise httpcore.ReadError(f"the answer's head is longer than {_MAX_BYTES} bytes")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return _Limited(await self._stream.start_tls(ssl_context, server_hostname, timeout))
        except BaseException:
            # httpcore closes after an error, but not after a time-out of ours, which is a cancellation.
            await self._stream.aclose()
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
