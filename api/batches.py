"""Many requests at once, over HTTP: each is answered on its own, and all that were taken share a `batch_id`.

Owns the form of a batch, as a JSON array or JSON Lines. Leaves out that of its answer (`api.answers`), and what makes a
job of a request (`api.intake`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from api.access import Submitting
from api.answers import BatchAnswer, BatchItem, ProblemDocument
from api.bodies import StrictRoute, media_type_of, value_from_json
from api.guard import BATCH_PATH
from api.idempotency import Once, OncePerKey
from api.intake import Jobs
from api.jobs import BODY_PROBLEMS, ONCE_PROBLEMS, UNAVAILABLE
from api.problems import PROBLEMS, Wrong, problem_body, responses, what_is_wrong, what_is_wrong_in
from api.registrar import Draft
from api.stamps import Stamp
from shared.contracts import JOB_REQUEST, Job
from shared.errors import FieldError, InvalidRequestError, RiffarmError

MAX_REQUESTS: Final = 1_000
_LINES: Final = frozenset({"application/x-ndjson", "application/jsonl", "application/x-jsonlines"})
_PASSING: Final = frozenset(
    {"quota_exceeded", "rate_limited", "farm_full", "storage_unavailable", "queue_unavailable", "internal_error"}
)
"""Problems that a request may be rid of by being sent again."""
_PLANNERS: Final = 16
"""Requests planned at a time: one that names an upload waits for storage."""
router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=StrictRoute)


_REQUEST_SCHEMA: Final = {
    name: part
    for name, part in JOB_REQUEST.json_schema(ref_template="#/components/schemas/{model}").items()
    if name != "$defs"
}
_BODY: Final = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"type": "array", "minItems": 1, "maxItems": MAX_REQUESTS, "items": _REQUEST_SCHEMA}
        },
        "application/x-ndjson": {"schema": {"type": "string", "description": "One request on each line."}},
    },
}


@router.post(
    BATCH_PATH.removeprefix("/v1/jobs"),
    response_model=BatchAnswer,
    responses=responses(*BODY_PROBLEMS, *ONCE_PROBLEMS, *UNAVAILABLE),
    openapi_extra={"requestBody": _BODY},
    summary="Submit many jobs",
)
async def submit_batch(request: Request, farm: Submitting, once: OncePerKey) -> Response:
    """Submit up to 1,000 requests, as a JSON array or as JSON Lines (`application/x-ndjson`, one on each line).

    Each is answered on its own, so the answer is 200 also when some or all are refused: see `data`.
    """
    content, media_type = await request.body(), media_type_of(request)
    return await run_in_threadpool(_answer, farm, once, content, media_type, request.state.request_id)


def _answer(farm: Jobs, once: Once, content: bytes, media_type: str, request_id: str) -> Response:
    requests = _requests(content, media_type)

    def submit(stamp: Stamp) -> Response:
        found = _submitted(farm, requests, stamp)
        if any(not isinstance(one, Job) and one[0] in _PASSING for one in found):
            once.leave_open()
        items = [_item(index, one, request_id) for index, one in enumerate(found)]
        accepted = sum(isinstance(one, Job) for one in found)
        answer = BatchAnswer.model_construct(
            batch_id=stamp.batch_id, accepted=accepted, refused=len(found) - accepted, data=items
        )
        return Response(answer.model_dump_json(), media_type="application/json")

    return once.answer(submit)


def _requests(content: bytes, media_type: str) -> list[Any]:
    """The requests of a body as they came; for a line that is no JSON, what is wrong with it.

    Raises InvalidRequestError and HTTPException for what is no batch.
    """
    if media_type in _LINES:
        found = [_value_of_line(line) for line in content.split(b"\n") if line.strip()]
    elif media_type == "application/json":
        try:
            found = value_from_json(content)
        except json.JSONDecodeError as error:
            raise HTTPException(400, f"The body is not JSON: {error.msg}.") from None
    else:
        kinds = "a JSON array (application/json) or JSON Lines (application/x-ndjson)"
        raise HTTPException(415, f"Send {kinds}, and say in Content-Type which.")
    if not isinstance(found, list) or not 1 <= len(found) <= MAX_REQUESTS:
        got = len(found) if isinstance(found, list) else "no list"
        raise InvalidRequestError(FieldError("body", "no batch of requests", got, f"1..{MAX_REQUESTS} requests"))
    return found


def _value_of_line(line: bytes) -> Any:
    try:
        return value_from_json(line)
    except json.JSONDecodeError as error:
        return error


def _submitted(farm: Jobs, requests: Sequence[Any], stamp: Stamp) -> list[Job | Wrong]:
    """What became of each request, in order."""

    def draft(index: int) -> Job | Draft | Wrong:
        job_id = stamp.job_id_in_batch(index)
        return _found(
            lambda: (stamp.is_repeat and farm.recorded(job_id)) or _draft(farm, requests[index], stamp, index)
        )

    with ThreadPoolExecutor(_PLANNERS) as pool:
        found = list(pool.map(draft, range(len(requests))))
    drafts = [one for one in found if isinstance(one, Draft)]
    accepted = {one.id: job for one, job in zip(drafts, farm.accept_many(drafts), strict=True)}
    return [_told(accepted[one.id]) if isinstance(one, Draft) else one for one in found]


def _draft(farm: Jobs, request: Any, stamp: Stamp, index: int) -> Draft | Wrong:
    if isinstance(request, json.JSONDecodeError):
        return "malformed_body", f"The line is not JSON: {request.msg}.", ()
    try:
        checked = JOB_REQUEST.validate_python(request)
    except ValidationError as error:
        return what_is_wrong_in([{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)])
    return farm.draft(checked, stamp, stamp.job_id_in_batch(index), stamp.batch_id)


def _found(work: Callable[[], Job | Draft | Wrong]) -> Job | Draft | Wrong:
    try:
        return work()
    except RiffarmError as error:
        return what_is_wrong(error)


def _told(outcome: Job | RiffarmError) -> Job | Wrong:
    return what_is_wrong(outcome) if isinstance(outcome, RiffarmError) else outcome


def _item(index: int, outcome: Job | Wrong, request_id: str) -> BatchItem:
    if isinstance(outcome, Job):
        return BatchItem.model_construct(index=index, status=202, job=outcome, problem=None)
    code, detail, errors = outcome
    problem = ProblemDocument(**problem_body(code, detail, request_id, errors))
    return BatchItem.model_construct(index=index, status=PROBLEMS[code].status, job=None, problem=problem)
