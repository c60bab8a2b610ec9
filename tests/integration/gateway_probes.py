"""What tests of the gateway look at: requests to send, and what was queued and recorded."""

from __future__ import annotations

from pathlib import Path

import redis

from shared.settings import Settings
from tests.conftest import Valkey

KEY = "rf_" + "k" * 40
CLIP = {"type": "clip", "prompt": "jazz piano"}
TRACK = {"type": "track", "keyframes": [{"prompt": "jazz piano"}, {"prompt": "techno synth"}], "duration_s": 40.96}


def queued_batches(valkey: Valkey) -> int:
    with redis.Redis(port=valkey.port) as client:
        return sum(client.llen(queue) for queue in client.scan_iter("render.*"))  # type: ignore[misc]


def job_keys(valkey: Valkey) -> list[bytes]:
    with redis.Redis(port=valkey.port) as client:
        return list(client.keys("*job*"))  # type: ignore[arg-type]


def recorded(settings: Settings) -> list[Path]:
    folder = Path(settings.storage_url.removeprefix("file:"))
    return [path for path in folder.rglob("*") if path.is_file()]
