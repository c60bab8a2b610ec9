"""Whose item is next: clips beside tracks, classes, tenants, windows; over the real store, without rendering."""

from __future__ import annotations

from collections import Counter
from itertools import count

import pytest

from shared.job_moves import Attempt
from shared.job_store import JobStore
from tests.integration.job_model import JobModel

QUEUE = "render.m"
HOUR_BATCHES = 44
"""Of a track of an hour: 703 frames, 16 in a batch."""


class Workers:
    """So many workers, each at one batch or none, over the store."""

    def __init__(self, store: JobStore, workers: int) -> None:
        self.store = store
        self.at: list[Attempt | None] = [None] * workers
        self.jobs: dict[str, JobModel] = {}
        self.taken: list[str] = []
        self._created_ms = count(1)

    def submit(
        self, job_id: str, batches: int, priority: str = "normal", tenant: str = "a", window: int = 32
    ) -> JobModel:
        self.jobs[job_id] = job = JobModel(f"job_{job_id}", batches, window, tenant, priority, next(self._created_ms))
        self.store.create(job.id, job.fields)
        return job

    def turn(self) -> None:
        """Every worker finishes what it is at and takes the next."""
        for worker, attempt in enumerate(self.at):
            if attempt:
                self.finish(attempt)
            self.at[worker] = self.take(f"w{worker}")

    def take(self, worker: str = "w0") -> Attempt | None:
        attempt = self.store.take(QUEUE, worker, f"{worker}/1").attempt
        if attempt:
            self.taken.append(attempt.job_id.removeprefix("job_"))
        return attempt

    def finish(self, attempt: Attempt) -> None:
        self.store.done(attempt, 1, "w", attempt.next_chunk, [999])

    def shares(self, last: int) -> Counter[str]:
        """Of the last items taken, how many were of jobs whose names begin so."""
        return Counter(name[0] for name in self.taken[-last:])


@pytest.mark.parametrize("priority", ["interactive", "normal"])
@pytest.mark.parametrize("after", range(6))
def test_a_clip_begins_within_one_batchs_time_though_ten_tracks_of_an_hour_are_under_way(
    job_store: JobStore, priority: str, after: int
) -> None:
    """Of the same class or a more urgent one: it is the next item taken, or the next but one, whenever it comes."""
    farm = Workers(job_store, 4)
    for number in range(10):
        farm.submit(f"track{number}", HOUR_BATCHES)
    for _ in range(5 + after):
        farm.turn()
    farm.take()
    before = len(farm.taken)
    farm.submit("clip", 1, priority)
    farm.turn()
    assert "clip" in farm.taken[before : before + 2]


def test_a_clip_begins_soon_though_the_tracks_are_more_urgent(job_store: JobStore) -> None:
    """Within the items of its class' turn: one of eight."""
    farm = Workers(job_store, 4)
    for number in range(10):
        farm.submit(f"track{number}", HOUR_BATCHES, "interactive")
    for priority in ("normal", "bulk"):
        for _ in range(5):
            farm.turn()
        before = len(farm.taken)
        farm.submit(f"clip{priority}", 1, priority)
        for _ in range(4):
            farm.turn()
        assert f"clip{priority}" in farm.taken[before : before + 8]


def test_every_class_has_its_share_under_a_flood_of_urgent_clips(job_store: JobStore) -> None:
    """One item in eight each for normal and bulk, the rest for what is urgent."""
    farm = Workers(job_store, 4)
    farm.submit("bulk", 200, "bulk")
    farm.submit("normal", 200, "normal")
    for turn in range(50):
        for clip in range(4):
            farm.submit(f"clip{4 * turn + clip}", 1, "interactive")
        farm.turn()
    shares = farm.shares(160)
    assert shares["b"] == shares["n"] == 20
    assert shares["c"] == 120


def test_without_urgent_work_the_others_have_all_of_it(job_store: JobStore) -> None:
    """Shares are of what there is: no worker waits."""
    farm = Workers(job_store, 2)
    farm.submit("bulk", 40, "bulk")
    for _ in range(20):
        farm.turn()
        assert all(farm.at)
    assert farm.shares(40) == {"b": 40}


def test_tenants_take_turns_however_much_one_submits(job_store: JobStore) -> None:
    """Ten jobs of one give it no more than one job of another, until that is done."""
    farm = Workers(job_store, 3)
    for number in range(10):
        farm.submit(f"a{number}", 50, tenant="a")
    farm.submit("b", 50, tenant="b")
    farm.submit("c", 10, tenant="c")
    for _ in range(10):
        farm.turn()
    assert farm.shares(30) == {"a": 10, "b": 10, "c": 10}
    for _ in range(10):
        farm.turn()
    assert farm.shares(30) == {"a": 15, "b": 15}


def test_a_tenant_that_comes_and_goes_gains_no_turns(job_store: JobStore) -> None:
    """One that submits each time it has nothing left is in turn like the others."""
    farm = Workers(job_store, 1)
    farm.submit("a", 100, tenant="a")
    for number in range(30):
        farm.submit(f"b{number}", 1, tenant="b")
        farm.turn()
        farm.turn()
    assert farm.shares(60) == {"a": 30, "b": 30}


def test_the_oldest_track_ends_though_clips_keep_coming(job_store: JobStore) -> None:
    """Every third item is the oldest job's, so a track of n batches is done after 3 n items."""
    farm = Workers(job_store, 1)
    track = farm.submit("track", 20)
    for number in range(2 * 20):
        farm.submit(f"clip{number}", 3)
    for _ in range(3 * 20 + 3):
        farm.turn()
    assert farm.shares(63)["t"] == 20
    assert job_store.read(track.id)["batches_done"] == "20"


@pytest.mark.parametrize("tenants", [1, 2, 3, 6, 8])
def test_every_tenants_oldest_track_ends_though_its_clips_keep_coming(job_store: JobStore, tenants: int) -> None:
    """Whatever their number: the turns of tenants and those of the oldest job do not keep step."""
    farm = Workers(job_store, 1)
    names = "efghijkl"[:tenants]
    for tenant in names:
        farm.submit(f"{tenant}track", 5, tenant=tenant)
        for number in range(12):
            farm.submit(f"{tenant}clip{number}", 1, tenant=tenant)
    for _ in range(tenants * 3 * 5):
        farm.turn()
    assert Counter(farm.taken) >= Counter({f"{tenant}track": 5 for tenant in names})


@pytest.mark.parametrize("window", [1, 3, 32])
def test_a_job_has_no_more_batches_under_way_than_its_window(job_store: JobStore, window: int) -> None:
    """Each that is done lets another begin; what is handed back counts as under way."""
    farm = Workers(job_store, 1)
    farm.submit("track", HOUR_BATCHES, window=window)
    attempts = []
    while attempt := farm.take():
        attempts.append(attempt)
    assert len(attempts) == window
    job_store.give_back(attempts.pop())
    again = farm.take()
    assert again
    assert farm.take() is None
    farm.finish(again)
    assert farm.take()
    assert farm.take() is None
