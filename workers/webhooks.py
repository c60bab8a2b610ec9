"""Signs and posts one webhook, as Standard Webhooks 1.0 says.

Leaves out when to post and how often to try (`workers.tasks`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import httpx
from httpx_secure import httpx_ssrf_protection
from pydantic_core import to_json
from standardwebhooks.webhooks import Webhook as Signer

from shared.contracts import Job, WebhookEvent
from shared.errors import TransientError

MAX_BODY_BYTES: Final = 20_000
TIMEOUT_S: Final = 15.0
_LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class WebhookFailedError(TransientError):
    """The webhook's receiver did not answer with 2xx."""


def webhook_body(event: WebhookEvent, job: Job, at: datetime) -> bytes:
    """The body of one event, under MAX_BODY_BYTES: where a job is too long, its input and outputs are left out."""
    data: dict[str, Any] = job.model_dump(mode="json")
    body = to_json({"type": event, "timestamp": at, "data": data})
    if len(body) < MAX_BODY_BYTES:
        return body
    return to_json({"type": event, "timestamp": at, "data": data | {"input": None, "outputs": []}})


def post_webhook(url: str, delivery_id: str, body: bytes, secret: str, *, allow_loopback: bool) -> int:
    """Post a signed body; the receiver's status code when it is 2xx or 410.

    The name is resolved once and the connection goes to the checked address: only globally reachable ones, and
    loopback where allowed. No redirect is followed, no proxy variable read, no answer's body kept.
    Raises WebhookFailedError otherwise.
    """
    now = datetime.now(UTC)
    headers = {
        "content-type": "application/json",
        "user-agent": "riffarm-webhooks/1",
        "webhook-id": delivery_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Signer(secret).sign(delivery_id, now, body.decode()),
    }
    try:
        status = asyncio.run(_post(url, headers, body, allow_loopback=allow_loopback))
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        raise WebhookFailedError(f"{type(error).__name__}: {error}") from error
    if 200 <= status < 300 or status == 410:
        return status
    raise WebhookFailedError(f"the receiver answered {status}")


async def _post(url: str, headers: dict[str, str], body: bytes, *, allow_loopback: bool) -> int:
    is_loopback = allow_loopback and httpx.URL(url).host in _LOOPBACK_HOSTS
    protect: Callable[..., httpx.AsyncClient] = httpx_ssrf_protection
    client = protect(
        httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=TIMEOUT_S),
        check_globally_reachable=not is_loopback,
        custom_validator=lambda host, address, port: address.is_loopback or not is_loopback,
    )
    async with client, asyncio.timeout(TIMEOUT_S), client.stream("POST", url, headers=headers, content=body) as answer:
        return answer.status_code
