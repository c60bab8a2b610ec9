"""A worker for tests that have no time for a real one: takes items and makes of each an object with nothing in it."""

from __future__ import annotations

from collections.abc import Iterable

from shared import dispatch
from shared.dispatch import Dispatcher, celery_app, needed_frames, plan_from_texts
from shared.endings import follow_up_end
from shared.frames import frame_hash
from shared.job_moves import Attempt
from shared.job_store import JobStore
from shared.object_store import ObjectStore, chunk_key, chunk_state_key, frame_key
from shared.plan import Plan
from shared.settings import Settings

QUEUES = dispatch.queues(["riffarm-mini"])


class FakeWorker:
    """Does what `workers.tasks` does to the stores, and nothing else; notes which frames it had to render."""

    def __init__(self, settings: Settings, jobs: JobStore, objects: ObjectStore, name: str = "w1") -> None:
        self.rendered: list[str] = []
        self._jobs = jobs
        self._objects = objects
        self._dispatcher = Dispatcher(celery_app(settings))
        self._name = name

    def take(self, *queues: str) -> Attempt | None:
        """The next item of these queues, all when none is named."""
        for queue in queues or QUEUES:
            if attempt := self._jobs.take(queue, self._name, f"{self._name}/1").attempt:
                return attempt
        return None

    def work(self, items: int = 1_000) -> int:
        """Take and do so many items, or what there is; how many."""
        for count in range(items):
            attempt = self.take()
            if attempt is None:
                return count
            self.do(attempt)
        return items

    def do(self, attempt: Attempt) -> None:
        """See an item through."""
        if attempt.item == "deliver":
            assert self._jobs.finish(attempt.job_id, "succeeded", {"outputs": "[]"}, attempt)
            follow_up_end(attempt.job_id, self._jobs, self._objects)
            return
        plan = self._plan(attempt)
        if attempt.item.startswith("b"):
            self.render(attempt, plan.batch_frames(attempt.number))
            joints = [plan.joint(number) for number in plan.batch_joints(attempt.number)]
            both = zip(plan.batch_joints(attempt.number), joints, strict=True)
            self.render(attempt, [one for one, joint in both if self._has(plan, joint.before, joint.after)])
        else:
            chunk = plan.chunk(attempt.number)
            for key in (chunk_key, chunk_state_key):
                self._objects.put(key(attempt.job_id, chunk.part, chunk.index_in_part), b"")
        needed = needed_frames(plan, attempt.next_chunk)
        done = self._jobs.done(attempt, 1, self._name, attempt.next_chunk, needed)
        if done.next_chunk is not None:
            self._jobs.move_on(attempt.job_id, done.next_chunk, needed_frames(plan, done.next_chunk))

    def render(self, attempt: Attempt, numbers: Iterable[int]) -> None:
        """Have these frames of the attempt's job finished."""
        plan = self._plan(attempt)
        for number in numbers:
            is_there = self._has(plan, number)
            if not is_there:
                self.rendered.append(frame_hash(plan.frame(number)))
                self._objects.put(frame_key(self.rendered[-1]), b"a picture")
            self._jobs.record_frames(attempt, {number: {"reused": is_there, "s": 0.1, "worker": self._name}})

    def _has(self, plan: Plan, *numbers: int) -> bool:
        return all(self._objects.exists(frame_key(frame_hash(plan.frame(number)))) for number in numbers)

    def _plan(self, attempt: Attempt) -> Plan:
        plan = plan_from_texts(attempt.input, attempt.sources)
        assert isinstance(plan, Plan)
        return plan
