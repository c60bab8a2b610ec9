"""Hostile lines: requests that no client sends, smuggled, endless or slow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tests.hostile.cases_bodies import posted
from tests.hostile.cases_ids import Case, Send, get
from tests.hostile.rig import CLIP, Answer, Rig

NO_HTTP: Final = {0, 400, 405, 408, 413, 414, 431, 501, 505}
_BODY: Final = b'{"type": "clip", "prompt": "a"}'


PATHS: Final = """
    /v1/jobs/ //v1/jobs /v1/../v1/jobs /V1/jobs /v1/jobs;x /.env /.git/config /etc/passwd /docs/../../etc/passwd
    /v1/jobs/job_0/outputs/ /v1/keys /admin /metrics/../v1/farm /web/../api/main.py
"""


def request(line: str, *headers: str, body: bytes = b"") -> Send:
    """A request as it is, with the attacker's key and the right host."""

    def send(rig: Rig) -> Answer:
        host, port = rig.address
        lines = [line, f"Host: {host}:{port}", f"Authorization: Bearer {rig.key}", *headers]
        return rig.raw("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    return send


def lines() -> Iterator[Case]:
    """What is hardly HTTP, or two things at once."""
    post = "POST /v1/jobs HTTP/1.1"
    is_json = "Content-Type: application/json"
    length = f"Content-Length: {len(_BODY)}"
    smuggled = b"0\r\n\r\nGET /v1/farm HTTP/1.1\r\nHost: x\r\n\r\n"
    raw = {
        "noise": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100,
        "version 9": b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n",
        "HTTP/2 by knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "a method of noise": b"\x00\x01\x02 /health HTTP/1.1\r\nHost: x\r\n\r\n",
        "Redis": b"*1\r\n$8\r\nFLUSHALL\r\n",
    }
    for name, content in raw.items():
        yield Case(f"a line of {name}", lambda rig, content=content: rig.raw(content), NO_HTTP)  # type: ignore[misc]
    yield Case("two lengths", request(post, is_json, length, "Content-Length: 5", body=_BODY), NO_HTTP)
    yield Case("two lengths in one", request(post, is_json, f"{length}, 5", body=_BODY), NO_HTTP)
    yield Case(
        "length and chunks",
        request(post, is_json, "Content-Length: 5", "Transfer-Encoding: chunked", body=smuggled),
        NO_HTTP,
    )
    yield Case("a length of -1", request(post, is_json, "Content-Length: -1"), NO_HTTP)
    yield Case("a length of +5", request(post, is_json, "Content-Length: +5", body=b"{}   "), NO_HTTP)
    yield Case("a length in hexadecimal", request(post, is_json, "Content-Length: 0x5", body=b"{}   "), NO_HTTP)
    yield Case("a length of 10^30", request(post, is_json, f"Content-Length: {10**30}"), NO_HTTP)
    yield Case(
        "chunks by another name", request(post, is_json, "Transfer-Encoding: xchunked", body=smuggled), NO_HTTP | {422}
    )
    yield Case("chunks of no size", request(post, is_json, "Transfer-Encoding: chunked", body=b"zz\r\n\r\n"), NO_HTTP)
    yield Case(
        "a chunk of 2^64", request(post, is_json, "Transfer-Encoding: chunked", body=b"FFFFFFFFFFFFFFFFF\r\n"), NO_HTTP
    )
    yield Case("a header with a blank before its colon", request("GET /v1/farm HTTP/1.1", "X-A : b"), NO_HTTP)
    yield Case("a folded header", request("GET /v1/farm HTTP/1.1", "X-A: b\r\n c"), NO_HTTP)
    yield Case("a header with NUL", request("GET /v1/farm HTTP/1.1", "X-A: b\0c"), NO_HTTP)
    yield Case("a header without a name", request("GET /v1/farm HTTP/1.1", ": b"), NO_HTTP)
    yield Case("a header of 200 kB", request("GET /v1/farm HTTP/1.1", f"X-A: {'b' * 200_000}"), NO_HTTP)
    yield Case(
        "10,000 headers", request("GET /v1/farm HTTP/1.1", *(f"X-{number}: b" for number in range(10_000))), NO_HTTP
    )
    yield Case("a target of 100 kB", request(f"GET /v1/farm?{'a' * 100_000} HTTP/1.1"), NO_HTTP | {422})
    yield Case("a target elsewhere", request("GET http://169.254.169.254/latest/ HTTP/1.1"), NO_HTTP | {404})
    yield Case("a tunnel", request("CONNECT 127.0.0.1:6379 HTTP/1.1"), NO_HTTP | {404})
    yield Case("a trace", request("TRACE /v1/jobs HTTP/1.1"), NO_HTTP)
    yield Case("a method of its own", request("BREW /v1/jobs HTTP/1.1"), NO_HTTP)
    yield Case(
        "a body on a read", request("GET /v1/jobs/job_0 HTTP/1.1", "Content-Length: 2", body=b"{}"), NO_HTTP | {404}
    )


def headers() -> Iterator[Case]:
    """Headers that a client may send, with what they may not hold."""
    for value in ("wait=0", "wait=61", "wait=-1", "wait=x", "wait=1e9", "wait=" + "9" * 300, "wait="):
        yield Case(f"Prefer: {value[:12]}", posted(_BODY, **{"prefer": value}), {422})
    for value in ("x", "1", "-1", "1-1-1", "99999999999999999999-1", "*", "$"):
        yield Case(f"Last-Event-ID: {value[:12]}", _events(value), {422})
    for value in ("", "a" * 256, "a\tb", "é"):
        yield Case(f"Idempotency-Key: {value[:12]!r}", _idempotent(value), {400, 422})


def _events(last_id: str) -> Send:
    return lambda rig: rig.call("GET", f"/v1/jobs/{rig.own_job()}/events", headers={"last-event-id": last_id})


def _idempotent(key: str) -> Send:
    def send(rig: Rig) -> Answer:
        headers = {"authorization": f"Bearer {rig.key}".encode(), "idempotency-key": key.encode("utf-8")}
        answer = rig.http.post("/v1/jobs", json=CLIP, headers=headers)  # type: ignore[arg-type]
        return Answer(answer.status_code, dict(answer.headers), answer.content)

    return send


def paths() -> Iterator[Case]:
    """Paths around the routes."""
    for path in PATHS.split():
        yield Case(f"path {path}", request(f"GET {path} HTTP/1.1"), {307, 400, 404, 405})
    for method in ("PUT", "PATCH", "DELETE"):
        yield Case(f"{method} of the list", lambda rig, method=method: rig.call(method, "/v1/jobs"), {405})  # type: ignore[misc]
    yield Case("another site's page", get("/v1/jobs", headers={"origin": "https://evil.example"}, key=None), {401})
