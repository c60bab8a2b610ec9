"""A farm without rendering: clients, workers and a sweeper do at random what they may, over a real store.

Hypothesis chooses; after each step Redis must hold what the models say. Leaves out the models (`job_model`) and the
looks into Redis (`job_invariants`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shared.errors import LeaseLostError
from shared.farm_state import FarmState
from shared.job_moves import Attempt
from shared.job_store import JobStore
from tests.integration.job_invariants import QUEUES, check
from tests.integration.job_model import GONE, TABLE, JobModel

WORKERS: Final = ("w1", "w2", "w3")
CONTROLS: Final = (
    "cancel",
    "pause",
    "pause",
    "pause",
    "resume",
    "resume",
    "retry",
    "retry",
    "fail",
    "expire",
    "forget",
)
NO_GAP_S: Final = 10**9
LATER_MS: Final = 10**14
NOBODY: Final = Attempt("", "deliver", "0", 0, "", "", 0, "nobody/0")
DRAW = st.randoms(use_true_random=False)


def act(store: JobStore, action: str, job: JobModel, attempt: Attempt = NOBODY) -> bool:
    """Do it; whether the store says that something changed."""
    moves: dict[str, Callable[[], Any]] = {
        "submit": lambda: store.create(job.id, job.fields),
        "begin": lambda: store.take("sound", "w1", "w1/1").attempt,
        "deliver": lambda: store.finish(job.id, "succeeded", {"outputs": "[]"}, attempt),
        "fail": lambda: store.finish(job.id, "failed", {"error": "{}"}),
        "expire": lambda: store.expire(job.id, "{}"),
        "cancel": lambda: store.finish(job.id, "canceled"),
        "pause": lambda: store.pause(job.id),
        "resume": lambda: store.resume(job.id) is not None,
        "retry": lambda: store.retry(job.id) is not None,
        "forget": lambda: store.forget(job.id),
    }
    return bool(moves[action]())


class Farm(RuleBasedStateMachine):
    """Clients, workers that work, die and wake up late, and a sweeper, over one store."""

    def __init__(self, store: JobStore) -> None:
        super().__init__()
        self.store, self.state = store, FarmState(store.redis)
        store.redis.flushall()
        self.jobs: list[JobModel] = []
        self.late: list[Attempt] = []
        self.blame: dict[str, set[str]] = defaultdict(set)
        self.with_work: set[str] = set()
        self.told: set[str] = set()
        self.sweep()

    # What is there to act upon.

    def held(self) -> list[tuple[JobModel, Attempt]]:
        return [(job, attempt) for job in self.jobs for attempt in job.leased.values()]

    def job_of(self, attempt: Attempt) -> JobModel:
        return next(job for job in self.jobs if job.id == attempt.job_id)

    def is_some_held(self) -> bool:
        return any(job.leased for job in self.jobs)

    # Clients.

    @initialize(priority=st.sampled_from(["normal", "bulk"]))
    def begin_with_two(self, priority: str) -> None:
        """There is always something to do."""
        self.submit(batches=5, window=3, tenant="a", priority=priority, expires_ms=0)
        self.submit(batches=2, window=1, tenant="b", priority="normal", expires_ms=0)

    @precondition(lambda self: sum(job.state != GONE for job in self.jobs) < 4)
    @rule(
        batches=st.sampled_from([0, 1, 2, 3, 5]),
        window=st.sampled_from([1, 2, 8]),
        tenant=st.sampled_from(["a", "b"]),
        priority=st.sampled_from(["interactive", "normal", "bulk"]),
        expires_ms=st.sampled_from([0, 0, 0, LATER_MS, 1]),
    )
    def submit(self, **fields: Any) -> None:
        number = len(self.jobs)
        job = JobModel(id=f"job_{number}", created_ms=number + 1, **fields)
        self.jobs.append(job)
        for _ in range(2):
            self.told.update(self.store.create(job.id, job.fields))

    @precondition(lambda self: self.jobs)
    @rule(random=DRAW, action=st.sampled_from(CONTROLS))
    def control(self, random: Any, action: str) -> None:
        """Twice: the second time nothing changes."""
        # Mostly one that the action is for.
        concerned = [job for job in self.jobs if action in TABLE[job.state]]
        job = random.choice(concerned if concerned and random.random() < 0.8 else self.jobs)
        # Only one that is due expires.
        is_done = (action != "expire" or job.has_expired) and self.changed(job, action)
        for expected in (is_done, False):
            if action in ("resume", "retry"):
                queues = getattr(self.store, action)(job.id)
                self.told.update(queues or ())
                assert (queues is not None) == expected
            else:
                assert act(self.store, action, job) == expected

    def changed(self, job: JobModel, action: str) -> bool:
        """Apply the table to the model; whoever held an item of a job that ends is late."""
        attempts = [*job.leased.values()]
        is_changed = job.do(action)
        if not job.is_live:
            self.late += attempts
        return is_changed

    # Workers.

    @rule(worker=st.sampled_from(WORKERS), queue=st.sampled_from(QUEUES))
    def take(self, worker: str, queue: str) -> None:
        self.take_one(worker, queue)

    @rule(random=DRAW, steps=st.integers(1, 12))
    def work(self, random: Any, steps: int) -> None:
        """All goes well for a while."""
        for _ in range(steps):
            queues = [queue for queue in QUEUES if any(job.takeable(queue) for job in self.jobs)]
            if queues and random.random() < 0.5:
                self.take_one(random.choice(WORKERS), random.choice(queues))
            elif held := self.held():
                self.finish_one(*random.choice(held))

    def take_one(self, worker: str, queue: str) -> Attempt | None:
        possible = {(job.id, item) for job in self.jobs for item in job.takeable(queue)}
        take = self.store.take(queue, worker, f"{worker}/1")
        if len(self.blame[worker]) >= 3:
            assert take.refusal == "benched"
            assert self.state.lift(worker)
            self.blame[worker].clear()
            return None
        if take.attempt is None:
            assert not possible
            return None
        attempt = take.attempt
        assert (attempt.job_id, attempt.item) in possible
        self.job_of(attempt).take(attempt)
        assert take.has_more >= any(job.takeable(queue) for job in self.jobs)
        return attempt

    @precondition(is_some_held)
    @rule(random=DRAW, dies=st.sampled_from(["", "", "before it says so", "before it asks what follows"]))
    def finish(self, random: Any, dies: str) -> None:
        self.finish_one(*random.choice(self.held()), dies)

    def finish_one(self, job: JobModel, attempt: Attempt, dies: str = "") -> None:
        store = self.store
        if attempt.item == "deliver":
            assert store.finish(job.id, "succeeded", {"outputs": "[]"}, attempt)
            self.changed(job, "deliver")
            self.blame[attempt.worker_id[:2]].clear()
            return
        if attempt.item.startswith("b"):
            store.record_frames(attempt, {attempt.number: {"reused": False, "s": 0.5, "worker": "w"}})
            if attempt.number not in job.frames:
                job.losses.pop(attempt.item, None)
            job.frames.add(attempt.number)
        if dies == "before it says so":
            return
        chunk = attempt.next_chunk
        done = store.done(attempt, 10, attempt.worker_id[:2], chunk, job.needed(chunk))
        self.blame[attempt.worker_id[:2]].clear()
        job.finish(attempt)
        job.move_on(chunk)
        waits = job.next_chunk == job.chunks_done != chunk and job.next_chunk < job.chunks
        assert done.next_chunk == (job.next_chunk if waits else None)
        self.told.update(done.queues)
        self.late.append(attempt)
        if done.next_chunk is not None and not dies:
            self.move_on(job, done.next_chunk)

    def move_on(self, job: JobModel, chunk: int) -> None:
        self.told.update(self.store.move_on(job.id, chunk, job.needed(chunk)))
        job.move_on(chunk)

    @precondition(is_some_held)
    @rule(random=DRAW, reason=st.sampled_from(["", "it broke"]), way=st.sampled_from(["token", "worker"]))
    def give_back(self, random: Any, reason: str, way: str) -> None:
        """A worker that stops, or whose work broke, or whose next process clears up."""
        job, attempt = random.choice(self.held())
        name = attempt.worker_id[:2]
        if way == "token":
            returned = self.store.give_back(attempt, name, reason)
        else:
            returned = self.store.give_back_of(attempt.worker_id, job.id, attempt.item, reason)
        self.follow_loss(job, attempt, returned, reason)

    def follow_loss(self, job: JobModel, attempt: Attempt, returned: Any, reason: str) -> None:
        assert returned is not None
        assert returned.losses == job.give_back(attempt.item, bool(reason))
        self.told.update(returned.queues)
        self.late.append(attempt)
        if reason:
            self.blame[attempt.worker_id[:2]].add(job.id)
        if returned.losses >= 3:
            assert self.store.finish(job.id, "failed", {"error": "{}"})
            self.changed(job, "fail")

    @precondition(is_some_held)
    @rule(random=DRAW)
    def die(self, random: Any) -> None:
        """The lease runs out; until the sweeper has looked, the worker may yet come back."""
        job, attempt = random.choice(self.held())
        self.store.redis.zadd("riffarm:leases", {f"{job.id} {attempt.item}": 1})

    @precondition(is_some_held)
    @rule(random=DRAW)
    def renew(self, random: Any) -> None:
        job, attempt = random.choice(self.held())
        assert self.store.renew(attempt) == (True, job.status, False)

    @precondition(lambda self: any(self.reopenable()))
    @rule(random=DRAW, frames=st.sets(st.integers(0, 4)))
    def reopen(self, random: Any, frames: set[int]) -> None:
        """Storage lost frames that an item needs, or the sound before it."""
        job, attempt = random.choice([*self.reopenable()])
        lost = frames & job.frames
        chunk = random.randint(0, attempt.number if attempt.item.startswith("c") else job.chunks)
        before = [*job.leased.values()]
        self.told.update(self.store.reopen(attempt, chunk, sorted(lost), sorted(lost)))
        job.reopen(attempt, chunk, lost)
        self.late += [one for one in before if one not in job.leased.values()]
        if random.random() < 0.5:
            self.move_on(job, chunk)

    def reopenable(self) -> Iterator[tuple[JobModel, Attempt]]:
        return ((job, attempt) for job, attempt in self.held() if not job.is_conversion)

    @precondition(lambda self: self.late)
    @rule(random=DRAW)
    def wake_up_late(self, random: Any) -> None:
        """Whatever a late attempt says is refused, and changes nothing."""
        attempt = random.choice(self.late)
        with pytest.raises(LeaseLostError):
            self.store.record_frames(attempt, {0: {"reused": True}})
        with pytest.raises(LeaseLostError):
            self.store.done(attempt, 10, "w9", attempt.next_chunk, ())
        with pytest.raises(LeaseLostError):
            self.store.reopen(attempt, 0, [0], [0])
        for reason in ("", "late"):
            assert self.store.give_back(attempt, "w9", reason) is None
        for end in ("succeeded", "failed"):
            assert not self.store.finish(attempt.job_id, end, {}, attempt)  # type: ignore[arg-type]  # of two literals
        assert not self.store.renew(attempt).is_held

    # The sweeper.

    @rule()
    def sweep(self) -> None:
        """Gives back what died; and finds nothing to mend, for nothing is lost."""
        fence = self.state.begin_sweep(60)
        assert fence
        assert self.state.begin_sweep(60) is None
        for job_id, item, _ in self.store.overdue(fence, NO_GAP_S):
            job = next(job for job in self.jobs if job.id == job_id)
            # Not if its job has failed just now, because of another item.
            if attempt := job.leased.get(item):
                self.follow_loss(job, attempt, self.store.give_back_overdue(job_id, item, "lost", fence), "lost")
            assert self.store.give_back_overdue(job_id, item, "lost", fence) is None
        for job in self.jobs:
            self.mend(job, fence)
        self.state.end_sweep(fence)
        if self.jobs:
            assert self.store.mend(self.jobs[0].id, fence) is None

    def mend(self, job: JobModel, fence: str) -> None:
        is_idle = job.is_idle
        mended = self.store.mend(job.id, fence)
        if mended is None:
            assert not is_idle
            return
        assert mended.items == 0
        assert mended.next_chunk == (job.next_chunk if is_idle else None)
        self.told.update(mended.queues)
        if mended.next_chunk is not None:
            self.move_on(job, mended.next_chunk)
            assert not job.is_idle

    # What holds at all times, and in the end.

    @invariant()
    def redis_holds_what_it_should(self) -> None:
        check(self.store, self.jobs)
        for worker in WORKERS:
            assert self.state.is_benched(worker) == (len(self.blame[worker]) >= 3)

    @invariant()
    def a_ticket_is_asked_for_where_work_comes_up(self) -> None:
        found = {queue for queue in QUEUES if any(job.takeable(queue) for job in self.jobs)}
        assert found <= self.with_work | self.told
        self.with_work, self.told = found, set()

    def teardown(self) -> None:
        """Whatever came before: workers that go on bring every job to its end."""
        for job in self.jobs:
            if job.do("resume"):
                self.store.resume(job.id)
            if job.has_expired:
                assert self.store.expire(job.id, "{}")
                job.do("expire")
        while any(job.is_live for job in self.jobs):
            self.sweep()
            for job, attempt in self.held():
                self.finish_one(job, attempt)
            taken = [self.take_one(worker, queue) for worker in WORKERS for queue in QUEUES]
            assert any(taken) or any(self.blame.values()) or not any(job.is_live for job in self.jobs)
        check(self.store, self.jobs)
