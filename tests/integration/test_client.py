"""The Python client against a gateway, and against one that fails in the ways that networks and full farms do."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from api.client import Client, FarmError
from shared.contracts import Output
from shared.settings import Settings
from tests.conftest import free_port
from tests.integration.gateway_probes import CLIP, KEY, served

CONTENT = bytes(range(256)) * 4_000
Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def scripted(*answers: Answer) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that answers each request with the next of these, the last one for ever; what it was asked, in order."""
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            asked.append({**{k.lower(): v for k, v in self.headers.items()}, "body": self.rfile.read(length).decode()})
            answers[min(len(asked), len(answers)) - 1](self)

        do_POST = do_DELETE = do_GET  # noqa: N815 — the library's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 — the library's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answering(status: int, body: object, **headers: str) -> Answer:
    """An answer in JSON."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        content = json.dumps(body).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def hanging_up(handler: BaseHTTPRequestHandler) -> None:
    """The request is read, and the connection lost before a word is said."""
    handler.close_connection = True
    handler.connection.shutdown(2)


def problem(status: int, code: str, **headers: str) -> Answer:
    """A problem with this code."""
    return answering(status, {"code": code, "detail": f"It is {code}."}, **headers)


MODELS = answering(200, {"data": [{"name": "riffarm-mini"}]})


def output(url: str, content: bytes = CONTENT) -> Output:
    """An output with this content, to be had there."""
    return Output(
        name="clip.flac",
        media_type="audio/flac",
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        duration_s=5.12,
        url=f"{url}/clip.flac",
        url_expires_at=datetime.now(UTC),
    )


@pytest.mark.parametrize(
    "passing",
    [
        hanging_up,
        problem(429, "rate_limited", Retry_After="0"),
        problem(429, "quota_exceeded", Retry_After="0"),
        problem(503, "farm_full", Retry_After="0"),
        problem(503, "storage_unavailable", Retry_After="0"),
        problem(409, "idempotency_in_flight", Retry_After="0"),
    ],
)
def test_what_passes_is_tried_again_under_the_same_key(passing: Answer, settings: Settings) -> None:
    """A lost answer, a limit, a full farm: the same request, byte by byte, with the same Idempotency-Key."""
    with served(settings) as url, Client(url) as real:
        job = real.submit(CLIP)
    answers = (MODELS, passing, passing, answering(202, job.model_dump(mode="json")))
    with scripted(*answers) as (url, asked), Client(url) as client:
        assert client.models() == ["riffarm-mini"]
        assert client.submit(CLIP) == job
    tries = asked[1:]
    assert len(tries) == 3
    assert len({(one["idempotency-key"], one["body"]) for one in tries}) == 1


def test_the_farm_is_taken_at_its_word_when_to_come_again() -> None:
    """A second is a second; what would be beyond the client's patience is told at once."""
    with scripted(problem(429, "rate_limited", Retry_After="1"), MODELS) as (url, _), Client(url) as client:
        began_s = time.monotonic()
        client.models()
        assert 1.0 <= time.monotonic() - began_s < 5.0
    with scripted(problem(429, "quota_exceeded", Retry_After="3600")) as (url, asked), Client(url) as client:
        with pytest.raises(FarmError, match="quota_exceeded") as told:
            client.models()
        assert (told.value.code, told.value.retry_after_s, len(asked)) == ("quota_exceeded", 3600.0, 1)


def test_what_does_not_pass_is_not_tried_again() -> None:
    """A wrong field, a missing key, a bug: one request each."""
    for status, code in ((422, "invalid_request"), (401, "unauthorized"), (404, "not_found"), (500, "internal_error")):
        with scripted(problem(status, code)) as (url, asked), Client(url) as client:
            with pytest.raises(FarmError) as told:
                client.submit(CLIP)
            assert (told.value.code, len(asked)) == (code, 1)


def test_patience_ends() -> None:
    """A farm that keeps hanging up is given up in time, one that was never there at once."""
    with scripted(MODELS, hanging_up) as (url, asked), Client(url, patience_s=1.0) as client:
        client.models()
        began_s = time.monotonic()
        with pytest.raises(FarmError, match="no farm answers"):
            client.models()
        assert time.monotonic() - began_s < 10.0
        assert len(asked) > 2
    with Client(f"http://127.0.0.1:{free_port()}") as client:
        began_s = time.monotonic()
        with pytest.raises(FarmError, match="riffarm up"):
            client.models()
        assert time.monotonic() - began_s < 5.0


def test_a_deletion_whose_answer_was_lost_is_one() -> None:
    """The job is gone at the second try because the first one deleted it."""
    with scripted(MODELS, hanging_up, problem(404, "not_found")) as (url, _), Client(url) as client:
        client.models()
        client.delete("job_1")
    with scripted(problem(404, "not_found")) as (url, _), Client(url) as client, pytest.raises(FarmError):
        client.delete("job_1")


def test_what_a_key_lacks_is_said_in_words_that_help(settings: Settings) -> None:
    """No key, a wrong one, one that cannot be one."""
    keyed = Settings.model_validate({**settings.model_dump(), "gateway_key": KEY, "secret": "s" * 32})
    with served(keyed) as url:
        for key, words in ((None, "wants a key: set RIFFARM_API_KEY"), ("wrong", "check RIFFARM_API_KEY")):
            with Client(url, key) as client, pytest.raises(FarmError, match=words) as told:
                client.models()
            assert told.value.code == "unauthorized"
        with Client(url, KEY) as client:
            assert "riffarm-mini" in client.models()
    with pytest.raises(FarmError, match="RIFFARM_API_KEY"):
        Client(api_key="ключ")


def test_the_first_wrong_field_is_told_with_what_is_allowed(settings: Settings) -> None:
    """One sentence for people, the whole problem for programs."""
    with served(settings) as url, Client(url) as client, pytest.raises(FarmError) as told:
        client.submit({**CLIP, "variations": 65})
    assert "allowed: <= 64" in told.value.message
    assert told.value.problem["errors"][0]["field"] == "variations"


def test_one_client_serves_many_threads(settings: Settings) -> None:
    """Sixteen at once, each gets its own answers."""
    with served(settings) as url, Client(url) as client:

        def work(number: int) -> bool:
            job = client.submit({**CLIP, "seed": number})
            return client.job(job.id).input.seed == number  # type: ignore[union-attr]

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(work, range(64)))
        assert len(list(client.jobs(limit=10))) == 64


def test_a_batch_comes_back_request_by_request(settings: Settings) -> None:
    """Those taken as jobs, those refused with their problem; sent again under its key it is the same batch."""
    with served(settings) as url, Client(url) as client:
        requests = [CLIP, {"type": "clip"}, {**CLIP, "seed": 2}]
        answer = client.submit_batch(requests, idempotency_key="the-batch")
        assert [item.status for item in answer.data] == [202, 422, 202]
        assert answer.data[1].problem
        assert answer.data[1].problem.code == "invalid_request"
        assert client.submit_batch(requests, idempotency_key="the-batch") == answer
        assert {job.id for job in client.jobs(batch_id=answer.batch_id)} == {
            item.job.id for item in answer.data if item.job
        }


def test_webhooks_can_be_looked_into(settings: Settings) -> None:
    """The secret, a new one, and the deliveries of a job that has none."""
    with served(settings) as url, Client(url) as client:
        before = client.webhook_secret()
        after = client.rotate_webhook_secret()
        assert before.secret.startswith("whsec_")
        assert after.secret != before.secret
        assert list(client.deliveries(client.submit(CLIP).id)) == []
        with pytest.raises(FarmError) as told:
            client.replay("job_0", "dlv_0")
        assert told.value.code == "not_found"


def piecewise(handler: BaseHTTPRequestHandler, size: int) -> None:
    """The content from where it is asked for, but no more than `size` bytes of it before the connection is lost."""
    wanted = handler.headers.get("Range", "bytes=0-")
    begin = int(wanted.removeprefix("bytes=").rstrip("-"))
    handler.send_response(206 if begin else 200)
    handler.send_header("Content-Length", str(len(CONTENT) - begin))
    handler.send_header("Content-Range", f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")
    handler.end_headers()
    handler.wfile.write(CONTENT[begin : begin + size])
    handler.close_connection = True


def test_a_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    """Each byte is sent once, however often the connection is lost."""
    target = tmp_path / "a.flac"
    with scripted(lambda handler: piecewise(handler, 300_000)) as (url, asked), Client(url) as client:
        client.download(output(url), target)
    assert target.read_bytes() == CONTENT
    assert [one.get("range") for one in asked] == [None, *(f"bytes={n}-" for n in (300_000, 600_000, 900_000))]
    assert [path.name for path in tmp_path.iterdir()] == ["a.flac"]


def test_a_download_that_was_given_up_is_taken_up_by_the_next(tmp_path: Path) -> None:
    """What came before stays under a hidden name; another content with the same name begins anew."""
    target = tmp_path / "a.flac"
    breaking = scripted(lambda handler: piecewise(handler, 300_000), hanging_up)
    with breaking as (url, _), Client(url, patience_s=0.5) as client, pytest.raises(FarmError, match="cannot be"):
        client.download(output(url), target)
    assert not target.exists()
    with scripted(lambda handler: piecewise(handler, len(CONTENT))) as (url, asked), Client(url) as client:
        client.download(output(url), target)
    assert asked[0]["range"] == "bytes=300000-"
    assert target.read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_again(tmp_path: Path) -> None:
    """An answer with the whole content is not put behind what is there."""

    def whole(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        handler.wfile.write(CONTENT)

    answers = (lambda handler: piecewise(handler, 100_000), whole)
    with scripted(*answers) as (url, _), Client(url) as client:
        client.download(output(url), tmp_path / "a.flac")
    assert (tmp_path / "a.flac").read_bytes() == CONTENT


def test_a_damaged_download_is_fetched_once_more_and_never_kept(tmp_path: Path) -> None:
    """The checksum decides."""
    wrong = output("http://127.0.0.1", CONTENT).model_copy(update={"sha256": "0" * 64})
    whole = scripted(lambda handler: piecewise(handler, len(CONTENT)))
    with whole as (url, asked), Client(url) as client, pytest.raises(FarmError, match="damaged"):
        client.download(wrong.model_copy(update={"url": f"{url}/a"}), tmp_path / "a.flac")
    assert (len(asked), list(tmp_path.iterdir())) == (2, [])


def test_a_link_that_expired_says_what_to_do(tmp_path: Path) -> None:
    """Once, without trying again; the key is never sent to a link."""
    expired = scripted(problem(403, "url_expired"))
    with expired as (url, asked), Client(url, KEY) as client, pytest.raises(FarmError, match="read the job") as told:
        client.download(output(url), tmp_path / "a.flac")
    assert (told.value.code, len(asked), "authorization" in asked[0]) == ("url_expired", 1, False)


def test_an_address_that_is_none_is_refused_in_a_sentence() -> None:
    """Before anything is sent."""
    for address in ("http://", "farm:8000", "127.0.0.1", "http://farm:port", "ftp://farm"):
        with pytest.raises(FarmError, match="no address of a farm"):
            Client(address)
