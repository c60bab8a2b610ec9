"""Requests that may be sent twice: under an `Idempotency-Key` the first one's answer is given again, for a day.

A key is claimed before anything is done, under a lease: whoever comes meanwhile hears so; whoever comes after the
gateway died takes over and comes to the same ids (`api.stamps`), so that nothing is recorded twice. Owns the header,
the claim and the kept answer. Leaves out what is done under a key, and how keys come back after a loss of Redis
(`restore` in shared/job_moves.lua).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Annotated, Final

import structlog
from fastapi import Depends, Header, Request, Response
from starlette.exceptions import HTTPException

from api.access import Submitting
from api.intake import Jobs
from api.stamps import Stamp, new_stamp
from shared.errors import (
    FieldError,
    IdempotencyInFlightError,
    IdempotencyMismatchError,
    InvalidRequestError,
    ObjectNotFoundError,
    RequestError,
    RiffarmError,
)
from shared.manifests import ids_of_manifests, manifest
from shared.object_store import ObjectStore

log = structlog.get_logger()
_LEASE_S: Final = 60
"""After so long whoever took a key is gone: no answer takes longer, but one that is waited for."""
_KEPT_MS: Final = 24 * 3_600_000
_PRINTABLE: Final = re.compile(r"[\x20-\x7e]{1,255}")
_PREFIX_MS: Final = 2**24
"""How much time the first six of a job id's twelve digits of time leave open."""


class Once:
    """One request: carried out once under its key, and without a key whenever it comes."""

    def __init__(self, farm: Jobs, mark: str | None = None, print_: str = "") -> None:
        """`mark`: 32 hexadecimal digits that stand for tenant and key, None without one; `print_`: for the request."""
        self._farm = farm
        self._mark = mark
        self._print = print_
        self._token = secrets.token_hex(8)
        self._is_open = False

    @property
    def has_key(self) -> bool:
        """Whether the request came with a key."""
        return self._mark is not None

    def answer(self, work: Callable[[Stamp], Response], wait_s: int = 0) -> Response:
        """What `work` answers, or answered the first time.

        With `wait_s` the answer is kept by `keep` alone, which must come within that time. Raises what `work` raises,
        IdempotencyMismatchError and IdempotencyInFlightError.
        """
        if self._mark is None:
            return work(new_stamp())
        found = self._claimed(self._mark, 1_000 * (_LEASE_S + wait_s))
        if isinstance(found, Response):
            return found
        try:
            response = work(found)
        except (RiffarmError, HTTPException) as error:
            # What was refused was not recorded; of what failed in a second go something may be.
            is_clear = isinstance(error, RequestError | HTTPException) or not found.is_repeat
            self._settle(*(() if is_clear else ("until_ms", 0)))
            raise
        if found.is_repeat:
            response.headers["Idempotent-Replayed"] = "true"
        if not wait_s:
            self.keep(response)
        return response

    def keep(self, response: Response) -> None:
        """Keep an answer, to give it again."""
        if self._mark is None:
            return
        if self._is_open:
            self._settle("until_ms", 0)
        else:
            self._settle("answer", _text_from_response(response))

    def leave_open(self) -> None:
        """Let whoever sends the request again go on with it: of what it asks for some could not be done just now."""
        self._is_open = True

    def _claimed(self, mark: str, lease_ms: int) -> Stamp | Response:
        kind, *told = self._farm.job_store.move("claim", mark, self._print, self._token, lease_ms)
        origin = f"{mark} {self._print}"
        match kind:
            case "answered":
                return _response_from_text(told[0])
            case "another":
                raise IdempotencyMismatchError
            case "busy":
                raise IdempotencyInFlightError
            case "again":
                return Stamp(told[0], mark, origin, is_repeat=True)
        at_ms, has_all = told
        try:
            before_ms = None if has_all else _first_ms(self._farm, mark, origin)
        except RiffarmError:
            self._settle()
            raise
        if before_ms is None:
            return Stamp(at_ms, mark, origin)
        self._settle("at_ms", before_ms)
        return Stamp(before_ms, mark, origin, is_repeat=True)

    def _settle(self, field: str = "", value: str | int = "") -> None:
        # What cannot be noted now ends with the lease: who comes then finds what was recorded.
        try:
            self._farm.job_store.move("settle", self._mark or "", self._token, field, value)
        except RiffarmError as error:
            log.warning("an idempotency key is left to its lease", error=error.message)


def _first_ms(farm: Jobs, mark: str, origin: str) -> int | None:
    """When a key's request was first taken, by what storage has of the last day; None when it was not.

    For while Redis may have lost keys: until it has every job that storage has (`workers.recovery`). Raises
    IdempotencyMismatchError when it was another request.
    """
    ids = [*_jobs_of_last_day(farm.object_store)]
    for job_id in ids:
        if job_id.endswith((mark[:16], mark[:12])):
            with suppress(ObjectNotFoundError):
                if manifest(farm.object_store, job_id).get("origin") != origin:
                    raise IdempotencyMismatchError
                return int(job_id[4:16], 16)
    if farm.job_store.has_all(ids):
        farm.job_store.move("whole")
    return None


def _jobs_of_last_day(object_store: ObjectStore) -> Iterator[str]:
    now_ms = time.time_ns() // 1_000_000
    for ms in range(now_ms - _KEPT_MS, now_ms + _PREFIX_MS, _PREFIX_MS):
        yield from ids_of_manifests(object_store, f"job_{ms:012x}"[:10])


def _text_from_response(response: Response) -> str:
    head = {"status": response.status_code, "headers": dict(response.headers)}
    packed = zlib.compress(json.dumps(head).encode() + b"\n" + bytes(response.body), 1)
    return base64.b64encode(packed).decode()


def _response_from_text(text: str) -> Response:
    head, body = zlib.decompress(base64.b64decode(text)).split(b"\n", 1)
    said = json.loads(head)
    return Response(body, said["status"], said["headers"] | {"Idempotent-Replayed": "true"})


async def _once(
    request: Request,
    farm: Submitting,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="1..255 printable ASCII characters of your own. The same request with the same key within "
            "24 h is not carried out again: it gets the first answer, with `Idempotent-Replayed: true`."
        ),
    ] = None,
) -> Once:
    if idempotency_key is None:
        return Once(farm)
    if not _PRINTABLE.fullmatch(idempotency_key):
        allowed = "1..255 printable ASCII characters"
        raise InvalidRequestError(FieldError("Idempotency-Key", "not a key", idempotency_key, allowed))
    request_text = f"{request.method} {request.url.path}\n".encode() + await request.body()
    mark = _digest(f"{farm.tenant}\n{idempotency_key}".encode())
    return Once(farm, mark, _digest(request_text))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


OncePerKey = Annotated[Once, Depends(_once)]
"""The request as one that may be sent twice."""
