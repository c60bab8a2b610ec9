"""One webhook: its body, its signed headers, one post, as Standard Webhooks 1.0 says.

Leaves out when to post and how often (`workers.courier`), and where a connection may lead (`workers.outbound`).
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple

import certifi
import httpcore
from pydantic_core import to_json
from standardwebhooks.webhooks import Webhook as Signer

from shared.contracts import Job, WebhookEvent
from shared.errors import TransientError
from shared.webhook_urls import Receiver, WebhookRules
from workers.outbound import CheckedNetwork

MAX_BODY_BYTES: Final = 20_000
TIMEOUT_S: Final = 15.0
_MAX_ANSWER_BYTES: Final = 1_024
# In this order, until the rest fits.
_LEFT_OUT: Final[dict[str, Any]] = {"input": None, "outputs": [], "warnings": [], "labels": {}, "error": None}
_LEFT_OUT_OF_PREDICTION: Final[dict[str, Any]] = {"logs": "", "input": {}, "output": None, "error": None}


class WebhookFailedError(TransientError):
    """The webhook's receiver did not answer."""


class Answer(NamedTuple):
    """What a receiver said: its status, and for how many seconds it wants to be left alone."""

    status: int
    retry_after_s: float | None = None


def webhook_body(event: WebhookEvent, job: Job, at: datetime) -> bytes:
    """The body of one event: the job without previews, under MAX_BODY_BYTES.

    A job that is too long is told without its input; if need be, also without its outputs, warnings, labels and error,
    in this order. `left_out` names what is missing.
    """
    data = job.model_dump(mode="json", exclude={"previews"})
    told: dict[str, Any] = {"type": event, "timestamp": at, "data": data}
    left_out: list[str] = []
    while len(body := to_json(told)) >= MAX_BODY_BYTES and len(left_out) < len(_LEFT_OUT):
        left_out.append([*_LEFT_OUT][len(left_out)])
        data |= {name: _LEFT_OUT[name] for name in left_out}
        told["left_out"] = left_out
    return body


def prediction_body(prediction: Mapping[str, Any]) -> bytes:
    """A prediction's body, under MAX_BODY_BYTES: one that is too long without its logs, input, output and error."""
    told = dict(prediction)
    for name, empty in _LEFT_OUT_OF_PREDICTION.items():
        if len(to_json(told)) < MAX_BODY_BYTES:
            break
        told[name] = empty
    return to_json(told)


def webhook_headers(
    delivery_id: str, body: bytes, secrets: Sequence[str], at: datetime, request_id: str = ""
) -> dict[str, str]:
    """The headers of one attempt at this time, signed with each of the secrets in turn."""
    signatures = [Signer(secret).sign(delivery_id, at, body.decode()) for secret in secrets]
    headers = {
        "content-type": "application/json",
        "user-agent": "riffarm-webhooks/1",
        "webhook-id": delivery_id,
        "webhook-timestamp": str(math.floor(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
    return headers | ({"x-request-id": request_id} if request_id else {})


class Poster:
    """Posts to whom the rules allow. No redirect is followed, no proxy variable read."""

    def __init__(self, rules: WebhookRules, at_once: int) -> None:
        """`at_once`: how many posts may be under way at a time."""
        self._rules = rules
        # One that is given up may still be asking for its name.
        resolvers = ThreadPoolExecutor(2 * at_once, thread_name_prefix="resolver")
        self._network = CheckedNetwork(rules, resolvers)
        # Authorities that the machine trusts count too: a farm's own, named by SSL_CERT_FILE.
        self._tls = ssl.create_default_context()
        self._tls.load_verify_locations(certifi.where())

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Post a body; what the receiver said within TIMEOUT_S. Raises WebhookFailedError without an answer."""
        try:
            receiver = self._rules.receiver(url)
        except ValueError as error:
            raise WebhookFailedError(f"refused: the URL {error}") from error
        said: list[Answer] = []
        reason = ""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._exchange(receiver, headers, body, said)
        except TimeoutError:
            reason = f"no answer within {TIMEOUT_S:g} s"
        except _FAILURES as error:
            reason = f"{type(error).__name__}: {error}"[:300]
        # Whoever has said a status has the delivery, however the rest drips or breaks off.
        if not said:
            raise WebhookFailedError(reason)
        return said[0]

    async def _exchange(self, receiver: Receiver, headers: Mapping[str, str], body: bytes, said: list[Answer]) -> None:
        """Post, note the answer in `said` as soon as it has a status, read a little of the rest."""
        url = httpcore.URL(scheme=receiver.scheme, host=receiver.host, port=receiver.port, target=receiver.target)
        sent = [("host", receiver.host_header), *headers.items(), ("content-length", str(len(body)))]
        pool = httpcore.AsyncConnectionPool(self._tls, max_keepalive_connections=0, network_backend=self._network)
        async with pool, pool.stream("POST", url, headers=sent, content=body) as response:
            said.append(Answer(response.status, _retry_after_s(response.headers)))
            size = 0
            async for part in response.aiter_stream():
                size += len(part)
                if size >= _MAX_ANSWER_BYTES:
                    return


_FAILURES: Final = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
    OSError,
)


def _retry_after_s(headers: Sequence[tuple[bytes, bytes]]) -> float | None:
    """The header Retry-After, in seconds or as a date; None without one that makes sense."""
    said = next((value.decode("latin-1").strip() for name, value in headers if name.lower() == b"retry-after"), "")
    if said.isascii() and said.isdigit():
        return float(said[:9])
    try:
        at = parsedate_to_datetime(said)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
