"""What moves: a job's live state in Redis, and the events that tell of it.

Owns the keys and what they hold; every change of state is one atomic script (`shared.job_scripts`). Leaves out what
the work is (`shared.plan`) and how it is queued (`shared.dispatch`).

Keys, all under `riffarm:`
    job:{id}          hash: status, stage, counters, request, outputs
    job:{id}:frames   hash: frame number → how it was made; its fields are the set of finished frames
    job:{id}:done     set: finished work items ("b3" a batch, "c0" a chunk)
    job:{id}:moves    hash: finished item → the items it released, so that a repeated move answers the same
    job:{id}:attempts hash: item → how often it was started without a frame to show for it; b3:starts → how often at all
    job:{id}:warnings set of sentences
    job:{id}:events   stream of kind and data (JSON), capped; gone an hour after the job's end
    job:{id}:previews hash: number of a frame under way → its newest preview; gone at the job's end
    jobs              sorted set: all ids by time of creation
    jobs:queued       sorted set: ids not yet started, by time of creation
    jobs:active       set: ids that must still end
    worker:{name}     string with expiry: a living worker's heartbeat
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from shared import job_scripts
from shared.contracts import TERMINAL, Stage, Status
from shared.errors import NotFoundError
from shared.job_events import Event, EventKind, event_from_entry
from shared.redis_connection import reachable, redis_from_url

PREFIX: Final = "riffarm:"
HEARTBEAT_TTL_S: Final = 15
_JOB_ID: Final = re.compile("job_[0-9a-z]{1,64}")
_PARTS: Final = ("", ":frames", ":done", ":moves", ":attempts", ":warnings", ":events", ":previews")
SUBMITTED: Final = "submitted"
"""The item whose move releases a new job's first work."""


class Start(NamedTuple):
    """What an item found when it was started: its job's status before (None: no such job), and its own past."""

    status: Status | None
    attempts: int
    is_done: bool


def job_key(job_id: str, part: str = "") -> str:
    """The key of a job, or of a part such as ":events". Raises NotFoundError for what is no job's id."""
    # An id is part of a key: one with a colon would lead to another job's sets.
    if not _JOB_ID.fullmatch(job_id):
        raise NotFoundError(f"There is no job {job_id[:80]}.")
    return f"{PREFIX}job:{job_id}{part}"


def new_job_id() -> str:
    """An id that sorts by time of creation."""
    return f"job_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(8)}"


def created_ms_from_job_id(job_id: str) -> int:
    """Milliseconds since 1970 at which the id was made."""
    return int(job_id[4:16], 16)


class JobStore:
    """Jobs in Redis. Every method raises QueueUnavailableError when Redis does not answer."""

    def __init__(self, redis_url: str) -> None:
        self.redis = redis_from_url(redis_url)
        scripts = (job_scripts.RECORD, job_scripts.RELEASE, job_scripts.START, job_scripts.FINISH, job_scripts.TELL)
        self._record, self._release, self._start, self._finish, self._tell = map(self.redis.register_script, scripts)

    def check(self) -> None:
        """Raise QueueUnavailableError unless Redis answers."""
        with reachable():
            self.redis.ping()

    def create(self, job_id: str, fields: Mapping[str, str | int | float]) -> None:
        """Record a new job as queued."""
        created_ms = int(fields["created_ms"])
        counters = ("delivering", "announced", "next_batch", "batches_done", "next_chunk", "chunks_done")
        sums = ("frames_reused", "render_ms", "sound_ms", "encode_ms")
        mapping: dict[Any, Any] = {"id": job_id, "status": "queued", "stage": "", **dict.fromkeys(counters + sums, 0)}
        with reachable(), self.redis.pipeline(transaction=True) as pipe:
            pipe.hset(job_key(job_id), mapping=mapping | dict(fields))
            pipe.zadd(f"{PREFIX}jobs", {job_id: created_ms})
            pipe.zadd(f"{PREFIX}jobs:queued", {job_id: created_ms})
            pipe.sadd(f"{PREFIX}jobs:active", job_id)
            pipe.xadd(job_key(job_id, ":events"), {"kind": "status", "data": '{"status":"queued","stage":null}'})
            pipe.execute()

    def discard(self, job_id: str) -> None:
        """Take back a job whose submission failed half-way."""
        with reachable(), self.redis.pipeline(transaction=True) as pipe:
            pipe.delete(*(job_key(job_id, part) for part in _PARTS))
            pipe.zrem(f"{PREFIX}jobs", job_id)
            pipe.zrem(f"{PREFIX}jobs:queued", job_id)
            pipe.srem(f"{PREFIX}jobs:active", job_id)
            pipe.execute()

    def read(self, job_id: str) -> dict[str, str]:
        """All fields of a job, with what its other keys hold as the fields below. Raises NotFoundError."""
        return self.read_many([job_id])[0]

    def read_many(self, job_ids: Sequence[str]) -> list[dict[str, str]]:
        """All fields of several jobs in one round trip. Raises NotFoundError for the first that is not there."""
        with reachable(), self.redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(job_key(job_id))
                pipe.hlen(job_key(job_id, ":frames"))
                pipe.smembers(job_key(job_id, ":warnings"))
                pipe.zrank(f"{PREFIX}jobs:queued", job_id)
                pipe.hvals(job_key(job_id, ":previews"))
            answers = pipe.execute()
        jobs = []
        for index, job_id in enumerate(job_ids):
            fields, frames_done, warnings, rank, previews = answers[5 * index : 5 * index + 5]
            if not fields:
                raise NotFoundError(f"There is no job {job_id}.")
            position = "" if rank is None else str(rank + 1)
            jobs.append(
                fields
                | {
                    "frames_done": str(frames_done),
                    "queue_position": position,
                    "warnings": json.dumps(sorted(warnings)),
                    "previews": f"[{','.join(previews)}]",
                }
            )
        return jobs

    def status(self, job_id: str) -> Status | None:
        """The job's status, None when there is no such job."""
        with reachable():
            return cast("Status | None", self.redis.hget(job_key(job_id), "status"))

    def ids_before(self, created_ms: float, job_id: str, limit: int) -> list[str]:
        """Up to `limit` ids older than the named job, newest first."""
        with reachable():
            ids = cast(
                "list[str]",
                self.redis.zrevrangebyscore(f"{PREFIX}jobs", created_ms, "-inf", start=0, num=limit + 64),
            )
        return [one for one in ids if one < job_id][:limit]

    def start(self, job_id: str, item: str, stage: Stage) -> Start:
        """Mark an item as started, unless it is done."""
        job, attempts, done, events = (job_key(job_id, part) for part in ("", ":attempts", ":done", ":events"))
        keys = [job, attempts, f"{PREFIX}jobs:queued", done, events]
        with reachable():
            answer = self._start(keys=keys, args=[item, stage, _now_ms(), job_id])
        return Start(cast("Status", answer[0]) or None, int(answer[1]), bool(answer[2]))

    def record_frames(self, job_id: str, batch: int, frames: Mapping[int, Mapping[str, object]]) -> None:
        """Add finished frames of a batch and how each was made: `reused`, and of those that were rendered `s`
        (seconds), `memory_mb` and `worker`. `attempts` is added: how often the batch was started until then."""
        self._recorded(job_id, f"b{batch}", "", "", 0, frames)

    def record_batch(self, job_id: str, batch: int, render_ms: int) -> None:
        """Count a batch as done, once."""
        self._recorded(job_id, f"b{batch}", "batches_done", "render_ms", render_ms, {})

    def record_chunk(self, job_id: str, chunk: int, sound_ms: int) -> None:
        """Count a chunk as done, once."""
        self._recorded(job_id, f"c{chunk}", "chunks_done", "sound_ms", sound_ms, {})

    def _recorded(
        self,
        job_id: str,
        item: str,
        counter: str,
        field: str,
        addend: int,
        frames: Mapping[int, Mapping[str, object]],
    ) -> None:
        keys = [job_key(job_id, part) for part in ("", ":frames", ":done", ":attempts", ":events", ":previews")]
        pairs = [part for index, record in frames.items() for part in (index, json.dumps(record))]
        with reachable():
            self._record(keys=keys, args=[item, counter, field, addend, *pairs])

    def frames(self, job_id: str, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Of these frames the finished ones, and how each was made."""
        if not numbers:
            return {}
        with reachable():
            records = self.redis.hmget(job_key(job_id, ":frames"), [str(number) for number in numbers])
        found = zip(numbers, cast("list[str | None]", records), strict=True)
        return {number: json.loads(record) for number, record in found if record}

    def add_event(self, job_id: str, kind: EventKind, data: Mapping[str, object]) -> bool:
        """Tell whoever follows the job; False when it has ended (or is gone), or the preview's frame is finished.

        The data of a preview (`shared.contracts.Preview`) is the newest of its frame until the frame is finished.
        """
        keys = [job_key(job_id, part) for part in ("", ":frames", ":events", ":previews")]
        frame = str(data["frame"]) if kind == "preview" else ""
        with reachable():
            return bool(self._tell(keys=keys, args=[kind, json.dumps(data), frame]))

    def events_after(self, job_id: str, last_id: str, limit: int) -> list[Event]:
        """Up to `limit` events that came after the one with this id, oldest first; "0" is before all of them."""
        with reachable():
            entries = self.redis.xrange(job_key(job_id, ":events"), f"({last_id}", "+", limit)
        return [event_from_entry(entry) for entry in cast("list[tuple[str, dict[str, str]]]", entries)]

    def next_chunk(self, job_id: str) -> int:
        """The number of the next chunk to release."""
        with reachable():
            return int(self.redis.hget(job_key(job_id), "next_chunk") or 0)

    def release(
        self,
        job_id: str,
        by: str,
        window: int,
        batches_total: int,
        chunks_total: int,
        chunk: int,
        needed_frames: Sequence[int],
    ) -> list[str]:
        """The items that may start now that item `by` is done; asked again, the same ones."""
        keys = [job_key(job_id, part) for part in ("", ":frames", ":moves")]
        with reachable():
            items = self._release(keys=keys, args=[by, window, batches_total, chunks_total, chunk, *needed_frames])
        return cast("list[str]", items)

    def finish(self, job_id: str, status: Status, fields: Mapping[str, str | int] | None = None) -> bool:
        """Move a job to a terminal status; False when it is terminal already (or gone)."""
        if status not in TERMINAL:
            raise ValueError(f"{status} is not terminal")
        events, previews = job_key(job_id, ":events"), job_key(job_id, ":previews")
        keys = [job_key(job_id), f"{PREFIX}jobs:queued", f"{PREFIX}jobs:active", events, previews]
        pairs = [part for pair in (fields or {}).items() for part in pair]
        with reachable():
            return bool(self._finish(keys=keys, args=[status, _now_ms(), job_id, *pairs]))

    def set_announced(self, job_id: str) -> None:
        """Note that all that follows from a job's end is done."""
        with reachable():
            self.redis.hset(job_key(job_id), "announced", 1)

    def warn(self, job_id: str, sentence: str) -> None:
        """Attach a sentence that the client should read."""
        with reachable():
            self.redis.sadd(job_key(job_id, ":warnings"), sentence)

    def beat(self, worker: str, record: Mapping[str, object]) -> None:
        """Say that a worker lives."""
        with reachable():
            self.redis.set(f"{PREFIX}worker:{worker}", json.dumps(record), ex=HEARTBEAT_TTL_S)

    def workers(self) -> list[dict[str, Any]]:
        """Heartbeats of the workers that live."""
        with reachable():
            keys = list(self.redis.scan_iter(f"{PREFIX}worker:*", count=1000))
            beats = cast("list[str | None]", self.redis.mget(keys)) if keys else []
        return [json.loads(beat) for beat in beats if beat]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
