"""No secret in a log line, a problem, an event or a traceback: every route, with secrets wherever they can stand."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from shared.settings import Settings
from tests.conftest import SECRET, WEBHOOK_SECRET


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_leaves_the_gateway(settings: Settings, log_format: str) -> None:
    """Keys good, revoked and in the wrong place; a crash whose message quotes one."""
    variables = {
        "RIFFARM_REDIS_URL": settings.redis_url,
        "RIFFARM_STORAGE_URL": settings.storage_url,
        "RIFFARM_SECRET": SECRET,
        "RIFFARM_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "RIFFARM_LOG_FORMAT": log_format,
    }
    command = [sys.executable, "-m", "tests.integration.every_route"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | variables)
    assert done.returncode == 0, done.stderr[-3_000:]
    key, *lines = done.stdout.splitlines()
    answers = [json.loads(line) for line in lines]
    assert len({(method, path) for method, path, *_ in answers}) > 60
    secrets = (key.rpartition("_")[2], WEBHOOK_SECRET.removeprefix("whsec_"), SECRET)
    told = {"/v1/webhooks/secret", "/v1/webhooks/secret/rotate", "/v1/webhooks/default/secret"}
    for method, path, status, media_type, text in answers:
        # Problems, and whatever else is answered to a request that was right, but for the call that is for a secret.
        if path not in told or "problem" in (media_type or ""):
            assert not any(secret in text for secret in secrets), (method, path, status, text)
    for secret in secrets:
        assert secret not in done.stderr
    assert "no room for rf_…" in done.stderr
    assert "RuntimeError" in done.stderr
