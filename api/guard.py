"""What every request meets before any route: how large it may be, what it must not be, and what every answer carries.

Owns HEAD and OPTIONS for all routes too. Leaves out what is refused before a request is whole (`api.connection`), and
who may do what (`api.access`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import MEDIA_TYPE, PROBLEMS, problem_body
from shared.settings import Settings

UPLOADS_PATH: Final = "/v1/uploads"
FILES_PATH: Final = "/v1/files"
BATCH_PATH: Final = "/v1/jobs/batch"
_ONCE: Final = (b"host", b"authorization", b"content-type", b"content-length", b"idempotency-key", b"x-request-id")
"""Of two of these a proxy before us may have read the other."""
_ALWAYS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
_POLICY: Final = b"content-security-policy"
_PAGE: Final = b"default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; frame-ancestors 'none'"
_POLICIES: Final = {
    # Swagger's page begins with a script of its own, and draws with styles and small pictures.
    "/docs": b"default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
}
_JSON: Final = (b"application/json", b"application/problem+json")


class RequestGuard:
    """ASGI middleware around all routes."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._methods: list[tuple[str, Any, frozenset[str]]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]

        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _secured(message["headers"], path)
                if message["status"] == PROBLEMS["method_not_allowed"].status:
                    kept = [(name, value) for name, value in message["headers"] if name != b"allow"]
                    message["headers"] = [*kept, (b"allow", _text(self._allowed(scope)))]
            await send(message)

        limit = self._limit(path)
        if _is_malformed(scope):
            await _refuse(secured, scope, "malformed_request")
        elif int(dict(scope["headers"]).get(b"content-length", b"0")) > limit:
            await _refuse(secured, scope, "body_too_large", f"At most {limit} bytes are taken here.")
        elif scope["method"] == "OPTIONS" and (allowed := self._allowed(scope)):
            await secured({"type": "http.response.start", "status": 204, "headers": [(b"allow", _text(allowed))]})
            await secured({"type": "http.response.body", "body": b""})
        elif scope["method"] == "HEAD":
            await self._head(scope, receive, secured, limit)
        else:
            await self._counted(scope, receive, secured, limit)

    def _limit(self, path: str) -> int:
        if path == BATCH_PATH:
            return self._settings.max_batch_bytes
        is_file = path in (UPLOADS_PATH, FILES_PATH)
        return self._settings.max_upload_bytes if is_file else self._settings.max_body_bytes

    async def _counted(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        """Run the app, counting a body that comes without a declared length."""
        received = 0
        is_refused = False

        async def counting_receive() -> Message:
            nonlocal received, is_refused
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit and not is_refused:
                is_refused = True
                await _refuse(send, scope, "body_too_large", f"At most {limit} bytes are taken here.")
            # The answer is out: for the app the client is gone.
            return {"type": "http.disconnect"} if is_refused else message

        async def sending(message: Message) -> None:
            if not is_refused:
                await send(message)

        await self._app(scope, counting_receive, sending)

    async def _head(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        """What GET would answer, without its body, where there is no HEAD."""
        is_refused = False

        async def unless_refused(message: Message) -> None:
            nonlocal is_refused
            if message["type"] == "http.response.start":
                is_refused = message["status"] == PROBLEMS["method_not_allowed"].status
            if not is_refused:
                await send(message)

        await self._counted(scope, receive, unless_refused, limit)
        if not is_refused:
            return
        inner = {**scope, "method": "GET"}
        is_over = False

        async def headers_only(message: Message) -> None:
            nonlocal is_over
            if message["type"] == "http.response.start":
                await send(message)
            elif not is_over:
                # A stream ends here too: for the app its client is gone.
                is_over = True
                await send({"type": "http.response.body", "body": b""})

        try:
            await self._counted(inner, receive, headers_only, limit)
        finally:
            scope["route"] = inner.get("route")

    def _allowed(self, scope: Scope) -> frozenset[str]:
        """The methods that the path takes, by the OpenAPI document; none where there is no such path."""
        if not self._methods:
            for template, operations in scope["app"].openapi()["paths"].items():
                methods = {name.upper() for name in operations} | {"OPTIONS"}
                methods |= {"HEAD"} if "GET" in methods else set()
                self._methods.append((template, compile_path(template)[0], frozenset(methods)))
        # Under a path that is written out stands nothing of those with a parameter in its place.
        exact = [methods for template, _, methods in self._methods if template == scope["path"]]
        found = exact or [methods for _, pattern, methods in self._methods if pattern.match(scope["path"])]
        return frozenset().union(*found)


def _is_malformed(scope: Scope) -> bool:
    """Whether a head that is well-formed otherwise may mean two things, or none."""
    names = [name for name, _ in scope["headers"]]
    if len(names) != len(set(names)) and any(names.count(name) > 1 for name in _ONCE):
        return True
    if b"host" not in names and scope["http_version"] == "1.1":
        return True
    return b"content-length" in names and not dict(scope["headers"])[b"content-length"].isdigit()


def _secured(headers: Iterable[tuple[bytes, bytes]], path: str) -> list[tuple[bytes, bytes]]:
    """An answer's headers, and what browsers are to keep to unless they say so themselves."""
    said = dict(headers)
    media_type = said.get(b"content-type", b"").partition(b";")[0]
    more = [*_ALWAYS]
    if media_type in _JSON:
        # Links in it let whoever has them read outputs, and some answers hold keys.
        more.append((b"cache-control", b"no-store"))
    if media_type == b"text/html":
        more.append((_POLICY, _POLICIES.get(path, _PAGE)))
    else:
        more.append((_POLICY, b"frame-ancestors 'none'"))
    return [*headers, *((name, value) for name, value in more if name not in said)]


def _text(methods: Iterable[str]) -> bytes:
    return ", ".join(sorted(methods)).encode()


async def _refuse(send: Send, scope: Scope, code: str, detail: str | None = None) -> None:
    problem = PROBLEMS[code]
    body = json.dumps(problem_body(code, detail or problem.remedy, scope["state"]["request_id"])).encode()
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
