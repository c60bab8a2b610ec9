"""One webhook: what it says, in how many bytes, and that libraries of others verify its signatures."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
import svix.webhooks
from fastapi.testclient import TestClient
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from api.main import create_app
from shared.contracts import ClipRequest, Job, JobFailure, Output
from shared.errors import StorageUnavailableError
from shared.object_store import LocalDiskStore
from shared.redis_connection import redis_from_url
from shared.settings import Settings
from shared.webhook_secrets import WebhookSecrets
from tests.clients.environments import HERE, node_modules
from tests.conftest import WEBHOOK_SECRET
from tests.integration.gateway_probes import CLIP
from workers.webhooks import MAX_BODY_BYTES, prediction_body, webhook_body, webhook_headers

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
OLD, NEW = WEBHOOK_SECRET, "whsec_bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3"
BODY = b'{"type":"job.succeeded","text":"\xc3\xbc"}'


def verified_by_standardwebhooks(secret: str, headers: dict[str, str], body: bytes) -> str | None:
    try:
        return str(Webhook(secret).verify(body, headers)["type"])
    except WebhookVerificationError:
        return None


def verified_by_svix(secret: str, headers: dict[str, str], body: bytes) -> str | None:
    try:
        # Without a word for what is right.
        svix.webhooks.Webhook(secret).verify(body, headers)
        return str(json.loads(body)["type"])
    except svix.webhooks.WebhookVerificationError:
        return None


def verified_by_npm(secret: str, headers: dict[str, str], body: bytes) -> str | None:
    line = json.dumps({"secret": secret, "headers": headers, "body": body.decode()})
    command = ["node", str(HERE / "webhooks-js" / "verify.js"), str(node_modules("webhooks-js"))]
    answer = subprocess.run(command, input=line, capture_output=True, text=True, check=True).stdout.strip()
    return None if answer == "refused" else answer


@pytest.mark.parametrize("verified", [verified_by_standardwebhooks, verified_by_svix, verified_by_npm])
def test_published_libraries_verify_one_signature_and_two(
    verified: Callable[[str, dict[str, str], bytes], str | None],
) -> None:
    """While a secret rotates each of the two verifies; neither does for another secret, body, id or time."""
    now = datetime.now(UTC)
    single = webhook_headers("dlv_1", BODY, [OLD], now)
    assert verified(OLD, single, BODY) == "job.succeeded"
    assert verified(NEW, single, BODY) is None
    both = webhook_headers("dlv_1", BODY, [NEW, OLD], now)
    assert verified(OLD, both, BODY) == verified(NEW, both, BODY) == "job.succeeded"
    assert verified(OLD, both, BODY + b" ") is None
    assert verified(OLD, both | {"webhook-id": "dlv_2"}, BODY) is None
    assert verified(OLD, both | {"webhook-timestamp": str(int(now.timestamp()) - 1)}, BODY) is None
    assert verified(OLD, webhook_headers("dlv_1", BODY, [OLD], AT), BODY) is None


def test_the_newest_signature_comes_first() -> None:
    """For receivers that look at no other."""
    both = webhook_headers("dlv_1", BODY, [NEW, OLD], AT)["webhook-signature"].split(" ")
    singles = [webhook_headers("dlv_1", BODY, [secret], AT)["webhook-signature"] for secret in (NEW, OLD)]
    assert both == singles
    assert all(one.startswith("v1,") for one in both)


def test_headers_are_those_of_the_standard_and_the_request_that_made_the_job() -> None:
    """And none is empty."""
    headers = webhook_headers("dlv_1", BODY, [OLD], AT, "req_1")
    assert {name: value for name, value in headers.items() if name != "webhook-signature"} == {
        "content-type": "application/json",
        "user-agent": "riffarm-webhooks/1",
        "webhook-id": "dlv_1",
        "webhook-timestamp": "1767323045",
        "x-request-id": "req_1",
    }
    assert "x-request-id" not in webhook_headers("dlv_1", BODY, [OLD], AT)


@pytest.fixture
def job(gateway: TestClient) -> Job:
    """A job as the client sees it."""
    body = gateway.post("/v1/jobs", json=CLIP).json()
    found: Job = gateway.app.state.jobs.read(body["id"])  # type: ignore[attr-defined]
    return found


def with_input(job: Job, **fields: Any) -> Job:
    assert isinstance(job.input, ClipRequest)
    return job.model_copy(update={"input": job.input.model_copy(update=fields)})


def test_a_body_is_the_job_without_previews(job: Job) -> None:
    """As the gateway answers it, with the event's type and time."""
    told = json.loads(webhook_body("job.succeeded", job, AT))
    whole = job.model_dump(mode="json", exclude={"previews"})
    assert told == {"type": "job.succeeded", "timestamp": "2026-01-02T03:04:05Z", "data": whole}


def test_a_job_that_is_too_long_is_told_without_the_least_important(job: Job) -> None:
    """In order, and saying what is missing; however long everything is, a body stays under 20 kB."""
    long = "ü" * MAX_BODY_BYTES
    output = Output.model_construct(name=long, media_type="x")
    told = json.loads(webhook_body("job.failed", with_input(job, prompt=long), AT))
    assert (told["left_out"], told["data"]["input"]) == (["input"], None)
    everything = with_input(job, prompt=long).model_copy(
        update={
            "outputs": [output],
            "warnings": [long],
            "labels": {str(number): "😀" * 255 for number in range(16)},
            "error": JobFailure(code="x", message=long, retryable=False),
        }
    )
    body = webhook_body("job.failed", everything, AT)
    told = json.loads(body)
    assert len(body) < MAX_BODY_BYTES
    assert told["left_out"] == ["input", "outputs", "warnings", "labels", "error"]
    assert (told["data"]["id"], told["data"]["status"]) == (job.id, "queued")


def test_a_prediction_that_is_too_long_keeps_what_its_client_needs_first() -> None:
    """Its output before its logs and input."""
    long = "x" * MAX_BODY_BYTES
    told = json.loads(prediction_body({"id": "1", "logs": long, "input": {"prompt": long}, "output": ["https://x"]}))
    assert told == {"id": "1", "logs": "", "input": {}, "output": ["https://x"]}


@pytest.fixture
def secrets_of(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., WebhookSecrets]]:
    """Makes what each process has of the tenants' secrets."""
    clients: list[redis.Redis] = []

    def make(**changes: Any) -> WebhookSecrets:
        clients.append(redis_from_url(settings.redis_url))
        return WebhookSecrets(settings.model_copy(update=changes), clients[-1], LocalDiskStore(tmp_path / "storage"))

    yield make
    for client in clients:
        client.close()


def test_each_tenant_has_a_secret_of_its_own_made_once(secrets_of: Callable[..., WebhookSecrets]) -> None:
    """Whichever process asks first, also when many do, and after a loss of Redis."""
    makers = [secrets_of() for _ in range(8)]
    found: list[str] = []
    threads = [threading.Thread(target=lambda one=one: found.append(one.of("ada").secret)) for one in makers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({*found}) == 1
    makers[0]._redis.flushall()
    assert secrets_of().of("ada").secret == found[0]
    assert secrets_of().of("bob").secret != found[0]
    assert found[0] not in repr(makers[0].of("ada"))


def test_a_rotation_is_known_to_every_process_at_once(secrets_of: Callable[..., WebhookSecrets]) -> None:
    """Both sign for a day, the new one first; a second rotation drops the oldest."""
    one, other = secrets_of(), secrets_of()
    first = other.of("ada").secret
    second = one.rotate("ada").secret
    rotating = other.of("ada")
    until_s = rotating.rotates_until_s
    assert rotating.signing(until_s - 1) == (second, first)
    assert rotating.signing(until_s + 1) == (second,)
    assert abs(until_s - datetime.now(UTC).timestamp() - 86_400) < 60
    third = other.rotate("ada").secret
    assert one.of("ada").signing(until_s - 60) == (third, second)


def test_the_settings_secret_is_the_default_tenants_until_rotated_and_counts_anew_when_changed(
    secrets_of: Callable[..., WebhookSecrets], settings: Settings
) -> None:
    """And no other tenant's."""
    assert secrets_of().of("default").secret == WEBHOOK_SECRET
    assert secrets_of().of("ada").secret != WEBHOOK_SECRET
    rotated = secrets_of().rotate("default")
    assert rotated.previous == WEBHOOK_SECRET
    assert secrets_of().of("default") == rotated
    changed = Settings(**{**settings.model_dump(), "webhook_secret": NEW}).webhook_secret
    assert secrets_of(webhook_secret=changed).of("default").signing(0.0) == (NEW,)


def test_a_rotation_that_storage_does_not_take_has_not_happened(
    secrets_of: Callable[..., WebhookSecrets], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody signs with a secret that may be lost."""
    one = secrets_of()
    before = one.of("ada")

    def refuse(*_: Any) -> None:
        raise StorageUnavailableError

    monkeypatch.setattr(one._objects, "put", refuse)
    with pytest.raises(StorageUnavailableError):
        one.rotate("ada")
    assert one.of("ada") == secrets_of().of("ada") == before


def test_secrets_over_http(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    """Read and rotated; kept by nobody on the way, and in no line of the log."""
    with TestClient(create_app(settings), base_url="http://localhost") as gateway:
        answer = gateway.get("/v1/webhooks/secret")
        assert answer.json() == {"secret": WEBHOOK_SECRET, "previous_secret_expires_at": None}
        assert answer.headers["cache-control"] == "no-store"
        rotated = gateway.post("/v1/webhooks/secret/rotate").json()
        assert rotated["secret"].startswith("whsec_")
        assert rotated["previous_secret_expires_at"]
        assert gateway.get("/v1/webhooks/secret").json() == rotated
    assert rotated["secret"] not in "".join(capfd.readouterr())
