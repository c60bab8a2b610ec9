"""Log lines of real processes: one for each request, the request's id in all that follows from it, nothing secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from api.intake import Jobs
from api.main import create_app
from shared.settings import Settings
from tests.conftest import SECRET, free_port, wait_until
from tests.integration.gateway_probes import CLIP

KEY = "rf_" + "k" * 40


def environment(settings: Settings, **more: str) -> dict[str, str]:
    """What a process of this farm reads."""
    return os.environ | {
        "RIFFARM_REDIS_URL": settings.redis_url,
        "RIFFARM_STORAGE_URL": settings.storage_url,
        "RIFFARM_SECRET": SECRET,
        "RIFFARM_LOG_FORMAT": "json",
        **more,
    }


@contextmanager
def running(log: Path, variables: dict[str, str], *module: str) -> Iterator[None]:
    """A process of the farm as long as the block lasts; its lines go to `log`."""
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", *module], env=variables, stderr=file, stdout=file)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def gateway_process(log: Path, settings: Settings, **more: str) -> Iterator[str]:
    """A gateway: its address."""
    port = free_port()
    with running(log, environment(settings, RIFFARM_PORT=str(port), **more), "api.main"):
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            try:
                return httpx.get(f"{url}/health").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answers, "the gateway answers")
        yield url


def lines(log: Path) -> list[dict[str, Any]]:
    """All lines, each of which is JSON; but for one of a worker's child, which comes before anything of ours does."""
    found = [line for line in log.read_text().splitlines() if "calling self.run()" not in line]
    return [json.loads(line) for line in found]


def test_each_request_has_one_line_and_no_line_has_a_secret(tmp_path: Path, settings: Settings) -> None:
    """Method, template, status, time, bytes, ids; neither keys nor queries, and nothing of health checks."""
    log = tmp_path / "gateway.log"
    with gateway_process(log, settings, RIFFARM_GATEWAY_KEY=KEY) as url:
        headers = {"authorization": f"Bearer {KEY}", "x-request-id": "mine-1"}
        job_id = httpx.post(f"{url}/v1/jobs", json=CLIP, headers=headers).json()["id"]
        httpx.get(f"{url}/v1/jobs/{job_id}/outputs/a.flac?expires=1&signature=5ec2e7")
        httpx.get(f"{url}/v1/jobs/{job_id}", headers={"authorization": "Bearer wr0ng-key-of-somebody"})
        httpx.get(f"{url}/ready")
        httpx.get(f"{url}/metrics")
    text = log.read_text()
    assert not any(secret in text for secret in (KEY, "k" * 20, "wr0ng", "5ec2e7", SECRET))
    submitted, output, refused = (one for one in lines(log) if one["event"] == "request")
    assert submitted["request"] == "mine-1"
    assert {name: submitted[name] for name in ("method", "route", "status", "tenant", "level", "process")} == {
        "method": "POST",
        "route": "/v1/jobs",
        "status": 202,
        "tenant": "default",
        "level": "info",
        "process": "gateway",
    }
    assert submitted["bytes"] > 500
    assert submitted["ms"] > 0
    assert (output["route"], output["status"]) == ("/v1/jobs/{job_id}/outputs/{name}", 403)
    assert (refused["status"], "tenant" in refused) == (401, False)
    assert refused["request"].startswith("req_")


def test_a_mistake_of_the_gateways_own_is_one_line_and_a_problem(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With its traceback and the request's id, which is in the answer too."""

    def mistaken(*_: object) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(Jobs, "page", mistaken)
    with TestClient(create_app(settings), base_url="http://localhost") as gateway:
        answer = gateway.get("/v1/jobs")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.json()["instance"] == answer.headers["x-request-id"]
    told = "".join(capfd.readouterr())
    assert told.count("Traceback") == 1
    assert answer.headers["x-request-id"] in told


def test_the_requests_id_is_in_every_line_of_the_jobs_worker(tmp_path: Path, settings: Settings) -> None:
    """From the gateway over Redis into another process, its threads too."""
    gateway_log, worker_log = tmp_path / "gateway.log", tmp_path / "worker.log"
    worker = environment(settings, RIFFARM_WORKER_APP="tests.stub_worker:app")
    with (
        gateway_process(gateway_log, settings) as url,
        running(worker_log, worker, "workers.main", "--name", "w1", "--models", "riffarm-mini"),
    ):
        headers = {"x-request-id": "mine-2"}
        answer = httpx.post(f"{url}/v1/jobs", json={**CLIP, "formats": ["wav"]}, headers=headers)
        job_url = f"{url}/v1/jobs/{answer.json()['id']}"
        wait_until(lambda: httpx.get(job_url).json()["status"] == "succeeded", "the job has succeeded")
    told = [one for one in lines(worker_log) if "job" in one]
    assert told
    assert {one["request"] for one in told} == {"mine-2"}
    assert {one["process"] for one in lines(worker_log)} == {"w1"}
