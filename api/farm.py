"""The farm over HTTP: whether it is up and ready, its report, its metrics, and its workers' draining and lifting.

Leaves out the form of the report (`api.farm_answers`) and of the metrics (`api.metrics`).
"""

from __future__ import annotations

import hmac
from typing import Final, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from api.access import Operating, Reading, WholeFarm
from api.farm_answers import FarmReport, WorkerList, WorkerReport
from api.farm_report import as_seen_by, farm_report, worker_reports
from api.intake import Jobs
from api.metrics import MEDIA_TYPE, metrics_text
from api.problems import responses
from shared.deliveries import Deliveries
from shared.dispatch import QUEUES
from shared.errors import AccessDeniedError, NotFoundError, RiffarmError
from shared.farm_state import FarmState

_SWEPT_WITHIN_S: Final = 60.0
router = APIRouter(tags=["farm"])
_RESPONSES: Final = responses("unauthorized", "forbidden", "queue_unavailable")


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = Field("ok", description="It answers.")
    service: Literal["riffarm"] = Field("riffarm", description="What answers.")


class Readiness(BaseModel):
    """Whether jobs that are submitted now will be rendered."""

    ready: bool = Field(description="Whether all checks are good.")
    checks: dict[str, str | None] = Field(description="By part of the farm: null, or what is wrong with it.")
    warnings: list[str] = Field(description="What is wrong but keeps no job from ending.")


@router.get("/health", summary="Is the gateway up?")
def health() -> Health:
    """Answers as long as the process can."""
    return Health()


@router.get(
    "/ready",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Not ready: each check with its reason."}},
    summary="Can the farm take and render jobs?",
)
def ready(farm: WholeFarm) -> Response:
    """200 when Redis, storage and a worker for every queue are there; else 503 with each reason.

    `warnings` says what is wrong but keeps no job from ending.
    """
    checks, warnings = _reasons_not_ready(farm)
    is_ready = not any(checks.values())
    return JSONResponse({"ready": is_ready, "checks": checks, "warnings": warnings}, 200 if is_ready else 503)


def _reasons_not_ready(farm: Jobs) -> tuple[dict[str, str | None], list[str]]:
    checks: dict[str, str | None] = {"redis": None, "storage": None, "workers": None}
    warnings: list[str] = []
    try:
        farm.object_store.check()
    except RiffarmError as error:
        checks["storage"] = error.message
    try:
        farm.job_store.check()
        state = FarmState(farm.job_store.redis)
        served = {queue for worker in state.workers() for queue in worker["queues"]}
        missing = [queue for queue in QUEUES if queue not in served]
        checks["workers"] = f"no worker serves {', '.join(missing)}" if missing else None
        age_s = state.sweep_age_s()
        if age_s is None or age_s > _SWEPT_WITHIN_S:
            warnings.append(
                f"no sweeper has looked within {_SWEPT_WITHIN_S:g} s: what is lost stays lost until one does"
            )
        if not Deliveries(farm.job_store.redis).has_courier():
            warnings.append("no courier runs: webhooks wait until one does")
    except RiffarmError as error:
        checks["redis"] = error.message
    return checks, warnings


@router.get("/metrics", response_class=Response, responses=responses("unauthorized"), summary="Figures for Prometheus")
def metrics(request: Request, farm: WholeFarm) -> Response:
    """The farm's queues, workers and work done, the same from each gateway, and this gateway's requests.

    While Redis is away `riffarm_redis_up` is 0 and the farm's figures are left out. Open to all, unless the farm has a
    key for this (RIFFARM_METRICS_KEY).
    """
    key = farm.settings.metrics_key
    said = request.headers.get("authorization", "").removeprefix("Bearer ")
    if key is not None and not hmac.compare_digest(said.encode(), key.get_secret_value().encode()):
        raise AccessDeniedError
    return Response(metrics_text(farm.job_store, request.app.state.metrics), media_type=MEDIA_TYPE)


@router.get("/v1/farm", response_model=FarmReport, responses=_RESPONSES, summary="See the farm")
def read_farm(request: Request, farm: Reading) -> Response:
    """Queues with what waits in them, workers and what they are at, rates, the estimated wait, the last sweep's report.

    Of jobs of other tenants only who has the scope `admin` sees which they are.
    """
    report = farm_report(farm.job_store)
    if "admin" not in request.state.caller.scopes:
        report = as_seen_by(farm.tenant, report, farm.job_store)
    return _answer(report)


@router.post(
    "/v1/farm/workers/{name}/drain",
    response_model=WorkerList,
    responses=_RESPONSES | responses("not_found"),
    summary="Drain a worker",
)
def drain_worker(name: str, farm: Operating) -> Response:
    """Have all workers of this name hand back what they are at and take nothing more, until they are started anew."""
    for worker in _named(farm, name):
        FarmState(farm.job_store.redis).drain(worker.id)
    return _answer(WorkerList(data=_named(farm, name)))


@router.post(
    "/v1/farm/workers/{name}/lift",
    response_model=WorkerList,
    responses=_RESPONSES | responses("not_found"),
    summary="Let a benched worker work again",
)
def lift_worker(name: str, farm: Operating) -> Response:
    """Forget what a worker lost, so that it takes work again. One that is not benched stays as it is."""
    _named(farm, name)
    FarmState(farm.job_store.redis).lift(name)
    return _answer(WorkerList(data=_named(farm, name)))


def _named(farm: Jobs, name: str) -> list[WorkerReport]:
    found = [worker for worker in worker_reports(farm.job_store) if worker.name == name]
    if not found:
        raise NotFoundError(f"There is no worker {name[:80]}; /v1/farm lists all.")
    return found


def _answer(report: FarmReport | WorkerList) -> Response:
    return Response(report.model_dump_json(), media_type="application/json")
