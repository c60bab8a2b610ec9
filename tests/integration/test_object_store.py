"""Object storage on the local disk and on a real S3 server: one suite for both, then what is each one's own."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import boto3
import botocore.auth
import httpx
import pytest
from botocore.exceptions import ConnectionClosedError

from shared import object_store as keys_module
from shared import s3_store
from shared.errors import ObjectNotFoundError, StorageUnavailableError, TransientError
from shared.object_store import LocalDiskStore, ObjectStore, content_disposition, object_store_from_url
from shared.s3_store import S3Store
from tests.swift_s3 import S3Server, running_swift_s3

BUCKET = "riffarm"
BAD_KEYS = [
    "",
    "/etc/passwd",
    "../secret",
    "jobs/../../secret",
    "jobs//x",
    "jobs/",
    "./x",
    "jobs\\x",
    "jobs/\0",
    "jobs/é",
    "jobs/a b",
    "jobs/a\n",
    ".writing-0",
    "a/" * 256 + "b",
    "a" * 256,
]
DEAD_AFTER_S = 10.0


@pytest.fixture(autouse=True)
def _credentials(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3(s3_server: S3Server) -> S3Store:
    """A store below a prefix of its own."""
    return S3Store(BUCKET, f"test-{uuid4().hex}", s3_server.endpoint_url)


@pytest.fixture
def local(tmp_path: Path) -> LocalDiskStore:
    """A store in a folder that is not there yet."""
    return LocalDiskStore(tmp_path / "made" / "storage")


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    """Both kinds of store, one after the other."""
    chosen: ObjectStore = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def own_s3_server() -> Iterator[S3Server]:
    """A server that a test may freeze or kill."""
    with running_swift_s3() as server:
        server.create_bucket(BUCKET)
        yield server


def calls(store: ObjectStore, key: str, path: Path) -> dict[str, Callable[[], object]]:
    """Every way to reach storage, with `key`; `path` is a file that exists."""
    return {
        "put": lambda: store.put(key, b"x"),
        "put_file": lambda: store.put_file(key, path, "audio/flac"),
        "get": lambda: store.get(key),
        "exists": lambda: store.exists(key),
        "delete": lambda: store.delete(key),
        "keys": lambda: list(store.keys(f"{key}/")),
        "check": store.check,
    }


# Both stores.


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
        del reaching["keys"]
    del reaching["check"]
    for call in [*reaching.values(), lambda: store.url(key, 60, "x", "audio/flac")]:
        with pytest.raises(ValueError, match="storage key"):
            call()
    assert list(store.keys("")) == []


def test_a_storage_that_answers_passes_its_check_and_keeps_no_trace_of_it(store: ObjectStore) -> None:
    """Readiness may ask as often as it likes."""
    store.check()
    assert list(store.keys("")) == []


# The local disk.


def test_a_writer_killed_in_the_middle_leaves_no_object(local: LocalDiskStore, tmp_path: Path) -> None:
    """After kill -9 the old object stands, and what was being written is in no listing."""
    local.put("jobs/j1/outputs/track.flac", b"old")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    program = (
        "import sys; from pathlib import Path; from shared.object_store import LocalDiskStore; "
        "LocalDiskStore(Path(sys.argv[1])).put_file('jobs/j1/outputs/track.flac', Path(sys.argv[2]), 'audio/flac')"
    )
    with (
        subprocess.Popen([sys.executable, "-c", program, str(local.root), str(pipe)]) as writer,
        pipe.open("wb") as end,
    ):
        # More than a pipe holds: once this returns, the writer has read and written most of it.
        end.write(bytes(3 * 2**20))
        writer.kill()
    leftovers = [path.name for path in local.path("jobs/j1/outputs").iterdir()]
    assert len(leftovers) == 2
    assert list(local.keys("")) == ["jobs/j1/outputs/track.flac"]
    assert local.get("jobs/j1/outputs/track.flac") == b"old"


def test_a_full_disk_is_storage_that_cannot_be_used(local: LocalDiskStore) -> None:
    """The kernel refuses the write: the old object stands, nothing half-written stays."""
    local.put("jobs/j1/x", b"old")
    with file_size_limit(2**20), pytest.raises(StorageUnavailableError, match="cannot be used: File too large"):
        local.put("jobs/j1/x", bytes(2**21))
    assert local.get("jobs/j1/x") == b"old"
    assert [path.name for path in local.path("jobs/j1").iterdir()] == ["x"]


@contextmanager
def file_size_limit(limit_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond the limit: to a writer the same as a full disk, also for root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    """One clear sentence with the reason and the place."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageUnavailableError, match=r"cannot be used: Not a directory: .*file"):
        object_store_from_url(f"file:{tmp_path}/file/storage")


@pytest.mark.parametrize("replacement", ["nothing", "file"])
def test_a_lost_mount_is_no_empty_store(local: LocalDiskStore, tmp_path: Path, replacement: str) -> None:
    """If the folder goes away, its objects are not absent but out of reach."""
    local.put("jobs/j1/x", b"x")
    local.root.rename(tmp_path / "elsewhere")
    if replacement == "file":
        local.root.write_bytes(b"")
    (tmp_path / "file").write_bytes(b"x")
    reaching = calls(local, "jobs/j1/x", tmp_path / "file")
    writing = {"put", "put_file", "delete"} if replacement == "nothing" else set()
    for name in reaching.keys() - writing:
        with pytest.raises(StorageUnavailableError):
            reaching[name]()


def test_files_on_disk_are_for_the_gateway_to_serve(local: LocalDiskStore) -> None:
    """There is no link to the local disk, but a path."""
    local.put("jobs/j1/outputs/track.flac", b"fLaC")
    assert local.url("jobs/j1/outputs/track.flac", 60, "track.flac", "audio/flac") is None
    assert local.path("jobs/j1/outputs/track.flac").read_bytes() == b"fLaC"
    with pytest.raises(ValueError, match="storage key"):
        local.path("../secret")


# S3.


def test_a_wrong_secret_is_refused(s3: S3Store, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server checks signatures, and a refusal is storage out of reach, not an absent object."""
    s3.put("jobs/j1/x", b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    stranger = S3Store(BUCKET, s3._prefix.rstrip("/"), s3_server.endpoint_url)
    for call in (lambda: stranger.get("jobs/j1/x"), lambda: stranger.put("jobs/j1/y", b"y"), stranger.check):
        with pytest.raises(StorageUnavailableError):
            call()
    assert list(s3.keys("")) == ["jobs/j1/x"]


def test_no_credentials_at_all_is_a_clear_failure(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of the server; the message says what is missing."""
    for name in s3_server.environment():
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    with pytest.raises(StorageUnavailableError, match="credentials"):
        S3Store(BUCKET, "", s3_server.endpoint_url).check()


def test_a_bucket_that_is_not_there_fails_the_check(s3_server: S3Server) -> None:
    """Every object would look absent: so readiness has to say it, and a read too."""
    elsewhere = S3Store("no-such-bucket", "", s3_server.endpoint_url)
    with pytest.raises(StorageUnavailableError, match="there is no bucket s3://no-such-bucket"):
        elsewhere.check()
    with pytest.raises(StorageUnavailableError, match="NoSuchBucket"):
        elsewhere.get("x")


@pytest.fixture
def link(s3: S3Store) -> str:
    """A presigned link to ten bytes."""
    s3.put("jobs/j1/outputs/track.flac", b"0123456789", "application/octet-stream")
    return s3.url("jobs/j1/outputs/track.flac", 600, "Müsik für “Åse”.flac", "audio/flac")


def test_a_link_says_what_the_file_is_and_under_which_name_to_save_it(link: str) -> None:
    """Type and name are the link's own, whatever was said when the object was put."""
    answer = httpx.get(link)
    assert (answer.status_code, answer.content) == (200, b"0123456789")
    assert answer.headers["content-type"] == "audio/flac"
    assert quote("Müsik für “Åse”.flac") in answer.headers["content-disposition"]
    assert answer.headers["etag"].strip('"') == hashlib.md5(b"0123456789", usedforsecurity=False).hexdigest()


def test_a_link_answers_a_range(link: str) -> None:
    """So that a player can seek."""
    answer = httpx.get(link, headers={"Range": "bytes=3-5"})
    assert (answer.status_code, answer.content) == (206, b"345")
    assert answer.headers["content-range"] == "bytes 3-5/10"


@pytest.mark.parametrize(
    ("good", "bad"),
    [("track.flac?", "other.flac?"), ("X-Amz-Expires=600", "X-Amz-Expires=9999"), ("audio%2Fflac", "text%2Fhtml")],
)
def test_a_tampered_link_is_refused(link: str, good: str, bad: str) -> None:
    """Neither another object, nor a longer life, nor another type."""
    assert good in link
    assert httpx.get(link.replace(good, bad)).status_code == 403
    assert httpx.get(link).status_code == 200


def test_a_link_only_reads(link: str, s3: S3Store) -> None:
    """It cannot be used to write or delete."""
    assert httpx.put(link, content=b"other").status_code == 403
    assert httpx.delete(link).status_code == 403
    assert s3.get("jobs/j1/outputs/track.flac") == b"0123456789"


def test_an_expired_link_is_refused(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One made eleven minutes ago for ten."""
    s3.put("jobs/j1/x", b"x")

    def eleven_minutes_ago(*_: object) -> datetime:
        return now() - timedelta(minutes=11)

    now = botocore.auth.get_current_datetime
    monkeypatch.setattr(botocore.auth, "get_current_datetime", eleven_minutes_ago)
    assert httpx.get(s3.url("jobs/j1/x", 600, "x", "audio/flac")).status_code == 403
    assert httpx.get(s3.url("jobs/j1/x", 720, "x", "audio/flac")).status_code == 200


@pytest.mark.parametrize("expires_in_s", [0, -1, s3_store.MAX_URL_EXPIRY_S + 1])
def test_a_life_that_s3_would_refuse_is_refused_here(s3: S3Store, expires_in_s: int) -> None:
    """The mistake shows where it is made, not in a client's browser."""
    with pytest.raises(ValueError, match="1 to 604800"):
        s3.url("jobs/j1/x", expires_in_s, "x", "audio/flac")


def test_links_carry_the_address_that_clients_know(s3_server: S3Server) -> None:
    """Behind a compose network the farm reaches the server under another name than its clients do."""
    public = s3_server.endpoint_url.replace("127.0.0.1", "localhost")
    store = object_store_from_url(f"s3://{BUCKET}/public", s3_server.endpoint_url, public)
    store.put("x", b"x")
    link = store.url("x", 60, "x", "audio/flac")
    assert link is not None
    assert link.startswith(f"{public}/{BUCKET}/public/x?")
    assert httpx.get(link).content == b"x"


def test_a_dead_server_is_known_in_seconds(own_s3_server: S3Server, tmp_path: Path) -> None:
    """Every call says so, as an error worth trying again."""
    store = S3Store(BUCKET, "", own_s3_server.endpoint_url)
    store.put("jobs/j1/x", b"x")
    own_s3_server.process.kill()
    own_s3_server.process.wait()
    (tmp_path / "file").write_bytes(b"x")
    for name, call in calls(store, "jobs/j1/x", tmp_path / "file").items():
        began = time.monotonic()
        with pytest.raises(StorageUnavailableError) as caught:
            call()
        assert time.monotonic() - began < DEAD_AFTER_S, name
        assert isinstance(caught.value, TransientError)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_frozen_server_is_given_up_and_found_again(own_s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections and says nothing: the time-out ends the wait; later it is itself again."""
    monkeypatch.setattr(s3_store, "READ_TIMEOUT_S", 0.5)
    store = S3Store(BUCKET, "", own_s3_server.endpoint_url)
    own_s3_server.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(StorageUnavailableError, match="timeout"):
        store.check()
    assert time.monotonic() - began < DEAD_AFTER_S
    own_s3_server.process.send_signal(signal.SIGCONT)
    monkeypatch.setattr(s3_store, "READ_TIMEOUT_S", 15.0)
    S3Store(BUCKET, "", own_s3_server.endpoint_url).check()


def test_a_server_that_was_restarted_still_has_its_objects(tmp_path: Path) -> None:
    """Tests of bad days kill the server and start it again on the same folder."""
    with running_swift_s3(tmp_path) as first:
        first.create_bucket(BUCKET)
        S3Store(BUCKET, "", first.endpoint_url).put("jobs/j1/x", b"kept")
    with running_swift_s3(tmp_path) as second:
        assert S3Store(BUCKET, "", second.endpoint_url).get("jobs/j1/x") == b"kept"


def test_an_interrupted_upload_leaves_nothing(s3: S3Store, tmp_path: Path) -> None:
    """A connection lost at the second part: no object, and no parts that cost money for ever."""
    source = tmp_path / "source"
    source.write_bytes(bytes(20 * 2**20))
    client, parts_begun = s3._client, itertools.count(1)

    def lose_the_second_part(**_: object) -> None:
        if next(parts_begun) == 2:
            raise ConnectionClosedError(endpoint_url=client.meta.endpoint_url)

    client.meta.events.register("before-call.s3.UploadPart", lose_the_second_part)
    with pytest.raises(StorageUnavailableError, match="closed"):
        s3.put_file("jobs/j1/x", source, "audio/flac")
    assert list(s3.keys("")) == []
    assert "Uploads" not in client.list_multipart_uploads(Bucket=BUCKET, Prefix=s3._prefix)


# Keys, names and URLs.


def test_the_scheme_of_keys() -> None:
    """What is written today is found by tomorrow's code."""
    assert keys_module.job_manifest_key("job_1") == "jobs/job_1/manifest.json"
    assert keys_module.job_result_key("job_1") == "jobs/job_1/result.json"
    assert keys_module.chunk_key("job_1", 2, 34) == "jobs/job_1/chunks/002-00034.wav"
    assert keys_module.chunk_state_key("job_1", 2, 34) == "jobs/job_1/chunks/002-00034.state.npz"
    assert keys_module.output_key("job_1", "track.flac") == "jobs/job_1/outputs/track.flac"
    assert keys_module.frame_key("abcdef" * 10) == f"frames/ab/{'abcdef' * 10}.png"
    assert keys_module.upload_key("0123" * 16) == f"uploads/01/{'0123' * 16}"


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "a\\b", "a\0", "é", ".hidden"])
def test_a_key_is_not_made_from_a_bad_name(name: str) -> None:
    """A client's id cannot point into another job's folder."""
    for make in (
        keys_module.job_manifest_key,
        keys_module.job_result_key,
        keys_module.frame_key,
        keys_module.upload_key,
    ):
        with pytest.raises(ValueError, match=r"storage key|no hash"):
            make(name)
    with pytest.raises(ValueError, match="storage key"):
        keys_module.output_key("job_1", name)


@pytest.mark.parametrize(
    ("filename", "value"),
    [
        ("track.flac", "attachment; filename=\"track.flac\"; filename*=UTF-8''track.flac"),
        ("für.flac", "attachment; filename=\"f_r.flac\"; filename*=UTF-8''f%C3%BCr.flac"),
        ('a"b\\c.flac', "attachment; filename=\"a_b_c.flac\"; filename*=UTF-8''a%22b%5Cc.flac"),
        ("a\r\nSet-Cookie: b", "attachment; filename=\"a__Set-Cookie: b\"; filename*=UTF-8''a__Set-Cookie%3A%20b"),
    ],
)
def test_any_file_name_is_one_safe_header_value(filename: str, value: str) -> None:
    """Pure ASCII, no line end, no quotation mark that ends the name early."""
    assert content_disposition(filename) == value


@pytest.mark.parametrize("form", ["file:{}", "file://{}"])
def test_a_folder_is_named_by_file(tmp_path: Path, form: str) -> None:
    """With and without the two slashes of a host that is not there."""
    store = object_store_from_url(form.format(tmp_path / "data"))
    assert isinstance(store, LocalDiskStore)
    assert store.root == tmp_path / "data"


def test_a_relative_folder_stays_where_the_process_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later change of directory moves no object."""
    monkeypatch.chdir(tmp_path)
    store = object_store_from_url("file:data")
    monkeypatch.chdir("/")
    store.put("x", b"x")
    assert (tmp_path / "data" / "x").read_bytes() == b"x"


@pytest.mark.parametrize("url", ["s3://riffarm", "s3://riffarm/", "s3://riffarm/farm/one", "s3://riffarm/farm/one/"])
def test_a_bucket_is_named_by_s3(url: str, s3_server: S3Server) -> None:
    """With or without a prefix, with or without a slash at the end."""
    store = object_store_from_url(url, s3_server.endpoint_url)
    store.put("named/x", b"x")
    prefix = "farm/one/" if "farm/one" in url else ""
    client = boto3.client("s3", endpoint_url=s3_server.endpoint_url)
    assert client.get_object(Bucket="riffarm", Key=f"{prefix}named/x")["Body"].read() == b"x"
    client.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/var/data",
        "file:",
        "file://host/dir",
        "http://x/y",
        "s3:bucket",
        "s3://",
        "s3://UPPER",
        "s3://b/../c",
        "s3://bu?a=b",
    ],
)
def test_any_other_storage_is_refused_with_what_is_right(url: str) -> None:
    """The message names the two forms or what is wrong with the prefix."""
    with pytest.raises(ValueError, match=r"file:DIR nor s3://bucket/prefix|storage key"):
        object_store_from_url(url)


def test_a_store_on_disk_loads_no_s3_client() -> None:
    """The local farm's processes start without it."""
    program = "import sys, shared.object_store; sys.exit('boto3' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
