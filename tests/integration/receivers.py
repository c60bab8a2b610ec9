"""Receivers of webhooks for tests, and a courier that posts to them."""

from __future__ import annotations

import asyncio
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import redis

from shared.job_store import JobStore
from shared.object_store import ObjectStore
from shared.settings import Settings
from workers.courier import Courier


class Call(NamedTuple):
    """What a receiver was sent, and when."""

    path: str
    headers: dict[str, str]
    body: bytes
    at_s: float


class Receiver(ThreadingHTTPServer):
    """Answers by path: /204, /500, … with that status, /hang not at all until `is_over`; keeps what it was sent."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.calls: list[Call] = []
        self.is_over = threading.Event()
        self.extra: dict[str, str] = {}
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        server = self.server
        body = self.rfile.read(int(self.headers["content-length"]))
        with server.lock:
            server.calls.append(Call(self.path, {k.lower(): v for k, v in self.headers.items()}, body, time.time()))
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            self._answer()
        finally:
            with server.lock:
                server.at_once -= 1

    def _answer(self) -> None:
        if self.path == "/hang":
            self.server.is_over.wait(30)
            return
        if self.path.startswith("/slow"):
            time.sleep(0.2)
        self.send_response(204 if self.path.startswith("/slow") else int(self.path[1:4]))
        for name, value in {"location": f"{self.server.url}/204", **self.server.extra}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


@contextmanager
def receiving(context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver on loopback."""
    server = Receiver(context)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.is_over.set()
        server.shutdown()
        thread.join()
        server.server_close()


class DeadReceivers(NamedTuple):
    """Addresses that take a connection and never say a word."""

    sockets: list[socket.socket]

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{one.getsockname()[1]}/hook" for one in self.sockets]

    def connected(self) -> int:
        """How many of them have a connection."""
        with selectors.DefaultSelector() as selector:
            for one in self.sockets:
                selector.register(one, selectors.EVENT_READ)
            return len(selector.select(0))


@contextmanager
def dead_receivers(count: int) -> Iterator[DeadReceivers]:
    """So many of them."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        yield DeadReceivers(sockets)
    finally:
        for one in sockets:
            one.close()


@contextmanager
def posting(settings: Settings, objects: ObjectStore) -> Iterator[Courier]:
    """A courier at work, in a thread."""
    jobs = JobStore(settings.redis_url)
    courier = Courier(settings, jobs, objects)
    loop = asyncio.new_event_loop()
    is_stopping = asyncio.Event()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(courier.run(is_stopping))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield courier
    finally:
        loop.call_soon_threadsafe(is_stopping.set)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        jobs.redis.close()


def make_due(client: redis.Redis, delivery_id: str) -> None:
    """Have a delivery that waits posted now."""
    receiver = client.hget(f"riffarm:delivery:{delivery_id}", "receiver")
    client.zadd(f"riffarm:receiver:{receiver}:due", {delivery_id: 1})
    client.zadd("riffarm:receivers", {str(receiver): 1})
