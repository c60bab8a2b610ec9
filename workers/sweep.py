"""One sweep: whatever of the farm's work was lost on the way goes on.

Every part can be repeated without harm and changes a job under the sweep's fence, by one atomic move, or not at all. So
several sweepers may run, and each may be killed at any time. Owns what a sweep looks at and its report. Leaves out the
process and its clock (`workers.sweeper`) and the slow pass over storage (`workers.storage_pass`).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final, cast

import structlog

from shared.contracts import JobFailure
from shared.dispatch import Dispatcher, needed_frames, plan_of
from shared.endings import fail_job, follow_up_end
from shared.errors import NotFoundError, QueueUnavailableError, TransientError
from shared.farm_rates import FarmRates
from shared.farm_state import FarmState
from shared.job_moves import PREFIX
from shared.job_store import JobStore
from shared.object_store import ObjectStore, job_prefix
from shared.redis_connection import reachable
from shared.settings import Settings
from workers.losses import follow_loss
from workers.storage_pass import StoragePass
from workers.stuck import StuckJobs

log = structlog.get_logger()
LONGEST_EVERY_S: Final = 5.0
_TURN_S: Final = 15.0
_PART_S: Final = 2.0
"""No part of a sweep takes much longer; the next sweep goes on where it was."""
_NEWS_AFTER_S: Final = 10.0
"""An end whose news is out by then needs no help."""
_RUNNING, _ACTIVE, _ENDED = 1_000, 200, 200
_DUE: Final = 500
_STUCK_LOOKED_AT: Final = 200


def sweep_every_s(lease_s: float) -> float:
    """Seconds between two sweeps: a lost lease is found well before another one would have run out."""
    return min(LONGEST_EVERY_S, lease_s / 2)


class Sweep:
    """What a sweeper does again and again; `every_s` is its pace in seconds."""

    def __init__(
        self,
        settings: Settings,
        job_store: JobStore,
        object_store: ObjectStore,
        dispatcher: Dispatcher,
        storage_pass: StoragePass,
    ) -> None:
        self.every_s = sweep_every_s(settings.lease_s)
        self._jobs = job_store
        self._objects = object_store
        self._dispatcher = dispatcher
        self._storage_pass = storage_pass
        self._farm = FarmState(job_store.redis)
        self._rates = FarmRates(job_store.redis)
        self._redis = job_store.redis
        self._cursors: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._stuck = StuckJobs(job_store, self._farm, settings.stuck_after_s)
        self._parts: dict[str, Callable[[str], int]] = {
            "given_back": self._give_back_overdue,
            "mended": self._mend,
            "expired": self._expire,
            "canceled": self._cancel_late,
            "announced": self._announce,
            "removed": self._remove_remains,
            "stuck": self._find_stuck,
            "tickets": self._send_tickets,
        }

    def run(self) -> dict[str, int] | None:
        """Make one sweep: how much each part did, None when another process is at it or took over.

        Raises QueueUnavailableError when Redis does not answer.
        """
        fence = self._farm.begin_sweep(_TURN_S)
        if fence is None:
            return None
        started_s = time.monotonic()
        try:
            self._storage_pass.begin_if_due()
            counts = self._counts(fence)
            if counts is not None:
                took_s = round(time.monotonic() - started_s, 3)
                self._farm.report_sweep(counts, {"took_s": took_s, "stuck_jobs": self._stuck.report()})
                self._rates.sample()
        finally:
            self._farm.end_sweep(fence)
        if counts and any(count for name, count in counts.items() if name != "stuck"):
            log.info("swept", **counts)
        return counts

    def _counts(self, fence: str) -> dict[str, int] | None:
        counts = {"recovered": 0, "removed": 0}
        for name, part in self._parts.items():
            if not self._farm.keep_sweep(fence, _TURN_S):
                log.warning("another sweeper took over")
                return None
            counts[name] = self._part(name, part, fence)
        for name, count in self._storage_pass.counts().items():
            counts[name] += count
        self._farm.forget_dead_workers()
        return counts

    def _part(self, name: str, part: Callable[[str], int], fence: str) -> int:
        try:
            return part(fence)
        except QueueUnavailableError:
            raise
        except TransientError as error:
            # Storage does not answer; the other parts may do without.
            log.warning("part of the sweep not done", part=name, error=error.message)
            return 0

    def _each(self, ids: Iterable[str], action: Callable[[str], bool]) -> int:
        """Count those for which the action did something, for _PART_S at most; one that goes wrong stops no other."""
        count, deadline_s = 0, time.monotonic() + _PART_S
        for one in ids:
            if time.monotonic() > deadline_s:
                break
            try:
                count += action(one)
            except NotFoundError:
                continue
            except TransientError:
                raise
            except Exception:
                log.exception("sweeping past a job that makes trouble", job=one)
        return count

    def _some(self, name: str, count: int) -> list[str]:
        """About so many members of a set; every one of them has its turn."""
        with reachable():
            answer = self._redis.sscan(f"{PREFIX}{name}", self._cursors[name, count], count=count)
        self._cursors[name, count], members = cast("tuple[int, list[str]]", answer)
        return members

    def _until(self, name: str, before_ms: float) -> list[str]:
        """The first members of a sorted set by time."""
        with reachable():
            found = self._redis.zrangebyscore(f"{PREFIX}{name}", "-inf", before_ms, start=0, num=_DUE)
        return cast("list[str]", found)

    # The parts.

    def _give_back_overdue(self, fence: str) -> int:
        overdue = self._jobs.overdue(fence, 3 * self.every_s)
        held = {f"{job_id} {item}": worker_id.rpartition("/")[0] for job_id, item, worker_id in overdue}

        def give_back(lease: str) -> bool:
            job_id, item = lease.split(" ", 1)
            reason = f"its worker was lost ({held[lease]})"
            returned = self._jobs.give_back_overdue(job_id, item, reason, fence)
            if returned is None:
                return False

            def fail(failure: JobFailure) -> None:
                fail_job(job_id, failure, self._jobs, self._objects)

            follow_loss(job_id, item, returned, reason, self._jobs, self._dispatcher, fail)
            return True

        return self._each(held, give_back)

    def _mend(self, fence: str) -> int:
        def mend(job_id: str) -> bool:
            mended = self._jobs.mend(job_id, fence)
            if mended is None:
                return False
            moved: list[str] = []
            if mended.next_chunk is not None:
                needed = needed_frames(plan_of(self._jobs.read(job_id)), mended.next_chunk)
                moved = self._jobs.move_on(job_id, mended.next_chunk, needed)
            self._dispatcher.send_tickets([*mended.queues, *moved])
            return bool(mended.items or moved)

        ids = [*self._some("jobs:running", _RUNNING), *self._some("jobs:active", _ACTIVE)]
        return self._each(dict.fromkeys(ids), mend)

    def _expire(self, fence: str) -> int:
        message = "The job was not begun within its expires_in_s; all workers were busy or away. Submit it again."
        failure = JobFailure(code="expired", message=message, retryable=True).model_dump_json()

        def expire(job_id: str) -> bool:
            if not self._jobs.expire(job_id, failure):
                return False
            follow_up_end(job_id, self._jobs, self._objects)
            return True

        return self._each(self._until("jobs:expiring", self._farm.now_ms()), expire)

    def _cancel_late(self, fence: str) -> int:
        """Cancel what was to have ended by now."""

        def cancel(job_id: str) -> bool:
            if not self._jobs.finish(job_id, "canceled"):
                return False
            follow_up_end(job_id, self._jobs, self._objects)
            return True

        return self._each(self._until("jobs:deadlines", self._farm.now_ms()), cancel)

    def _announce(self, fence: str) -> int:
        before_ms = self._farm.now_ms() - 1_000 * _NEWS_AFTER_S

        def announce(job_id: str) -> bool:
            if float(self._jobs.read(job_id).get("finished_ms", "inf")) > before_ms:
                return False
            follow_up_end(job_id, self._jobs, self._objects)
            return True

        return self._each(self._some("jobs:ended", _ENDED), announce)

    def _remove_remains(self, fence: str) -> int:
        """What a worker stored of a job that was deleted under it."""

        def remove(job_id: str) -> bool:
            keys = [*self._objects.keys(job_prefix(job_id))]
            for key in keys:
                self._objects.delete(key)
            with reachable():
                self._redis.zrem(f"{PREFIX}jobs:deleted", job_id)
            return bool(keys)

        return self._each(self._until("jobs:deleted", self._farm.now_ms() - 2 * self._jobs.lease_ms), remove)

    def _find_stuck(self, fence: str) -> int:
        self._stuck.look(self._some("jobs:running", _STUCK_LOOKED_AT))
        return len(self._stuck.found)

    def _send_tickets(self, fence: str) -> int:
        queues = self._farm.queues_without_ticket()
        self._dispatcher.send_tickets(queues)
        return len(queues)
