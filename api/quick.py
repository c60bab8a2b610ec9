"""The two requests that are made all the time, past all that stands before a route: submit a job, read a job.

What takes them is what the routes take, and answers are the same. Whatever is not as most are, above all whatever goes
wrong, is left to the routes (`api.jobs`), which find it again and say so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.access import admitted
from api.bodies import value_from_json
from api.jobs import accepted, answer
from api.planning import is_quick
from shared.contracts import JOB_REQUEST
from shared.errors import RiffarmError

_JOBS: Final = "/v1/jobs"
_JOB: Final = f"{_JOBS}/"
Quick = Callable[[Request], Awaitable[Response | None]]


class QuickRoutes:
    """ASGI middleware right before the app."""

    def __init__(self, app: ASGIApp, router: APIRouter) -> None:
        """`router` has the routes that these are."""
        self._app = app
        self._submit = _route(router, _JOBS, "POST"), _submitted
        self._read = _route(router, f"{_JOB}{{job_id}}", "GET"), _read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._found(scope)
        if found is None:
            await self._app(scope, receive, send)
            return
        route, quick = found
        heard = _Heard(receive)
        response = None
        with suppress(RiffarmError, HTTPException, ClientDisconnect):
            response = await quick(Request(scope, heard.receive))
        if response is None:
            await self._app(scope, heard.again, send)
        else:
            scope["route"] = route
            await response(scope, receive, send)

    def _found(self, scope: Scope) -> tuple[BaseRoute, Quick] | None:
        if scope["type"] != "http":
            return None
        path, method = scope["path"], scope["method"]
        if method == "POST" and path == _JOBS:
            return self._submit
        is_job = method == "GET" and path.startswith(_JOB) and "/" not in path[len(_JOB) :]
        return self._read if is_job else None


class _Heard:
    """A request's body, to be heard a second time."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._messages: list[Message] = []

    async def receive(self) -> Message:
        """For the first time."""
        self._messages.append(await self._receive())
        return self._messages[-1]

    async def again(self) -> Message:
        """From the beginning, and then what is still to come."""
        return self._messages.pop(0) if self._messages else await self._receive()


def _route(router: APIRouter, path: str, method: str) -> BaseRoute:
    """The route with this template and method."""
    routes = (one for one in router.routes if isinstance(one, APIRoute))
    return next(one for one in routes if one.path == path and method in (one.methods or ()))


async def _submitted(request: Request) -> Response | None:
    """What is submitted as most jobs are: without a key and a wait, quickly planned, and right."""
    headers = request.headers
    if headers.get("content-type") != "application/json" or "idempotency-key" in headers or "prefer" in headers:
        return None
    farm = await admitted(request, "submit")
    try:
        body = JOB_REQUEST.validate_python(value_from_json(await request.body()))
    except ValueError:
        return None
    if not is_quick(body):
        return None
    fields = await farm.accept_soon(body, request.app.state.redis_line)
    return accepted(fields["id"], farm.view.text(fields))


async def _read(request: Request) -> Response:
    farm, reader = await admitted(request, "read"), request.app.state.job_reader
    return answer(farm.view.text(farm.own(await reader.fields(request.scope["path"][len(_JOB) :]))))
