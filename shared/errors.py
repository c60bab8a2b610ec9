"""The one tree of errors; an error's docstring is its default message.

    RiffarmError
    ├── RequestError            the client can mend it
    │   ├── InvalidRequestError
    │   ├── IdempotencyMismatchError
    │   ├── IdempotencyInFlightError
    │   ├── TooMuchError        it passes; says when to try again
    │   │   ├── RateLimitedError
    │   │   ├── QuotaExceededError
    │   │   └── FarmFullError
    │   ├── NotFoundError
    │   ├── AccessDeniedError
    │   └── ForbiddenError
    ├── TransientError          worth trying again, with backoff
    │   ├── StorageUnavailableError
    │   └── QueueUnavailableError
    ├── RenderError             final: trying again gives the same
    ├── OutputRefusedError      the client's bucket takes no output
    ├── JobCanceled             control flow, not a failure
    ├── LeaseLostError          another attempt has taken over; this one is late
    ├── WorkerDraining          control flow: hand back what is under way
    └── ObjectNotFoundError

Leaves out HTTP numbers: those live in `api.problems`. Errors that cross Celery take a message alone.
"""

from __future__ import annotations

from dataclasses import dataclass


class RiffarmError(Exception):
    """Something went wrong."""

    def __init__(self, message: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        super().__init__(self.message)


class RequestError(RiffarmError):
    """The request cannot be carried out as it is."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field of a request: where it is, what is wrong, what came and what is right."""

    field: str
    message: str
    got: object = None
    allowed: object = None


class InvalidRequestError(RequestError):
    """The request has a field that is not right."""

    def __init__(self, *errors: FieldError) -> None:
        self.errors = errors
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in errors))


class IdempotencyMismatchError(RequestError):
    """This Idempotency-Key came with another request before; send a new key with a new request."""


class IdempotencyInFlightError(RequestError):
    """The first request with this Idempotency-Key is still being answered; try again shortly."""


class TooMuchError(RequestError):
    """There is no room for this just now."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        """`retry_after_s`: whole seconds after which it is worth trying again."""
        self.retry_after_s = retry_after_s
        super().__init__(message)


class RateLimitedError(TooMuchError):
    """Too many requests came within a minute."""


class QuotaExceededError(TooMuchError):
    """The tenant has as much as it may."""


class FarmFullError(TooMuchError):
    """The whole farm has as much work as it takes."""


class NotFoundError(RequestError):
    """There is no such thing here."""


class AccessDeniedError(RequestError):
    """The key is missing or wrong."""


class ForbiddenError(RequestError):
    """The key may not do this."""


class TransientError(RiffarmError):
    """A part of the farm does not answer just now."""


class StorageUnavailableError(TransientError):
    """The object storage does not answer or refuses to write."""


class QueueUnavailableError(TransientError):
    """Redis does not answer."""


class RenderError(RiffarmError):
    """The job cannot be rendered."""


class OutputRefusedError(RiffarmError):
    """The bucket that the request names takes no output."""


class JobCanceled(RiffarmError):  # noqa: N818 — control flow, not an error
    """The job was canceled."""


class LeaseLostError(RiffarmError):
    """The lease ran out: what this attempt reports comes too late."""


class WorkerDraining(RiffarmError):  # noqa: N818 — control flow, not an error
    """The worker is to stop."""


class ObjectNotFoundError(RiffarmError):
    """There is no object with this key."""
