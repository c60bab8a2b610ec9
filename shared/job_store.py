"""What moves: a job's live state in Redis, changed by atomic scripts that can be run twice without harm.

Owns the keys, the allowed transitions and the release of work. Leaves out what the work is (`shared.plan`) and how
it is queued (`shared.dispatch`).

Keys, all under `riffarm:`
    job:{id}          hash: status, stage, counters, request, outputs
    job:{id}:frames   hash: frame number → how it was made; its fields are the set of finished frames
    job:{id}:done     set: finished work items ("b3" a batch, "c0" a chunk)
    job:{id}:moves    hash: finished item → the items it released, so that a repeated move answers the same
    job:{id}:attempts hash: item → how often it was started without a frame to show for it
    job:{id}:warnings set of sentences
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, cast

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from shared.contracts import TERMINAL, Stage, Status
from shared.errors import NotFoundError, QueueUnavailableError

PREFIX: Final = "riffarm:"
HEARTBEAT_TTL_S: Final = 15
_JOB_ID: Final = re.compile("job_[0-9a-z]{1,64}")
_PASSING: Final = ("OOM", "MISCONF", "BUSY", "LOADING", "command not allowed when used memory")
SUBMITTED: Final = "submitted"
"""The item whose move releases a new job's first work."""

# KEYS job, frames, done, attempts · ARGV item, counter or "", field to add to, addend, then frame, record, …
# Adds what an item finished. Only the first report counts; a new frame shows that the item is no poison.
_RECORD = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for i = 5, #ARGV, 2 do
  if redis.call('HSETNX', KEYS[2], ARGV[i], ARGV[i + 1]) == 1 then
    if cjson.decode(ARGV[i + 1]).reused then
      redis.call('HINCRBY', KEYS[1], 'frames_reused', 1)
    else
      redis.call('HDEL', KEYS[4], ARGV[1])
    end
  end
end
if ARGV[2] == '' or redis.call('SADD', KEYS[3], ARGV[1]) == 0 then return 0 end
redis.call('HINCRBY', KEYS[1], ARGV[2], 1)
redis.call('HINCRBY', KEYS[1], ARGV[3], ARGV[4])
return 1
"""

# KEYS job, frames, moves · ARGV by, window, batches_total, chunks_total, chunk, the frames it needs, …
# Releases the work that may start now that `by` is finished, and remembers it: asked again, it answers the same.
_RELEASE = """
local status = redis.call('HGET', KEYS[1], 'status')
if status ~= 'queued' and status ~= 'running' then return {} end
local before = redis.call('HGET', KEYS[3], ARGV[1])
if before then
  local items = {}
  for item in string.gmatch(before, '%S+') do items[#items + 1] = item end
  return items
end
local f = redis.call('HMGET', KEYS[1], 'next_batch', 'batches_done', 'next_chunk', 'chunks_done', 'delivering')
local next_batch, next_chunk, chunks_done = tonumber(f[1]), tonumber(f[3]), tonumber(f[4])
local items = {}
while next_batch < tonumber(ARGV[3]) and next_batch - tonumber(f[2]) < tonumber(ARGV[2]) do
  items[#items + 1] = 'b' .. next_batch
  next_batch = next_batch + 1
end
if next_chunk == tonumber(ARGV[5]) and next_chunk == chunks_done and next_chunk < tonumber(ARGV[4]) then
  local ready = true
  for i = 6, #ARGV do
    if redis.call('HEXISTS', KEYS[2], ARGV[i]) == 0 then ready = false break end
  end
  if ready then
    items[#items + 1] = 'c' .. next_chunk
    next_chunk = next_chunk + 1
  end
end
if chunks_done == tonumber(ARGV[4]) and f[5] == '0' then
  items[#items + 1] = 'deliver'
  redis.call('HSET', KEYS[1], 'delivering', 1)
end
redis.call('HSET', KEYS[1], 'next_batch', next_batch, 'next_chunk', next_chunk)
redis.call('HSET', KEYS[3], ARGV[1], table.concat(items, ' '))
return items
"""

# KEYS job, attempts, queued, done · ARGV item, stage, now, id
# Marks an item as started and the job as running; answers the status it found, the item's attempts, whether it is done.
_START = """
local status = redis.call('HGET', KEYS[1], 'status')
if not status then return {'', 0, 0} end
local is_done = redis.call('SISMEMBER', KEYS[4], ARGV[1])
if is_done == 1 then return {status, 0, 1} end
if status == 'queued' then
  redis.call('HSET', KEYS[1], 'status', 'running', 'started_ms', ARGV[3])
  redis.call('ZREM', KEYS[3], ARGV[4])
end
if status == 'queued' or status == 'running' then redis.call('HSET', KEYS[1], 'stage', ARGV[2]) end
return {status, redis.call('HINCRBY', KEYS[2], ARGV[1], 1), 0}
"""

# KEYS job, queued, active · ARGV status, now, id, field, value, …
# The one way into a terminal status, from which there is no way out.
_FINISH = """
local status = redis.call('HGET', KEYS[1], 'status')
if status ~= 'queued' and status ~= 'running' then return 0 end
redis.call('HSET', KEYS[1], 'status', ARGV[1], 'finished_ms', ARGV[2], 'stage', '', 'announced', 0)
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('ZREM', KEYS[2], ARGV[3])
redis.call('SREM', KEYS[3], ARGV[3])
return 1
"""


class Start(NamedTuple):
    """What an item found when it was started: its job's status before (None: no such job), and its own past."""

    status: Status | None
    attempts: int
    is_done: bool


def new_job_id() -> str:
    """An id that sorts by time of creation."""
    return f"job_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(8)}"


def created_ms_from_job_id(job_id: str) -> int:
    """Milliseconds since 1970 at which the id was made."""
    return int(job_id[4:16], 16)


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except (
        redis.exceptions.ConnectionError,
        redis.exceptions.TimeoutError,
        redis.exceptions.ReadOnlyError,
    ) as error:
        raise QueueUnavailableError(f"Redis does not answer: {error}") from error
    except redis.exceptions.ResponseError as error:
        # At its memory limit, on a full disk, or kept busy: it will pass.
        if str(error).startswith(_PASSING):
            raise QueueUnavailableError(f"Redis does not take writes: {error}") from error
        raise


class JobStore:
    """Jobs in Redis. Every method raises QueueUnavailableError when Redis does not answer."""

    def __init__(self, redis_url: str) -> None:
        self.redis: redis.Redis = redis.Redis.from_url(
            redis_url,
            decode_responses=True,
            socket_timeout=10,
            socket_connect_timeout=3,
            socket_keepalive=True,
            health_check_interval=10,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 3),
        )
        self._record, self._release, self._start, self._finish = (
            self.redis.register_script(script) for script in (_RECORD, _RELEASE, _START, _FINISH)
        )

    def _job(self, job_id: str, part: str = "") -> str:
        # An id is part of a key: one with a colon would lead to another job's sets.
        if not _JOB_ID.fullmatch(job_id):
            raise NotFoundError(f"There is no job {job_id[:80]}.")
        return f"{PREFIX}job:{job_id}{part}"

    def check(self) -> None:
        """Raise QueueUnavailableError unless Redis answers."""
        with _reachable():
            self.redis.ping()

    def create(self, job_id: str, fields: Mapping[str, str | int | float]) -> None:
        """Record a new job as queued."""
        created_ms = int(fields["created_ms"])
        counters = ("delivering", "announced", "next_batch", "batches_done", "next_chunk", "chunks_done")
        sums = ("frames_reused", "render_ms", "sound_ms", "encode_ms")
        mapping: dict[Any, Any] = {"id": job_id, "status": "queued", "stage": "", **dict.fromkeys(counters + sums, 0)}
        with _reachable(), self.redis.pipeline(transaction=True) as pipe:
            pipe.hset(self._job(job_id), mapping=mapping | dict(fields))
            pipe.zadd(f"{PREFIX}jobs", {job_id: created_ms})
            pipe.zadd(f"{PREFIX}jobs:queued", {job_id: created_ms})
            pipe.sadd(f"{PREFIX}jobs:active", job_id)
            pipe.execute()

    def discard(self, job_id: str) -> None:
        """Take back a job whose submission failed half-way."""
        with _reachable(), self.redis.pipeline(transaction=True) as pipe:
            pipe.delete(
                *(self._job(job_id, part) for part in ("", ":frames", ":done", ":moves", ":attempts", ":warnings"))
            )
            pipe.zrem(f"{PREFIX}jobs", job_id)
            pipe.zrem(f"{PREFIX}jobs:queued", job_id)
            pipe.srem(f"{PREFIX}jobs:active", job_id)
            pipe.execute()

    def read(self, job_id: str) -> dict[str, str]:
        """All fields of a job, with `frames_done`. Raises NotFoundError."""
        return self.read_many([job_id])[0]

    def read_many(self, job_ids: Sequence[str]) -> list[dict[str, str]]:
        """All fields of several jobs in one round trip. Raises NotFoundError for the first that is not there."""
        with _reachable(), self.redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hgetall(self._job(job_id))
                pipe.hlen(self._job(job_id, ":frames"))
                pipe.smembers(self._job(job_id, ":warnings"))
                pipe.zrank(f"{PREFIX}jobs:queued", job_id)
            answers = pipe.execute()
        jobs = []
        for index, job_id in enumerate(job_ids):
            fields, frames_done, warnings, rank = answers[4 * index : 4 * index + 4]
            if not fields:
                raise NotFoundError(f"There is no job {job_id}.")
            position = "" if rank is None else str(rank + 1)
            jobs.append(
                fields
                | {
                    "frames_done": str(frames_done),
                    "queue_position": position,
                    "warnings": json.dumps(sorted(warnings)),
                }
            )
        return jobs

    def status(self, job_id: str) -> Status | None:
        """The job's status, None when there is no such job."""
        with _reachable():
            return cast("Status | None", self.redis.hget(self._job(job_id), "status"))

    def ids_before(self, created_ms: float, job_id: str, limit: int) -> list[str]:
        """Up to `limit` ids older than the named job, newest first."""
        with _reachable():
            ids = cast(
                "list[str]",
                self.redis.zrevrangebyscore(f"{PREFIX}jobs", created_ms, "-inf", start=0, num=limit + 64),
            )
        return [one for one in ids if one < job_id][:limit]

    def start(self, job_id: str, item: str, stage: Stage) -> Start:
        """Mark an item as started, unless it is done."""
        job, attempts, done = (self._job(job_id, part) for part in ("", ":attempts", ":done"))
        with _reachable():
            answer = self._start(
                keys=[job, attempts, f"{PREFIX}jobs:queued", done], args=[item, stage, _now_ms(), job_id]
            )
        return Start(cast("Status", answer[0]) or None, int(answer[1]), bool(answer[2]))

    def record_frames(self, job_id: str, batch: int, frames: Mapping[int, Mapping[str, object]]) -> None:
        """Add finished frames of a batch and how each was made."""
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
        keys = [self._job(job_id, part) for part in ("", ":frames", ":done", ":attempts")]
        pairs = [part for index, record in frames.items() for part in (index, json.dumps(record))]
        with _reachable():
            self._record(keys=keys, args=[item, counter, field, addend, *pairs])

    def next_chunk(self, job_id: str) -> int:
        """The number of the next chunk to release."""
        with _reachable():
            return int(self.redis.hget(self._job(job_id), "next_chunk") or 0)

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
        keys = [self._job(job_id, part) for part in ("", ":frames", ":moves")]
        with _reachable():
            items = self._release(keys=keys, args=[by, window, batches_total, chunks_total, chunk, *needed_frames])
        return cast("list[str]", items)

    def finish(self, job_id: str, status: Status, fields: Mapping[str, str | int] | None = None) -> bool:
        """Move a job to a terminal status; False when it is terminal already (or gone)."""
        if status not in TERMINAL:
            raise ValueError(f"{status} is not terminal")
        keys = [self._job(job_id), f"{PREFIX}jobs:queued", f"{PREFIX}jobs:active"]
        pairs = [part for pair in (fields or {}).items() for part in pair]
        with _reachable():
            return bool(self._finish(keys=keys, args=[status, _now_ms(), job_id, *pairs]))

    def set_announced(self, job_id: str) -> None:
        """Note that all that follows from a job's end is done."""
        with _reachable():
            self.redis.hset(self._job(job_id), "announced", 1)

    def warn(self, job_id: str, sentence: str) -> None:
        """Attach a sentence that the client should read."""
        with _reachable():
            self.redis.sadd(self._job(job_id, ":warnings"), sentence)

    def beat(self, worker: str, record: Mapping[str, object]) -> None:
        """Say that a worker lives."""
        with _reachable():
            self.redis.set(f"{PREFIX}worker:{worker}", json.dumps(record), ex=HEARTBEAT_TTL_S)

    def workers(self) -> list[dict[str, Any]]:
        """Heartbeats of the workers that live."""
        with _reachable():
            keys = list(self.redis.scan_iter(f"{PREFIX}worker:*", count=1000))
            beats = cast("list[str | None]", self.redis.mget(keys)) if keys else []
        return [json.loads(beat) for beat in beats if beat]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
