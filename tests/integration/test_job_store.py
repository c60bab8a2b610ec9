"""The job store's atomic moves, over a real Valkey, one at a time (`test_job_states` has them in all orders)."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from shared.errors import LeaseLostError, NotFoundError, QueueUnavailableError
from shared.farm_state import FarmState
from shared.job_moves import Attempt
from shared.job_store import JobStore
from tests.integration.job_model import JobModel

EVENTS_KEPT = 500
EVENTS_TTL_S = 3_600
RENDERED = {"reused": False, "s": 1.25, "memory_mb": 900, "worker": "w1"}
PREVIEW = {"frame": 2, "step": 1, "steps": 9, "image": "data:,"}


def create(job_store: JobStore, batches: int = 2, **fields: Any) -> JobModel:
    job = JobModel(
        **{"id": "job_1", "window": 8, "tenant": "a", "priority": "normal", "created_ms": 1} | fields, batches=batches
    )
    assert job_store.create(job.id, job.fields)
    return job


def take(job_store: JobStore, queue: str = "render.m", worker: str = "w1") -> Attempt:
    attempt = job_store.take(queue, worker, f"{worker}/1").attempt
    assert attempt, f"nothing in {queue}"
    return attempt


def render(job_store: JobStore, job: JobModel, record: dict[str, object] = RENDERED) -> Attempt:
    """Have the next batch rendered."""
    attempt = take(job_store)
    job_store.record_frames(attempt, {attempt.number: record})
    done(job_store, job, attempt)
    return attempt


def done(job_store: JobStore, job: JobModel, attempt: Attempt) -> None:
    job_store.done(attempt, 100, "w1", attempt.next_chunk, job.needed(attempt.next_chunk))


def backlog(job_store: JobStore) -> dict[str, int]:
    """Items by queue, as counted: without what `FarmState.backlog` makes of less than none."""
    counted = cast("dict[str, str]", job_store.redis.hgetall("riffarm:backlog"))
    return {queue: int(items) for queue, items in counted.items()}


def kinds(job_store: JobStore) -> list[str]:
    return [event.kind for event in job_store.events_after("job_1", "0", 1_000)]


def test_a_job_goes_its_way_and_each_report_counts_once(job_store: JobStore) -> None:
    """Batches, then the chunk, then the delivery; a report that comes again is refused and changes nothing."""
    job = create(job_store)
    attempts = [render(job_store, job), render(job_store, job, {"reused": True}), take(job_store, "sound")]
    done(job_store, job, attempts[-1])
    for attempt in attempts:
        with pytest.raises(LeaseLostError):
            done(job_store, job, attempt)
    delivery = take(job_store, "deliver")
    assert [one.item for one in (*attempts, delivery)] == ["b0", "b1", "c0", "deliver"]
    assert job_store.finish("job_1", "succeeded", {"encode_ms": 7}, delivery)
    assert not job_store.finish("job_1", "succeeded", {}, delivery)
    fields = job_store.read("job_1")
    expected = {
        "status": "succeeded",
        "batches_done": "2",
        "chunks_done": "1",
        "frames_done": "2",
        "frames_reused": "1",
    }
    expected |= {"render_ms": "200", "sound_ms": "100", "encode_ms": "7"}
    assert {name: fields[name] for name in expected} == expected
    assert job_store.leases() == {}


def test_an_item_that_makes_progress_is_no_poison(job_store: JobStore) -> None:
    """Losses are counted until the item has a new frame to show; frames found ready do not count as one."""
    create(job_store)
    losses = []
    for number, is_reused in enumerate((True, True, False, True)):
        attempt = take(job_store)
        assert (attempt.item, attempt.starts) == ("b0", number + 1)
        job_store.record_frames(attempt, {number: {**RENDERED, "reused": is_reused}})
        returned = job_store.give_back(attempt, "w1", "it broke")
        assert returned
        losses.append(returned.losses)
    assert losses == [1, 2, 1, 2]


def test_a_job_that_is_retried_has_lost_nothing_yet(job_store: JobStore) -> None:
    """Else it would fail at its first loss."""
    create(job_store)
    for _ in range(2):
        job_store.give_back(take(job_store), "w1", "it broke")
    job_store.finish("job_1", "failed")
    job_store.retry("job_1")
    returned = job_store.give_back(take(job_store), "w1", "it broke")
    assert returned
    assert returned.losses == 1


def test_an_item_handed_back_without_a_reason_counts_nowhere(job_store: JobStore) -> None:
    """A worker that is stopped has done nothing wrong."""
    create(job_store)
    for _ in range(5):
        returned = job_store.give_back(take(job_store), "w1")
        assert returned == (0, ["render.m"])
    assert job_store.redis.exists("riffarm:blame") == 0


def test_every_change_of_state_tells_of_itself_once(job_store: JobStore) -> None:
    """Queued, running, a frame, the end: one event each, and none for a move made twice."""
    job = create(job_store, batches=1)
    attempt = take(job_store)
    for _ in range(2):
        job_store.record_frames(attempt, {3: RENDERED, 4: {"reused": True}, 0: {"reused": True}})
    done(job_store, job, attempt)
    done(job_store, job, take(job_store, "sound"))
    job_store.finish("job_1", "succeeded")
    job_store.finish("job_1", "failed")
    started = {"started_ms": int(job_store.read("job_1")["started_ms"])}
    events = job_store.events_after("job_1", "0", 100)
    assert [(event.kind, event.data) for event in events if event.kind != "log"] == [
        ("status", {"status": "running", "stage": "rendering"}),
        ("frame", {**RENDERED, "frame": 3, "attempts": 1}),
        ("frame", {"reused": True, "frame": 4, "attempts": 1}),
        ("frame", {"reused": True, "frame": 0, "attempts": 1}),
        ("progress", {"frames_done": 3, "frames_reused": 2, "chunks_done": 0} | started),
        ("status", {"status": "running", "stage": "sounding"}),
        ("progress", {"frames_done": 3, "frames_reused": 2, "chunks_done": 1} | started),
        ("status", {"status": "succeeded", "stage": None}),
        ("completed", {"status": "succeeded"}),
    ]


def test_events_are_read_on_from_any_of_them(job_store: JobStore) -> None:
    """Pages join without a gap or a repeat."""
    create(job_store)
    for number in range(9):
        assert job_store.add_event("job_1", "log", {"message": f"line {number}"})
    seen, last_id = [], "0"
    while page := job_store.events_after("job_1", last_id, 4):
        assert len(page) <= 4
        seen += [event.data.get("message") for event in page]
        last_id = page[-1].id
    assert seen == [f"line {number}" for number in range(9)]


def test_a_job_keeps_its_latest_events_and_an_ended_one_for_a_while(job_store: JobStore) -> None:
    """However much there is to tell, memory is bounded; after the end the events expire, and nothing is told."""
    create(job_store)
    for number in range(2 * EVENTS_KEPT):
        job_store.add_event("job_1", "log", {"message": number})
    kept = job_store.events_after("job_1", "0", 10_000)
    assert EVENTS_KEPT <= len(kept) < 1.5 * EVENTS_KEPT
    assert kept[-1].data == {"message": 2 * EVENTS_KEPT - 1}
    assert job_store.redis.ttl("riffarm:job:job_1:events") == -1
    job_store.finish("job_1", "canceled")
    assert 0 < int(str(job_store.redis.ttl("riffarm:job:job_1:events"))) <= EVENTS_TTL_S
    assert not job_store.add_event("job_1", "log", {"message": "too late"})
    assert not job_store.add_event("job_gone", "log", {"message": "nowhere"})
    assert kinds(job_store)[-1] == "completed"
    job_store.retry("job_1")
    assert job_store.redis.ttl("riffarm:job:job_1:events") == -1


def test_a_preview_lasts_until_its_frame_or_its_job_ends(job_store: JobStore) -> None:
    """The newest of each frame under way is the job's; a late one of a finished frame is not taken."""
    create(job_store)
    attempt = take(job_store)
    for frame, step in ((0, 1), (1, 1), (0, 2)):
        assert job_store.add_event("job_1", "preview", PREVIEW | {"frame": frame, "step": step})
    previews = json.loads(job_store.read("job_1")["previews"])
    assert {preview["frame"]: preview["step"] for preview in previews} == {0: 2, 1: 1}
    job_store.record_frames(attempt, {0: RENDERED})
    assert not job_store.add_event("job_1", "preview", PREVIEW | {"frame": 0})
    assert [one["frame"] for one in json.loads(job_store.read("job_1")["previews"])] == [1]
    job_store.finish("job_1", "failed")
    assert json.loads(job_store.read("job_1")["previews"]) == []


def test_a_frames_record_says_how_often_its_batch_was_started(job_store: JobStore) -> None:
    """Also of the frames after the first, which clears the count of losses."""
    create(job_store)
    for _ in range(2):
        job_store.give_back(take(job_store), "w1", "it broke")
    attempt = take(job_store)
    for frame in range(2):
        job_store.record_frames(attempt, {frame: RENDERED})
    assert [record["attempts"] for record in job_store.frames("job_1", range(5)).values()] == [3, 3]


def test_a_forgotten_job_leaves_no_key_behind(job_store: JobStore) -> None:
    """Events and previews go with the rest; only that it was deleted is known, so that its objects go too."""
    create(job_store)
    attempt = take(job_store)
    job_store.add_event("job_1", "preview", PREVIEW)
    job_store.warn("job_1", "mind the gap")
    job_store.give_back(attempt, "w1", "it broke")
    assert not job_store.forget("job_1")
    job_store.finish("job_1", "canceled")
    assert job_store.forget("job_1")
    job_store.warn("job_1", "too late")
    assert not job_store.set_announced("job_1", 0)
    keys = cast("list[str]", job_store.redis.keys("*"))
    assert not [key for key in keys if "job_1" in key or ":queue:" in key]
    assert "riffarm:leases" not in keys
    assert job_store.redis.zrange("riffarm:jobs:deleted", 0, -1) == ["job_1"]


def test_a_frame_costs_redis_few_commands(job_store: JobStore) -> None:
    """One round trip records a frame and tells of it; a preview takes five commands, a lease's renewal four."""
    create(job_store)
    attempt = take(job_store)
    job_store.record_frames(attempt, {0: RENDERED})
    job_store.add_event("job_1", "preview", PREVIEW)
    job_store.renew(attempt)
    for act, most in (
        (lambda: job_store.record_frames(attempt, {1: RENDERED}), 13),
        (lambda: job_store.add_event("job_1", "preview", PREVIEW), 5),
        (lambda: job_store.renew(attempt), 5),
    ):
        job_store.redis.config_resetstat()
        act()
        scripts, within = commands(job_store)
        assert scripts == 1
        assert within <= most


def commands(job_store: JobStore) -> tuple[int, int]:
    """How many commands Redis carried out: scripts called, and commands within them."""
    statistics = cast("dict[str, dict[str, int]]", job_store.redis.info("commandstats"))
    calls = {name.removeprefix("cmdstat_"): one["calls"] for name, one in statistics.items()}
    scripts = calls.pop("evalsha")
    return scripts, sum(count for name, count in calls.items() if "config" not in name)


def test_what_is_no_job_has_no_events(job_store: JobStore) -> None:
    """An id with a colon does not lead to another job's keys."""
    with pytest.raises(NotFoundError):
        job_store.events_after("job_1:frames", "0", 1)


def test_a_job_that_was_deleted_meanwhile_is_left_out_of_a_page(job_store: JobStore) -> None:
    """Whoever lists jobs is not told that there are none."""
    create(job_store)
    assert [one["id"] for one in job_store.read_many(["job_gone", "job_1"])] == ["job_1"]
    with pytest.raises(NotFoundError):
        job_store.read("job_gone")


def test_a_paused_jobs_sound_is_ready_when_it_goes_on(job_store: JobStore) -> None:
    """What runs comes to its end under the pause, and what follows waits for its end."""
    job = create(job_store)
    attempts = [take(job_store), take(job_store)]
    assert job_store.pause("job_1")
    assert backlog(job_store) == {"render.m": 0, "sound": 0, "deliver": 0}
    for attempt in attempts:
        job_store.record_frames(attempt, {attempt.number: RENDERED})
        job_store.done(attempt, 100, "w1", 7, ())
    assert job_store.move_on("job_1", 0, job.needed(0)) == []
    assert job_store.take("sound", "w1", "w1/1").attempt is None
    assert job_store.resume("job_1") == ["sound"]
    assert backlog(job_store) == {"render.m": 0, "sound": 1, "deliver": 1}
    assert take(job_store, "sound").item == "c0"


def test_a_lost_frame_makes_its_batch_begin_anew_also_one_that_is_under_way(job_store: JobStore) -> None:
    """A batch that has recorded the frame and is not done yet would never render it again; one not begun is not
    begun twice."""
    create(job_store, batches=4)
    attempts = [take(job_store) for _ in range(3)]
    for attempt in attempts:
        job_store.record_frames(attempt, {attempt.number: RENDERED})
    job_store.done(attempts[0], 100, "w1", 0, [0, 1, 2])
    chunk = take(job_store, "sound")
    assert job_store.reopen(chunk, 0, [0, 1, 3], [0, 1, 3]) == ["render.m"]
    with pytest.raises(LeaseLostError):
        job_store.done(attempts[1], 100, "w1", 0, [0, 1, 2])
    assert sorted(take(job_store).item for _ in range(3)) == ["b0", "b1", "b3"]
    assert job_store.take("render.m", "w1", "w1/1").attempt is None


def test_who_works_on_from_before_redis_lost_its_data_is_late(job_store: JobStore) -> None:
    """The first token of an empty Valkey is none that was given out before."""
    job = create(job_store)
    before = take(job_store)
    job_store.redis.flushall()
    create(job_store)
    after = take(job_store)
    assert (before.job_id, before.item) == (after.job_id, after.item)
    with pytest.raises(LeaseLostError):
        done(job_store, job, before)
    done(job_store, job, after)


@pytest.mark.parametrize("item", ["b0", "c0", "deliver"])
@pytest.mark.parametrize("is_begun", [False, True])
def test_an_item_that_is_in_none_of_its_places_is_found(job_store: JobStore, item: str, is_begun: bool) -> None:
    """However it got lost: the sweeper looks for it, and finds it once."""
    job = create(job_store, batches=1)
    queues = {"b0": "render.m", "c0": "sound", "deliver": "deliver"}
    attempt = render(job_store, job) if item != "b0" else take(job_store)
    if item == "deliver":
        done(job_store, job, take(job_store, "sound"))
    if item == "b0":
        job_store.give_back(attempt)
    if is_begun:
        take(job_store, queues[item])
    ready = f"ready:{queues[item].split('.')[0]}"
    job_store.redis.hset("riffarm:job:job_1", ready, "")
    job_store.redis.delete("riffarm:job:job_1:leases", "riffarm:leases")
    fence = FarmState(job_store.redis).begin_sweep(60)
    assert fence
    assert job_store.mend("job_1", fence) == (1, None, [queues[item]])
    mended = job_store.mend("job_1", fence)
    assert mended is None or mended.items == 0
    assert take(job_store, queues[item]).item == item


def test_a_lease_that_no_sweep_would_find_runs_out_at_once(job_store: JobStore) -> None:
    """One that stands with its job alone has nobody to end it."""
    create(job_store)
    attempt = take(job_store)
    farm = FarmState(job_store.redis)
    fence = farm.begin_sweep(60)
    assert fence
    assert job_store.overdue(fence, 60) == []
    job_store.redis.delete("riffarm:leases")
    job_store.mend("job_1", fence)
    assert job_store.overdue(fence, 60) == [("job_1", "b0", "w1/1")]
    assert job_store.give_back_overdue("job_1", "b0", "lost", "another's") is None
    assert job_store.give_back_overdue("job_1", "b0", "lost", fence)
    assert not job_store.renew(attempt).is_held


def test_after_a_pause_of_the_sweeper_every_lease_lasts_once_more(job_store: JobStore) -> None:
    """While Redis was away nobody could renew; and a clock that jumped back keeps none for ever."""
    create(job_store)
    take(job_store)
    fence = FarmState(job_store.redis).begin_sweep(60)
    assert fence
    for longest_pause_s in (0.0, 60.0):
        job_store.redis.zadd("riffarm:leases", {"job_1 b0": 1})
        job_store.redis.set("riffarm:swept", 1)
        assert job_store.overdue(fence, longest_pause_s) == []
    job_store.redis.zadd("riffarm:leases", {"job_1 b0": 10**14})
    assert job_store.overdue(fence, 60) == []
    seconds, _ = job_store.redis.time()
    expiry_s = float(job_store.redis.zscore("riffarm:leases", "job_1 b0") or 0) / 1_000
    assert expiry_s <= seconds + job_store.lease_ms / 1_000 + 1


def test_at_its_memory_limit_redis_takes_no_work_and_lets_what_there_is_end(job_store: JobStore) -> None:
    """Each move is refused as a whole, or made as a whole."""
    job = create(job_store)
    attempt = take(job_store)
    used = cast("dict[str, int]", job_store.redis.info("memory"))["used_memory"]
    job_store.redis.config_set("maxmemory", used // 2)
    try:
        with pytest.raises(QueueUnavailableError):
            job_store.create("job_2", job.fields)
        with pytest.raises(QueueUnavailableError):
            job_store.take("render.m", "w1", "w1/1")
        done(job_store, job, attempt)
        assert job_store.finish("job_1", "canceled")
        assert job_store.forget("job_1")
    finally:
        job_store.redis.config_set("maxmemory", 0)
    assert {*backlog(job_store).values()} == {0}
