"""A gateway that is killed amid many submits: what it answered is there, what is sent again is there once."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Final, NamedTuple
from uuid import uuid4

import httpx

from shared.manifests import ids_of_manifests
from tests.conftest import wait_until
from tests.faults.checks import check, sounds_of
from tests.faults.mix import Request, clip
from tests.faults.rig import Farm

KILLS: Final = 3
SUBMITS_A_KILL: Final = 24
BATCH: Final = 3
CONNECTIONS: Final = 16
SEED: Final = 9


class Submit(NamedTuple):
    """One request to the gateway: a job, or a batch of them, with an idempotency key or without."""

    requests: list[Request]
    key: str | None

    @property
    def names(self) -> list[str]:
        """The names of its jobs."""
        return [one["labels"]["name"] for one in self.requests]


class Gateway:
    """What came of the submits to a gateway that dies now and then."""

    def __init__(self, farm: Farm) -> None:
        self._farm = farm
        self._http = httpx.Client(base_url=farm.client.url, timeout=20, trust_env=False)
        self._is_due = threading.Semaphore(0)
        self.answered: dict[str, str] = {}
        """The ids of all jobs whose client has heard of them, by their names."""
        self.unanswered: list[Submit] = []

    def close(self) -> None:
        self._http.close()

    def send(self, one: Submit) -> None:
        """Submit it, and note what came of it."""
        headers = {"Idempotency-Key": one.key} if one.key else {}
        path, body = ("/v1/jobs", one.requests[0]) if len(one.requests) == 1 else ("/v1/jobs/batch", one.requests)
        try:
            answer = self._http.post(path, json=body, headers=headers)
        except httpx.TransportError:
            self.unanswered.append(one)
            return
        answer.raise_for_status()
        told = answer.json()
        jobs = [item["job"] for item in told["data"]] if "data" in told else [told]
        self.answered |= {job["labels"]["name"]: job["id"] for job in jobs}
        self._is_due.release()

    def kill_amid(self, submits: list[Submit], answers: int) -> None:
        """Send all these at once, kill the gateway after so many answers, start it again."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for one in submits:
                pool.submit(self.send, one)
            for _ in range(answers):
                assert self._is_due.acquire(timeout=20), "no answer"
            self._farm["gateway"].kill()
        while self._is_due.acquire(blocking=False):
            pass
        self._farm.start("gateway")
        wait_until(self._farm.client.is_farm, "the gateway is back")

    def free_keys(self) -> None:
        """Have the leases of keys whose gateway is dead run out now instead of in a minute."""
        for key in self._farm.redis.scan_iter("riffarm:idempotency:*"):
            if not self._farm.redis.hexists(key, "answer"):
                self._farm.redis.hset(key, "until_ms", 0)


def _job(name: str, run: str) -> Request:
    """One whose frame and sound cost next to nothing."""
    return clip("same", 1, duration_s=0.5, quality="fast") | {"labels": {"name": name, "run": run}}


def _submits(run: str) -> list[list[Submit]]:
    """For each kill: every third without a key, every seventh a batch. All of the same sound."""
    numbers = count()

    def made(index: int) -> Submit:
        names = [f"k{next(numbers)}" for _ in range(BATCH if index % 7 == 0 else 1)]
        requests = [_job(name, run) for name in names]
        return Submit(requests, None if index % 3 == 0 else f"{run} {names[0]}")

    return [[made(index) for index in range(SUBMITS_A_KILL)] for _ in range(KILLS)]


def test_a_gateway_that_is_killed_amid_submits_loses_none_and_doubles_none(farm: Farm) -> None:
    """Every job that was answered ends well; every unanswered one that is sent again under its key is there once."""
    # Of its own, as the farm lasts longer than this test.
    run = uuid4().hex
    (first,) = farm.submit(_job("first", run))
    farm.wait_for_end()
    sound = sounds_of(farm, [first])["first"]
    draw, rounds, gateway = random.Random(SEED), _submits(run), Gateway(farm)
    for submits in rounds:
        gateway.kill_amid(submits, draw.randrange(SUBMITS_A_KILL // 2))
    heard, again = dict(gateway.answered), [one for one in gateway.unanswered if one.key]
    alone = [name for one in gateway.unanswered if not one.key for name in one.names]
    assert heard
    assert again
    assert alone
    gateway.free_keys()
    for one in (*again, *(one for submits in rounds for one in submits if one.key and one.names[0] in heard)):
        gateway.send(one)
    # What had been answered is answered the same.
    assert heard.items() <= gateway.answered.items()
    by_name = {one["labels"]["name"]: one for submits in rounds for submit in submits for one in submit.requests}
    farm.accepted |= {job_id: by_name[name] for name, job_id in gateway.answered.items()}
    check(farm, dict.fromkeys(["first", *by_name], sound))
    found = {job.id: job for job in farm.client.jobs(**{"label.run": run, "limit": 200})}
    counts = Counter(job.labels["name"] for job in found.values())
    del counts["first"]
    assert set(counts) - set(alone) == set(gateway.answered)
    assert set(counts.values()) == {1}
    assert {name: job_id for name, job_id in gateway.answered.items() if job_id not in found} == {}
    assert {job.status for job in found.values()} == {"succeeded"}
    _check_manifests(farm)
    gateway.close()
    print(f"{KILLS} kills; of {len(by_name)} jobs {len(heard)} answered, {len(found) - len(heard)} more are there")


def _check_manifests(farm: Farm) -> None:
    """None without a job; and what a killed writer left goes with its day."""
    known = set(farm.redis.zrange("riffarm:jobs", 0, -1))  # type: ignore[arg-type]
    assert set(ids_of_manifests(farm.objects)) <= known
    farm.objects.remove_unfinished(time.time() + 1)
    assert [*(farm.folder / "storage").rglob(".writing-*")] == []
