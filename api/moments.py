"""Times in queries: RFC 3339, and nothing else that might pass for one.

A time without a zone is UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator

_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)?")


def _is_rfc_3339(text: object) -> object:
    # Numbers would be taken for seconds since 1970, and dates for midnight.
    if isinstance(text, str) and not _RFC_3339.fullmatch(text):
        raise ValueError("must be a time as RFC 3339 has it, like 2026-03-01T12:00:00Z")
    return text


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Moment = Annotated[datetime, BeforeValidator(_is_rfc_3339), AfterValidator(_in_utc)]
