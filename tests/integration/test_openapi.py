"""The OpenAPI document against the gateway: whole, true, and as committed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from fastapi.testclient import TestClient

from api.document import FACES, operations
from api.main import create_app
from api.problem_pages import MEANINGS
from api.problems import CODES, PROBLEMS
from shared.settings import Settings
from tests.contract.page import page_from_document

DOCS = Path(__file__).parents[2] / "docs"
KEYED = {"401", "403", "429", "503"}
BODIED = {"400", "413", "415", "422"}
UNANSWERED = {"method_not_allowed"}
"""What no operation of the document can answer: the method is not in it."""


@pytest.fixture
def document(settings: Settings) -> dict[str, Any]:
    """The document as a gateway serves it."""
    return create_app(settings).openapi()


@pytest.fixture
def routes(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Path, method and operation of each route."""
    return list(operations(document))


def names(found: Iterator[str]) -> list[str]:
    """What is wrong, to be compared with nothing."""
    return sorted(found)


def test_the_committed_document_and_page_are_those_of_the_code(document: dict[str, Any]) -> None:
    """Whoever changes the contract sees it in the diff; `make openapi` writes both."""
    assert json.loads((DOCS / "openapi.json").read_text(encoding="utf-8")) == document
    assert (DOCS / "api.md").read_text(encoding="utf-8") == page_from_document(document)


def test_every_route_says_what_it_is_for(routes: list[tuple[str, str, dict[str, Any]]], document: Any) -> None:
    """A summary, a sentence, one tag that is described, and an id that makes a good name, given once."""
    tags = {tag["name"] for tag in document["tags"] if tag["description"]}
    wrong = names(
        f"{method} {path}"
        for path, method, operation in routes
        if not operation.get("summary")
        or not operation.get("description", "").rstrip().endswith(".")
        or len(operation.get("tags", ())) != 1
        or not tags.issuperset(operation["tags"])
        or not re.fullmatch(r"[a-z]+(_[a-z]+)*", operation["operationId"])
    )
    ids = [operation["operationId"] for _, _, operation in routes]
    assert (wrong, len(ids)) == ([], len(set(ids)))


def test_every_parameter_is_described_with_an_example(routes: list[tuple[str, str, dict[str, Any]]]) -> None:
    """Also headers, and what is in the path."""
    found = names(
        f"{operation['operationId']} {parameter['name']}"
        for _, _, operation in routes
        for parameter in operation.get("parameters", ())
        if "$ref" not in parameter and not (parameter.get("description") and "example" in parameter)
    )
    assert found == []


def test_every_body_has_an_example(routes: list[tuple[str, str, dict[str, Any]]]) -> None:
    """Requests and answers of every media type that is text, but for forms with a file."""

    def bodies() -> Iterator[tuple[str, dict[str, Any]]]:
        for _, _, operation in routes:
            for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
                yield f"{operation['operationId']} {media_type}", content
            for status, response in operation["responses"].items():
                for media_type, content in response.get("content", {}).items():
                    yield f"{operation['operationId']} {status} {media_type}", content

    is_text = re.compile("json|text/event-stream|text/plain")
    found = names(
        what for what, content in bodies() if is_text.search(what) and not {"example", "examples"} & content.keys()
    )
    assert found == []


def test_every_example_is_what_its_schema_says(routes: list[tuple[str, str, dict[str, Any]]], document: Any) -> None:
    """An example that a program cannot send, or will never get, is worse than none."""
    components = {"components": document["components"]}
    wrong = []
    for _, _, operation in routes:
        contents = {"request": operation.get("requestBody", {}), **operation["responses"]}
        for what, holder in contents.items():
            for media_type, content in holder.get("content", {}).items():
                named = content.get("examples", {}).items()
                examples = [
                    (document["components"]["examples"][name] if "$ref" in one else one)["value"] for name, one in named
                ]
                examples += [content["example"]] if "example" in content else []
                if "json" not in media_type or media_type == "application/x-ndjson":
                    continue
                validator = jsonschema_rs.Draft202012Validator(content["schema"] | components)
                for example in examples:
                    problems = [f"{one.instance_path} {one.message}" for one in validator.iter_errors(example)]
                    wrong += [f"{operation['operationId']} {what}: {one}" for one in problems]
    assert wrong == []


def test_every_field_of_a_body_is_described(document: dict[str, Any]) -> None:
    """But for those whose name says it all, and what the two faces take from elsewhere."""
    plain = {"id", "type", "status", "stage", "name", "labels", "url", "title", "description", "kind", "data", "next"}
    found = names(
        f"{name}.{field}"
        for name, schema in document["components"]["schemas"].items()
        for field, content in schema.get("properties", {}).items()
        if not content.get("description") and field not in plain and not name.startswith(_FOREIGN)
    )
    assert found == []


_FOREIGN = ("Body_", "Prediction", "Versioned", "Inference")


def test_every_error_is_where_it_can_happen(routes: list[tuple[str, str, dict[str, Any]]]) -> None:
    """A key: 401, 403, 429, 503. An id in the path: 404. Anything that can be wrong: 422. A body: 400, 413, 415."""
    wrong = []
    for path, method, operation in routes:
        if not FACES.isdisjoint(operation["tags"]):
            continue
        parameters = [one for one in operation["parameters"] if "$ref" not in one]
        needed = {"400", "408", "414", "431", "500"}
        needed |= KEYED if operation.get("security") else set()
        needed |= {"404"} if "{" in path else set()
        needed |= {"422"} if [one for one in parameters if one["in"] != "path"] else set()
        needed |= BODIED if "requestBody" in operation else set()
        missing = needed - operation["responses"].keys()
        wrong += [f"{method} {path}: {', '.join(sorted(missing))}"] if missing else []
    assert wrong == []


def test_every_route_under_v1_needs_a_key_or_is_known_to_need_none(
    routes: list[tuple[str, str, dict[str, Any]]],
) -> None:
    """Signed links carry their own authority; all else says which scope it needs."""
    open_routes = {path for path, _, operation in routes if path.startswith("/v1/") and not operation.get("security")}
    assert open_routes <= {
        "/v1/jobs/{job_id}/outputs/{name}",
        "/v1/predictions/{prediction_id}/outputs/{name}",
        "/v1/files/{prediction_id}/stream",
    }


def test_every_problem_is_documented_and_explained(
    routes: list[tuple[str, str, dict[str, Any]]], gateway: TestClient
) -> None:
    """Each code somewhere in the document, with a page that has a heading, its meaning, a remedy and an example."""
    answered = {
        code
        for _, _, operation in routes
        for response in operation["responses"].values()
        for code in response.get(CODES, ())
    }
    assert answered == PROBLEMS.keys() - UNANSWERED
    assert MEANINGS.keys() == PROBLEMS.keys()
    for problem in PROBLEMS.values():
        page = gateway.get(f"/problems/{problem.code}")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert all(part in page.text for part in ("<h1>", "What it means", "What to do", f"&quot;{problem.code}&quot;"))
        assert f"/problems/{problem.code}" in gateway.get("/problems").text
    assert gateway.get("/problems/no_such").status_code == 404


def test_every_header_that_is_answered_is_documented(gateway: TestClient, document: dict[str, Any]) -> None:
    """Of some answers of every kind."""
    submitted = gateway.post("/v1/jobs", json={"type": "clip", "prompt": "a"}, headers={"Prefer": "wait=1"})
    job_id = submitted.json()["id"]
    seen = [
        (submitted, "/v1/jobs", "post"),
        (gateway.get(f"/v1/jobs/{job_id}"), "/v1/jobs/{job_id}", "get"),
        (gateway.get("/v1/jobs/job_0"), "/v1/jobs/{job_id}", "get"),
        (gateway.post("/v1/jobs", json={}), "/v1/jobs", "post"),
        (gateway.get("/v1/seed-images/og_beat/picture"), "/v1/seed-images/{seed_image_id}/picture", "get"),
        (
            gateway.get("/v1/seed-images/og_beat/picture", headers={"Range": "bytes=99999999-"}),
            "/v1/seed-images/{seed_image_id}/picture",
            "get",
        ),
    ]
    of_http = {"content-length", "content-type", "date", "server", "connection", "vary", "allow"}
    of_browsers = {"x-content-type-options", "referrer-policy", "content-security-policy", "cache-control"}
    of_browsers |= {"cross-origin-resource-policy", "x-frame-options", "cross-origin-opener-policy"}
    for answer, path, method in seen:
        response = document["paths"][path][method]["responses"][str(answer.status_code)]
        documented = {name.lower() for name in response.get("headers", {})}
        assert answer.headers.keys() - of_http - of_browsers <= documented, (path, answer.status_code)


def test_the_documentation_page_shows_it(gateway: TestClient) -> None:
    """/docs works without the Internet, and loads this document."""
    page = gateway.get("/docs").text
    assert "/openapi.json" in page
    assert gateway.get("/openapi.json").json()["openapi"].startswith("3.1")
