"""How fast the farm works: what it had done at times gone by, and rates from that.

The sweeper keeps samples of the farm's totals, so that nobody else has to count. Leaves out the totals themselves
(`shared.farm_state`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, cast

import redis

from shared.contracts import TERMINAL
from shared.farm_state import FarmState
from shared.job_moves import PREFIX
from shared.redis_connection import reachable

MINUTES: Final = (1, 15, 60)
_KEY: Final = f"{PREFIX}history"
_EVERY_S: Final = 15.0
_SLACK_S: Final = 10.0
"""A sample may be so much older than a window: sweeps do not come by the clock."""
_KEPT: Final = round(60 * MINUTES[-1] / _EVERY_S) + 1


class Rate(NamedTuple):
    """What the farm did in each of the last so many `minutes`, or since it began; None where nobody took notes."""

    minutes: int
    frames_per_minute: float | None
    jobs_per_minute: float | None
    audio_s_per_minute: float | None


class FarmRates:
    """Samples of the farm's totals. Every method raises QueueUnavailableError when Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._state = FarmState(client)

    def sample(self) -> None:
        """Note what the farm has done by now, unless that was noted a moment ago."""
        now_s, totals = self._state.now_ms() / 1_000, self._state.totals()
        with reachable():
            newest = cast("str | None", self._redis.lindex(_KEY, 0))
            age_s = now_s - json.loads(newest)["at_s"] if newest else _EVERY_S
            if age_s < 0:
                # The clock went back: what was noted is of a time to come.
                self._redis.delete(_KEY)
            elif age_s < _EVERY_S:
                return
            with self._redis.pipeline() as pipe:
                pipe.lpush(_KEY, json.dumps({"at_s": now_s, **_done(totals)}))
                pipe.ltrim(_KEY, 0, _KEPT - 1)
                pipe.execute()

    def rates(self) -> list[Rate]:
        """The farm's rates of late, by MINUTES."""
        now_s, done = self._state.now_ms() / 1_000, _done(self._state.totals())
        with reachable():
            history = [json.loads(one) for one in cast("list[str]", self._redis.lrange(_KEY, 0, -1))]
        return [_rate(minutes, now_s, done, history) for minutes in MINUTES]


def _done(totals: Mapping[str, float]) -> dict[str, float]:
    return {
        "frames": totals.get("frames_rendered", 0.0),
        "jobs": sum(totals.get(f"jobs_{status}", 0.0) for status in TERMINAL),
        "audio_s": totals.get("audio_ms", 0.0) / 1_000,
    }


def _rate(minutes: int, now_s: float, done: Mapping[str, float], history: list[dict[str, Any]]) -> Rate:
    within = [one for one in history if 0 < now_s - one["at_s"] <= 60 * minutes + _SLACK_S]
    if not within:
        return Rate(minutes, None, None, None)
    then = within[-1]
    passed_minutes = (now_s - then["at_s"]) / 60
    return Rate(minutes, *(round((done[name] - then[name]) / passed_minutes, 2) for name in done))
