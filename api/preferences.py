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
_PREFERENCE: Final = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^,"])+')
"""One of several with commas between them; a comma in quotes is none."""


def wait_s_from_prefer(headers: Sequence[str]) -> int:
    """Seconds that the header's `wait` asks for, 0 without one; of several the first counts.

    Raises InvalidRequestError unless they are 1..MAX_WAIT_S.
    """
    for preference in _PREFERENCE.findall(",".join(headers)):
        # What may follow after semicolons says nothing to us.
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "wait":
            seconds = value.strip().strip('"')
            if re.fullmatch("[0-9]{1,3}", seconds) and 1 <= int(seconds) <= MAX_WAIT_S:
                return int(seconds)
            raise InvalidRequestError(FieldError("Prefer", "not a time to wait", preference, f"wait=1..{MAX_WAIT_S}"))
    return 0


async def _wait_s(
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
