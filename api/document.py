"""The OpenAPI document: what FastAPI finds out by itself, and what strangers need beside it.

Adds what every request meets and so no route says: its problems with their codes and examples, its headers, what the
groups of routes are for. Leaves out the routes' own words (where they are) and the examples (`api.examples`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute

from api.answers import ProblemDocument
from api.examples import OWN
from api.examples_of_faces import OF_FACES
from api.header_words import FILES, HEADERS, REQUEST_HEADERS, headers_of
from api.parameter_words import PARAMETERS
from api.problem_pages import example_of
from api.problems import CODES, MEDIA_TYPE, PROBLEMS

FACES: Final = frozenset({"replicate", "riffusion"})
"""Groups of routes that others laid out."""
OWN_ERRORS: Final = frozenset({"riffusion"})
"""Of these, who answers errors in a form of its own instead of problems."""
TAGS: Final = (
    ("jobs", "Submit, plan, read, list, follow and control jobs, and fetch what they made."),
    ("webhooks", "News of jobs that the farm posts: what was sent, sending it again, and the secret that signs it."),
    ("uploads", "Pictures and sounds of your own, to start from, to mask with, to remix and to convert."),
    ("catalogue", "What a request can name: models and built-in seed images."),
    ("farm", "Whether the farm is up, what waits, who works. Draining and lifting workers."),
    ("problems", "What each problem's `type` leads to."),
    ("riffusion", "The model server of the original Riffusion, for its web app."),
    ("replicate", "The part of Replicate's HTTP API that its published clients call."),
)
OUTPUT_TYPES: Final = ("audio/wav", "audio/flac", "audio/mpeg", "audio/ogg", "image/png")
"""What the files that a job makes may be."""
_FILE: Final = {"type": "string", "format": "binary"}
DESCRIPTION: Final = """\
Jobs in over REST, long tracks out of object storage.

**Form.** JSON in UTF-8, `snake_case`. Units stand at the end of a name (`_s` seconds, `_hz`, `_db`, `_lufs`, `_bytes`),
times are RFC 3339 in UTC. Ids have a prefix and sort by time (`job_…`, `bat_…`, `dlv_…`, `key_…`); an upload's
(`upl_…`) is the SHA-256 of its content.
An unknown field is an error that names the nearest known one.

**Keys.** `Authorization: Bearer rf_…`. A key belongs to a tenant, who sees its own jobs, uploads and outputs alone:
another's id answers 404. A farm without any key serves its own machine only.

**Problems.** Every error is `application/problem+json` (RFC 9457) with a stable `code`; `detail` says what to do,
`errors` names each wrong field of a body. An answer with `Retry-After` (409, 429, 503) recorded nothing: send the same
request again after so many seconds.

**Once.** With an `Idempotency-Key` a request that is sent again, within 24 hours, answers the first one's response.

**Lists** come newest first: `{"data": […], "next": url or null}`. Follow `next` as it is.
"""
_EXAMPLES: Final = OWN | OF_FACES
_EVERYWHERE: Final = ("malformed_request", "request_timeout", "target_too_long", "headers_too_large", "internal_error")
_BODIED: Final = ("malformed_body", "body_too_large", "unsupported_media_type", "invalid_request")
_KEYED: Final = ("unauthorized", "forbidden", "rate_limited", "queue_unavailable", "storage_unavailable")


def operation_id(route: APIRoute) -> str:
    """What generated clients call a route: its function's name, on the faces with the face before it."""
    face = next((str(tag) for tag in route.tags if tag in FACES), None)
    return f"{face}_{route.name}" if face else route.name


def install_document(app: FastAPI) -> None:
    """Complete the document that `app` serves."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        is_new = app.openapi_schema is None
        document = make()
        if is_new:
            complete(document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def complete(document: dict[str, Any]) -> None:
    """Add to FastAPI's document all that this module owns."""
    document["info"]["description"] = DESCRIPTION
    document["info"]["license"] = {"name": "MIT", "identifier": "MIT"}
    document["servers"] = [{"url": "/", "description": "This gateway"}]
    used = {tag for _, _, operation in operations(document) for tag in operation.get("tags", ())}
    document["tags"] = [{"name": name, "description": text} for name, text in TAGS if name in used]
    components = document["components"]
    problem = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    components["schemas"] |= {**problem.pop("$defs"), "ProblemDocument": problem}
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    components["headers"] = {
        name: {"description": one.words, "schema": one.schema, "example": one.example} for name, one in HEADERS.items()
    }
    components["parameters"] = REQUEST_HEADERS
    components["examples"] = {
        code: {"summary": problem.title, "value": example_of(code)} for code, problem in PROBLEMS.items()
    }
    for _, _, operation in operations(document):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            if "$defs" in content["schema"]:
                content["schema"] = _hoist(content["schema"], components["schemas"])
        _complete_operation(operation)
    _link(document)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, method and operation of every route."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _complete_operation(operation: dict[str, Any]) -> None:
    responses: dict[str, Any] = operation["responses"]
    has_own_errors = not OWN_ERRORS.isdisjoint(operation["tags"])
    if "HTTPValidationError" in str(responses.get("422")):
        # FastAPI's own form of errors, which no route answers.
        responses.pop("422")
        _add_codes(responses, () if has_own_errors else ["invalid_request"])
    _add_codes(responses, [code for code in _EVERYWHERE if not has_own_errors or code != "internal_error"])
    if not has_own_errors:
        _add_codes(responses, _BODIED if "requestBody" in operation else ())
        _add_codes(responses, _KEYED if operation.get("security") else ())
    if operation["operationId"] in FILES:
        whole = responses["200"]
        several = {"multipart/byteranges": {"schema": _FILE}}
        content = {**whole.setdefault("content", {one: {"schema": _FILE} for one in OUTPUT_TYPES}), **several}
        responses["206"] = {"description": "The range that was asked for; several as parts.", "content": content}
        _add_codes(responses, ["range_not_satisfiable"])
        operation.setdefault("parameters", []).append({"$ref": "#/components/parameters/Range"})
    for response in responses.values():
        _document_problems(response)
    _add_headers(operation)
    operation["responses"] = dict(sorted(responses.items()))
    _add_examples(operation)


def _add_codes(responses: dict[str, Any], codes: Iterable[str]) -> None:
    for problem in (PROBLEMS[code] for code in codes):
        response = responses.setdefault(str(problem.status), {"description": ""})
        known = response.setdefault(CODES, [])
        if problem.code not in known:
            known.append(problem.code)


def _document_problems(response: dict[str, Any]) -> None:
    """Say a response's codes in words and with an example of each."""
    codes = response.get(CODES, ())
    if not codes:
        return
    words = " ".join(f"`{code}`: {PROBLEMS[code].title}." for code in codes)
    own = response["description"] if MEDIA_TYPE not in response.get("content", {}) else ""
    response["description"] = f"{own} {words}".strip()
    response.setdefault("content", {})[MEDIA_TYPE] = {
        "schema": {"$ref": "#/components/schemas/ProblemDocument"},
        "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in codes},
    }


def _add_headers(operation: dict[str, Any]) -> None:
    for status, response in operation["responses"].items():
        known = response.setdefault("headers", {})
        for name in headers_of(operation, status, is_problem=CODES in response):
            known.setdefault(name, {"$ref": f"#/components/headers/{name}"})
    operation.setdefault("parameters", []).append({"$ref": "#/components/parameters/RequestId"})


def _add_examples(operation: dict[str, Any]) -> None:
    for parameter in operation["parameters"]:
        if parameter.get("in") == "header":
            parameter["name"] = parameter["name"].title().replace("Event-Id", "Event-ID")
        name = parameter.get("name", "").lower()
        known = PARAMETERS.get(f"{operation['operationId']} {name}") or PARAMETERS.get(name)
        if known is not None:
            words, example = known
            parameter.setdefault("description", words)
            parameter.setdefault("example", example)
    examples = _EXAMPLES.get(operation["operationId"])
    if examples is None:
        return
    for media_type, named in examples.requests.items():
        content = operation["requestBody"]["content"][media_type]
        content["examples"] = {name: {"summary": name, "value": value} for name, value in named.items()}
    for status, value in examples.responses.items():
        for media_type, content in operation["responses"][status].get("content", {}).items():
            if media_type != MEDIA_TYPE:
                content.setdefault("example", value)


def _link(document: dict[str, Any]) -> None:
    """Say where the id in an answered job leads: to all operations on one job."""
    on_jobs = [
        operation
        for path, _, operation in operations(document)
        if path.startswith("/v1/jobs/{job_id}") and path.count("{") == 1
    ]
    links = {
        operation["operationId"]: {
            "operationId": operation["operationId"],
            "parameters": {"job_id": "$response.body#/id"},
            "description": operation["summary"],
        }
        for operation in on_jobs
    }
    for name, status in (("submit_job", "202"), ("read_job", "200"), ("pause_job", "200"), ("cancel_job", "200")):
        found = next(one for _, _, one in operations(document) if one["operationId"] == name)
        found["responses"][status]["links"] = links


def _hoist(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """A schema that brings its own definitions: these become components like all others."""
    text = json.dumps(schema).replace("#/$defs/", "#/components/schemas/")
    hoisted: dict[str, Any] = json.loads(text)
    components |= hoisted.pop("$defs")
    return hoisted
