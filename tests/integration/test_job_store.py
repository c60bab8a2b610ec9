"""The job store's atomic moves, over a real Valkey."""

from __future__ import annotations

from shared.job_store import JobStore


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
