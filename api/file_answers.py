"""Files as answers, whole or in ranges, or not at all to who has them already.

Leaves out which file, and who may have it.
"""

from __future__ import annotations

import os
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request, Response
from fastapi.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from api.problems import problem_response

UNMODIFIED: Final[dict[int | str, dict[str, Any]]] = {304: {"description": "You have it: `If-None-Match` names it."}}


class FileAnswer(FileResponse):
    """A file, with ranges so that a player can seek.

    A range that cannot be is a problem like any other; one in other units than bytes says nothing (RFC 9110, 14.2).
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        if (etag := self.headers.get("etag")) and has_it(Request(scope), etag):
            await not_modified(etag)(scope, receive, send)
            return
        is_refused = False

        async def sending(message: Message) -> None:
            nonlocal is_refused
            if is_refused:
                return
            # The library's own two refusals are plain text.
            if message["type"] == "http.response.start" and message["status"] >= HTTPStatus.BAD_REQUEST:
                is_refused = True
                answer = problem_response(Request(scope), "range_not_satisfiable")
                answer.headers["Content-Range"] = f"bytes */{os.path.getsize(self.path)}"
                await answer(scope, receive, send)
                return
            await send(message)

        in_bytes = [one for one in scope["headers"] if one[0] != b"range" or _is_of_bytes(one[1])]
        await super().__call__({**scope, "headers": in_bytes}, receive, sending)


def has_it(request: Request, etag: str) -> bool:
    """Whether who asks names what it has, and it is this (RFC 9110, 13.1.2)."""
    named = ",".join(request.headers.getlist("if-none-match"))
    return etag in [one.strip().removeprefix("W/") for one in named.split(",")] or named.strip() == "*"


def not_modified(etag: str) -> Response:
    """The answer to who has it."""
    return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"ETag": etag})


def _is_of_bytes(header: bytes) -> bool:
    unit, equals, _ = header.partition(b"=")
    return not equals or unit.strip().lower() == b"bytes"
