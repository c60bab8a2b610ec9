"""One suite for the local disk and S3: what both promise."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shared.errors import ObjectNotFoundError
from shared.object_store import PIECE_BYTES, ObjectStore
from shared.s3_store import S3Store
from tests.integration.storage.stores import BAD_KEYS, calls


def test_what_is_put_is_got_and_a_second_put_replaces_it(store: ObjectStore) -> None:
    """The newest bytes win, an empty object is an object."""
    store.put("jobs/j1/manifest.json", b"first", "application/json")
    store.put("jobs/j1/manifest.json", b"second", "application/json")
    store.put("jobs/j1/empty", b"")
    assert store.get("jobs/j1/manifest.json") == b"second"
    assert store.get("jobs/j1/empty") == b""
    assert list(store.keys("")) == ["jobs/j1/empty", "jobs/j1/manifest.json"]


def test_an_absent_object_is_said_to_be_absent(store: ObjectStore) -> None:
    """Absence is an answer, no failure of storage."""
    store.put("frames/ab/x.png", b"x")
    for key in ("frames/ab/y.png", "frames/ab", "frames/ab/x.png/z"):
        assert not store.exists(key)
        with pytest.raises(ObjectNotFoundError, match=key):
            store.get(key)


def test_delete_removes_one_object_and_may_be_repeated(store: ObjectStore) -> None:
    """Deleting what is not there is fine."""
    store.put("jobs/j1/a", b"a")
    store.put("jobs/j1/b", b"b")
    store.delete("jobs/j1/a")
    store.delete("jobs/j1/a")
    assert not store.exists("jobs/j1/a")
    assert store.exists("jobs/j1/b")


def test_keys_are_in_ascii_order_and_a_prefix_need_not_be_a_folder(store: ObjectStore) -> None:
    """The order is that of the whole key, also where a folder's name begins another name."""
    names = ["jobs/j1.x", "jobs/j1-b/y", "jobs/j1/z", "jobs/j1/a/deep", "jobs/j10/a", "jobs/J1/a", "frames/ab/x.png"]
    for name in names:
        store.put(name, b"")
    assert list(store.keys("")) == sorted(names)
    assert list(store.keys("jobs/j1")) == sorted(name for name in names if name.startswith("jobs/j1"))
    assert list(store.keys("jobs/j1/")) == ["jobs/j1/a/deep", "jobs/j1/z"]
    assert list(store.keys("jobs/j1/z")) == ["jobs/j1/z"]
    assert list(store.keys("uploads/")) == []


def test_a_listing_tells_when_each_object_was_written(store: ObjectStore) -> None:
    """In the order of the keys; an object that is replaced is as young as its newest bytes."""
    before_s = time.time()
    for name in ("frames/ab/y.png", "frames/ab/x.png", "uploads/x"):
        store.put(name, b"")
    written = [*store.aged_keys("frames/")]
    assert [key for key, _ in written] == ["frames/ab/x.png", "frames/ab/y.png"]
    # Servers keep whole seconds.
    assert all(before_s - 1 <= written_s <= time.time() + 1 for _, written_s in written)


def test_a_listing_of_1100_keys_is_complete(store: ObjectStore) -> None:
    """More than S3 gives in one page."""
    names = [f"frames/{index % 7}/{index:05}.png" for index in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b""), names))
    assert list(store.keys("frames/")) == sorted(names)


def test_a_large_file_comes_back_the_same(store: ObjectStore, tmp_path: Path) -> None:
    """17 MiB and a bit: several parts on S3, the last one short."""
    source = tmp_path / "source.flac"
    source.write_bytes(random.Random(1).randbytes(17 * 2**20 + 12_345))
    store.put_file("jobs/j1/outputs/track.flac", source, "audio/flac")
    fetched = store.get("jobs/j1/outputs/track.flac")
    assert hashlib.sha256(fetched).digest() == hashlib.sha256(source.read_bytes()).digest()
    if isinstance(store, S3Store):
        head = store._client.head_object(**store._address("jobs/j1/outputs/track.flac"))
        assert head["ETag"].strip('"').endswith("-3")
        assert head["ContentType"] == "audio/flac"


def test_any_stretch_of_an_object_is_passed_on_piece_by_piece(store: ObjectStore) -> None:
    """Never more than a piece at once, and exactly what was asked for."""
    data = random.Random(1).randbytes(2 * PIECE_BYTES + 1_000)
    store.put("jobs/j1/outputs/clip.wav", data)
    for start, stop in ((0, len(data)), (5, 6), (PIECE_BYTES - 3, 2 * PIECE_BYTES + 7), (len(data) - 1, len(data))):
        pieces = [*store.pieces("jobs/j1/outputs/clip.wav", start, stop)]
        assert b"".join(pieces) == data[start:stop]
        assert max(map(len, pieces)) <= PIECE_BYTES
    with pytest.raises(ObjectNotFoundError):
        next(store.pieces("jobs/j1/outputs/track.wav", 0, 1))


def test_a_reader_never_sees_half_an_object(store: ObjectStore) -> None:
    """While one thread replaces an object again and again, every read is all old or all new."""
    contents = [bytes([letter]) * 300_000 for letter in b"AB"]
    store.put("state", contents[0])

    def write() -> None:
        for turn in range(30):
            store.put("state", contents[turn % 2])

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while writer.is_alive():
        seen.add(store.get("state"))
    writer.join()
    assert seen <= set(contents)
    assert seen


def test_a_source_file_that_is_not_there_is_the_callers_mistake(store: ObjectStore, tmp_path: Path) -> None:
    """It must not look like a storage that is down, which would be tried again for ever."""
    with pytest.raises(FileNotFoundError):
        store.put_file("jobs/j1/x", tmp_path / "absent", "audio/flac")
    assert not store.exists("jobs/j1/x")


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_bad_key_is_refused_before_storage_is_touched(store: ObjectStore, key: str, tmp_path: Path) -> None:
    """No key leaves its store, in any call."""
    (tmp_path / "file").write_bytes(b"x")
    reaching = calls(store, key, tmp_path / "file")
    if key in ("", "jobs/"):
        del reaching["keys"], reaching["aged_keys"]
    del reaching["check"], reaching["remove_unfinished"]
    for call in [*reaching.values(), lambda: store.url(key, 60, "x", "audio/flac")]:
        with pytest.raises(ValueError, match="storage key"):
            call()
    assert list(store.keys("")) == []


def test_a_storage_that_answers_passes_its_check_and_keeps_no_trace_of_it(store: ObjectStore) -> None:
    """Readiness may ask as often as it likes."""
    store.check()
    assert list(store.keys("")) == []
