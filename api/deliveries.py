"""Webhooks over HTTP: a job's deliveries with their attempts, sending one again, and the secret that signs them.

Leaves out the form of answers (`api.answers`), posting (`workers.courier`) and what becomes of a delivery
(`shared.deliveries`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from api.access import Operating, Reading, Submitting
from api.answers import Attempt, Delivery, DeliveryPage, WebhookSecretAnswer
from api.problems import responses
from shared import deliveries
from shared.deliveries import Deliveries
from shared.webhook_secrets import WebhookSecret, WebhookSecrets

router = APIRouter(prefix="/v1", tags=["webhooks"])
_ON_JOBS: Final = responses("not_found", "invalid_request", "unauthorized", "forbidden", "queue_unavailable")
_ON_SECRETS: Final = responses("unauthorized", "forbidden", "queue_unavailable", "storage_unavailable")


@router.get(
    "/jobs/{job_id}/deliveries", response_model=DeliveryPage, responses=_ON_JOBS, summary="List a job's deliveries"
)
def list_deliveries(
    job_id: str,
    farm: Reading,
    limit: Annotated[int, Query(ge=1, le=200, description="Deliveries per page.")] = 50,
    cursor: Annotated[str | None, Query(max_length=64, description="From `next` of the page before.")] = None,
) -> Response:
    """What was posted to a job's webhook, how its receiver answered, and what is still to come.

    The last hundred are kept; of `job.progress` the newest alone.
    """
    farm.fields(job_id)
    found = [one for one in Deliveries(farm.job_store.redis).of_job(job_id) if cursor is None or one.id < cursor]
    query = urlencode({"limit": limit, "cursor": found[limit - 1].id}) if len(found) > limit else ""
    following = f"{farm.settings.base_url}/v1/jobs/{job_id}/deliveries?{query}" if query else None
    page = DeliveryPage(data=[_shown(one) for one in found[:limit]], next=following)
    return _answer(page)


@router.post(
    "/jobs/{job_id}/deliveries/{delivery_id}/replay",
    status_code=202,
    response_model=Delivery,
    responses=_ON_JOBS,
    summary="Send a delivery again",
)
def replay_delivery(job_id: str, delivery_id: str, farm: Submitting) -> Response:
    """Post a delivery once more, at once, under the same `webhook-id`; where the first attempt fails, the schedule
    begins anew. One that is being posted just now stays as it is."""
    farm.fields(job_id)
    return _answer(_shown(Deliveries(farm.job_store.redis).replay(job_id, delivery_id)), 202)


@router.get(
    "/webhooks/secret", response_model=WebhookSecretAnswer, responses=_ON_SECRETS, summary="Read the webhook secret"
)
def read_webhook_secret(farm: Operating) -> Response:
    """The secret that signs your webhooks; made now if there is none."""
    return _secret_answer(WebhookSecrets(farm.settings, farm.job_store.redis, farm.object_store).of(farm.tenant))


@router.post(
    "/webhooks/secret/rotate",
    response_model=WebhookSecretAnswer,
    responses=_ON_SECRETS,
    summary="Rotate the webhook secret",
)
def rotate_webhook_secret(farm: Operating) -> Response:
    """Draw a new secret. For 24 hours webhooks carry two signatures, the new secret's first."""
    return _secret_answer(WebhookSecrets(farm.settings, farm.job_store.redis, farm.object_store).rotate(farm.tenant))


def _secret_answer(secret: WebhookSecret) -> Response:
    now_s = datetime.now(UTC).timestamp()
    is_rotating = len(secret.signing(now_s)) > 1
    until = datetime.fromtimestamp(secret.rotates_until_s, UTC) if is_rotating else None
    return _answer(WebhookSecretAnswer(secret=secret.secret, previous_secret_expires_at=until))


def _shown(delivery: deliveries.Delivery) -> Delivery:
    attempts = [
        Attempt(at=_time(one.at_ms), ms=one.ms, status=one.status, error=one.error) for one in delivery.attempts
    ]
    return Delivery(
        id=delivery.id,
        job_id=delivery.job_id,
        event=delivery.event,
        url=delivery.url,
        state=delivery.state,
        created_at=_time(delivery.at_ms),
        next_attempt_at=None if delivery.due_ms is None else _time(delivery.due_ms),
        attempts=attempts,
    )


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1_000, UTC)


def _answer(body: BaseModel, status: int = 200) -> Response:
    # Nothing on the way may keep a secret.
    return Response(body.model_dump_json(), status, {"Cache-Control": "no-store"}, media_type="application/json")
