"""A farm of a thousand workers, on paper: what each does in a second, times what it was measured to cost here.

Every worker renders FRAMES_PER_S, which is what rendering on a GPU must reach (twenty times real time), each on a track
of its own. Leaves out sound, which has its own workers, and clients who look on.
"""

from __future__ import annotations

from typing import Any, Final

WORKERS: Final = 1_000
FRAMES_PER_S: Final = 4.0
BATCH_FRAMES: Final = 16
PREVIEWS_PER_S: Final = 2.0
RENEWALS_PER_S: Final = 1.0
HEARTBEATS_PER_S: Final = 0.2
PREVIEW_BYTES: Final = 4_100
MOST_CONNECTIONS: Final = 10_000
"""Valkey's limit where nobody sets another."""
MOVES_OF_A_BATCH: Final = 4
"""Take, record twice, done: as many as a worker makes whose frames cost nothing."""
SWEPT_JOBS: Final = 1_200
"""That one sweep looks at: about 1,000 running and 200 queued ones (`workers.sweep`)."""
Results = dict[str, Any]


def on_paper(costs_us: dict[str, float], batch: Results, worker: Results, mend_us: float) -> Results:
    """What a thousand workers ask of Valkey in a second, and which of its limits they would meet first.

    costs_us: of Valkey's CPU for each move. batch: of BATCH_FRAMES frames through Celery, commands `sent`,
    `valkey_cpu_ms`, `traffic_bytes`. worker: `idle_per_s` commands, `connections`. mend_us: the sweeper's look at one.
    """
    batches = FRAMES_PER_S / BATCH_FRAMES
    in_moves_us = costs_us["take"] + costs_us["record a batch"] + costs_us["done"]
    asks = {
        "take": (batches, costs_us["take"]),
        # So slow that each is recorded by itself.
        "record a frame": (FRAMES_PER_S, costs_us["record a frame"]),
        "done": (batches, costs_us["done"]),
        "the rest of a batch: ticket, Celery, colder caches": (
            batches,
            max(0.0, 1_000 * batch["valkey_cpu_ms"] - in_moves_us),
        ),
        "renew": (RENEWALS_PER_S, costs_us["renew"]),
        "preview": (PREVIEWS_PER_S, costs_us["preview"]),
        "heartbeat": (HEARTBEATS_PER_S, costs_us["heartbeat"]),
    }
    rows = [
        {"what": what, "per_s": round(WORKERS * rate), "core": round(WORKERS * rate * cost_us / 1e6, 3)}
        for what, (rate, cost_us) in asks.items()
    ]
    moves = sum(rate for rate, _ in asks.values()) - batches
    sent = moves + batches * (batch["sent"] - MOVES_OF_A_BATCH) + worker["idle_per_s"]
    traffic = batches * batch["traffic_bytes"] + PREVIEWS_PER_S * PREVIEW_BYTES
    shares = {
        "Valkey's one thread": round(sum(row["core"] for row in rows), 2),
        "Valkey's connections": round(WORKERS * worker["connections"] / MOST_CONNECTIONS, 2),
    }
    first = max(shares, key=lambda limit: shares[limit])
    return {
        "rows": rows,
        "wakeups_per_s": round(WORKERS * batches),
        "commands_per_s": round(WORKERS * sent),
        "megabytes_per_s": round(WORKERS * traffic / 1e6, 1),
        "sweep_s": round(SWEPT_JOBS * mend_us / 1e6, 2),
        "shares": shares,
        "first_bottleneck": first,
        "workers_at_the_limit": round(WORKERS / shares[first]),
    }
