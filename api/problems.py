"""Every error the gateway answers: its code, status, title and what to do, as RFC 9457 problem details.

The one place with HTTP status numbers for errors. Leaves out finding what is wrong (`shared.contracts`, `api.jobs`).
"""

from __future__ import annotations

import http
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api.bodies import Repeated
from api.near_names import unknown
from shared.contracts import (
    REQUESTS,
    ClipEnd,
    ClipRequest,
    Keyframe,
    OutputPlace,
    PowerCurve,
    Webhook,
)
from shared.errors import (
    AccessDeniedError,
    FarmFullError,
    FieldError,
    ForbiddenError,
    IdempotencyInFlightError,
    IdempotencyMismatchError,
    InvalidRequestError,
    NotFoundError,
    QueueUnavailableError,
    QuotaExceededError,
    RateLimitedError,
    RiffarmError,
    StorageUnavailableError,
    TooMuchError,
)
from shared.secrecy import masked

log = structlog.get_logger()
MEDIA_TYPE: Final = "application/problem+json"
CODES: Final = "x-codes"
"""A response's problem codes in the OpenAPI document (`api.document`)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of error: its stable code, HTTP status, title, and what a client can do about it."""

    code: str
    status: int
    title: str
    remedy: str


PROBLEMS: Final = {
    problem.code: problem
    for problem in (
        Problem("malformed_request", 400, "This is no HTTP request", "Send what HTTP/1.1 allows, each header once."),
        Problem("malformed_body", 400, "The body cannot be read", "Send well-formed JSON in UTF-8."),
        Problem("unauthorized", 401, "The key is missing or wrong", "Send 'Authorization: Bearer <key>'."),
        Problem("forbidden", 403, "The key may not do this", "Use a key that has the scope which 'detail' names."),
        Problem("url_expired", 403, "This link no longer works", "Read the job again for a fresh link."),
        Problem("not_found", 404, "There is no such thing", "Check the path and the id; /docs lists every path."),
        Problem("method_not_allowed", 405, "This path has no such method", "See /docs for what each path takes."),
        Problem("request_timeout", 408, "The request took too long to come", "Send it again, in one go."),
        Problem("body_too_large", 413, "The body is too large", "Send less; pictures and audio go to /v1/uploads."),
        Problem("target_too_long", 414, "The address is too long", "Put what is long into the body."),
        Problem(
            "unsupported_media_type", 415, "This kind of content is not taken", "See /docs for what each path takes."
        ),
        Problem("range_not_satisfiable", 416, "The file has no such range", "Ask as in 'Range: bytes=0-1023'."),
        Problem(
            "idempotency_in_flight", 409, "The first such request is not answered yet", "Send it again a little later."
        ),
        Problem("idempotency_mismatch", 422, "The key is another request's", "Send a new key with a new request."),
        Problem("invalid_request", 422, "A field is not right", "See 'errors' for each field and what is allowed."),
        Problem("rate_limited", 429, "Too many requests", "Wait as long as 'Retry-After' says."),
        Problem("quota_exceeded", 429, "You have as much as you may", "Try again when some jobs have ended."),
        Problem("headers_too_large", 431, "The headers are too large", "Send fewer or shorter ones."),
        Problem("internal_error", 500, "The gateway made a mistake", "Report it with the request id in 'instance'."),
        Problem("farm_full", 503, "The farm takes no more work now", "Nothing was recorded. Try again shortly."),
        Problem("storage_unavailable", 503, "Storage does not answer", "Nothing was recorded. Try again shortly."),
        Problem("queue_unavailable", 503, "The queue does not answer", "Nothing was recorded. Try again shortly."),
    )
}
_RETRY_AFTER_S: Final = {"idempotency_in_flight": 1, "storage_unavailable": 5, "queue_unavailable": 5}
_CODE_OF_STATUS: Final = {problem.status: problem.code for problem in PROBLEMS.values() if problem.status < 500}
_CODE_OF_ERROR: Final[dict[type[RiffarmError], str]] = {
    InvalidRequestError: "invalid_request",
    IdempotencyMismatchError: "idempotency_mismatch",
    IdempotencyInFlightError: "idempotency_in_flight",
    NotFoundError: "not_found",
    AccessDeniedError: "unauthorized",
    ForbiddenError: "forbidden",
    RateLimitedError: "rate_limited",
    QuotaExceededError: "quota_exceeded",
    FarmFullError: "farm_full",
    StorageUnavailableError: "storage_unavailable",
    QueueUnavailableError: "queue_unavailable",
}
_INNER_MODELS: Final[dict[str, type[BaseModel]]] = {
    "keyframes": Keyframe,
    "end": ClipEnd,
    "alpha_curve": PowerCurve,
    "output": OutputPlace,
    "webhook": Webhook,
}


def problem_body(code: str, detail: str, instance: str, errors: Sequence[FieldError] = ()) -> dict[str, Any]:
    """The body of a problem, ready for JSON."""
    problem = PROBLEMS[code]
    body: dict[str, Any] = {
        "type": f"/problems/{code}",
        "title": problem.title,
        "status": problem.status,
        "detail": _printable(detail),
        "instance": instance,
        "code": code,
    }
    if errors:
        body["errors"] = [
            {
                "field": _printable(error.field),
                "message": _printable(error.message),
                "got": _shown(error.got),
                "allowed": error.allowed,
            }
            for error in errors
        ]
    return body


def problem_response(
    request: Request, code: str, detail: str | None = None, errors: Sequence[FieldError] = ()
) -> JSONResponse:
    """The answer for a problem."""
    instance = getattr(request.state, "request_id", "")
    problem = PROBLEMS[code]
    headers = {"Retry-After": str(_RETRY_AFTER_S[code])} if code in _RETRY_AFTER_S else {}
    if code == "unauthorized":
        headers["WWW-Authenticate"] = "Bearer"
    body = problem_body(code, detail or problem.remedy, instance, errors)
    return JSONResponse(body, problem.status, headers, media_type=MEDIA_TYPE)


def install_problems(app: FastAPI) -> None:
    """Make every error of `app` a problem."""

    @app.exception_handler(RiffarmError)
    async def riffarm_error(request: Request, error: RiffarmError) -> JSONResponse:
        response = problem_response(request, *what_is_wrong(error))
        if isinstance(error, TooMuchError):
            response.headers["Retry-After"] = str(error.retry_after_s)
        return response

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        found = error.errors()
        if any(isinstance(one.get("input"), bytes) for one in found):
            header = "Send JSON, with the header 'Content-Type: application/json'."
            return problem_response(request, "unsupported_media_type", header)
        return problem_response(request, *what_is_wrong_in(found))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        code = _CODE_OF_STATUS.get(error.status_code, "invalid_request")
        # The framework's own words for a status say no more than the title does.
        is_own = error.detail != http.HTTPStatus(error.status_code).phrase
        response = problem_response(request, code, error.detail if is_own else None)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(ClientDisconnect)
    async def client_gone(request: Request, error: ClientDisconnect) -> JSONResponse:
        # Nobody reads it; but it is no mistake of ours.
        return problem_response(request, "malformed_body", "The body ended before it was whole.")

    @app.exception_handler(Exception)
    async def unexpected_error(request: Request, error: Exception) -> JSONResponse:
        log.error("unexpected error", exc_info=error)
        return problem_response(request, "internal_error")


Wrong = tuple[str, str, Sequence[FieldError]]
"""A problem's code, its detail, and the wrong fields."""


def what_is_wrong(error: RiffarmError) -> Wrong:
    """The problem that an error is."""
    code = next((code for kind, code in _CODE_OF_ERROR.items() if isinstance(error, kind)), "internal_error")
    return code, error.message, error.errors if isinstance(error, InvalidRequestError) else ()


def what_is_wrong_in(found: Sequence[Any]) -> Wrong:
    """The problem with a body in which pydantic found these errors, each located from `body` on."""
    for one in found:
        if one["type"] == "json_invalid":
            return "malformed_body", f"The body is not JSON: {one['ctx']['error']}.", ()
        if isinstance(one.get("input"), Repeated):
            # What is missing is missing in the object that came.
            place = _path(one["loc"][:-1] if one["type"] == "missing" else one["loc"])
            name = _shown(one["input"].name)
            return "malformed_body", f"{place}: the name {name!r} is given twice in one object.", ()
    errors = [_field_error(one) for one in found]
    return "invalid_request", f"{errors[0].field}: {errors[0].message}", errors


def responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """The problems a route can answer, for its documentation; what every route can answer is known without."""
    documented: dict[int | str, dict[str, Any]] = {}
    for problem in (PROBLEMS[code] for code in codes):
        documented.setdefault(problem.status, {"description": "", CODES: []})[CODES].append(problem.code)
    return documented


def _field_error(found: Any) -> FieldError:
    field = _path(found["loc"])
    context = found.get("ctx", {})
    if found["type"] == "extra_forbidden":
        return _unknown_field(field, found["loc"])
    if found["type"].startswith("union_tag"):
        message = "required" if found["type"] == "union_tag_not_found" else "unknown type"
        return FieldError("type", message, context.get("tag"), [*REQUESTS])
    if found["type"] == "missing":
        return FieldError(field, "required")
    if found["type"] in ("literal_error", "enum"):
        expected = context["expected"]
        return FieldError(field, f"must be {expected}", found.get("input"), re.findall("'([^']*)'", expected))
    limits = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "length >=", "max_length": "length <="}
    allowed = ", ".join(f"{sign} {context[name]}" for name, sign in limits.items() if name in context)
    message = found["msg"].removeprefix("Value error, ")
    return FieldError(field, message, found.get("input"), allowed or context.get("expected") or context.get("pattern"))


def _unknown_field(field: str, location: Sequence[str | int]) -> FieldError:
    inner = next((model for part, model in _INNER_MODELS.items() if part in location[2:-1]), None)
    form = inner or REQUESTS.get(str(location[1]), ClipRequest)
    return unknown("field", str(location[-1]), form.model_fields, field)


def _path(location: Sequence[str | int]) -> str:
    parts = list(location[1:])
    # The tags of unions are pydantic's own steps, not the client's fields.
    if parts and parts[0] in REQUESTS:
        parts = parts[1:]
    if parts and parts[0] == "alpha_curve":
        parts = [part for part in parts if part != "PowerCurve" and "literal" not in str(part)]
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "body"


def _shown(value: object) -> object:
    """What came, short enough to answer with."""
    if value is None or isinstance(value, bool | int):
        return value if not isinstance(value, int) or abs(value) < 2**63 else str(value)[:40]
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    text = value if isinstance(value, str) else type(value).__name__
    shown = text if len(text) <= 80 else f"{text[:80]}…"
    return _printable(shown)


def _printable(text: str) -> str:
    """The text with what UTF-8 cannot say, a lone surrogate, spelt out, and without secrets."""
    return masked(text.encode("utf-8", "backslashreplace").decode())
