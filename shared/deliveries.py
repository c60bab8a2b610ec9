"""Deliveries: a job's news on its way to the job's webhook, with a log of attempts. What moves, in Redis.

Every change is one atomic move (`shared/delivery_moves.lua`), so couriers may run side by side and be killed at any
time. Owns the keys below and what an attempt's outcome means for the next one. Leaves out posting (`workers.courier`).
Terminal events survive a loss of Redis: storage says of which the delivery is over (`workers.recovery`).

Keys, all under `riffarm:`
    delivery:{id}       hash: job, event, url, state, attempts (JSON), when it is due, the token of whoever posts it
    job:{id}:deliveries sorted set: a job's deliveries by time
    receivers           sorted set: "tenant host:port" by the time at which to look at it
    receiver:{name}:due, :leased   sorted sets: deliveries by when they are due, by when their leases run out
    receiver:{name}:well           there while the receiver takes what it is sent
    news                sorted set: "job event" that happened on the way, by when to make a delivery of it
    couriers            sorted set: couriers by when they last looked
    deliveries          hash: how many are pending, how many ended how
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, cast

import redis

from shared.contracts import Webhook, WebhookEvent
from shared.errors import NotFoundError
from shared.job_moves import PREFIX, job_key
from shared.redis_connection import reachable
from shared.webhook_urls import WebhookRules

DeliveryState = Literal["pending", "delivered", "failed", "gone"]
WAITS_S: Final = (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""How long each attempt waits after the one before."""
LONGEST_S: Final = float(sum(WAITS_S)) * 1.1
"""By then every delivery is over."""
_JITTER: Final = 0.1
_MAX_RETRY_AFTER_S: Final = 86_400.0
RETRIED: Final[frozenset[WebhookEvent]] = frozenset({"job.succeeded", "job.failed", "job.canceled"})
_ALIVE_WITHIN_MS: Final = 15_000
_MOVES_FILE: Final = Path(__file__).with_name("delivery_moves.lua")
_MOVED: Final = (
    *("status", "stage", "queue_position", "started_ms", "finished_ms", "error", "outputs", "runs", "warnings"),
    *("frames_done", "frames_reused", "chunks_done", "render_ms", "sound_ms", "encode_ms", "gpu_ms"),
)
"""Of a job's fields those that a retry changes: news of an end tells of them as they were then."""


class Attempt(NamedTuple):
    """One go at posting a delivery: when (ms since 1970), how long it took, and the receiver's status or the error."""

    at_ms: int
    ms: int
    status: int | None
    error: str | None


class Delivery(NamedTuple):
    """A delivery as it is recorded.

    fields: of a job that was deleted, all that was known of it, else empty; moved: of a job's end, what a retry
    changes; due_ms: when it is posted next (ms since 1970), None unless it is pending.
    """

    id: str
    job_id: str
    tenant: str
    event: WebhookEvent
    url: str
    at_ms: int
    state: DeliveryState
    tries: int
    attempts: list[Attempt]
    due_ms: int | None
    fields: dict[str, str]
    moved: dict[str, str]

    def job_fields(self, now: Mapping[str, str]) -> dict[str, str]:
        """The fields of its job to tell of, given those it has now."""
        if not self.moved:
            return dict(now)
        return {name: value for name, value in now.items() if name not in _MOVED} | self.moved


class Outcome(NamedTuple):
    """What comes of an attempt: the delivery's state, and the wait before the next one while it is pending."""

    state: DeliveryState
    wait_s: float = 0.0


def outcome(event: WebhookEvent, tries: int, status: int | None, retry_after_s: float | None = None) -> Outcome:
    """What comes of an attempt that `tries` others went before; `status`: the receiver's, None without an answer.

    `retry_after_s`, the receiver's wish in seconds, only makes a wait longer, up to a day.
    """
    if status is not None and 200 <= status < 300:
        return Outcome("delivered")
    if status == 410:
        return Outcome("gone")
    if event not in RETRIED or tries + 1 >= len(WAITS_S):
        return Outcome("failed")
    wait_s = WAITS_S[tries + 1] * (1 + _JITTER * random.random())  # noqa: S311 — a pause, not a secret
    return Outcome("pending", max(wait_s, min(retry_after_s or 0.0, _MAX_RETRY_AFTER_S)))


def webhook_field(webhook: Webhook | None, rules: WebhookRules) -> dict[str, str]:
    """What a job's record says of its webhook. Raises ValueError for a URL that may not be called."""
    if webhook is None:
        return {}
    receiver = rules.receiver(webhook.url)
    return {"webhook": json.dumps({"url": webhook.url, "receiver": receiver.name, "events": webhook.events})}


@cache
def _moves() -> dict[str, str]:
    prelude, *parts = _MOVES_FILE.read_text(encoding="utf-8").split("\n--@ ")
    return {name: f"{prelude}\n{body}" for name, _, body in (part.partition("\n") for part in parts)}


class Deliveries:
    """Deliveries in Redis. Every method raises QueueUnavailableError when Redis does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._scripts = {name: client.register_script(script) for name, script in _moves().items()}

    def _move(self, name: str, *arguments: str | int) -> Any:
        with reachable():
            return self._scripts[name](args=arguments)

    # Both sides.

    def announce(self, fields: Mapping[str, str], event: WebhookEvent) -> None:
        """Have a job's end told to its webhook, if it asks for that; once, however often this is called."""
        moved = {name: fields[name] for name in _MOVED if name in fields}
        self._move("announce", fields["id"], event, int(fields["finished_ms"]), json.dumps(moved))

    def detach(self, fields: Mapping[str, str]) -> None:
        """End the deliveries of a job that is being deleted; only the news of its cancellation goes on."""
        self._move("detach", fields["id"], json.dumps(dict(fields)))

    # The gateway's.

    def of_job(self, job_id: str) -> list[Delivery]:
        """A job's deliveries, newest first: the last hundred, of progress the newest alone."""
        with reachable():
            ids = cast("list[str]", self._redis.zrevrange(job_key(job_id, ":deliveries"), 0, -1))
        return self._read_many(ids)

    def replay(self, job_id: str, delivery_id: str) -> Delivery:
        """Post a delivery again, at once and then by its schedule. Raises NotFoundError when the job has none such."""
        if not self._move("replay", delivery_id, job_id):
            raise NotFoundError(f"The job has no delivery {delivery_id[:80]}.")
        found = self.read(delivery_id)
        if found is None:
            raise NotFoundError(f"The job has no delivery {delivery_id[:80]}.")
        return found

    def has_courier(self, host: str = "") -> bool:
        """Whether a courier has looked within the last seconds; with `host`, one on that host."""
        with reachable():
            now_s, _ = self._redis.time()
            oldest_ms = 1_000 * now_s - _ALIVE_WITHIN_MS
            names = cast("list[str]", self._redis.zrangebyscore(f"{PREFIX}couriers", oldest_ms, "+inf"))
        return any(not host or name.rpartition("/")[0] == host for name in names)

    def counts(self) -> dict[str, int]:
        """How many are `pending`; since Redis was last empty, how many ended `delivered`, `failed` or `gone`, and
        `attempts_failed`."""
        with reachable():
            found = cast("dict[str, str]", self._redis.hgetall(f"{PREFIX}deliveries"))
        names = ("pending", "delivered", "failed", "gone", "attempts_failed")
        return {name: int(found.get(name, 0)) for name in names}

    # A courier's.

    def take(self, courier: str, most: int, lease_s: float) -> list[tuple[str, str]]:
        """Take up to `most` due deliveries under a lease: ids and tokens. Also says that the courier lives."""
        found = cast("list[str]", self._move("take", courier, most, round(1_000 * lease_s)))
        return list(zip(found[::2], found[1::2], strict=True))

    def read(self, delivery_id: str) -> Delivery | None:
        """A delivery; None when it is gone."""
        return next(iter(self._read_many([delivery_id])), None)

    def note(self, delivery_id: str, token: str, attempt: Attempt, outcome: Outcome) -> bool:
        """Record an attempt and what comes of it; False when the lease is gone, or the delivery."""
        told = json.dumps({name: value for name, value in attempt._asdict().items() if value is not None})
        is_well = int(outcome.state == "delivered")
        wait_ms = round(1_000 * outcome.wait_s)
        return bool(self._move("done", delivery_id, token, outcome.state, told, wait_ms, is_well))

    def give_back(self, delivery_id: str, token: str) -> None:
        """Have another courier post it, at once."""
        self._move("give_back", delivery_id, token)

    def drop(self, delivery_id: str, token: str) -> None:
        """Forget a delivery whose job is gone."""
        self._move("drop", delivery_id, token)

    def _read_many(self, ids: Sequence[str]) -> list[Delivery]:
        with reachable(), self._redis.pipeline(transaction=False) as pipe:
            for one in ids:
                pipe.hgetall(f"{PREFIX}delivery:{one}")
            records = cast("list[dict[str, str]]", pipe.execute())
        return [_delivery(record) for record in records if record]


def _delivery(record: dict[str, str]) -> Delivery:
    attempts = [
        Attempt(round(one["at_ms"]), round(one["ms"]), one.get("status"), one.get("error"))
        for one in json.loads(record["attempts"])
    ]
    return Delivery(
        id=record["id"],
        job_id=record["job"],
        tenant=record["tenant"],
        event=cast("WebhookEvent", record["event"]),
        url=record["url"],
        at_ms=round(float(record["at_ms"])),
        state=cast("DeliveryState", record["state"]),
        tries=int(record["tries"]),
        attempts=attempts,
        due_ms=round(float(record["due_ms"])) if "due_ms" in record else None,
        fields=json.loads(record.get("fields", "{}")),
        moved=json.loads(record["moved"] or "{}"),
    )
