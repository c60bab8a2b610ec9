"""A farm to be fuzzed, and one run of schemathesis against it.

Real gateway, Valkey, storage and courier, a worker whose model costs nothing. Jobs are canceled soon after they were
taken in: what is drawn at random is hours of sound, and a stream of events lasts as long as its job.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from api.client import Client, FarmError
from tests.conftest import running_farm

HERE = Path(__file__).parent
KEY = "rf_" + "f" * 40
_ENVIRONMENT = {
    "RIFFARM_WORKER_APP": "tests.stub_worker:app",
    "RIFFARM_GATEWAY_KEY": KEY,
    "RIFFARM_API_KEY": KEY,
    # Limits are tested elsewhere: here they would hide what lies behind them.
    "RIFFARM_LIMIT_REQUESTS_PER_MINUTE": "100000000",
    "RIFFARM_LIMIT_JOBS": "1000000",
    "RIFFARM_LIMIT_AUDIO_S": "2000000000",
    "RIFFARM_LIMIT_UPLOAD_BYTES": "100000000000",
    "RIFFARM_MAX_QUEUED_JOBS": "1000000",
}
_LIVES_S = 1.0


class Result(NamedTuple):
    """What a run came to."""

    cases: int
    failures: list[dict[str, Any]]
    errors: list[dict[str, Any]]
    output: str

    @property
    def server_errors(self) -> int:
        """Cases that were answered 5xx."""
        return sum(one["count"] for one in self.failures if one["type"] == "ServerError")


@contextmanager
def fuzzed_farm(folder: Path) -> Iterator[str]:
    """A farm at this address whose jobs do not live long."""
    has_ended = threading.Event()
    farming = running_farm(folder / "data", "--workers", "1", environment=_ENVIRONMENT)
    with farming as farm, Client(farm.url, KEY) as client:
        # The first sound of all compiles what makes it, for longer than any request is waited for.
        *_, first = client.follow(client.submit({"type": "clip", "prompt": "piano"}).id)
        if first.status != "succeeded":
            raise RuntimeError(f"the farm renders nothing: {first.error}")
        reaper = threading.Thread(target=_reap, args=(client, has_ended))
        reaper.start()
        try:
            yield farm.url
        finally:
            has_ended.set()
            reaper.join()


def _reap(client: Client, has_ended: threading.Event) -> None:
    while not has_ended.wait(_LIVES_S):
        for status in ("paused", "running", "queued"):
            try:
                for job in client.jobs(status=status, limit=200):
                    # That face's one request is answered with the end of its job, which is short.
                    if job.labels.get("face") != "riffusion":
                        client.cancel(job.id)
            except FarmError as error:
                # Deleted meanwhile by a case.
                if error.code != "not_found":
                    raise


def run(url: str, folder: Path, phases: str, examples: int, seed: int) -> Result:
    """One run of schemathesis over the document that the farm serves. `examples`: cases per operation and phase."""
    report = folder / f"fuzz-{seed}.json"
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(HERE / "schemathesis.toml")),
        *("run", f"{url}/openapi.json", "--phases", phases, "--max-examples", str(examples), "--seed", str(seed)),
        *("--header", f"Authorization: Bearer {KEY}", "--report", "json", "--report-json-path", str(report)),
        "--no-color",
    ]
    environment = os.environ | _ENVIRONMENT | {"SCHEMATHESIS_HOOKS": "tests.fuzz.hooks"}
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if not report.exists():
        raise RuntimeError(found.stdout[-3_000:] + found.stderr[-3_000:])
    document = json.loads(report.read_text(encoding="utf-8"))
    return Result(document["test_cases"]["generated"], document["failures"], document["errors"], found.stdout)
