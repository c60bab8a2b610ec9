"""What every request meets first: its id, for its answer and its log lines, and the limit of its body's size.

Leaves out who may do what (`api.access`).
"""

from __future__ import annotations

import json
import re
import secrets
from typing import Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import MEDIA_TYPE, PROBLEMS, problem_body
from shared.secrecy import masked
from shared.settings import Settings

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
UPLOADS_PATH: Final = "/v1/uploads"
FILES_PATH: Final = "/v1/files"
BATCH_PATH: Final = "/v1/jobs/batch"


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
        # It is written everywhere: a key in its place by mistake must not be.
        is_fit = _REQUEST_ID.fullmatch(asked) and masked(asked) == asked
        request_id = asked if is_fit else f"req_{secrets.token_hex(8)}"
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.bind_contextvars(request=request_id)
        limit = self._limit(scope["path"])

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    # How the caller stands with its limits, once it is known who it is (`api.access`).
                    *scope["state"].get("answer_headers", ()),
                ]
            await send(message)

        declared = headers.get(b"content-length", "0")
        if not declared.isdigit() or int(declared) > limit:
            await _refuse(send_with_id, request_id, limit)
            return
        await self._counted(scope, receive, send_with_id, limit, request_id)

    def _limit(self, path: str) -> int:
        if path == BATCH_PATH:
            return self._settings.max_batch_bytes
        is_file = path in (UPLOADS_PATH, FILES_PATH)
        return self._settings.max_upload_bytes if is_file else self._settings.max_body_bytes

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
