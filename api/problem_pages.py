"""What the `type` of a problem leads to: a page that says what it means and what to do, with an example.

Owns the words for what each problem means. Leaves out which problems there are and when they are answered
(`api.problems`).
"""

from __future__ import annotations

import json
from html import escape
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path
from fastapi.responses import HTMLResponse

from api.problems import PROBLEMS, Problem, problem_body, responses
from shared.errors import FieldError, NotFoundError

REQUEST_ID: Final = "req_5f0c7be1a2d34c98"
MEANINGS: Final = {
    "malformed_request": "What came over the connection breaks the rules of HTTP, so the gateway closed it.",
    "malformed_body": "The body is no JSON, not UTF-8, nested too deeply, or gives a name twice in one object.",
    "unauthorized": "This farm serves only who has a key, and the request came without one, or with one that is "
    "unknown, expired or revoked.",
    "forbidden": "The key is good, but lacks the scope that this call needs: `read`, `submit` or `admin`.",
    "url_expired": "A link to an output works for a day, or as long as the farm's operator says, and exactly as it was "
    "given.",
    "not_found": "Nothing is there under this address, or it is another tenant's.",
    "method_not_allowed": "The path is right, the method is not; the header `Allow` names those that are.",
    "request_timeout": "The headers or the body came so slowly that the gateway gave up.",
    "idempotency_in_flight": "A request with the same Idempotency-Key came before and is being carried out just now.",
    "idempotency_mismatch": "A request with the same Idempotency-Key but another body came within the last 24 hours.",
    "body_too_large": "The body is longer than this path takes. `detail` names the limit in bytes.",
    "target_too_long": "The path with its query is longer than the gateway reads.",
    "range_not_satisfiable": "The header `Range` asks for bytes beyond the end of the file.",
    "unsupported_media_type": "The `Content-Type` is none that this path takes, or the upload is no picture and no "
    "sound of a kind that the farm reads.",
    "invalid_request": "The request can be read, but a parameter or a field of the body is not right. `errors` names "
    "each: where it is, what is wrong, what came, and what is allowed.",
    "rate_limited": "The tenant has sent more requests within a minute than the farm's operator allows.",
    "quota_exceeded": "The tenant has reached a limit: seconds of sound waiting, unfinished jobs, or bytes of uploads. "
    "`detail` says which.",
    "headers_too_large": "The headers together are longer than the gateway reads, or there are too many.",
    "internal_error": "The gateway met something that it was not made for. The operator finds it in the log under the "
    "request id.",
    "farm_full": "As many jobs wait as the farm's operator allows for all tenants together.",
    "storage_unavailable": "The object storage does not answer or takes nothing, so nothing can be recorded or read.",
    "queue_unavailable": "Redis does not answer, so nothing can be queued, and the state of jobs cannot be read.",
}
_DETAILS: Final[dict[str, tuple[str, tuple[FieldError, ...]]]] = {
    "malformed_body": ("The body is not JSON: Expecting ',' delimiter.", ()),
    "forbidden": ("This key lacks the scope 'submit'.", ()),
    "not_found": ("There is no job job_019ab3c5d2e4f60718293a4b5c6d.", ()),
    "body_too_large": ("At most 1000000 bytes are taken here.", ()),
    "invalid_request": (
        "duration_s: Input should be less than or equal to 36000",
        (
            FieldError("duration_s", "Input should be less than or equal to 36000", 99_999, "<= 36000.0"),
            FieldError("promt", "unknown field; did you mean 'prompt'?", "promt", ["prompt"]),
        ),
    ),
}
_STYLE: Final = (
    "body{font:1rem/1.6 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem}pre{overflow:auto}"
)
router = APIRouter(tags=["problems"])


def example_of(code: str) -> dict[str, Any]:
    """A problem of this code as it is answered."""
    detail, errors = _DETAILS.get(code, (PROBLEMS[code].remedy, ()))
    return problem_body(code, detail, REQUEST_ID, errors)


@router.get(
    "/problems",
    response_class=HTMLResponse,
    summary="List all problems",
)
def list_problems() -> HTMLResponse:
    """A page of all problem codes, each with its status and title."""
    rows = "".join(
        f'<tr><td>{one.status}<td><a href="/problems/{one.code}">{one.code}</a><td>{escape(one.title)}'
        for one in PROBLEMS.values()
    )
    return _page("Problems", f"<h1>Problems</h1><table><tr><th>Status<th>Code<th>Title{rows}</table>")


@router.get(
    "/problems/{code}",
    response_class=HTMLResponse,
    responses=responses("not_found"),
    summary="Read about a problem",
)
def read_problem(code: Annotated[str, Path(description="The problem's code.", max_length=100)]) -> HTMLResponse:
    """A page about one kind of problem: what it means, what to do, an example. The `type` of a problem leads here."""
    problem = PROBLEMS.get(code)
    if problem is None:
        raise NotFoundError("There is no such problem; /problems lists all.")
    return _page(problem.title, _about(problem))


def _about(problem: Problem) -> str:
    example = json.dumps(example_of(problem.code), indent=2, ensure_ascii=False)
    return (
        f"<h1>{escape(problem.title)}</h1><p><code>{problem.code}</code>, HTTP {problem.status}</p>"
        f"<h2>What it means</h2><p>{_marked(MEANINGS[problem.code])}</p>"
        f"<h2>What to do</h2><p>{_marked(problem.remedy)}</p>"
        f"<h2>An example</h2><pre>{escape(example)}</pre><p><a href='/problems'>All problems</a></p>"
    )


def _marked(text: str) -> str:
    """Words between backticks as code."""
    return "".join(f"<code>{part}</code>" if odd % 2 else part for odd, part in enumerate(escape(text).split("`")))


def _page(title: str, body: str) -> HTMLResponse:
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>"
    return HTMLResponse(f"{head}{body}</html>")
