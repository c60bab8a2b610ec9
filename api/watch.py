"""Sees every request from its first to its last: its id, its one line in the log, its figures, its span, and whatever
mistake of the gateway's own comes out of it.

Leaves out what may come in (`api.guard`) and how figures are told (`api.metrics`).
"""

from __future__ import annotations

import json
import random
import re
import secrets
import time
from typing import Any, Final

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import RequestMetrics
from api.problems import MEDIA_TYPE, PROBLEMS, problem_body
from shared import telemetry
from shared.logs import bind_request, tell_request
from shared.secrecy import masked

log = structlog.get_logger()
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")
_OFTEN: Final = frozenset({"/health", "/ready", "/metrics"})
"""Asked by machines every few seconds: of no interest in a log."""
_STREAM: Final = b"text/event-stream"
_GONE: Final = 499
"""The status noted of a client that went away before there was one."""
# Ids tell requests apart and keep nothing secret.
_draw: Final = random.Random(secrets.token_bytes(16))  # noqa: S311


class RequestWatch:
    """ASGI middleware, the outermost."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = _Seen(scope, send, self._metrics)
        try:
            if telemetry.is_traced() and scope["path"] not in _OFTEN:
                await self._traced(seen, receive)
            else:
                await self._app(scope, receive, seen.send)
        except ClientDisconnect:
            seen.status = seen.status or _GONE
        except Exception:
            if seen.status:
                # Too late for an answer: the server says so, and ends the connection.
                raise
            log.exception("unexpected error")
            await seen.send_mistake()
        finally:
            seen.tell()

    async def _traced(self, seen: _Seen, receive: Receive) -> None:
        parent = dict(seen.scope["headers"]).get(b"traceparent", b"").decode("latin-1")
        with telemetry.span(seen.scope["method"], parent=parent, kind="server") as span:
            await self._app(seen.scope, receive, seen.send)
            span.update_name(f"{seen.scope['method']} {seen.route}")
            span.set_attributes({"http.route": seen.route, "http.response.status_code": seen.status})
            span.set_attribute("riffarm.request", seen.request_id)


class _Seen:
    """What is seen of one request."""

    def __init__(self, scope: Scope, send: Send, metrics: RequestMetrics) -> None:
        self.scope = scope
        self.status = 0
        self.request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = self.request_id
        bind_request(self.request_id)
        self._send = send
        self._metrics = metrics
        self._bytes = 0
        self._is_stream = False
        self._started_s = time.perf_counter()
        metrics.in_flight.inc()

    async def send(self, message: Message) -> None:
        """Pass an answer's part on."""
        if message["type"] == "http.response.start":
            self._begin(message)
        else:
            self._bytes += len(message.get("body", b""))
        await self._send(message)

    def _begin(self, message: Message) -> None:
        self.status = message["status"]
        state = self.scope["state"]
        # How the caller stands with its limits, once it is known who it is (`api.access`).
        more = [(b"x-request-id", self.request_id.encode()), *state.get("answer_headers", ())]
        message["headers"] = [*message["headers"], *more]
        if any(name == b"content-type" and value.startswith(_STREAM) for name, value in message["headers"]):
            self._is_stream = True
            self._metrics.event_streams.inc()

    async def send_mistake(self) -> None:
        """Answer that the gateway made a mistake."""
        problem = PROBLEMS["internal_error"]
        body = json.dumps(problem_body(problem.code, problem.remedy, self.request_id)).encode()
        headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    @property
    def route(self) -> str:
        """The route's template; "other" where there is none."""
        return getattr(self.scope.get("route"), "path", None) or "other"

    def tell(self) -> None:
        """Count the request, and write its line."""
        took_s = time.perf_counter() - self._started_s
        self._metrics.in_flight.dec()
        if self._is_stream:
            self._metrics.event_streams.dec()
        method, route, status = self.scope["method"], self.route, self.status or _GONE
        self._metrics.count(method, route, status, None if self._is_stream else took_s)
        if self.scope["path"] in _OFTEN:
            return
        caller = self.scope["state"].get("caller")
        # Neither the target, which may hold a signature, nor a header, which may be a key.
        figures = {"status": status, "ms": round(1_000 * took_s, 1), "bytes": self._bytes}
        tell_request(method=method, route=route, **figures, **_who(caller))


def _who(caller: Any) -> dict[str, str | None]:
    return {"tenant": caller.tenant, "key": caller.key_id} if caller else {}


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text: str = value.decode("latin-1")
            # It is told in answers and lines, as it is: none that looks like a key.
            if _REQUEST_ID.fullmatch(value) and masked(text) == text:
                return text
            break
    return f"req_{_draw.getrandbits(64):016x}"
