"""The header `Prefer` (RFC 7240): how long a client would have its answer wait for a job's end.

Leaves out the waiting (`api.waiting`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final

from fastapi import Depends, Header, Request

from shared.errors import FieldError, InvalidRequestError

MAX_WAIT_S: Final = 60
# name, =value or ="value"; what may follow after semicolons says nothing to us.
_PREFERENCE: Final = re.compile(
    r'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*(?:=\s*("(?:[^"\\]|\\.)*"|[^\s,;"]*))?[^,]*(?:,|$)'
)


def wait_s_from_prefer(headers: Sequence[str]) -> int:
    """Seconds that the header's `wait` asks for, 0 without one; of several the first counts.

    Raises InvalidRequestError unless they are 1..MAX_WAIT_S.
    """
    for match in _PREFERENCE.finditer(",".join(headers)):
        name, value = match[1].lower(), (match[2] or "").strip('"')
        if name == "wait":
            if re.fullmatch(r"\d{1,3}", value) and 1 <= int(value) <= MAX_WAIT_S:
                return int(value)
            raise InvalidRequestError(FieldError("Prefer", "not a time to wait", match[0], f"wait=1..{MAX_WAIT_S}"))
    return 0


def _wait_s(
    request: Request,
    prefer: Annotated[
        str | None,
        Header(
            description=f"`wait=N` (1..{MAX_WAIT_S}): answer when the job has ended, after N seconds at the latest."
        ),
    ] = None,
) -> int:
    return wait_s_from_prefer(request.headers.getlist("prefer")) if prefer else 0


WaitSeconds = Annotated[int, Depends(_wait_s)]
"""How long the client would have its answer wait for a job's end, in seconds; 0 for not at all."""
