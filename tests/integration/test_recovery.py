"""Redis is lost, in the middle of everything: what storage has is enough."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.stamps import new_stamp
from shared.dispatch import Dispatcher, celery_app, plan_of
from shared.farm_state import FarmState
from shared.frames import frame_hash
from shared.job_moves import job_key
from shared.job_store import JobStore
from shared.object_store import LocalDiskStore, frame_key, job_manifest_key, job_prefix
from shared.plan import Plan
from shared.settings import Settings
from tests.conftest import SECRET, Valkey, wait_until
from tests.fake_worker import FakeWorker
from workers.recovery import Recovery, complete_batches, recover
from workers.storage_pass import StoragePass
from workers.sweep import Sweep

TRACK = {
    "type": "track",
    "duration_s": 150,
    "joins": "repaint",
    "keyframes": [{"prompt": "rain", "seed": 1, "at_s": 0}, {"prompt": "sun", "seed": 2, "at_s": 100}],
}


class Bench:
    """A gateway, its stores, and a worker that the test moves."""

    def __init__(self, settings: Settings, gateway: TestClient) -> None:
        self.settings = settings
        self.gateway = gateway
        self.jobs = JobStore(settings.redis_url, settings.lease_s)
        self.objects = LocalDiskStore(Path(settings.storage_url.removeprefix("file:")))
        self.dispatcher = Dispatcher(celery_app(settings))

    def worker(self, name: str = "w1") -> FakeWorker:
        return FakeWorker(self.settings, self.jobs, self.objects, name)

    def submit(self, **fields: object) -> str:
        answer = self.gateway.post("/v1/jobs", json=TRACK | fields)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def post(self, job_id: str, verb: str) -> None:
        assert self.gateway.post(f"/v1/jobs/{job_id}/{verb}").status_code == 200

    def read(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.gateway.get(f"/v1/jobs/{job_id}").json()
        return job

    def lose_redis(self) -> None:
        self.jobs.redis.flushall()

    def waiting(self) -> list[tuple[str, int, int, float, int]]:
        """What is counted of the work that waits or runs: queue, jobs, frames, seconds of sound, items."""
        return [one[:5] for one in FarmState(self.jobs.redis).backlog()]

    def recover(self) -> Recovery:
        return recover(self.jobs, self.objects, self.dispatcher)

    def plan(self, job_id: str) -> Plan:
        plan = plan_of(json.loads(self.objects.get(job_manifest_key(job_id))))
        assert isinstance(plan, Plan)
        return plan


@pytest.fixture
def bench(settings: Settings, gateway: TestClient) -> Iterator[Bench]:
    made = Bench(settings, gateway)
    yield made
    made.jobs.redis.close()


def keyframes(seed: int) -> list[dict[str, object]]:
    return [{"prompt": "rain", "seed": seed, "at_s": 0}, {"prompt": "sun", "seed": seed + 1, "at_s": 100}]


def test_ten_jobs_end_though_redis_is_lost_in_the_middle_and_no_frame_is_rendered_twice(bench: Bench) -> None:
    """Each is cut off elsewhere: queued, between batches, within a batch, amid its sound, before its delivery."""
    worker, ids = bench.worker(), []
    for index in range(10):
        ids.append(bench.submit(keyframes=keyframes(10 * index)))
        worker.work(index * 2)
        if index % 2 and (attempt := worker.take()) and attempt.item.startswith("b"):
            # Cut off within a batch, of which two frames are stored.
            worker.render(attempt, [*bench.plan(attempt.job_id).batch_frames(attempt.number)][:2])
    assert len({(bench.read(one)["status"], bench.read(one)["progress"]["frames_done"]) for one in ids}) > 3
    ended = [one for one in ids if bench.read(one)["status"] == "succeeded"]
    assert len(ended) < 8
    waiting = bench.waiting()
    bench.lose_redis()
    found = bench.recover()
    assert bench.waiting() == waiting
    assert (found.recovered, found.ended, found.orphans, found.unreadable) == (10 - len(ended), len(ended), 0, 0)
    later = bench.worker("w2")
    later.work()
    assert {bench.read(one)["status"] for one in ids} == {"succeeded"}
    assert max(Counter(worker.rendered + later.rendered).values()) == 1
    hashes = {frame_hash(plan.frame(n)) for plan in map(bench.plan, ids) for n in range(plan.frames_total)}
    assert {*worker.rendered, *later.rendered} == hashes
    assert bench.jobs.leases() == {}
    assert bench.jobs.redis.scard("riffarm:jobs:active") == 0
    assert {one[1:] for one in bench.waiting()} == {(0, 0, 0.0, 0)}


def test_a_recovered_job_is_as_it_was(bench: Bench) -> None:
    """Progress, counters, warnings and what is asked for next are those of a job that was never lost."""
    job_id = bench.submit(duration_s=153)
    bench.worker().work(5)
    counted = ("batches_done", "next_batch", "chunks_done", "frames_done", "warnings", "window", "tenant", "priority")
    before = bench.jobs.read(job_id)
    bench.lose_redis()
    bench.recover()
    after = bench.jobs.read(job_id)
    assert {name: after[name] for name in counted} == {name: before[name] for name in counted}
    assert after["status"] == "queued"
    assert bench.jobs.redis.llen("render.riffarm-mini") == 1


def test_what_is_paused_stays_paused_and_what_has_ended_stays_ended(bench: Bench) -> None:
    """Canceled, failed, succeeded, paused; each with what it had to show, and each can go on as before."""
    worker = bench.worker()
    succeeded = bench.submit(keyframes=keyframes(0))
    worker.work()
    paused, canceled, failed = (bench.submit(keyframes=keyframes(seed)) for seed in (10, 20, 30))
    worker.work(7)
    bench.post(paused, "pause")
    bench.post(canceled, "cancel")
    bench.jobs.finish(failed, "failed", {"error": json.dumps({"code": "x", "message": "y", "retryable": True})})
    bench.post(failed, "cancel")
    ids = (succeeded, paused, canceled, failed)
    before = [bench.read(one) for one in ids]
    bench.lose_redis()
    found = bench.recover()
    assert (found.recovered, found.ended) == (1, 3)
    after = [bench.read(one) for one in ids]
    assert [one["status"] for one in after] == ["succeeded", "paused", "canceled", "failed"]
    same = ("id", "finished_at", "outputs", "error", "input", "labels", "created_at", "attempts")
    assert [{name: one[name] for name in same} for one in after] == [
        {name: one[name] for name in same} for one in before
    ]
    assert [one["progress"]["frames_done"] for one in after] == [one["progress"]["frames_done"] for one in before]
    assert after[0]["progress"] == before[0]["progress"]
    assert bench.worker("w2").take() is None
    bench.post(paused, "resume")
    for one in (canceled, failed):
        bench.post(one, "retry")
    later = bench.worker("w2")
    while later.work():
        # A retry whose frames are all there is moved on by the sweeper.
        pass
    assert not {*worker.rendered} & {*later.rendered}
    assert bench.read(paused)["status"] == "succeeded"


def test_a_job_that_was_retried_is_not_taken_for_ended(bench: Bench) -> None:
    """The result of the run before counts no more; the number of runs is kept."""
    job_id = bench.submit(expires_in_s=60)
    bench.post(job_id, "cancel")
    bench.post(job_id, "retry")
    bench.lose_redis()
    assert bench.recover().recovered == 1
    assert (bench.read(job_id)["status"], bench.read(job_id)["attempts"]) == ("queued", 2)
    assert bench.jobs.redis.zcard("riffarm:jobs:expiring") == 0


def test_a_recovered_job_expires_only_if_it_was_not_begun(bench: Bench) -> None:
    """One with a frame was begun in time."""
    begun, waiting = (bench.submit(expires_in_s=60, keyframes=keyframes(seed)) for seed in (0, 10))
    bench.worker().work(1)
    bench.lose_redis()
    bench.recover()
    assert bench.jobs.redis.zrange("riffarm:jobs:expiring", 0, -1) == [waiting]
    assert bench.read(begun)["progress"]["frames_done"] > 0


def test_recovery_harms_no_job_that_is_there(bench: Bench) -> None:
    """Twice, and beside a farm that works: nothing is touched, also by two at a time."""
    job_id = bench.submit()
    attempt = bench.worker().take()
    assert attempt
    bench.worker().render(attempt, [0, 1])
    with ThreadPoolExecutor(4) as pool:
        assert {(one.recovered, one.ended) for one in pool.map(lambda _: bench.recover(), range(4))} == {(0, 0)}
    assert bench.jobs.renew(attempt).is_held
    assert bench.jobs.read(job_id)["frames_done"] == "2"
    assert bench.jobs.restore(job_id, {"status": "queued"}, [], []) is None
    assert bench.jobs.read(job_id)["frames_done"] == "2"
    bench.lose_redis()
    with ThreadPoolExecutor(4) as pool:
        assert sum(one.recovered for one in pool.map(lambda _: bench.recover(), range(4))) == 1
    assert bench.jobs.read(job_id)["frames_done"] == "2"
    plan = bench.plan(job_id)
    (rendering,) = (one for one in bench.waiting() if one[0].startswith("render"))
    assert rendering == ("render.riffarm-mini", 1, plan.frames_total - 2, round(plan.audio_s, 3), plan.batches_total)


def test_a_conversion_comes_back(bench: Bench, tmp_path: Path) -> None:
    """It has no frames, and one delivery for all its work."""
    manifest = {
        "type": "convert",
        "created_ms": 1,
        "input": json.dumps({"type": "convert", "source": f"upl_{'a' * 64}"}),
        "sources": json.dumps({"model_revision": ""}),
        "labels": "{}",
        "frames_total": 0,
        "batches_total": 0,
        "chunks_total": 0,
        "audio_s": 1.0,
        "tenant": "default",
        "priority": "normal",
        "window": 8,
        "ready:sound": "deliver",
        "delivering": 1,
    }
    job_id = new_stamp().job_id
    bench.objects.put(job_manifest_key(job_id), json.dumps({"id": job_id, **manifest}).encode())
    assert bench.recover().recovered == 1
    attempt = bench.worker().take("sound")
    assert attempt
    assert attempt.item == "deliver"


def test_what_nobody_owns_is_removed_and_what_is_strange_is_left(bench: Bench) -> None:
    """A folder without a manifest is removed, unless its job lives; one that cannot be read is kept."""
    orphan, broken, job_id = new_stamp().job_id, new_stamp().job_id, bench.submit()
    bench.objects.put(f"{job_prefix(orphan)}chunks/000-00000.wav", b"")
    bench.objects.put(job_manifest_key(broken), b"{")
    bench.objects.put("jobs/notes/readme.txt", b"")
    bench.lose_redis()
    found = bench.recover()
    assert (found.recovered, found.orphans, found.unreadable) == (1, 1, 1)
    assert [*bench.objects.keys(job_prefix(orphan))] == []
    assert bench.objects.exists("jobs/notes/readme.txt")
    assert bench.objects.exists(job_manifest_key(broken))
    bench.objects.delete(job_manifest_key(job_id))
    bench.objects.put(f"{job_prefix(job_id)}outputs/x.flac", b"")
    assert bench.recover().orphans == 0


def test_a_job_deleted_while_it_is_read_does_not_come_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its manifest is gone when all is said: so it is not to be."""
    job_id = bench.submit()
    bench.lose_redis()
    restore = bench.jobs.restore

    def restore_late(*arguments: Any) -> list[str] | None:
        bench.objects.delete(job_manifest_key(job_id))
        return restore(*arguments)

    monkeypatch.setattr(bench.jobs, "restore", restore_late)
    assert bench.recover().recovered == 0
    assert bench.jobs.status(job_id) is None


def test_a_joint_that_is_missing_has_a_batch_that_paints_it(bench: Bench) -> None:
    """Of two batches whose frames are all there the later one is not done; else the one that misses a frame."""
    plan = bench.plan(bench.submit())
    assert plan.frames_total > plan.base_frames
    every = {*range(plan.frames_total)}
    assert complete_batches(plan, every) == [*range(plan.batches_total)]
    between = plan.base_frames + plan.batch_size - 1
    assert plan.batches_of_frame(between) == {0, 1}
    assert complete_batches(plan, every - {between}) == [0, *range(2, plan.batches_total)]
    assert complete_batches(plan, every - {between, 0}) == [*range(1, plan.batches_total)]
    assert complete_batches(plan, set()) == []


def test_a_sweeper_recovers_by_itself_when_redis_has_lost_its_data_or_was_started_anew(
    bench: Bench, valkey: Valkey
) -> None:
    """And does so once: then storage is looked through only every hour."""
    storage_pass = StoragePass(bench.settings, bench.jobs, bench.objects, bench.dispatcher)
    sweep = Sweep(bench.settings, bench.jobs, bench.objects, bench.dispatcher, storage_pass)

    def is_recovered() -> bool:
        sweep.run()
        storage_pass.wait()
        return bool(sweep.run())

    is_recovered()
    job_id = bench.submit()
    bench.lose_redis()
    assert is_recovered()
    assert bench.jobs.status(job_id) == "queued"
    farm = FarmState(bench.jobs.redis)
    assert farm.sweep_report()["totals"]["recovered"] == 1
    bench.jobs.redis.delete(job_key(job_id))
    assert is_recovered()
    assert bench.jobs.status(job_id) is None
    marker = json.loads(str(bench.jobs.redis.get("riffarm:marker")))
    for stale in ({"server": "another"}, {"at_s": marker["at_s"] - 3_601}):
        bench.jobs.redis.set("riffarm:marker", json.dumps(marker | stale))
        assert is_recovered()
        assert bench.jobs.status(job_id) == "queued"
        bench.jobs.redis.delete(job_key(job_id))


def test_a_recovery_during_which_data_is_lost_again_is_made_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came back before the second loss is not taken to be there."""
    ids = [bench.submit(keyframes=keyframes(10 * index)) for index in range(3)]
    storage_pass = StoragePass(bench.settings, bench.jobs, bench.objects, bench.dispatcher)
    restore, losses = bench.jobs.restore, iter([True])

    def restore_and_lose(*arguments: Any) -> list[str] | None:
        queues = restore(*arguments)
        if next(losses, False):
            bench.lose_redis()
        return queues

    monkeypatch.setattr(bench.jobs, "restore", restore_and_lose)
    bench.lose_redis()
    storage_pass.run()
    assert FarmState(bench.jobs.redis).storage_pass_age_s() is None
    storage_pass.run()
    assert FarmState(bench.jobs.redis).storage_pass_age_s() is not None
    assert {bench.jobs.status(one) for one in ids} == {"queued"}


def test_the_news_of_an_end_that_was_lost_with_the_queue_is_told_again(bench: Bench) -> None:
    """Only of what ended lately: the rest was told long ago."""
    lately, long_ago = (bench.submit(keyframes=keyframes(seed)) for seed in (0, 10))
    for one in (lately, long_ago):
        bench.post(one, "cancel")
    key = f"{job_prefix(long_ago)}result.json"
    result = json.loads(bench.objects.get(key))
    bench.objects.put(key, json.dumps(result | {"finished_ms": int(result["finished_ms"]) - 3_600_000}).encode())
    bench.lose_redis()
    bench.recover()
    assert bench.jobs.redis.smembers("riffarm:jobs:ended") == {lately}


def test_the_command_tells_what_it_did(bench: Bench) -> None:
    """In words or as JSON, its log apart from them; a storage that is none is refused in a sentence."""
    ended = bench.submit()
    bench.post(ended, "cancel")
    bench.submit()
    bench.lose_redis()

    def answer(*options: str, **changes: str) -> subprocess.CompletedProcess[str]:
        variables = {"RIFFARM_REDIS_URL": bench.settings.redis_url, "RIFFARM_STORAGE_URL": bench.settings.storage_url}
        command = [sys.executable, "-c", "from workers.cli import commands; commands()", "recover", *options]
        environment = os.environ | variables | {"RIFFARM_SECRET": SECRET} | changes
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    first = answer("--json")
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert told.pop("took_s") < 30
    assert told == {"recovered": 1, "ended": 1, "orphans": 0, "unreadable": 0}
    assert answer().stdout.startswith("0 unfinished and 0 ended jobs are back, 0 orphans removed, 0 unreadable, in ")
    refused = answer(RIFFARM_STORAGE_URL="ftp://x")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "neither file:DIR nor s3://bucket/prefix" in refused.stderr


def test_recovery_of_a_long_job_is_quick(bench: Bench) -> None:
    """10 hours, thousands of frames, every second one there: seconds, and few bytes in Redis."""
    job_id = bench.submit(duration_s=36_000, joins="blend", keyframes=keyframes(1))
    plan = bench.plan(job_id)
    for number in range(0, plan.frames_total, 2):
        path = bench.objects.path(frame_key(frame_hash(plan.frame(number))))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    bench.lose_redis()
    found = bench.recover()
    print(f"{plan.frames_total} frames recovered in {found.took_s} s")
    assert found.took_s < 20
    assert bench.jobs.read(job_id)["frames_done"] == str(-(-plan.frames_total // 2))
    assert int(bench.jobs.redis.memory_usage(job_key(job_id, ":frames")) or 0) < 150 * plan.frames_total
    wait_until(lambda: bench.worker().take() is not None, "there is work")
