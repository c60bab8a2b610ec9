"""A client that costs next to nothing, in a process of its own: whole requests as bytes, again and again.

`python -m tests.load.wire ASKED TOLD` reads one file of JSON {port, connections, count, kept, requests}, sends `count`
of the requests over so many connections that are kept, one at a time on each, and writes another: seconds, milliseconds
of each, statuses by count, the bodies of the first answers. Leaves out what the figures mean (`tests.load.measures`).
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import uvloop

_END_OF_HEAD: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length: "


class Load(NamedTuple):
    """What a run of requests came to: answers a second, each one's milliseconds, how many had which status."""

    per_s: float
    times_ms: list[float]
    statuses: dict[int, int]
    bodies: list[str]


def request(method: str, path: str, body: bytes = b"", headers: Sequence[str] = ()) -> bytes:
    """A whole request."""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", *headers]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def sent(port: int, requests: Sequence[bytes], count: int, connections: int, *, kept: int = 0) -> Load:
    """Send `count` of these requests, in turn, from another process; the bodies of the first `kept` answers."""
    order = {
        "port": port,
        "connections": connections,
        "count": count,
        "kept": kept,
        "requests": [one.decode("latin-1") for one in requests],
    }
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder) / "asked", Path(folder) / "told"
        asked.write_text(json.dumps(order))
        command = [sys.executable, "-m", "tests.load.wire", str(asked), str(told)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(told.read_text())
    statuses = {int(status): number for status, number in found["statuses"].items()}
    return Load(count / found["s"], found["times_ms"], statuses, found["bodies"])


class _Connection(asyncio.Protocol):
    """Sends the next request when the answer to the last one is there."""

    def __init__(self, requests: Iterator[bytes], run: _Run) -> None:
        self._requests = requests
        self._run = run
        self._answer = b""
        self._sent_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self) -> None:
        """Send the next request, or end when there is none."""
        request = next(self._requests, None)
        if request is None:
            self._transport.close()
            self._run.end()
            return
        self._sent_s = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, end, body = self._answer.partition(_END_OF_HEAD)
        if not end:
            return
        at = head.find(_LENGTH) + len(_LENGTH)
        if len(body) < int(head[at : at + 10].split(b"\r", 1)[0]):
            return
        self._run.note(int(head[9:12]), time.perf_counter() - self._sent_s, body)
        self._answer = b""
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._transport.is_closing() or error:
            self._run.fail(error or ConnectionError("the gateway closed a connection"))


class _Run:
    """What all connections note together."""

    def __init__(self, connections: int, kept: int) -> None:
        self.times_ms: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.bodies: list[str] = []
        self._kept = kept
        self._left = connections
        self.is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def note(self, status: int, took_s: float, body: bytes) -> None:
        """An answer is there."""
        self.times_ms.append(round(1_000 * took_s, 3))
        self.statuses[status] += 1
        if len(self.bodies) < self._kept:
            self.bodies.append(body.decode())

    def end(self) -> None:
        """A connection has nothing more to send."""
        self._left -= 1
        if not self._left and not self.is_over.done():
            self.is_over.set_result(None)

    def fail(self, error: Exception) -> None:
        """A connection broke."""
        if not self.is_over.done():
            self.is_over.set_exception(error)


async def _send_all(order: dict[str, Any]) -> dict[str, Any]:
    requests = islice(cycle([one.encode("latin-1") for one in order["requests"]]), order["count"])
    run = _Run(order["connections"], order["kept"])
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: _Connection(requests, run), "127.0.0.1", order["port"])
        for _ in range(order["connections"])
    ]
    started_s = time.perf_counter()
    for _, connection in made:
        connection.send()
    await run.is_over
    took_s = time.perf_counter() - started_s
    return {"s": took_s, "times_ms": run.times_ms, "statuses": run.statuses, "bodies": run.bodies}


if __name__ == "__main__":
    order = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps(uvloop.run(_send_all(order))))
