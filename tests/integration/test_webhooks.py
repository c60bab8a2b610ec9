"""Posting a webhook: signed, to checked addresses alone, and never for longer than its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from fastapi.testclient import TestClient
from standardwebhooks.webhooks import Webhook

from shared.settings import Settings
from tests.conftest import WEBHOOK_SECRET
from tests.integration.gateway_probes import CLIP
from workers import webhooks
from workers.tasks import Tasks
from workers.webhooks import WebhookFailedError, post_webhook

if TYPE_CHECKING:
    from workers.diffusion import FramePipeline

BODY = b'{"type": "job.succeeded"}'


class Receiver(ThreadingHTTPServer):
    """Answers by path: /204, /500, /302, /drip; keeps what it was sent."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, str], bytes]] = []
        self.is_over = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.calls.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        if self.path == "/drip":
            self.server.is_over.wait(10)
            return
        self.send_response(int(self.path[1:]))
        self.send_header("location", f"{self.server.url}/204")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver on loopback."""
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.is_over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def post(url: str, *, allow_loopback: bool = True) -> int:
    return post_webhook(url, "dlv_1", BODY, WEBHOOK_SECRET, allow_loopback=allow_loopback)


def test_the_published_verifier_accepts_it(receiver: Receiver) -> None:
    """Id, time and signature are those of Standard Webhooks."""
    assert post(f"{receiver.url}/204") == 204
    (_, headers, body), *_ = receiver.calls
    assert Webhook(WEBHOOK_SECRET).verify(body, headers) == {"type": "job.succeeded"}
    assert headers["webhook-id"] == "dlv_1"
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize("status", [302, 400, 500])
def test_other_answers_are_failures_and_redirects_are_not_followed(receiver: Receiver, status: int) -> None:
    """Only 2xx is success; a redirect inside leads nowhere."""
    with pytest.raises(WebhookFailedError, match=str(status)):
        post(f"{receiver.url}/{status}")
    assert [path for path, _, _ in receiver.calls] == [f"/{status}"]


def test_a_retried_job_has_news_of_its_own_and_a_deleted_one_none(
    receiver: Receiver, gateway: TestClient, settings: Settings
) -> None:
    """The id is constant for each end, so that a receiver takes a repeat for one and the next end for another."""
    farm = gateway.app.state.jobs  # type: ignore[attr-defined]
    tasks = Tasks(settings, farm.job_store, farm.object_store, farm.dispatcher, _no_pipeline, "w1")
    webhook = {"url": f"{receiver.url}/204"}
    job_id = gateway.post("/v1/jobs", json=CLIP | {"webhook": webhook}).json()["id"]

    def ids_after(*actions: str) -> list[str]:
        receiver.calls.clear()
        for action in actions:
            gateway.post(f"/v1/jobs/{job_id}/{action}").raise_for_status()
        for _ in range(2):
            tasks.post_webhook(job_id, "job.canceled")
        return [headers["webhook-id"] for _, headers, _ in receiver.calls]

    own = job_id.removeprefix("job_")
    assert ids_after("cancel") == [f"dlv_{own}_canceled"] * 2
    assert ids_after("retry") == []
    assert ids_after("cancel") == [f"dlv_{own}_canceled_1"] * 2
    gateway.delete(f"/v1/jobs/{job_id}").raise_for_status()
    assert ids_after() == []


def _no_pipeline(name: str, revision: str) -> FramePipeline:
    raise AssertionError("nothing is rendered here")


def test_410_ends_it(receiver: Receiver) -> None:
    """A receiver that is gone for good is not a failure to try again."""
    assert post(f"{receiver.url}/410") == 410


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "2130706433"])
def test_loopback_is_refused_in_every_form(receiver: Receiver, host: str) -> None:
    """Names that resolve inside and odd spellings of 127.0.0.1 never get a request."""
    with pytest.raises(WebhookFailedError):
        post(f"http://{host}:{receiver.server_port}/204", allow_loopback=False)
    assert receiver.calls == []


@pytest.mark.parametrize("host", ["10.0.0.1", "169.254.169.254", "[fe80::1]", "[64:ff9b::a00:1]", "192.168.1.1"])
def test_private_addresses_are_refused_even_where_loopback_is_allowed(host: str) -> None:
    """The development setting opens loopback and nothing else."""
    with pytest.raises(WebhookFailedError, match="denied"):
        post(f"http://{host}/204")


def test_a_receiver_that_never_answers_is_given_up(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """One slow receiver holds its worker for the time-out and no longer."""
    monkeypatch.setattr(webhooks, "TIMEOUT_S", 0.3)
    started_s = time.monotonic()
    with pytest.raises(WebhookFailedError):
        post(f"{receiver.url}/drip")
    assert time.monotonic() - started_s < 5
