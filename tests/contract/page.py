"""The contract as a page to read, from the OpenAPI document: docs/api.md.

Leaves out the document itself (`api.document`) and how a schema reads (`tests.contract.schemas`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from api.document import FACES, operations
from api.problem_pages import MEANINGS
from api.problems import CODES, MEDIA_TYPE, PROBLEMS
from tests.contract.schemas import kind, name_of, reachable, table

Operation = dict[str, Any]
COMMON = {"malformed_request", "request_timeout", "target_too_long", "headers_too_large", "internal_error"}
KEYED = {"unauthorized", "forbidden", "rate_limited", "queue_unavailable", "storage_unavailable"}
BODIED = {"malformed_body", "body_too_large", "unsupported_media_type"}
_SHOWN_HEADERS = {"idempotency-key", "last-event-id"}
HEAD = """\
# The HTTP contract

*Made by `make openapi` from the gateway's own document, which it serves at `/openapi.json` and shows at `/docs`; what
is here is what the code does. The same with examples in three languages: [client.md](client.md).*

The examples are for a shell in which `RIFFARM_URL` says where the farm is, as `http://127.0.0.1:8000`, and
`RIFFARM_API_KEY` holds a key; a farm without keys needs none.
"""


def page_from_document(document: dict[str, Any]) -> str:
    """The whole page."""
    return "\n".join(_lines(document)).rstrip() + "\n"


def _lines(document: dict[str, Any]) -> Iterator[str]:
    yield HEAD
    yield document["info"]["description"]
    grouped = {tag["name"]: tag for tag in document["tags"]}
    found = list(operations(document))
    yield "## Calls\n"
    yield "| call | does | scope |\n|---|---|---|"
    for path, method, operation in found:
        link = f"[`{method.upper()} {path}`](#{operation['operationId']})"
        yield f"| {link} | {operation['summary']} | {_scope(operation)} |"
    # Forms whose example was given: it is not given again with each call that answers it.
    shown: set[str] = set()
    for name, tag in grouped.items():
        yield f"\n## {name.capitalize()}\n\n{tag['description']}"
        for path, method, operation in found:
            if name in operation["tags"]:
                yield from _operation(path, method, operation, shown)
    yield from _schemas(document)
    yield from _problems()


def _scope(operation: Operation) -> str:
    scopes = [scope for one in operation.get("security", ()) for granted in one.values() for scope in granted]
    return ", ".join(f"`{scope}`" for scope in scopes) or ("a key" if operation.get("security") else "none")


def _operation(path: str, method: str, operation: Operation, shown: set[str]) -> Iterator[str]:
    yield f'\n### <a id="{operation["operationId"]}"></a>{operation["summary"]}\n'
    yield f"`{method.upper()} {path}`\n"
    yield operation.get("description", "").strip() + "\n"
    parameters = [one for one in operation["parameters"] if "$ref" not in one]
    if parameters:
        yield "| parameter | in | may be | default | meaning |\n|---|---|---|---|---|"
        for one in parameters:
            default = "**required**" if one.get("required") else _default(one["schema"])
            words = " ".join(one.get("description", "").split())
            yield f"| `{one['name']}` | {one['in']} | {kind(one['schema'])} | {default} | {words} |"
        yield ""
    body = operation.get("requestBody", {}).get("content", {})
    for media_type, content in body.items():
        yield f"Body, `{media_type}`: {kind(content.get('schema', {}))}.\n"
    yield "```sh\n" + _curl(path, method, operation) + "\n```\n"
    yield from _answers(operation, shown)


def _default(schema: dict[str, Any]) -> str:
    return f"`{json.dumps(schema['default'])}`" if schema.get("default") not in (None, "") else ""


def _answers(operation: Operation, shown: set[str]) -> Iterator[str]:
    problems: list[str] = []
    for status, response in operation["responses"].items():
        problems += response.get(CODES, ())
        own = {one: content for one, content in response.get("content", {}).items() if one != MEDIA_TYPE}
        if CODES in response and not own:
            continue
        kinds = " or ".join(f"`{one}`{_of(content)}" for one, content in own.items()) or "no body"
        headers = [name for name in response.get("headers", {}) if not name.startswith(("RateLimit", "X-Request"))]
        named = f" Headers: {', '.join(f'`{name}`' for name in headers)}." if headers else ""
        words = response["description"].partition("`")[0].strip().removeprefix("Successful Response")
        yield " ".join(f"**{status}** {kinds}. {words}{named}".split()) + "\n"
        for content in own.values():
            form = name_of(content.get("schema", {})) or operation["operationId"]
            if "example" in content and (form not in shown or operation["operationId"] == "read_job"):
                shown.add(form)
                yield _example(content["example"])
    if FACES.isdisjoint(operation["tags"]):
        special = [code for code in problems if code not in COMMON | KEYED | BODIED]
        rest = ["those of every request"]
        rest += ["of every call with a key"] if operation.get("security") else []
        rest += ["of every body"] if "requestBody" in operation else []
        links = ", ".join(f"[`{code}`](#problem-{code})" for code in special)
        yield f"Problems: {links + '; ' if links else ''}{', '.join(rest)} ([below](#problems-1)).\n"


def _of(content: dict[str, Any]) -> str:
    schema = content.get("schema", {})
    return f" {kind(schema)}" if name_of(schema) or "oneOf" in schema or "anyOf" in schema else ""


def _example(example: Any) -> str:
    if isinstance(example, str):
        return f"```\n{example.rstrip()}\n```\n"
    return f"```json\n{json.dumps(example, indent=2, ensure_ascii=False)}\n```\n"


def _curl(path: str, method: str, operation: Operation) -> str:
    parameters = {one["name"]: one for one in operation["parameters"] if "$ref" not in one}
    query = []
    for name, one in parameters.items():
        if one["in"] == "path":
            path = path.replace(f"{{{name}}}", str(one.get("example", name)))
        elif one["in"] == "query" and one.get("required"):
            query.append(f"{name}={one.get('example', '')}")
    url = f'"$RIFFARM_URL{path}{"?" + "&".join(query) if query else ""}"'
    parts = [f"curl -s {url}" if method == "get" else f"curl -s -X {method.upper()} {url}"]
    if operation.get("security"):
        parts.append('-H "Authorization: Bearer $RIFFARM_API_KEY"')
    parts += [
        f"-H '{name}: {one.get('example', '')}'" for name, one in parameters.items() if name.lower() in _SHOWN_HEADERS
    ]
    parts += _curl_body(operation)
    good = [answer for status, answer in operation["responses"].items() if status < "3"]
    types = [media_type for answer in good for media_type in answer.get("content", ())]
    if any(one.startswith(("image/", "audio/", "application/octet-stream")) for one in types):
        parts.append("-O")
    if "text/event-stream" in types:
        parts.append("-N")
    return " \\\n  ".join(parts)


def _curl_body(operation: Operation) -> list[str]:
    body = operation.get("requestBody", {}).get("content", {})
    if "multipart/form-data" in body:
        return ["-F content=@song.flac"]
    for media_type, content in body.items():
        examples = [one["value"] for one in content.get("examples", {}).values()] or [content.get("example")]
        text = examples[0] if isinstance(examples[0], str) else json.dumps(examples[0], ensure_ascii=False)
        return [f"-H 'Content-Type: {media_type}'", "-d '" + text.replace("'", "'\\''") + "'"]
    return []


def _schemas(document: dict[str, Any]) -> Iterator[str]:
    components = document["components"]["schemas"]
    found: dict[str, None] = {}
    for _, _, operation in operations(document):
        reachable(operation, components, found)
    yield "\n## Bodies\n\nFields of all objects, requests first. What may be `null` may also be left out of a request."
    for name in sorted(found, key=lambda name: (not name.endswith("Request"), name)):
        schema = components[name]
        yield f"\n### {name}\n\n{schema.get('description', '')}\n"
        if "properties" in schema:
            yield from table(schema)
        else:
            yield kind(schema) + "."


def _problems() -> Iterator[str]:
    yield "\n## Problems\n"
    yield "Every error has one of these codes; `/problems/{code}` on each farm tells the same.\n"
    for title, codes in (
        ("Of every request", COMMON),
        ("Of every call with a key", KEYED),
        ("Of every body", BODIED),
        ("Of some calls", PROBLEMS.keys() - COMMON - KEYED - BODIED),
    ):
        yield f"\n### {title}\n"
        yield "| code | status | means | what to do |\n|---|---|---|---|"
        for code, problem in PROBLEMS.items():
            if code in codes:
                anchor = f'<a id="problem-{code}"></a>`{code}`'
                yield f"| {anchor} | {problem.status} | {MEANINGS.get(code, problem.title)} | {problem.remedy} |"
