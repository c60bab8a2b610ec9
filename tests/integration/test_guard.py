"""What a gateway refuses before any route, and what all its answers carry: over real sockets."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from api import connection
from shared.settings import Settings
from tests.conftest import SECRET, wait_until
from tests.integration.gateway_probes import CLIP, served, submitted


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    """A gateway that listens."""
    with served(settings) as address:
        yield address


def opened(url: str) -> socket.socket:
    """A connection to the gateway."""
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def answered(url: str, request: bytes) -> bytes:
    """All that the gateway sends until it ends the connection."""
    with closing(opened(url)) as line:
        line.sendall(request)
        return rest(line)


def rest(line: socket.socket) -> bytes:
    found = b""
    try:
        while part := line.recv(65_536):
            found += part
    except ConnectionResetError:
        pass
    return found


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def answers(found: bytes) -> int:
    """How many there are."""
    return len(re.findall(rb"HTTP/1\.1 \d{3} ", found))


CLOSE = b"Host: localhost\r\nConnection: close\r\n"
MALFORMED = {
    "two lengths": b"POST /v1/jobs HTTP/1.1\r\n" + CLOSE + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "the same length twice": b"POST /v1/jobs HTTP/1.1\r\n"
    + CLOSE
    + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": b"POST /v1/jobs HTTP/1.1\r\n" + CLOSE + b"Content-Length: 2, 2\r\n\r\n{}",
    "a length and chunks": b"POST /v1/jobs HTTP/1.1\r\n"
    + CLOSE
    + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": b"POST /v1/jobs HTTP/1.1\r\n"
    + CLOSE
    + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "an unknown coding": b"POST /v1/jobs HTTP/1.1\r\n" + CLOSE + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunks of no size": b"POST /v1/jobs HTTP/1.1\r\n" + CLOSE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "a negative length": b"POST /v1/jobs HTTP/1.1\r\n" + CLOSE + b"Content-Length: -1\r\n\r\n",
    "a length with a sign": b"POST /v1/jobs HTTP/1.1\r\n" + CLOSE + b"Content-Length: +2\r\n\r\n{}",
    "a length in hexadecimals": b"POST /v1/jobs HTTP/1.1\r\n" + CLOSE + b"Content-Length: 0x2\r\n\r\n{}",
    "a space before the colon": b"POST /v1/jobs HTTP/1.1\r\n" + CLOSE + b"Content-Length : 2\r\n\r\n{}",
    "a folded header": b"GET /health HTTP/1.1\r\n" + CLOSE + b"X-A: b\r\n c\r\n\r\n",
    "lines without CR": b"GET /health HTTP/1.1\nHost: localhost\nConnection: close\n\n",
    "a CR alone": b"GET /health HTTP/1.1\r\n" + CLOSE + b"X-A: b\rc\r\n\r\n",
    "a NUL in a header": b"GET /health HTTP/1.1\r\n" + CLOSE + b"X-A: b\x00c\r\n\r\n",
    "a header without a name": b"GET /health HTTP/1.1\r\n" + CLOSE + b": b\r\n\r\n",
    "two hosts": b"GET /health HTTP/1.1\r\n" + CLOSE + b"Host: other\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n",
    "two keys": b"GET /v1/jobs HTTP/1.1\r\n" + CLOSE + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
    "two types": b"POST /v1/jobs HTTP/1.1\r\n"
    + CLOSE
    + b"Content-Type: text/plain\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    "a tunnel": b"CONNECT localhost:80 HTTP/1.1\r\n" + CLOSE + b"\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n",
    "a version of its own": b"GET /health HTTP/9.9\r\n" + CLOSE + b"\r\n",
    "no path": b"GET http://localhost HTTP/1.1\r\n" + CLOSE + b"\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_may_mean_two_things_is_refused_and_the_connection_ended(url: str, name: str) -> None:
    """400 as a problem; what follows on the connection is no request: it is never answered."""
    second = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = answered(url, MALFORMED[name] + second)
    assert status(answer) == 400, answer
    assert answers(answer) == 1
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert json.loads(body)["code"] == "malformed_request"


@pytest.mark.parametrize(
    ("request_", "expected", "code"),
    [
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414, "target_too_long"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431, "headers_too_large"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * 40_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * 10**6, 431, "headers_too_large"),
    ],
    ids=["long target", "many headers", "long header", "header without an end"],
)
def test_a_head_without_measure_is_refused(url: str, request_: bytes, expected: int, code: str) -> None:
    """Before it is held in memory."""
    answer = answered(url, request_)
    assert status(answer) == expected, answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == code


def test_a_head_that_does_not_come_to_its_end_is_given_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """408, however often a byte comes; and a connection that says nothing is closed."""
    monkeypatch.setattr(connection, "HEAD_S", 0.5)
    with closing(opened(url)) as silent, closing(opened(url)) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\n")
        slow.settimeout(0.2)
        answer = b""
        for _ in range(50):
            try:
                if answer := slow.recv(65_536):
                    break
            except TimeoutError:
                slow.sendall(b"a")
        assert status(answer) == 408
        assert rest(silent) == b""


def test_a_body_that_comes_too_slowly_is_given_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """408 and the end of the connection; nothing is submitted, and nothing is held for it any more."""
    monkeypatch.setattr(connection, "BODY_GRACE_S", 0.5)
    monkeypatch.setattr(connection, "BODY_LEAST_BYTES_PER_S", 10**9)
    head = (
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"
    )
    answer = answered(url, head)
    assert status(answer) == 408
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "request_timeout"
    assert httpx.get(f"{url}/v1/jobs").json()["data"] == []
    wait_until(lambda: "riffarm_http_requests_in_flight 1.0" in httpx.get(f"{url}/metrics").text, "nobody waits")


def test_who_does_not_read_is_let_go(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks again and again and reads nothing holds neither a connection nor memory for ever."""
    monkeypatch.setattr(connection, "STALLED_S", 0.5)
    with closing(opened(url)) as line:
        line.setblocking(False)
        request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"

        def is_let_go() -> bool:
            try:
                line.send(request)
            except BlockingIOError:
                return False
            except OSError:
                return True
            return False

        wait_until(is_let_go, "the connection is ended")


def test_a_slow_stream_of_events_is_no_slow_client(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who only listens may do so for hours."""
    monkeypatch.setattr(connection, "HEAD_S", 0.3)
    monkeypatch.setattr(connection, "BODY_GRACE_S", 0.3)
    job_id = submitted(url, CLIP)
    with httpx.stream("GET", f"{url}/v1/jobs/{job_id}/events") as answer:
        lines = answer.iter_lines()
        next(lines)
        ticks: list[float] = []
        wait_until(lambda: ticks.append(1.0) or len(ticks) > 60, "some checks of slow clients have passed")  # type: ignore[func-returns-value]
        httpx.post(f"{url}/v1/jobs/{job_id}/cancel").raise_for_status()
        assert any("completed" in line for line in lines)


def test_a_body_where_none_belongs_is_passed_over(url: str) -> None:
    """The next request on the connection begins where the body ends."""
    body = b"GET /v1/farm HTTP/1.1\r\nHost: localhost\r\n\r\n"
    first = b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    answer = answered(url, first + b"GET /nothing HTTP/1.1\r\n" + CLOSE + b"\r\n")
    assert answers(answer) == 2
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 404 " in answer


def test_an_upgrade_is_not_taken_up(url: str) -> None:
    """The request is answered as if it had not been asked for."""
    asked = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    with closing(opened(url)) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + asked)
        assert status(line.recv(65_536)) == 200


def test_head_is_get_without_its_body(url: str) -> None:
    """Wherever there is GET: the same status and length, and no stream that lasts."""
    job_id = submitted(url, CLIP)
    for path in ("/health", f"/v1/jobs/{job_id}", "/v1/jobs", "/docs", "/v1/jobs/job_0"):
        got, head = httpx.get(url + path), httpx.head(url + path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        assert head.headers["content-type"] == got.headers["content-type"]
    events = httpx.head(f"{url}/v1/jobs/{job_id}/events", timeout=5)
    assert (events.status_code, events.headers["content-type"].split(";")[0]) == (200, "text/event-stream")
    assert httpx.head(f"{url}/v1/jobs/{job_id}/cancel").status_code == 405


def test_options_and_a_405_name_all_methods(url: str) -> None:
    """Also those of routes that share a path."""
    for answer in (httpx.options(f"{url}/v1/jobs"), httpx.put(f"{url}/v1/jobs")):
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert httpx.options(f"{url}/v1/jobs").status_code == 204
    assert httpx.options(f"{url}/v1/jobs/job_0").headers["allow"] == "DELETE, GET, HEAD, OPTIONS"
    assert httpx.options(f"{url}/nothing").status_code == 404


def test_answers_tell_browsers_what_to_keep_to(url: str) -> None:
    """No guessing of types, no frames, no referrers; JSON is not kept; the documentation may run its own script."""
    for path in ("/health", "/docs", "/nothing", "/v1/jobs"):
        headers = httpx.get(url + path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert ("no-store" in headers.get("cache-control", "")) == (path != "/docs")
    assert "script-src 'self'" in httpx.get(f"{url}/docs").headers["content-security-policy"]


def test_pages_of_other_sites_need_a_setting(settings: Settings) -> None:
    """Without it no answer may be read by them; with it those named may, with a key."""
    site = {"origin": "https://studio.example"}
    wanted = {**site, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    keyed = settings.model_dump() | {"secret": SECRET, "gateway_key": "k" * 40, "webhook_secret": None}
    for origins, is_open in (("", False), ("https://studio.example, https://b.example", True), ("*", True)):
        with served(Settings.model_validate(keyed | {"cors_origins": origins})) as url:
            answer = httpx.get(f"{url}/v1/jobs", headers={**site, "authorization": f"Bearer {'k' * 40}"})
            assert answer.status_code == 200
            assert ("access-control-allow-origin" in answer.headers) == is_open
            readable = answer.headers.get("access-control-expose-headers", "")
            assert all(name in readable for name in ("Idempotent-Replayed", "ETag", "Content-Range")) == is_open
            preflight = httpx.options(f"{url}/v1/jobs", headers=wanted)
            assert ("access-control-allow-origin" in preflight.headers) == is_open
            other = httpx.get(f"{url}/v1/jobs", headers={"origin": "https://evil.example"})
            assert ("access-control-allow-origin" in other.headers) == (origins == "*")
