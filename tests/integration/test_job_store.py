"""The job store's atomic moves, over a real Valkey."""

from __future__ import annotations

import json
from typing import cast

import pytest
from shared.job_scripts import EVENTS_KEPT, EVENTS_TTL_S

from shared.errors import NotFoundError
from shared.job_store import JobStore

RENDERED = {"reused": False, "s": 1.25, "memory_mb": 900, "worker": "w1"}
PREVIEW = {"frame": 2, "step": 1, "steps": 9, "image": "data:,"}


def kinds(job_store: JobStore) -> list[str]:
    return [event.kind for event in job_store.events_after("job_1", "0", 1_000)]


def test_moves_can_be_made_twice_without_harm(job_store: JobStore) -> None:
    """A repeated report and a repeated move change nothing and answer the same."""
    job_store.create("job_1", {"created_ms": 1, "frames_total": 8})
    assert job_store.release("job_1", "submitted", 1, 2, 1, 0, range(8)) == ["b0"]
    assert job_store.release("job_1", "submitted", 1, 2, 1, 0, range(8)) == ["b0"]
    for _ in range(2):
        job_store.record_frames("job_1", 0, {index: {"reused": True} for index in range(4)})
        job_store.record_batch("job_1", 0, 100)
        assert job_store.release("job_1", "b0", 1, 2, 1, 0, range(8)) == ["b1"]
    job_store.record_frames("job_1", 1, {index: {"reused": False} for index in range(4, 8)})
    job_store.record_batch("job_1", 1, 100)
    assert job_store.release("job_1", "b1", 1, 2, 1, 0, range(8)) == ["c0"]
    job_store.record_chunk("job_1", 0, 100)
    assert job_store.release("job_1", "c0", 1, 2, 1, 1, range(0)) == ["deliver"]
    fields = job_store.read("job_1")
    counted = {
        name: fields[name] for name in ("batches_done", "chunks_done", "frames_reused", "render_ms", "frames_done")
    }
    assert counted == {
        "batches_done": "2",
        "chunks_done": "1",
        "frames_reused": "4",
        "render_ms": "200",
        "frames_done": "8",
    }
    assert job_store.finish("job_1", "succeeded")
    assert not job_store.finish("job_1", "canceled")
    assert job_store.release("job_1", "c0", 1, 2, 1, 1, range(0)) == []
    assert job_store.status("job_1") == "succeeded"


def test_an_item_that_makes_progress_is_no_poison(job_store: JobStore) -> None:
    """Starts are counted until the item has a new frame to show; frames found ready do not count as one."""
    job_store.create("job_1", {"created_ms": 1})
    assert [job_store.start("job_1", "b0", "rendering") for _ in range(2)] == [
        ("queued", 1, False),
        ("running", 2, False),
    ]
    job_store.record_frames("job_1", 0, {0: {"reused": True}})
    assert job_store.start("job_1", "b0", "rendering") == ("running", 3, False)
    job_store.record_frames("job_1", 0, {1: {"reused": False}})
    assert job_store.start("job_1", "b0", "rendering") == ("running", 1, False)
    job_store.record_batch("job_1", 0, 100)
    assert job_store.start("job_1", "b0", "rendering") == ("running", 0, True)
    assert job_store.start("job_gone", "b0", "rendering") == (None, 0, False)


def test_every_change_of_state_tells_of_itself_once(job_store: JobStore) -> None:
    """Queued, running, a frame, the end: one event each, and none for a move made twice."""
    job_store.create("job_1", {"created_ms": 1})
    for _ in range(2):
        job_store.start("job_1", "b0", "rendering")
        job_store.record_frames("job_1", 0, {3: RENDERED, 4: {"reused": True}})
        job_store.record_batch("job_1", 0, 100)
        job_store.record_chunk("job_1", 0, 100)
    job_store.finish("job_1", "succeeded")
    job_store.finish("job_1", "failed")
    events = job_store.events_after("job_1", "0", 100)
    assert [(event.kind, event.data) for event in events] == [
        ("status", {"status": "queued", "stage": None}),
        ("status", {"status": "running", "stage": "rendering"}),
        ("frame", {**RENDERED, "frame": 3, "attempts": 1}),
        ("frame", {"reused": True, "frame": 4, "attempts": 1}),
        ("progress", {"frames_done": 2, "frames_reused": 1, "chunks_done": 0} | started_ms(job_store)),
        ("progress", {"frames_done": 2, "frames_reused": 1, "chunks_done": 1} | started_ms(job_store)),
        ("status", {"status": "succeeded", "stage": None}),
        ("completed", {"status": "succeeded"}),
    ]


def started_ms(job_store: JobStore) -> dict[str, int]:
    return {"started_ms": int(job_store.read("job_1")["started_ms"])}


def test_events_are_read_on_from_any_of_them(job_store: JobStore) -> None:
    """Pages join without a gap or a repeat."""
    job_store.create("job_1", {"created_ms": 1})
    for number in range(9):
        assert job_store.add_event("job_1", "log", {"message": f"line {number}"})
    seen, last_id = [], "0"
    while page := job_store.events_after("job_1", last_id, 4):
        assert len(page) <= 4
        seen += [event.data.get("message") for event in page]
        last_id = page[-1].id
    assert seen == [None, *(f"line {number}" for number in range(9))]


def test_a_job_keeps_its_latest_events_and_an_ended_one_for_a_while(job_store: JobStore) -> None:
    """However much there is to tell, memory is bounded; after the end the events expire, and nothing is told."""
    job_store.create("job_1", {"created_ms": 1})
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
    job_store.record_frames("job_1", 0, {0: RENDERED})
    assert kinds(job_store)[-1] == "completed"
    assert job_store.frames("job_1", [0, 1]) == {0: {**RENDERED, "frame": 0, "attempts": 1}}


def test_a_preview_lasts_until_its_frame_or_its_job_ends(job_store: JobStore) -> None:
    """The newest of each frame under way is the job's; a late one of a finished frame is not taken."""
    job_store.create("job_1", {"created_ms": 1})
    job_store.start("job_1", "b0", "rendering")
    for frame, step in ((0, 1), (1, 1), (0, 2)):
        assert job_store.add_event("job_1", "preview", PREVIEW | {"frame": frame, "step": step})
    previews = json.loads(job_store.read("job_1")["previews"])
    assert {preview["frame"]: preview["step"] for preview in previews} == {0: 2, 1: 1}
    job_store.record_frames("job_1", 0, {0: RENDERED})
    assert not job_store.add_event("job_1", "preview", PREVIEW | {"frame": 0})
    assert [one["frame"] for one in json.loads(job_store.read("job_1")["previews"])] == [1]
    job_store.finish("job_1", "failed")
    assert json.loads(job_store.read("job_1")["previews"]) == []


def test_a_frames_record_says_how_often_its_batch_was_started(job_store: JobStore) -> None:
    """Also of the frames after the first, which clears the count of starts without a frame."""
    job_store.create("job_1", {"created_ms": 1})
    for _ in range(3):
        job_store.start("job_1", "b0", "rendering")
    for frame in range(2):
        job_store.record_frames("job_1", 0, {frame: RENDERED})
    assert [record["attempts"] for record in job_store.frames("job_1", range(5)).values()] == [3, 3]


def test_a_discarded_job_leaves_no_key_behind(job_store: JobStore) -> None:
    """Events and previews go with the rest."""
    job_store.create("job_1", {"created_ms": 1})
    job_store.start("job_1", "b0", "rendering")
    job_store.add_event("job_1", "preview", PREVIEW)
    job_store.discard("job_1")
    assert job_store.redis.keys("*") == []


def test_a_frame_costs_redis_few_commands(job_store: JobStore) -> None:
    """One round trip records a frame and tells of it, in nine commands; a preview takes five."""
    job_store.create("job_1", {"created_ms": 1})
    job_store.start("job_1", "b0", "rendering")
    job_store.record_frames("job_1", 0, {0: RENDERED})
    job_store.add_event("job_1", "preview", PREVIEW)
    job_store.redis.config_resetstat()
    job_store.record_frames("job_1", 0, {1: RENDERED})
    assert commands(job_store) == {"script": 1, "within": 9}
    job_store.redis.config_resetstat()
    job_store.add_event("job_1", "preview", PREVIEW)
    assert commands(job_store) == {"script": 1, "within": 5}


def commands(job_store: JobStore) -> dict[str, int]:
    """How many commands Redis carried out: scripts called, and commands within them."""
    statistics = cast("dict[str, dict[str, int]]", job_store.redis.info("commandstats"))
    calls = {name.removeprefix("cmdstat_"): one["calls"] for name, one in statistics.items()}
    scripts = calls.pop("evalsha")
    return {"script": scripts, "within": sum(count for name, count in calls.items() if "config" not in name)}


def test_what_is_no_job_has_no_events(job_store: JobStore) -> None:
    """An id with a colon does not lead to another job's keys."""
    with pytest.raises(NotFoundError):
        job_store.events_after("job_1:frames", "0", 1)
