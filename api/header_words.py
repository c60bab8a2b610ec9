"""Headers in the OpenAPI document: what each says, and which answer has it.

Leaves out the headers that a route takes as parameters, which it documents itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple


class Header(NamedTuple):
    """A header of answers: what it says, its schema, and what one looks like."""

    words: str
    schema: dict[str, Any]
    example: object


_TEXT: Final = {"type": "string"}
HEADERS: Final = {
    "X-Request-Id": Header("The request's id: yours, or one made for it.", _TEXT, "req_5f0c7be1a2d34c98"),
    "Retry-After": Header("Seconds after which another try is worth while.", {"type": "integer", "minimum": 0}, 5),
    "WWW-Authenticate": Header("How to come in.", _TEXT, "Bearer"),
    "RateLimit": Header(
        "How many requests are left (`r`), and the seconds until all are again (`t`).", _TEXT, '"requests";r=599;t=60'
    ),
    "RateLimit-Policy": Header("Requests (`q`) per window of so many seconds (`w`).", _TEXT, '"requests";q=600;w=60'),
    "Location": Header("Where the job is read.", _TEXT, "/v1/jobs/job_019ab3c5d2e4f60718293a4b5c6d"),
    "Preference-Applied": Header("The wait that was granted.", _TEXT, "wait=10"),
    "Idempotent-Replayed": Header("`true` when this was answered before to the same key.", _TEXT, "true"),
    "ETag": Header(
        "The content's mark: it changes when the content does.", _TEXT, '"2c26b46b68ffc68ff99b453c1d304134"'
    ),
    "Last-Modified": Header("When the file was written.", _TEXT, "Sun, 01 Mar 2026 12:00:03 GMT"),
    "Accept-Ranges": Header("Ranges are in bytes.", _TEXT, "bytes"),
    "Content-Range": Header("Which bytes of how many these are.", _TEXT, "bytes 0-65535/412803"),
    "Content-Disposition": Header("The name to save it under.", _TEXT, 'attachment; filename="clip.flac"'),
}
REQUEST_HEADERS: Final[dict[str, dict[str, Any]]] = {
    "RequestId": {
        "name": "X-Request-Id",
        "in": "header",
        "description": "An id of your own for this request: 1..128 letters, digits and `_.:-`. Anything else gives way "
        "to a drawn one.",
        "schema": _TEXT,
        "example": "build-1234",
    },
    "Range": {
        "name": "Range",
        "in": "header",
        "description": "Part of the file, `bytes=FIRST-LAST`: answered with 206.",
        "schema": _TEXT,
        "example": "bytes=0-65535",
    },
}
FILES: Final = frozenset({"read_output", "read_seed_image", "replicate_read_output"})
"""Operations that answer a file, in ranges if asked."""
_OF_FILES: Final = ("ETag", "Last-Modified", "Accept-Ranges", "Content-Disposition")
_REPEATED: Final = "Retry-After"


def headers_of(operation: dict[str, Any], status: str, *, is_problem: bool) -> Iterator[str]:
    """Names of the headers of an operation's answer with this status."""
    name, is_good = operation["operationId"], status.startswith("2")
    parameters = {one.get("name", "").lower() for one in operation.get("parameters", ())}
    yield "X-Request-Id"
    if status in ("409", "429", "503") and is_problem:
        yield _REPEATED
    if status == "401":
        yield "WWW-Authenticate"
    if operation.get("security") and status not in ("401", "408", "414", "431"):
        yield from ("RateLimit", "RateLimit-Policy")
    if "idempotency-key" in parameters and status not in ("401", "429", "500", "503"):
        yield "Idempotent-Replayed"
    if name == "submit_job" and is_good:
        yield from ("Location", "Preference-Applied")
    if name in FILES and is_good:
        yield from _OF_FILES
    if name in FILES and status in ("206", "416"):
        yield "Content-Range"
    if name == "read_picture" and is_good:
        yield "ETag"
