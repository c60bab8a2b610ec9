"""Couriers that are killed while they post, again and again: every end of a job is told all the same."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from tests.conftest import WEBHOOK_SECRET, wait_until
from tests.faults.mix import Request, clip
from tests.faults.rig import Farm
from tests.integration.receivers import Call, Receiver, receiving

KILLS: Final = 4
JOBS_A_KILL: Final = 10
EVENTS: Final = ("job.started", "job.succeeded")
SEED: Final = 6


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Takes what it is sent, a fifth of a second after it came."""
    with receiving() as server:
        yield server


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    """A farm with two couriers."""
    loopback = {"RIFFARM_WEBHOOK_SECRET": WEBHOOK_SECRET, "RIFFARM_WEBHOOK_ALLOW_LOOPBACK": "true"}
    with Farm(tmp_path / "farm", couriers=2, frame_s=0.0, environment=loopback) as farm:
        yield farm


class Couriers:
    """The couriers of a farm by the names that their leases bear: new ones with every start."""

    def __init__(self, farm: Farm) -> None:
        self._farm = farm
        self._names: dict[str, str] = {}
        for courier in farm.couriers:
            farm[courier].end()
        farm.redis.delete("riffarm:couriers")
        for courier in farm.couriers:
            self.start(courier)

    def start(self, courier: str) -> None:
        """Start one, and wait until it looks for deliveries."""
        before = self._known()
        self._farm[courier].start()
        wait_until(lambda: self._known() > before, f"{courier} is at work")
        (self._names[courier],) = self._known() - before

    def held(self, courier: str) -> list[str]:
        """The deliveries that it is at."""
        held = []
        for key in self._farm.redis.scan_iter("riffarm:delivery:*"):
            token = self._farm.redis.hget(key, "token")
            if token and str(token).startswith(f"{self._names[courier]} "):
                held.append(str(key).removeprefix("riffarm:delivery:"))
        return held

    def kill(self, courier: str) -> int:
        """Kill one and have its leases run out now instead of in half a minute; how many it had."""
        self._farm[courier].kill()
        held = self.held(courier)
        for one in held:
            receiver = self._farm.redis.hget(f"riffarm:delivery:{one}", "receiver")
            self._farm.redis.zadd(f"riffarm:receiver:{receiver}:leased", {one: 1}, xx=True)
            self._farm.redis.zadd("riffarm:receivers", {str(receiver): 1})
        return len(held)

    def _known(self) -> set[str]:
        return set(cast("list[str]", self._farm.redis.zrange("riffarm:couriers", 0, -1)))


def test_couriers_that_are_killed_as_they_post_lose_no_news(farm: Farm, receiver: Receiver) -> None:
    """The end of every job arrives, under one id however often; what is sent once arrives once or is noted as lost."""
    draw, couriers, cut_off = random.Random(SEED), Couriers(farm), 0
    webhook = {"url": f"{receiver.url}/slow", "events": [*EVENTS]}
    for kill in range(KILLS):
        requests = [
            clip("same", 1, webhook=webhook) | {"labels": {"name": f"{kill}-{one}"}} for one in range(JOBS_A_KILL)
        ]
        jobs = [item.job for item in farm.client.submit_batch(requests).data if item.job]
        farm.accepted |= {job.id: request for job, request in zip(jobs, requests, strict=True)}
        victim = draw.choice(farm.couriers)
        wait_until(lambda victim=victim: bool(couriers.held(victim)), f"{victim} is at a delivery")  # type: ignore[misc]
        farm.wait_s(draw.uniform(0.0, 0.3))
        cut_off += couriers.kill(victim)
        couriers.start(victim)
    farm.wait_for_end()
    wait_until(lambda: farm.redis.hget("riffarm:deliveries", "pending") == "0", "all is posted")
    assert cut_off >= KILLS / 2
    told = _told(receiver.calls)
    assert {job_id for job_id, event in told if event == "job.succeeded"} == set(farm.accepted)
    assert {len(set(ids)) for ids in told.values()} == {1}
    assert sum(len(ids) - 1 for ids in told.values()) <= cut_off
    for job_id in farm.accepted:
        states = {one.event: one.state for one in farm.client.deliveries(job_id)}
        assert states["job.succeeded"] == "delivered"
        is_told = len(told.get((job_id, "job.started"), ()))
        assert is_told == 1 or (is_told == 0 and states["job.started"] == "failed"), states
    print(f"{KILLS} kills, {cut_off} posts cut off, {len(receiver.calls)} posts for {len(told)} events")


def _job(name: str, webhook: dict[str, Any]) -> Request:
    """One whose frame and sound cost next to nothing."""
    return clip("same", 1, duration_s=0.5, quality="fast", webhook=webhook) | {"labels": {"name": name}}


def _told(calls: list[Call]) -> dict[tuple[str, str], list[str]]:
    """The ids of the posts of each event of each job; every one of them rightly signed."""
    told = defaultdict(list)
    for call in calls:
        Verifier(WEBHOOK_SECRET).verify(call.body, call.headers)
        body = json.loads(call.body)
        told[body["data"]["id"], body["type"]].append(call.headers["webhook-id"])
    return told
