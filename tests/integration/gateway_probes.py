"""What tests of the gateway share: requests to send, a gateway that listens, and what was queued and recorded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import redis
import uvicorn

from api.main import GatewayServer, create_app, server_options
from shared.job_moves import Attempt
from shared.job_store import JobStore
from shared.settings import Settings
from tests.conftest import Valkey, free_port, wait_until

KEY = "rf_" + "k" * 40
CLIP = {"type": "clip", "prompt": "jazz piano"}
TRACK = {"type": "track", "keyframes": [{"prompt": "jazz piano"}, {"prompt": "techno synth"}], "duration_s": 40.96}
RENDERED = {"reused": False, "s": 1.25, "memory_mb": 900, "worker": "w1"}
PREVIEW = {"frame": 0, "step": 3, "steps": 20, "image": "data:image/png;base64,AAAA"}


def waiting_batches(valkey: Valkey) -> int:
    with redis.Redis(port=valkey.port, decode_responses=True) as client:
        backlog = cast("dict[str, str]", client.hgetall("riffarm:backlog"))
        return sum(int(items) for queue, items in backlog.items() if queue.startswith("render."))


def tickets(valkey: Valkey) -> int:
    with redis.Redis(port=valkey.port) as client:
        return sum(client.llen(queue) for queue in client.scan_iter("render.*"))  # type: ignore[misc]


def taken(job_store: JobStore, job_id: str, queue: str = "render.riffarm-mini") -> Attempt:
    """What a worker gets that looks into a queue where this job alone waits."""
    attempt = job_store.take(queue, "w1", "w1/1").attempt
    assert attempt
    assert attempt.job_id == job_id
    return attempt


def job_keys(valkey: Valkey) -> list[bytes]:
    with redis.Redis(port=valkey.port) as client:
        return list(client.keys("*job*"))  # type: ignore[arg-type]


def recorded(settings: Settings) -> list[Path]:
    folder = Path(settings.storage_url.removeprefix("file:"))
    return [path for path in folder.rglob("*") if path.is_file()]


@contextmanager
def served(settings: Settings) -> Iterator[str]:
    """A gateway that listens, as streams need: its address."""
    config = uvicorn.Config(create_app(settings), port=free_port(), **server_options())
    server = GatewayServer(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, "the gateway listens")
        yield f"http://127.0.0.1:{config.port}"
    finally:
        server.should_exit = True
        thread.join()


def submitted(url: str, request: dict[str, Any]) -> str:
    return str(httpx.post(f"{url}/v1/jobs", json=request).raise_for_status().json()["id"])
