"""What moves: a job's live state in Redis, and the events that tell of it.

Why nothing is lost: every change of state is one atomic move (`shared/job_moves.lua`). A job is in `jobs:active` from
the moment it is accepted until it has ended. A piece of its work, an item, is always in exactly one of four places:

    not yet begun   a number in the job's hash (`next_batch`), or not yet due
    ready           named in the job's hash (`ready:render`, `ready:sound`, `ready:deliver`)
    leased          in `job:{id}:leases` and, by the time at which the lease runs out, in `leases`
    done            in `job:{id}:done`, or counted (`chunks_done`)

`take` leases, `done` finishes, `give_back` returns what its worker will not finish; a worker that says nothing any more
loses its lease to the sweeper (`workers.sweeper`), which looks for items in none of these places too (`mend`). A lease
is a token: whoever comes with another one is late and refused. Messages only wake workers up (`shared.dispatch`).

Owns the keys and what they hold. Leaves out what the work is (`shared.plan`), and the workers (`shared.farm_state`).
Keys, all under `riffarm:`
    job:{id}          hash: status, stage, counters, ready work, request, outputs
    job:{id}:frames   hash: frame number → how it was made; its fields are the set of finished frames
    job:{id}:done     set: numbers of finished batches
    job:{id}:leases   hash: item ("b3" a batch, "c0" a chunk, "deliver") → token and worker
    job:{id}:attempts hash: item → how often its worker was lost; b3:starts → how often begun; b3:reason → what was last
    job:{id}:warnings set of sentences
    job:{id}:events   stream of kind and data (JSON), capped; gone an hour after the job's end
    job:{id}:previews hash: number of a frame under way → its newest preview; gone at the job's end
    jobs              sorted set: all ids by time of creation; jobs:of:{tenant} a tenant's; jobs:queued not yet begun
    jobs:active       set: ids that must still end; jobs:running those begun; jobs:ended those not yet announced
    jobs:expiring     sorted set: ids by the time until which they must have begun; jobs:deleted by time of deletion
    jobs:live:{tenant} as jobs:of:{tenant}, those that must still end; likewise jobs:{status}:{tenant}, ended so,
                      jobs:batch:{tenant}:{batch}, jobs:type:{tenant}:{type}, jobs:label:{tenant}:{name}={value}
    idempotency_whole anything: written when storage had no job that is not here, so that no key is lost
    idempotency:{key} hash: the request that an idempotency key stands for, who is at it, its answer; gone after a day
    audio             hash: tenant → ms of sound in its jobs that must still end
    jobs:deadlines    sorted set: ids by the time at which they are canceled if they have not ended
    queue:{queue}:{class}           list: tenants with work there, in turn
    queue:{queue}:{class}:{tenant}  sorted set: jobs with work there by what remains; …:age by time of creation
    turns             hash: queue → looks into it; a queue:{queue}:{class}:{tenant} → looks there
    leases, tokens    sorted set of "id item" by expiry; the last token
    asked             anything: written to see whether it can be
    sweeper, swept    the fence of the sweeper at work, when it last looked; fences counts them
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from redis.exceptions import NoScriptError

from shared.contracts import TERMINAL, Stage, Status
from shared.errors import LeaseLostError, NotFoundError, TooMuchError
from shared.job_events import Event, EventKind, event_from_entry
from shared.job_moves import (
    PREFIX,
    Accepted,
    Attempt,
    Begun,
    Done,
    Mended,
    Renewal,
    Returned,
    Take,
    accepted_from_answer,
    created_arguments,
    fields_from_view,
    job_key,
    moves,
)
from shared.quotas import Quota
from shared.redis_connection import reachable, redis_from_url


class JobStore:
    """Jobs in Redis. Every method raises QueueUnavailableError when Redis does not answer."""

    def __init__(self, redis_url: str, lease_s: float = 30.0) -> None:
        """`lease_s`: how long an item stays its worker's without a word from it."""
        self.redis = redis_from_url(redis_url)
        self.lease_ms = round(lease_s * 1_000)
        self._scripts = {name: self.redis.register_script(script) for name, script in moves().items()}

    def move(self, name: str, *arguments: str | int | float) -> Any:
        """Make one move of job_moves.lua."""
        with reachable():
            return self._scripts[name](args=arguments)

    def _made(self, name: str, moves_: Sequence[Sequence[str | int | float]]) -> list[Any]:
        """Make one move several times in one round trip; answers and errors. The library's own way asks each time
        whether Redis has the script."""
        with reachable(), self.redis.pipeline(transaction=False) as pipe:
            for arguments in moves_:
                pipe.evalsha(self._scripts[name].sha, 0, *arguments)
            return pipe.execute(raise_on_error=False)

    def check(self) -> None:
        """Raise QueueUnavailableError unless Redis takes what it is told now."""
        # Writing is the only honest question: at its memory limit, or with a full disk, it still answers and reads.
        with reachable():
            self.redis.set(f"{PREFIX}asked", 1)

    # From acceptance to the end.

    def create(self, job_id: str, fields: Mapping[str, str | int | float]) -> list[str]:
        """Record a new job and list its first work; the queues that need a ticket. One that is there stays as it is."""
        return self.accept(job_id, fields).queues

    def accept(self, job_id: str, fields: Mapping[str, str | int | float], quota: Quota | None = None) -> Accepted:
        """As `create`; the job's place in the queue too. Raises TooMuchError where the quota has no room."""
        accepted = accepted_from_answer(self.move("create", *created_arguments(job_id, fields, quota)), quota)
        if isinstance(accepted, TooMuchError):
            raise accepted
        return accepted

    def accept_many(
        self, jobs: Mapping[str, Mapping[str, str | int | float]], quota: Quota | None = None
    ) -> dict[str, Accepted | TooMuchError | None]:
        """As `accept` for many jobs in one round trip; by id, None for those that Redis did not take."""
        if not jobs:
            return {}
        moves_ = [created_arguments(job_id, fields, quota) for job_id, fields in jobs.items()]
        answers = self._made("create", moves_)
        if any(isinstance(one, NoScriptError) for one in answers):
            # Redis was started anew. A job that is there already stays as it is.
            with reachable():
                self.redis.script_load(moves()["create"])
            answers = self._made("create", moves_)
        return {
            job_id: None if isinstance(one, Exception) else accepted_from_answer(one, quota)
            for job_id, one in zip(jobs, answers, strict=True)
        }

    def restore(
        self,
        job_id: str,
        fields: Mapping[str, str | int | float],
        frames: Collection[int],
        batches: Collection[int],
    ) -> list[str] | None:
        """Record a job anew with what storage has of it: finished frames and batches. The queues that need a ticket;
        None when the job is there already, which stays as it is."""
        job_key(job_id)
        pairs = [str(part) for pair in ({"id": job_id, "status": "queued", **fields}).items() for part in pair]
        lists = (json.dumps([*part]) for part in (pairs, frames, batches))
        is_new, *queues = self.move("restore", job_id, *lists)
        return cast("list[str]", queues) if is_new else None

    def take(self, queue: str, worker: str, worker_id: str) -> Take:
        """Take a queue's next item under a lease: by class, tenant and job (`take` in job_moves.lua says how)."""
        answer = self.move("take", queue, worker, worker_id, self.lease_ms)
        if not answer:
            return Take(None)
        if answer[0] == "no":
            return Take(None, answer[1])
        job_id, item, token, starts, request, sources, next_chunk, has_more, *origin = answer
        attempt = Attempt(job_id, item, token, int(starts), request, sources, int(next_chunk), worker_id, *origin)
        return Take(attempt, has_more=bool(has_more))

    def renew(self, attempt: Attempt) -> Renewal:
        """Keep the lease for `lease_s` from now on."""
        is_held, status, is_draining = self.move("renew", *attempt[:3], attempt.worker_id, self.lease_ms)
        return Renewal(bool(is_held), status or None, bool(is_draining))

    def record_frames(self, attempt: Attempt, frames: Mapping[int, Mapping[str, object]]) -> None:
        """Add finished frames and how each was made: `reused`, and of those that were rendered `s` (seconds),
        `memory_mb` and `worker`; `attempts` is added. Raises LeaseLostError when the attempt is late."""
        records = [part for number, record in frames.items() for part in (number, json.dumps(record))]
        if frames and not self.move("record", *attempt[:3], attempt.starts, *records):
            raise LeaseLostError

    def set_stage(self, attempt: Attempt, stage: Stage) -> None:
        """Say where the job is now. Raises LeaseLostError when the attempt is late."""
        if not self.move("stage", *attempt[:3], stage):
            raise LeaseLostError

    def show(self, attempt: Attempt, outputs: Sequence[Mapping[str, object]]) -> None:
        """Take these for the job's outputs until it ends. Raises LeaseLostError when the attempt is late."""
        if not self.move("show", *attempt[:3], json.dumps(outputs)):
            raise LeaseLostError

    def done(
        self, attempt: Attempt, ms: int, worker: str, chunk: int, needed_frames: Sequence[int], *, is_gpu: bool = False
    ) -> Done:
        """Count the item as done and make ready what may follow: chunk `chunk` if it is next and its frames are there.

        ms: how long it took; is_gpu: on a GPU. Raises LeaseLostError when the attempt is late.
        """
        is_held, *answer = self.move("done", *attempt[:3], ms, ms if is_gpu else 0, worker, chunk, *needed_frames)
        if not is_held:
            raise LeaseLostError
        next_chunk, *queues = answer
        return Done(None if int(next_chunk) < 0 else int(next_chunk), queues)

    def move_on(self, job_id: str, chunk: int, needed_frames: Sequence[int]) -> list[str]:
        """Make ready what may start now: this chunk if it is next and its frames are there; queues for tickets."""
        return cast("list[str]", self.move("move", job_id, chunk, *needed_frames))

    def give_back(self, attempt: Attempt, worker: str = "", reason: str = "") -> Returned | None:
        """Make an attempt's item ready again; with a reason it counts as lost, for the item and the worker.

        None when the attempt is late.
        """
        return self._given_back(attempt.job_id, attempt.item, "token", attempt.token, worker, reason, "")

    def give_back_of(self, worker_id: str, job_id: str, item: str, reason: str) -> Returned | None:
        """The same for an item of a worker that is known to be gone; None when it does not hold the item."""
        return self._given_back(job_id, item, "worker", worker_id, "", reason, "")

    def give_back_overdue(self, job_id: str, item: str, reason: str, fence: str) -> Returned | None:
        """The same for an item whose lease ran out; None when it did not, or another sweeper has begun."""
        return self._given_back(job_id, item, "expired", "", "", reason, fence)

    def overdue(self, fence: str, longest_pause_s: float) -> list[tuple[str, str, str]]:
        """Job, item and worker's id of the leases that ran out, 1,000 at most; none when another sweeper has begun.

        When nobody looked for longer than `longest_pause_s`, all leases last for one time more.
        """
        leases = self.move("overdue", fence, self.lease_ms, round(longest_pause_s * 1_000))
        named = [lease.split(" ", 1) for lease in leases]
        found = zip(named, self._holders(named), strict=True)
        return [(job_id, item, worker or "") for (job_id, item), worker in found]

    def mend(self, job_id: str, fence: str) -> Mended | None:
        """Make ready what of a job is lost: neither ready nor leased nor done; None when nothing is amiss, or another
        sweeper has begun."""
        answer = self.move("mend", job_id, fence)
        if not answer:
            return None
        items, next_chunk, *queues = answer
        return Mended(int(items), None if int(next_chunk) < 0 else int(next_chunk), queues)

    def _given_back(self, *arguments: str) -> Returned | None:
        is_given, *answer = self.move("give_back", *arguments)
        return Returned(int(answer[0]), answer[1:]) if is_given else None

    def leases(self) -> dict[tuple[str, str], str]:
        """Who holds which item: worker's ids by job and item."""
        with reachable():
            named = [lease.split(" ", 1) for lease in cast("list[str]", self.redis.zrange(f"{PREFIX}leases", 0, -1))]
        found = zip(named, self._holders(named), strict=True)
        return {(job_id, item): worker for (job_id, item), worker in found if worker}

    def _holders(self, named: Sequence[Sequence[str]]) -> list[str | None]:
        """The ids of the workers that hold these jobs' items."""
        with reachable(), self.redis.pipeline(transaction=False) as pipe:
            for job_id, item in named:
                pipe.hget(job_key(job_id, ":leases"), item)
            return [lease and lease.split(" ", 1)[1] for lease in pipe.execute()]

    def reopen(self, attempt: Attempt, chunk: int, batches: Collection[int], frames: Collection[int]) -> list[str]:
        """Have these batches rendered again, their frames `frames` being lost, and the sound made from `chunk` on.

        The queues that need a ticket. Raises LeaseLostError when the attempt is late.
        """
        is_held, *queues = self.move("reopen", *attempt[:3], chunk, len(batches), *batches, *frames)
        if not is_held:
            raise LeaseLostError
        return cast("list[str]", queues)

    def finish(
        self,
        job_id: str,
        status: Status,
        fields: Mapping[str, str | int] | None = None,
        attempt: Attempt | None = None,
    ) -> bool:
        """Move a job to a terminal status; False when it has ended already (or is gone), or the attempt is late."""
        if status not in TERMINAL:
            raise ValueError(f"{status} is not terminal")
        job_key(job_id)
        pairs = [part for pair in (fields or {}).items() for part in pair]
        lease = (attempt.item, attempt.token) if attempt else ("", "")
        return bool(self.move("finish", job_id, status, *lease, *pairs))

    def expire(self, job_id: str, error: str) -> bool:
        """Fail a job that was to have begun by now and has not; False for any other."""
        return bool(self.move("expire", job_id, error))

    def pause(self, job_id: str) -> bool:
        """Begin nothing more of a job; what runs comes to its end. False when it is paused or has ended."""
        return bool(self.move("pause", job_id))

    def resume(self, job_id: str) -> list[str] | None:
        """Let a paused job go on; the queues that need a ticket, None when it is not paused."""
        return self._opened("resume", job_id)

    def retry(self, job_id: str, runs: int | None = None) -> list[str] | None:
        """Let a failed or canceled job, retried `runs` times until now, go on from what it has; as `resume`."""
        return self._opened("retry", job_id, "" if runs is None else runs)

    def _opened(self, name: str, job_id: str, *arguments: str | int) -> list[str] | None:
        is_open, *queues = self.move(name, job_id, *arguments)
        return queues if is_open else None

    def forget(self, job_id: str) -> bool:
        """Remove an ended job; False when it lives or is not there."""
        return bool(self.move("forget", job_id))

    def set_announced(self, job_id: str, runs: int) -> bool:
        """Note that all that follows from a job's end after `runs` retries is done; False when it was retried since."""
        return bool(self.move("announced", job_id, runs))

    # Reading.

    def read(self, job_id: str) -> dict[str, str]:
        """All fields of a job, with what its other keys hold as the fields below. Raises NotFoundError."""
        found = self.read_many([job_id])
        if not found:
            raise NotFoundError(f"There is no job {job_id}.")
        return found[0]

    def read_many(self, job_ids: Sequence[str]) -> list[dict[str, str]]:
        """All fields of several jobs in one round trip, without those that are not there."""
        for job_id in job_ids:
            job_key(job_id)
        return [fields for view in self.move("view", *job_ids) if (fields := fields_from_view(view))]

    def has_all(self, job_ids: Sequence[str]) -> bool:
        """Whether there are all these jobs."""
        with reachable(), self.redis.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.exists(job_key(job_id))
            return all(pipe.execute())

    def status(self, job_id: str) -> Status | None:
        """The job's status, None when there is no such job."""
        with reachable():
            return cast("Status | None", self.redis.hget(job_key(job_id), "status"))

    def ids_before(self, created_ms: float, job_id: str, limit: int) -> list[str]:
        """Up to `limit` ids older than the named job, newest first, of all tenants."""
        start, older = 0, list[str]()
        while not older:
            with reachable():
                ids = self.redis.zrevrangebyscore(f"{PREFIX}jobs", created_ms, "-inf", start=start, num=limit)
            older = [one for one in cast("list[str]", ids) if one < job_id]
            # Of a large batch many were created in the same millisecond.
            start += limit
            if not ids:
                break
        return older

    def own(self, job_ids: Collection[str], tenant: str) -> set[str]:
        """Those of these jobs that are a tenant's."""
        ids = [*job_ids]
        if not ids:
            return set()
        with reachable():
            found = self.redis.zmscore(f"{PREFIX}jobs:of:{tenant}", ids)
        return {job_id for job_id, at in zip(ids, found, strict=True) if at is not None}

    def frames(self, job_id: str, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Of these frames the finished ones, and how each was made."""
        if not numbers:
            return {}
        with reachable():
            records = self.redis.hmget(job_key(job_id, ":frames"), [str(number) for number in numbers])
        found = zip(numbers, cast("list[str | None]", records), strict=True)
        return {number: json.loads(record) for number, record in found if record}

    def begun(self, job_id: str) -> dict[str, Begun]:
        """The items that were begun and are not done, by name."""
        with reachable(), self.redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(job_key(job_id, ":leases"))
            pipe.hgetall(job_key(job_id, ":attempts"))
            leases, attempts = pipe.execute()
        workers = {item: lease.split(" ", 1)[1].rpartition("/")[0] for item, lease in leases.items()}
        starts = {name.partition(":")[0]: int(count) for name, count in attempts.items() if name.endswith(":starts")}
        return {item: Begun(workers.get(item), starts.get(item, 0)) for item in {*workers, *starts}}

    def finished_frames(self, job_id: str) -> list[int]:
        """The numbers of all finished frames, in order."""
        with reachable():
            return sorted(map(int, cast("list[str]", self.redis.hkeys(job_key(job_id, ":frames")))))

    def add_event(self, job_id: str, kind: EventKind, data: Mapping[str, object]) -> bool:
        """Tell whoever follows the job; False when it has ended (or is gone), or the preview's frame is finished.

        The data of a preview (`shared.contracts.Preview`) is the newest of its frame until the frame is finished.
        """
        frame = str(data["frame"]) if kind == "preview" else ""
        return bool(self.move("tell", job_id, kind, json.dumps(data), frame))

    def events_after(self, job_id: str, last_id: str, limit: int) -> list[Event]:
        """Up to `limit` events that came after the one with this id, oldest first; "0" is before all of them."""
        with reachable():
            entries = self.redis.xrange(job_key(job_id, ":events"), f"({last_id}", "+", limit)
        return [event_from_entry(entry) for entry in cast("list[tuple[str, dict[str, str]]]", entries)]

    def warn(self, job_id: str, sentence: str) -> bool:
        """Attach a sentence that the client should read; False when the job has it already."""
        return bool(self.move("warn", job_id, sentence))
