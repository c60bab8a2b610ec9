"""What the farm itself is doing, in Redis: workers and how they do, work that waits and runs, the one sweeper.

Leaves out jobs (`shared.job_store`), whose moves keep the counts of `backlog`, `pace`, `blame` and `benched`.

Keys, all under `riffarm:`
    workers    hash: worker's id → its newest heartbeat
    draining   hash: worker's id → since when it takes nothing more
    blame      hash: worker's name → the jobs of which it lost attempts since it last finished one
    benched    hash: worker's name → since when, and why, it takes nothing more; until an operator lifts it
    backlog    hash: queue → items of its jobs that wait or run; likewise backlog:jobs, those jobs; backlog:frames,
               their frames that are not finished; backlog:audio, ms of the sound that the items are for
    pace       hash: queue → milliseconds an item takes, a running mean
    queues     set: all queues that ever had work
    totals     hash: what was done → how much of it since Redis was last empty
    history    list: samples of totals, newest first (`shared.farm_rates`)
    sweep      JSON: what the newest sweep did
    marker     JSON: which Redis all that storage has was in, and when; gone or another's after a loss of data
    storage_pass  the fence of the pass over storage that goes on
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, cast

import redis

from shared.job_moves import PREFIX
from shared.redis_connection import reachable

HEARTBEAT_TTL_S: Final = 15
_DEFAULT_PACE_MS: Final = 5_000.0
"""What an item is taken to need before the first one is done."""
Turn = Literal["sweeper", "storage_pass"]
"""What one process at a time does: a sweep, or the slow pass over storage."""
PRIORITIES: Final = ("interactive", "normal", "bulk")


class Backlog(NamedTuple):
    """A queue's work that waits or runs: items, the jobs they are of, frames not finished (0 where none are rendered),
    seconds of sound that they are for, seconds that one worker would need; and jobs with work to be taken."""

    queue: str
    jobs: int
    frames: int
    audio_s: float
    items: int
    seconds: float
    jobs_waiting: dict[str, int]


class FarmState:
    """Workers, backlog and the sweeper's turn. Every method raises QueueUnavailableError when Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def beat(self, worker_id: str, record: Mapping[str, object]) -> None:
        """Say that a worker lives, and how it does."""
        with reachable():
            self._redis.hset(f"{PREFIX}workers", worker_id, json.dumps({**record, "beat_s": self._now_s()}))

    def workers(self) -> list[dict[str, Any]]:
        """Heartbeats of the workers that live, each with `id`, `age_s`, `is_draining` and `benched` (why, or None)."""
        with reachable(), self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(f"{PREFIX}workers")
            pipe.hgetall(f"{PREFIX}draining")
            pipe.hgetall(f"{PREFIX}benched")
            beats, draining, benched = pipe.execute()
            now_s = self._now_s()
        found = []
        for worker_id, beat in sorted(beats.items()):
            record = json.loads(beat)
            if abs(now_s - record["beat_s"]) < HEARTBEAT_TTL_S:
                reason = benched.get(record["name"], " ").split(" ", 1)[1] or None
                state = {"is_draining": worker_id in draining, "benched": reason}
                found.append(record | {"id": worker_id, "age_s": max(0.0, now_s - record["beat_s"])} | state)
        return found

    def forget_dead_workers(self) -> None:
        """Remove the traces of workers that have not reported for an hour."""
        with reachable():
            beats = cast("dict[str, str]", self._redis.hgetall(f"{PREFIX}workers"))
            now_s = self._now_s()
            dead = [one for one, beat in beats.items() if now_s - json.loads(beat)["beat_s"] > 3_600]
            if dead:
                self._redis.hdel(f"{PREFIX}workers", *dead)
                self._redis.hdel(f"{PREFIX}draining", *dead)

    def remove_worker(self, worker_id: str) -> None:
        """Note that a worker has ended in order."""
        with reachable():
            self._redis.hdel(f"{PREFIX}workers", worker_id)
            self._redis.hdel(f"{PREFIX}draining", worker_id)

    def drain(self, worker_id: str) -> None:
        """Have a worker hand back what it is at and take nothing more."""
        with reachable():
            self._redis.hset(f"{PREFIX}draining", worker_id, round(self._now_s()))

    def lift(self, worker: str) -> bool:
        """Let a benched worker take work again; False when it was not benched."""
        with reachable():
            self._redis.hdel(f"{PREFIX}blame", worker)
            return bool(self._redis.hdel(f"{PREFIX}benched", worker))

    def now_ms(self) -> float:
        """Milliseconds since 1970 by Redis' clock."""
        with reachable():
            return self._now_s() * 1_000

    def _now_s(self) -> float:
        # Redis' clock: those of machines may differ.
        seconds, microseconds = self._redis.time()
        return seconds + microseconds / 1e6

    def is_benched(self, worker: str) -> bool:
        """Whether a worker takes nothing more because of what it lost."""
        with reachable():
            return bool(self._redis.hexists(f"{PREFIX}benched", worker))

    def backlog(self) -> list[Backlog]:
        """Every queue's backlog."""
        with reachable(), self._redis.pipeline(transaction=False) as pipe:
            pipe.smembers(f"{PREFIX}queues")
            pipe.hgetall(f"{PREFIX}pace")
            for part in ("", ":jobs", ":frames", ":audio"):
                pipe.hgetall(f"{PREFIX}backlog{part}")
            queues, pace, *counted = pipe.execute()
        found = []
        for queue, waiting in self._waiting(sorted({*queues, *counted[0]})).items():
            items, jobs, frames, audio_ms = (max(0, int(counts.get(queue, 0))) for counts in counted)
            seconds = round(items * float(pace.get(queue, _DEFAULT_PACE_MS)) / 1_000, 3)
            found.append(Backlog(queue, jobs, frames, audio_ms / 1_000, items, seconds, waiting))
        return found

    def pace_ms(self) -> dict[str, float]:
        """Milliseconds that an item takes of late, by queue; of those in which one was done."""
        with reachable():
            pace = cast("dict[str, str]", self._redis.hgetall(f"{PREFIX}pace"))
        return {queue: float(ms) for queue, ms in pace.items()}

    def _waiting(self, queues: list[str]) -> dict[str, dict[str, int]]:
        """Jobs with work to be taken, by queue and class."""
        lines = [(queue, priority) for queue in queues for priority in PRIORITIES]
        waiting = {queue: dict.fromkeys(PRIORITIES, 0) for queue in queues}
        with reachable(), self._redis.pipeline(transaction=False) as pipe:
            for queue, priority in lines:
                pipe.lrange(f"{PREFIX}queue:{queue}:{priority}", 0, -1)
            places = [(line, tenant) for line, tenants in zip(lines, pipe.execute(), strict=True) for tenant in tenants]
            for (queue, priority), tenant in places:
                pipe.zcard(f"{PREFIX}queue:{queue}:{priority}:{tenant}")
            for ((queue, priority), _), jobs in zip(places, pipe.execute(), strict=True):
                waiting[queue][priority] += jobs
        return waiting

    def totals(self) -> dict[str, float]:
        """What the farm has done since Redis was last empty: frames_rendered, frames_reused, jobs_accepted, of those
        that ended jobs_{status}, render_ms, sound_ms, encode_ms, gpu_ms, audio_ms (sound of jobs that succeeded); and
        the realtime_factor of late."""
        with reachable():
            found = cast("dict[str, str]", self._redis.hgetall(f"{PREFIX}totals"))
        return {name: float(value) for name, value in found.items()}

    def sweep_age_s(self) -> float | None:
        """Seconds since the newest sweep reported; None before the first one."""
        at_s = self.sweep_report().get("at")
        with reachable():
            return None if at_s is None else max(0.0, self._now_s() - at_s)

    def queues_without_ticket(self) -> list[str]:
        """Queues in which work waits and no message tells of it."""
        with reachable():
            queues = cast("set[str]", self._redis.smembers(f"{PREFIX}queues"))
            return [
                queue
                for queue in sorted(queues)
                if not self._redis.llen(queue)
                and self._redis.exists(*(f"{PREFIX}queue:{queue}:{priority}" for priority in PRIORITIES))
            ]

    def begin_sweep(self, ttl_s: float, turn: Turn = "sweeper") -> str | None:
        """The fence under which this sweep may change things until the next one begins; None while another holds it."""
        with reachable():
            fence = str(self._redis.incr(f"{PREFIX}fences"))
            has_turn = self._redis.set(f"{PREFIX}{turn}", fence, nx=True, px=round(ttl_s * 1_000))
        return fence if has_turn else None

    def keep_sweep(self, fence: str, ttl_s: float, turn: Turn = "sweeper") -> bool:
        """Keep the turn for so long from now on; False when it is over."""
        return self._if_turn(turn, fence, "redis.call('PEXPIRE', KEYS[1], ARGV[2])", round(ttl_s * 1_000))

    def end_sweep(self, fence: str, turn: Turn = "sweeper") -> None:
        """Give the turn up."""
        self._if_turn(turn, fence, "redis.call('DEL', KEYS[1])")

    def _if_turn(self, turn: Turn, fence: str, command: str, *arguments: str | int) -> bool:
        # Only one's own: whoever came after us may be at work.
        script = f"if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end {command} return 1"
        keys = [f"{PREFIX}{turn}", f"{PREFIX}marker"]
        with reachable():
            return bool(self._redis.eval(script, len(keys), *keys, fence, *arguments))

    def mark_recovered(self, fence: str, server: str) -> None:
        """Note, under the fence of a pass over storage, that all that storage has is in this Redis (`server`) too."""
        marker = json.dumps({"server": server, "at_s": round(self._now_s())})
        self._if_turn("storage_pass", fence, "redis.call('SET', KEYS[2], ARGV[2])", marker)

    def storage_pass_age_s(self) -> float | None:
        """Seconds since the last pass over storage; None when what it found may be lost: Redis was started since."""
        with reachable():
            marker = json.loads(cast("str | None", self._redis.get(f"{PREFIX}marker")) or "{}")
            return max(0.0, self._now_s() - marker["at_s"]) if marker.get("server") == self.server() else None

    def server(self) -> str:
        """The id of this run of Redis: another after each start."""
        with reachable():
            return str(self._redis.info("server")["run_id"])

    def report_sweep(self, counts: Mapping[str, int], details: Mapping[str, object]) -> None:
        """Keep what a sweep did: what it counted (`totals` adds up all sweeps), and what else there is to say."""
        totals = cast("dict[str, int]", self.sweep_report().get("totals", {}))
        totals = {name: totals.get(name, 0) + count for name, count in counts.items()}
        with reachable():
            report = {**details, **counts, "at": round(self._now_s(), 3), "totals": totals}
            self._redis.set(f"{PREFIX}sweep", json.dumps(report))

    def sweep_report(self) -> dict[str, Any]:
        """What the newest sweep did; empty before the first one."""
        with reachable():
            report: dict[str, Any] = json.loads(cast("str | None", self._redis.get(f"{PREFIX}sweep")) or "{}")
        return report
