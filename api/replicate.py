"""Replicate's API as a face of the farm: its clients make, read, list and cancel jobs as predictions, unmodified.

Owns the paths of predictions and what of a request is not the model's input: how long to wait, when to cancel, which
webhook. Leaves out the form of predictions (`shared.predictions`), models (`api.replicate_models`), files
(`api.replicate_files`), outputs and streams (`api.replicate_outputs`).
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from api import replicate_files, replicate_models, replicate_outputs
from api.access import Operating, Reading, Submitting
from api.bodies import StrictRoute
from api.intake import Jobs
from api.job_lists import Wanted
from api.moments import Moment
from api.preferences import MAX_WAIT_S
from api.problems import responses
from api.replicate_models import model_from_reference, request_from_input
from api.waiting import has_ended
from shared.contracts import TERMINAL, Job, Webhook, WebhookEvent
from shared.errors import FieldError, InvalidRequestError
from shared.plan import ResolvedRequest
from shared.predictions import OWNER, PredictionView
from shared.webhook_secrets import WebhookSecrets

router = APIRouter(prefix="/v1", tags=["replicate"], route_class=StrictRoute)
ROUTERS: Final = (router, replicate_models.router, replicate_files.router, replicate_outputs.router)
_PAGE: Final = 100
_ANSWERING_S: Final = 0.25
"""What is left of a wait for the way of its answer: the clients give up half a second after it."""
_WAIT: Final = re.compile(r"(?:^|[,;\s])wait(?:\s*=\s*(\d{1,6}))?(?=$|[,;\s])")
_DURATION: Final = re.compile(r"(?:(\d{1,4})h)?(?:(\d{1,6})m)?(?:(\d{1,7})s?)?")
_MAX_CANCEL_AFTER_S: Final = 30 * 86_400
EventFilter = Literal["start", "output", "logs", "completed"]
_EVENTS: Final[dict[EventFilter, tuple[WebhookEvent, ...]]] = {
    "start": ("job.started",),
    "output": ("job.succeeded",),
    "logs": ("job.progress",),
    "completed": ("job.succeeded", "job.failed", "job.canceled"),
}
_UNAVAILABLE: Final = ("unauthorized", "forbidden", "queue_unavailable", "storage_unavailable")
_CREATING: Final = responses(
    "malformed_body",
    "not_found",
    "body_too_large",
    "unsupported_media_type",
    "invalid_request",
    *_UNAVAILABLE,
    "quota_exceeded",
    "farm_full",
)


class PredictionRequest(BaseModel):
    """What a prediction is asked for with. Fields that only the clients know are passed over."""

    model_config = ConfigDict(extra="ignore", strict=True)

    input: dict[str, Any] = Field(description="What the model takes: its version's `openapi_schema` tells.")
    webhook: str | None = Field(None, max_length=2_000, description="https URL that the prediction is posted to.")
    webhook_events_filter: list[EventFilter] | None = Field(
        None, description="What to post: its start, its logs (at most every 500 ms), its output, its end."
    )
    webhook_completed: str | None = Field(None, max_length=2_000, description="The same for the end alone.")

    def job_webhook(self) -> Webhook | None:
        """The job's webhook; the prediction is what it is sent."""
        url = self.webhook or self.webhook_completed
        if not url:
            return None
        wanted: list[EventFilter] = ["completed"]
        if self.webhook:
            wanted = self.webhook_events_filter or [*_EVENTS]
        events = dict.fromkeys(event for name in wanted for event in _EVENTS[name])
        return Webhook(url=url, events=[*events], form="prediction")


class VersionedRequest(PredictionRequest):
    """The same, with the version of the model."""

    version: str = Field(max_length=300, description="A version's id, owner/name, or owner/name:id.")


Prefer = Annotated[str, Header(description="`wait` or `wait=N`: answer once the prediction has ended, or after N s.")]
CancelAfter = Annotated[str, Header(description="Cancel it if it has not ended by then: `90s`, `1m`, `1h30m`.")]


@router.post("/predictions", status_code=201, responses=_CREATING, summary="Make a prediction")
async def create_prediction(
    request: Request, body: VersionedRequest, farm: Submitting, prefer: Prefer = "", cancel_after: CancelAfter = ""
) -> Response:
    """Submit a job as Replicate's clients do. With `Prefer: wait` the answer waits for its end; if that does not come
    in time, the status is `starting`, whatever it is, because the clients take any other for the end."""
    model = model_from_reference(body.version)
    return await _created(request, farm, model, body, prefer, cancel_after)


@router.post(
    "/models/{owner}/{name}/predictions", status_code=201, responses=_CREATING, summary="Make a model's prediction"
)
async def create_prediction_of_model(
    owner: str,
    name: str,
    request: Request,
    body: PredictionRequest,
    farm: Submitting,
    prefer: Prefer = "",
    cancel_after: CancelAfter = "",
) -> Response:
    """The same, the model being named by the path."""
    model = model_from_reference(f"{owner}/{name}")
    return await _created(request, farm, model, body, prefer, cancel_after)


async def _created(
    request: Request, farm: Jobs, model: str, body: PredictionRequest, prefer: str, cancel_after: str
) -> Response:
    wait_s = _wait_s(prefer)
    until_s = time.monotonic() + wait_s - _ANSWERING_S
    job = await run_in_threadpool(_accepted, farm, model, body, _cancel_after_s(cancel_after))
    view = PredictionView(farm.settings)
    if wait_s:
        await has_ended(request.app.state.event_reader, job.id, until_s)
        job = await run_in_threadpool(farm.read, job.id)
    prediction = view.prediction(job)
    is_late = wait_s > 0 and job.status not in TERMINAL
    if is_late:
        prediction["status"] = "starting"
    return JSONResponse(prediction, 202 if is_late else 201)


def _accepted(farm: Jobs, model: str, body: PredictionRequest, cancel_after_s: int | None) -> Job:
    made = request_from_input(farm, model, body.input)
    own = {"webhook": body.job_webhook(), "cancel_after_s": cancel_after_s}
    request: ResolvedRequest = made.model_copy(update=own)
    return farm.accept(request)


def _wait_s(prefer: str) -> int:
    """Seconds that the client would wait: as long as we let it when it asks for more or does not say."""
    match = _WAIT.search(prefer)
    if match is None:
        return 0
    return min(int(match[1]), MAX_WAIT_S) if match[1] else MAX_WAIT_S


def _cancel_after_s(text: str) -> int | None:
    """Seconds of `1h30m`, `90s` and the like; bare numbers are seconds. Raises InvalidRequestError."""
    if not text:
        return None
    match = _DURATION.fullmatch(text.strip())
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    total_s = 3_600 * hours + 60 * minutes + seconds
    if not 1 <= total_s <= _MAX_CANCEL_AFTER_S:
        raise InvalidRequestError(FieldError("Cancel-After", "not a time", text[:80], "1s to 720h, as in 90s, 1m, 1h"))
    return total_s


@router.get(
    "/predictions",
    responses=responses("invalid_request", "unauthorized", "forbidden", "queue_unavailable"),
    summary="List predictions",
)
def list_predictions(
    request: Request,
    farm: Reading,
    limit: Annotated[int, Query(ge=1, le=_PAGE)] = _PAGE,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    created_after: Moment | None = None,
    created_before: Moment | None = None,
) -> dict[str, Any]:
    """All jobs of the caller as predictions, newest first, also those that came by another way."""
    wanted = Wanted(after_ms=_ms(created_after, "-inf"), before_ms=_ms(created_before, "inf"))
    jobs, next_cursor = farm.page(limit, cursor, wanted)
    url = f"{farm.settings.base_url}/v1/predictions?{urlencode({**request.query_params, 'cursor': next_cursor})}"
    view = PredictionView(farm.settings)
    return {"previous": None, "next": url if next_cursor else None, "results": [view.prediction(job) for job in jobs]}


def _ms(moment: datetime | None, otherwise: str) -> float:
    if moment is None:
        return float(otherwise)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000


@router.get("/predictions/{prediction_id}", responses=responses("not_found", *_UNAVAILABLE), summary="Get a prediction")
def read_prediction(prediction_id: str, farm: Reading) -> dict[str, Any]:
    """One prediction as it is now."""
    return PredictionView(farm.settings).prediction(farm.read(prediction_id))


@router.post(
    "/predictions/{prediction_id}/cancel",
    responses=responses("not_found", *_UNAVAILABLE),
    summary="Cancel a prediction",
)
def cancel_prediction(prediction_id: str, farm: Submitting) -> dict[str, Any]:
    """Stop a prediction; one that has ended stays as it is."""
    return PredictionView(farm.settings).prediction(farm.cancel(prediction_id))


@router.get("/webhooks/default/secret", responses=responses(*_UNAVAILABLE), summary="Read what signs webhooks")
def read_webhook_secret(farm: Operating) -> dict[str, str]:
    """The secret that signs your webhooks, as Replicate's clients ask for it."""
    return {"key": WebhookSecrets(farm.settings, farm.job_store.redis, farm.object_store).of(farm.tenant).secret}


@router.get("/account", responses=responses(*_UNAVAILABLE), summary="See whose key this is, as Replicate tells it")
def read_account(farm: Reading) -> dict[str, Any]:
    """The tenant that the key belongs to."""
    return {"type": "organization", "username": farm.tenant, "name": farm.tenant, "github_url": None}


@router.get("/hardware", responses=responses(*_UNAVAILABLE), summary="See what predictions run on")
def list_hardware(farm: Reading) -> list[dict[str, str]]:
    """This farm: there is nothing to choose from."""
    return [{"sku": OWNER, "name": "This farm's workers"}]
