"""Who may come in and do what: bearer keys with their tenant and scopes, or loopback alone where there are none.

Leaves out what every request meets before that (`api.guard`).
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final, Literal, get_args
from urllib.parse import urlsplit

from fastapi import Depends, Request

from api.intake import Jobs
from shared.errors import AccessDeniedError, ForbiddenError
from shared.settings import Settings

Scope = Literal["submit", "read", "admin"]


def is_loopback(host: str) -> bool:
    """Whether an address or name to listen on is this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the tenant whose jobs, uploads and outputs it sees, what it may do, and the key it came with.

    key_id: None for the key of the settings, and on a farm without keys.
    """

    tenant: str
    scopes: frozenset[Scope]
    key_id: str | None = None


OPERATOR: Final = Caller("default", frozenset(get_args(Scope)))
"""Whoever has the key of the settings, and everybody on a farm without keys."""


async def admitted(request: Request, scope: Scope) -> Caller:
    """Whoever asks, if it may do what the scope says; kept as `request.state.caller`.

    Raises AccessDeniedError without a valid key, ForbiddenError when the key lacks the scope.
    """
    caller = _caller(request)
    if scope not in caller.scopes:
        raise ForbiddenError(f"This key lacks the scope '{scope}'.")
    request.state.caller = caller
    return caller


def _caller(request: Request) -> Caller:
    settings: Settings = request.app.state.settings
    if settings.gateway_key is None:
        _refuse_other_sites(request)
        return OPERATOR
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    wanted = settings.gateway_key.get_secret_value().encode()
    if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), wanted):
        raise AccessDeniedError
    return OPERATOR


def _refuse_other_sites(request: Request) -> None:
    # Any page in a browser on this machine can send a form to us; only our own may.
    origin = request.headers.get("origin")
    if origin and not is_loopback(urlsplit(origin).hostname or ""):
        raise AccessDeniedError("Pages of other sites may not use a farm without a key; set RIFFARM_GATEWAY_KEY.")


def _as_seen_by(scope: Scope) -> Callable[[Request], Awaitable[Jobs]]:
    async def jobs_of_caller(request: Request) -> Jobs:
        caller = await admitted(request, scope)
        jobs: Jobs = request.app.state.jobs
        return jobs.of(caller.tenant)

    return jobs_of_caller


async def _as_it_is(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.jobs
    return jobs


Reading = Annotated[Jobs, Depends(_as_seen_by("read"))]
"""The farm as a caller sees it who may read."""
Submitting = Annotated[Jobs, Depends(_as_seen_by("submit"))]
"""The farm as a caller sees it who may submit jobs and change them."""
Operating = Annotated[Jobs, Depends(_as_seen_by("admin"))]
"""The farm as a caller sees it who may operate it."""
WholeFarm = Annotated[Jobs, Depends(_as_it_is)]
"""The farm, for routes that anybody may ask."""
