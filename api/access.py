"""Who may come in: one bearer key, or loopback alone where there is none; the size of bodies; the request's id.

Leaves out tenants, scopes and rate limits.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
import secrets
from typing import Final
from urllib.parse import urlsplit

import structlog
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import MEDIA_TYPE, PROBLEMS, problem_body
from shared.errors import AccessDeniedError
from shared.settings import Settings

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
UPLOADS_PATH: Final = "/v1/uploads"


def is_loopback(host: str) -> bool:
    """Whether an address or name to listen on is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_key(request: Request) -> None:
    """Refuse a request without the gateway's key, where one is configured. Raises AccessDeniedError."""
    settings: Settings = request.app.state.settings
    if settings.gateway_key is None:
        _refuse_other_sites(request)
        return
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    wanted = settings.gateway_key.get_secret_value().encode()
    if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), wanted):
        raise AccessDeniedError


def _refuse_other_sites(request: Request) -> None:
    # Any page in a browser on this machine can send a form to us; only our own may.
    origin = request.headers.get("origin")
    if origin and not is_loopback(urlsplit(origin).hostname or ""):
        raise AccessDeniedError("Pages of other sites may not use a farm without a key; set RIFFARM_GATEWAY_KEY.")


class RequestGuard:
    """ASGI middleware: gives every request an id, for its answer and its log lines, and stops too large a body."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        asked = headers.get(b"x-request-id", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else f"req_{secrets.token_hex(8)}"
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.bind_contextvars(request=request_id)
        limit = self._limit(scope["path"])

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        declared = headers.get(b"content-length", "0")
        if not declared.isdigit() or int(declared) > limit:
            await _refuse(send_with_id, request_id, limit)
            return
        await self._counted(scope, receive, send_with_id, limit, request_id)

    def _limit(self, path: str) -> int:
        return self._settings.max_upload_bytes if path == UPLOADS_PATH else self._settings.max_body_bytes

    async def _counted(self, scope: Scope, receive: Receive, send: Send, limit: int, request_id: str) -> None:
        """Run the app, counting a body that comes without a declared length."""
        received = 0
        is_refused = False

        async def counting_receive() -> Message:
            nonlocal received, is_refused
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit and not is_refused:
                is_refused = True
                await _refuse(send, request_id, limit)
            # The answer is out: for the app the client is gone.
            return {"type": "http.disconnect"} if is_refused else message

        async def sending(message: Message) -> None:
            if not is_refused:
                await send(message)

        await self._app(scope, counting_receive, sending)


async def _refuse(send: Send, request_id: str, limit: int) -> None:
    body = json.dumps(problem_body("body_too_large", f"At most {limit} bytes are taken here.", request_id)).encode()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    status = PROBLEMS["body_too_large"].status
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
