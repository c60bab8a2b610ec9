"""What a sweep finds and mends, over a real Valkey and a real folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from shared.deliveries import Deliveries
from shared.dispatch import Dispatcher, celery_app
from shared.farm_rates import FarmRates
from shared.farm_state import FarmState
from shared.job_moves import job_key
from shared.job_store import JobStore
from shared.object_store import LocalDiskStore, frame_key, job_prefix, job_result_key, upload_key
from shared.settings import Settings
from tests.conftest import SECRET, wait_until
from tests.fake_worker import FakeWorker
from workers.storage_pass import StoragePass
from workers.sweep import Sweep

RENDER = "render.riffarm-mini"
NOTHING = dict.fromkeys(
    ("recovered", "removed", "given_back", "mended", "expired", "canceled", "announced", "stuck", "tickets"), 0
)


class Bench:
    """A farm without processes: its stores, a sweep and a worker that the test moves."""

    def __init__(self, settings: Settings, gateway: TestClient) -> None:
        self.settings = settings
        self.jobs = JobStore(settings.redis_url, settings.lease_s)
        self.redis = self.jobs.redis
        self.farm = FarmState(self.redis)
        self.objects = LocalDiskStore(Path(settings.storage_url.removeprefix("file:")))
        self.worker = self.another_worker("w1")
        self.sweep = self.another_sweep()
        self._gateway = gateway

    def another_worker(self, name: str) -> FakeWorker:
        return FakeWorker(self.settings, self.jobs, self.objects, name)

    def another_sweep(self, **changes: object) -> Sweep:
        settings = self.settings.model_copy(update=changes)
        dispatcher = Dispatcher(celery_app(settings))
        self.storage_pass = StoragePass(settings, self.jobs, self.objects, dispatcher)
        return Sweep(settings, self.jobs, self.objects, dispatcher, self.storage_pass)

    def submit(self, **fields: object) -> str:
        """Submit a clip of two batches, or what is said instead; its id."""
        body = {"type": "clip", "prompt": "a slow piano", "seed": 1, "duration_s": 30} | fields
        answer = self._gateway.post("/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def cancel(self, job_id: str) -> None:
        self._gateway.post(f"/v1/jobs/{job_id}/cancel")

    def swept(self) -> dict[str, int]:
        """What a sweep did, beside what is always so in a farm without workers."""
        counts = self.sweep.run()
        self.storage_pass.wait()
        assert counts is not None
        return counts

    def status(self, job_id: str) -> str | None:
        return self.jobs.status(job_id)

    def run_out(self, job_id: str, item: str) -> None:
        """Have a lease run out."""
        assert self.redis.zadd("riffarm:leases", {f"{job_id} {item}": 1}, xx=True, ch=True)


@pytest.fixture
def bench(settings: Settings, gateway: TestClient) -> Iterator[Bench]:
    """A bench on which one sweep was made: the next one does not follow a pause."""
    made = Bench(settings, gateway)
    made.swept()
    yield made
    made.redis.close()


def test_a_sweep_over_a_farm_that_is_well_does_nothing(bench: Bench) -> None:
    """Nothing is given back, mended or told anew; the report says so, and when."""
    bench.submit()
    bench.worker.take()
    assert bench.swept() == NOTHING
    report = bench.farm.sweep_report()
    assert abs(report["at"] - time.time()) < 5
    assert report["took_s"] < 2
    assert report["stuck_jobs"] == []


def test_a_lost_workers_item_is_given_back(bench: Bench) -> None:
    """Its lease ran out: another worker may take the item, and the late one is refused; the report adds up."""
    job_id = bench.submit()
    attempt = bench.worker.take(RENDER)
    assert attempt
    bench.run_out(job_id, attempt.item)
    assert bench.swept() == NOTHING | {"given_back": 1}
    again = bench.another_worker("w2").take(RENDER)
    assert again
    assert (again.item, again.starts) == (attempt.item, 2)
    assert not bench.jobs.renew(attempt).is_held
    assert "its worker was lost (w1)" in str(bench.jobs.events_after(job_id, "0", 100))
    bench.swept()
    assert bench.farm.sweep_report()["given_back"] == 0
    assert bench.farm.sweep_report()["totals"]["given_back"] == 1


def test_a_living_workers_item_is_not_given_back(bench: Bench) -> None:
    """A lease that was renewed holds, sweep after sweep."""
    bench.submit()
    attempt = bench.worker.take(RENDER)
    assert attempt
    for _ in range(3):
        assert bench.jobs.renew(attempt).is_held
        assert bench.swept()["given_back"] == 0


def test_an_item_that_loses_three_workers_fails_its_job_by_name(bench: Bench) -> None:
    """The reason names the frames and the last worker, and the job has ended in storage too."""
    job_id = bench.submit()
    for name in ("w1", "w2", "w3"):
        attempt = bench.another_worker(name).take(RENDER)
        assert attempt
        assert attempt.item == "b0"
        bench.run_out(job_id, "b0")
        bench.swept()
    error = json.loads(bench.jobs.read(job_id)["error"])
    assert error["code"] == "poison"
    assert error["message"] == ("rendering frames 0 to 3 failed 3 times; the last time: its worker was lost (w3)")
    assert json.loads(bench.objects.get(job_result_key(job_id)))["status"] == "failed"


def test_after_a_pause_everyone_has_one_lease_more(bench: Bench) -> None:
    """Valkey was away for a while, so nobody could renew: nothing is given back until a whole lease has passed."""
    job_id = bench.submit()
    attempt = bench.worker.take(RENDER)
    assert attempt
    bench.run_out(job_id, attempt.item)
    bench.redis.set("riffarm:swept", bench.farm.now_ms() - 3_600_000)
    assert bench.swept()["given_back"] == 0
    assert bench.redis.zscore("riffarm:leases", f"{job_id} {attempt.item}") > bench.farm.now_ms() + 25_000
    bench.run_out(job_id, attempt.item)
    assert bench.swept()["given_back"] == 1


def test_a_lease_from_a_clock_that_was_ahead_runs_out_in_time(bench: Bench) -> None:
    """No lease lasts longer than one from now."""
    job_id = bench.submit()
    attempt = bench.worker.take(RENDER)
    assert attempt
    bench.redis.zadd("riffarm:leases", {f"{job_id} {attempt.item}": bench.farm.now_ms() + 10**9})
    bench.swept()
    assert bench.redis.zscore("riffarm:leases", f"{job_id} {attempt.item}") <= bench.farm.now_ms() + 30_000


@pytest.mark.parametrize("items_done", [0, 2, 3])
def test_an_item_that_is_nowhere_is_found(bench: Bench, items_done: int) -> None:
    """A batch, a chunk, a delivery that is neither ready nor leased nor done: it is ready again, and the job ends."""
    job_id = bench.submit()
    assert bench.worker.work(items_done) == items_done
    attempt = bench.worker.take()
    assert attempt
    bench.redis.hdel(job_key(job_id, ":leases"), attempt.item)
    bench.redis.zrem("riffarm:leases", f"{job_id} {attempt.item}")
    assert bench.swept()["mended"] == 1
    bench.worker.work()
    assert bench.status(job_id) == "succeeded"


def test_a_job_in_which_nothing_goes_on_moves_on(bench: Bench) -> None:
    """Who finished the last batch died before the sound was asked for."""
    job_id = bench.submit()
    bench.worker.work(2)
    bench.redis.hset(job_key(job_id), mapping={"ready:sound": "", "next_chunk": 0})
    assert bench.worker.take() is None
    assert bench.swept()["mended"] == 1
    bench.worker.work()
    assert bench.status(job_id) == "succeeded"


def test_a_job_that_is_in_no_queue_is_listed_again(bench: Bench) -> None:
    """Its place among those with work was lost."""
    job_id = bench.submit()
    bench.redis.delete(*bench.redis.keys("riffarm:queue:*"))
    assert bench.worker.take() is None
    bench.swept()
    bench.worker.work()
    assert bench.status(job_id) == "succeeded"


def test_a_lost_ticket_is_sent_again(bench: Bench) -> None:
    """One message, and no second while the first waits."""
    bench.submit()
    bench.redis.delete(RENDER, "riffarm:jobs:active")
    assert bench.swept()["tickets"] == 1
    assert bench.redis.llen(RENDER) == 1
    assert bench.swept()["tickets"] == 0


def test_a_job_that_was_not_begun_in_time_fails_with_the_reason(bench: Bench) -> None:
    """One that was begun, or has time left, goes on."""
    late, begun, early = (bench.submit(seed=seed, expires_in_s=60) for seed in (1, 2, 3))
    for job_id in (late, begun):
        bench.redis.hset(job_key(job_id), "expires_ms", 1)
        bench.redis.zadd("riffarm:jobs:expiring", {job_id: 1})
    bench.redis.hset(job_key(begun), "started_ms", 1)
    assert bench.swept()["expired"] == 1
    error = json.loads(bench.jobs.read(late)["error"])
    assert (error["code"], error["retryable"]) == ("expired", True)
    assert json.loads(bench.objects.get(job_result_key(late)))["status"] == "failed"
    assert (bench.status(begun), bench.status(early)) == ("queued", "queued")


def test_a_job_that_has_not_ended_in_time_is_canceled(bench: Bench) -> None:
    """Whether it was begun or not; one that has time left goes on, and one that is retried has no such limit."""
    late, begun, early = (bench.submit(seed=seed, cancel_after_s=60) for seed in (1, 2, 3))
    for job_id in (late, begun):
        bench.redis.zadd("riffarm:jobs:deadlines", {job_id: 1})
    bench.redis.hset(job_key(begun), "started_ms", 1)
    assert bench.swept()["canceled"] == 2
    assert json.loads(bench.objects.get(job_result_key(late)))["status"] == "canceled"
    assert [bench.status(one) for one in (late, begun, early)] == ["canceled", "canceled", "queued"]
    assert bench.redis.zrange("riffarm:jobs:deadlines", 0, -1) == [early]
    bench.jobs.retry(late)
    assert bench.redis.zrange("riffarm:jobs:deadlines", 0, -1) == [early]


def test_an_end_without_its_news_is_told(bench: Bench) -> None:
    """Whoever ended the job died before the result was in storage and the webhook queued; nothing is told twice."""
    job_id = bench.submit(webhook={"url": "https://example.com/"})
    bench.jobs.finish(job_id, "canceled")
    assert bench.swept()["announced"] == 0
    bench.redis.hset(job_key(job_id), "finished_ms", round(bench.farm.now_ms() - 60_000))
    assert bench.swept()["announced"] == 1
    assert json.loads(bench.objects.get(job_result_key(job_id)))["status"] == "canceled"
    assert [one.event for one in Deliveries(bench.redis).of_job(job_id)] == ["job.canceled"]
    assert bench.swept()["announced"] == 0


def test_what_a_late_worker_stored_of_a_deleted_job_is_removed(bench: Bench) -> None:
    """Not at once: the worker may still be at it."""
    job_id = bench.submit()
    bench.cancel(job_id)
    bench.jobs.forget(job_id)
    bench.objects.put(f"{job_prefix(job_id)}outputs/late.flac", b"")
    assert bench.swept()["removed"] == 0
    bench.redis.zadd("riffarm:jobs:deleted", {job_id: bench.farm.now_ms() - 61_000})
    assert bench.swept()["removed"] == 1
    assert [*bench.objects.keys(job_prefix(job_id))] == []
    assert bench.redis.zcard("riffarm:jobs:deleted") == 0


def live(bench: Bench, *queues: str, name: str = "w1") -> None:
    bench.farm.beat(f"{name}/1", {"name": name, "queues": [*queues], "models": ["riffarm-mini"]})


def test_a_silent_job_is_reported_with_its_reason_once(bench: Bench) -> None:
    """Who holds what of it is named; the client reads it too; news ends it."""
    live(bench, "render", "sound", "deliver")
    job_id = bench.submit()
    attempt = bench.worker.take(RENDER)
    assert attempt
    assert bench.swept()["stuck"] == 0
    bench.sweep = bench.another_sweep(stuck_after_s=0.001)
    for _ in range(2):
        wait_until(lambda: bench.swept()["stuck"] == 1, "the job counts as silent")
    reason = "Nothing was heard of the job for 0.001 s; under way: b0 on w1."
    assert bench.farm.sweep_report()["stuck_jobs"] == [{"job": job_id, "reason": reason}]
    assert json.loads(bench.jobs.read(job_id)["warnings"]) == [reason]
    bench.sweep = bench.another_sweep(stuck_after_s=60)
    assert bench.swept()["stuck"] == 0


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_job_that_no_worker_serves_is_reported(bench: Bench, is_begun: bool) -> None:
    """Queued or running; a worker that is benched or leaving does not count, one that comes ends it."""
    job_id = bench.submit()
    if is_begun:
        bench.worker.do(bench.worker.take(RENDER))  # type: ignore[arg-type]
    live(bench, "sound", "deliver")
    live(bench, "render", name="w2")
    bench.farm.drain("w2/1")
    bench.sweep = bench.another_sweep(stuck_after_s=0.001)
    wait_until(lambda: bench.swept()["stuck"] == 1, "the job counts as stuck")
    (told,) = bench.farm.sweep_report()["stuck_jobs"]
    assert told == {"job": job_id, "reason": f"No worker took work from {RENDER}; the job waits for one."}
    live(bench, "render", name="w3")
    expected = 1 if is_begun else 0
    assert bench.another_sweep(stuck_after_s=0.001).run()["stuck"] == expected  # type: ignore[index]


def test_a_sweep_keeps_what_rates_are_made_from(bench: Bench) -> None:
    """Once in a while: the next sweep a moment later adds nothing."""
    for _ in range(2):
        bench.swept()
    (rate, *_) = FarmRates(bench.redis).rates()
    assert (bench.redis.llen("riffarm:history"), rate.frames_per_minute) == (1, 0)


def test_of_two_sweepers_one_sweeps(bench: Bench) -> None:
    """The other finds the turn taken and does nothing; afterwards it is free, as it is after a sweeper's death."""
    fence = bench.farm.begin_sweep(60)
    assert fence
    assert bench.another_sweep().run() is None
    bench.farm.end_sweep(fence)
    assert bench.swept() is not None
    assert bench.farm.begin_sweep(0.001)
    wait_until(lambda: bench.another_sweep().run() is not None, "a dead sweeper's turn ends")


def test_a_sweeper_that_lost_its_turn_changes_nothing(bench: Bench) -> None:
    """Whatever it still wants to do under its old fence is refused."""
    job_id = bench.submit()
    attempt = bench.worker.take(RENDER)
    assert attempt
    late = bench.farm.begin_sweep(60)
    assert late
    bench.farm.end_sweep(late)
    assert bench.farm.begin_sweep(60) not in (None, late)
    bench.run_out(job_id, "b0")
    bench.redis.hset(job_key(job_id), "next_batch", 2)
    assert bench.jobs.overdue(late, 15) == []
    assert bench.jobs.give_back_overdue(job_id, "b0", "lost", late) is None
    assert bench.jobs.mend(job_id, late) is None
    assert not bench.farm.keep_sweep(late, 60)
    bench.farm.end_sweep(late)
    assert bench.farm.begin_sweep(60) is None


def test_one_job_that_makes_trouble_stops_no_other(bench: Bench) -> None:
    """A job whose plan cannot be read is passed over."""
    broken, job_id = bench.submit(seed=1), bench.submit(seed=2)
    for _ in range(4):
        bench.worker.do(bench.worker.take(RENDER))  # type: ignore[arg-type]
    for one in (broken, job_id):
        bench.redis.hset(job_key(one), mapping={"ready:sound": "", "next_chunk": 0})
    bench.redis.hset(job_key(broken), "input", "{")
    assert bench.swept()["mended"] == 1
    bench.worker.work()
    assert bench.status(job_id) == "succeeded"


def test_what_is_kept_for_days_goes_after_that(bench: Bench) -> None:
    """Ended jobs, frames and uploads that are old; what is new, lives or is needed stays."""
    ended, active = bench.submit(), bench.submit(seed=2)
    sha256 = [digit * 64 for digit in "abc"]
    for one in sha256:
        bench.objects.put(upload_key(one), b"")
        bench.objects.put(frame_key(one), b"")
    bench.redis.hset(job_key(active), "sources", json.dumps({"model_revision": "", "source_sha256": sha256[1]}))
    bench.cancel(ended)
    bench.redis.hset(job_key(ended), "finished_ms", round(bench.farm.now_ms() - 2 * 86_400_000))
    for key in (upload_key(sha256[0]), upload_key(sha256[1]), frame_key(sha256[0])):
        os.utime(bench.objects.path(key), (0, time.time() - 2 * 86_400))
    days = dict.fromkeys(("keep_results_days", "keep_frames_days", "keep_uploads_days"), 1.0)
    bench.another_sweep()
    bench.storage_pass.run()
    assert bench.status(ended) == "canceled"
    bench.another_sweep(**days)
    bench.storage_pass.run()
    assert bench.storage_pass.counts()["removed"] == 2
    assert [*bench.objects.keys("uploads/")] == [upload_key(one) for one in sha256[1:]]
    assert [*bench.objects.keys("frames/")] == [frame_key(one) for one in sha256[1:]]


def a_process(settings: Settings, log: Path) -> subprocess.Popen[bytes]:
    variables = {"RIFFARM_REDIS_URL": settings.redis_url, "RIFFARM_STORAGE_URL": settings.storage_url}
    variables |= {"RIFFARM_SECRET": SECRET, "RIFFARM_LEASE_S": "2"}
    command = [sys.executable, "-m", "workers.sweeper"]
    with log.open("wb") as output:
        return subprocess.Popen(command, env=os.environ | variables, stderr=output, stdout=output)


def test_two_sweepers_sweep_by_the_clock_until_they_are_told_to_end(
    bench: Bench, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Processes as they are run: a lost item is given back and a lost ticket sent; one may be killed; SIGTERM ends the
    other at once."""
    processes = [a_process(bench.settings, tmp_path / f"{index}.log") for index in range(2)]
    request.addfinalizer(lambda: [process.kill() for process in processes])
    job_id = bench.submit()

    def given_back() -> int:
        return int(bench.farm.sweep_report().get("totals", {}).get("given_back", 0))

    for process in (None, processes[0]):
        if process:
            process.kill()
        attempt = bench.worker.take(RENDER)
        assert attempt
        before, lost = given_back(), f"{job_id} {attempt.item}"
        assert bench.redis.zadd("riffarm:leases", {lost: 1}, xx=True, ch=True)
        wait_until(lambda before=before: given_back() > before, "the item is given back", 30)  # type: ignore[misc]
    processes[1].send_signal(signal.SIGTERM)
    began_s = time.monotonic()
    assert processes[1].wait(10) == 0
    assert time.monotonic() - began_s < 1
    assert "Traceback" not in (tmp_path / "1.log").read_text()
    assert bench.redis.llen("sweep") < 3


def test_the_sweeper_loads_no_model_code() -> None:
    """It is a small process beside the others."""
    program = "import sys, workers.sweeper; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
