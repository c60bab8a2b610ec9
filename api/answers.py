"""What calls answer beside jobs: problems, batches, deliveries, the webhook secret.

Owns their form. Knows no web framework: the client reads it too. Leaves out when they are answered.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.contracts import Job, WebhookEvent


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class WrongField(_Answer):
    """One field of a request that is not right."""

    field: str = Field(description="Where it is: a name of the body, a parameter or a header; `keyframes[1].at_s`.")
    message: str = Field(description="What is wrong with it.")
    got: Any = Field(description="What came, shortened; null when nothing did.")
    allowed: Any = Field(description="What would be right: a range, a list of values, the nearest known name; or null.")


class ProblemDocument(_Answer):
    """RFC 9457 problem details."""

    type: str = Field(description="Path of a page about this kind of problem.")
    title: str = Field(description="The kind of problem in a few words, always the same for a code.")
    status: int = Field(description="The answer's HTTP status.")
    detail: str = Field(description="One sentence on this very case that says what to do.")
    instance: str = Field(description="The request's id, as in `X-Request-Id` and in the log.")
    code: str = Field(description="The kind of problem, for programs: stable.")
    errors: list[WrongField] | None = Field(None, description="Each wrong field; only with `invalid_request`.")


class BatchItem(_Answer):
    """What became of one request: a job, or the problem with it."""

    index: int = Field(description="The request's place in the batch, from 0.")
    status: int = Field(description="The HTTP status that it would have had alone: 202 with a job.")
    job: Job | None = Field(description="The job; null when the request was refused.")
    problem: ProblemDocument | None = Field(description="Why it was refused; null when there is a job.")


class BatchAnswer(_Answer):
    """What became of a batch, request by request."""

    batch_id: str = Field(description="Shared by all its jobs; `GET /v1/jobs?batch_id=…` lists them.")
    accepted: int = Field(description="Requests of which there is a job now.")
    refused: int = Field(description="Requests that were refused; the others are not touched by it.")
    data: list[BatchItem] = Field(description="In the order of the requests.")


class Attempt(_Answer):
    """One go at posting a delivery."""

    at: datetime = Field(description="When it began.")
    ms: int = Field(description="How long it took, in milliseconds; 15,000 at most.")
    status: int | None = Field(description="The receiver's HTTP status; null when it gave no answer.")
    error: str | None = Field(description="Why there was no answer.")


class Delivery(_Answer):
    """One event of a job on its way to the job's webhook."""

    id: str = Field(description="Its webhook-id: the same at every attempt.")
    job_id: str = Field(description="The job that it tells of.")
    event: WebhookEvent = Field(description="What happened.")
    url: str = Field(description="Where it is posted.")
    state: Literal["pending", "delivered", "failed", "gone"] = Field(
        description="pending until the receiver takes it (2xx); failed after the last attempt; gone when the receiver "
        "answered 410, after which it gets no further news of this job."
    )
    created_at: datetime = Field(description="When the event happened.")
    next_attempt_at: datetime | None = Field(description="When it is posted next; null unless it is pending.")
    attempts: list[Attempt] = Field(description="The last 20, oldest first.")


class DeliveryPage(_Answer):
    """A job's deliveries, newest first."""

    data: list[Delivery]
    next: str | None = Field(description="Where the next page is.")


class WebhookSecretAnswer(_Answer):
    """The secret that signs a tenant's webhooks."""

    secret: str = Field(description="whsec_ and base64 of the key, as the Standard Webhooks libraries take it.")
    previous_secret_expires_at: datetime | None = Field(
        description="Until when the secret before this one signs too; null when there is none."
    )
