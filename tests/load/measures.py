"""What is measured under load: gateway and bare route in turns, so that whatever else the machine does meets both.

A ratio is the median over the rounds; a rate is the gateway's own in the middle round. Leaves out processes
(`tests.load.rig`) and sending (`tests.load.wire`).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from tests.load.rig import Rig
from tests.load.streams import followed
from tests.load.wire import Load, request, sent

_BODY: Final = json.dumps(
    {
        "type": "clip",
        "prompt": "slow ambient strings, no drums",
        "negative_prompt": "voices",
        "seed": 4,
        "formats": ["flac", "mp3"],
        "labels": {"album": "first light"},
    }
).encode()
_CONNECTIONS: Final = 32
_WARM_UP: Final = 600


class Size(NamedTuple):
    """Rounds, requests of one kind in each, and event streams."""

    rounds: int
    requests: int
    streams: int


FULL: Final = Size(7, 3_000, 2_000)
QUICK: Final = Size(3, 400, 200)


def measured(rig: Rig, size: Size) -> dict[str, Any]:
    """All figures by name."""
    submit = [request("POST", "/v1/jobs", _BODY)]
    bodies = sent(rig.gateway_port, submit, _WARM_UP, _CONNECTIONS, kept=_WARM_UP).bodies
    sent(rig.bare_port, submit, _WARM_UP, _CONNECTIONS)
    job_ids = [str(json.loads(body)["id"]) for body in bodies]
    for job_id, body in zip(job_ids, bodies, strict=True):
        rig.jobs.redis.set(f"bare:{job_id}", body)
    reads = [request("GET", f"/v1/jobs/{job_id}") for job_id in job_ids]
    found = _compared("submit", rig, submit, size) | _compared("get", rig, reads, size)
    streams = followed(rig.gateway_port, job_ids, size.streams, lambda: _end(rig, job_ids), rig.memory_mb)
    return found | {
        "sse_streams": min(streams.opened, streams.ended),
        "sse_memory_mb": round(streams.memory_mb, 1),
    }


def _end(rig: Rig, job_ids: Sequence[str]) -> None:
    for job_id in job_ids:
        rig.jobs.finish(job_id, "canceled")


def _compared(name: str, rig: Rig, requests: Sequence[bytes], size: Size) -> dict[str, Any]:
    rounds: list[tuple[Load, Load]] = []
    for _ in range(size.rounds):
        own, bare = (sent(port, requests, size.requests, _CONNECTIONS) for port in (rig.gateway_port, rig.bare_port))
        wrong = {status: count for load in (own, bare) for status, count in load.statuses.items() if status >= 300}
        assert not wrong, f"{name}: {wrong}"
        rounds.append((own, bare))
    times_ms = [time_ms for own, _ in rounds for time_ms in own.times_ms]
    return {
        f"{name}_rps": round(statistics.median(own.per_s for own, _ in rounds), 1),
        f"{name}_bare_rps": round(statistics.median(bare.per_s for _, bare in rounds), 1),
        f"{name}_ratio": round(statistics.median(own.per_s / bare.per_s for own, bare in rounds), 3),
        f"{name}_p50_ms": round(statistics.median(times_ms), 2),
        f"{name}_p99_ms": round(statistics.quantiles(times_ms, n=100)[98], 2),
    }
