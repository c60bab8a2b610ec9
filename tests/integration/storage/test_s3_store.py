"""S3, on a server that checks signatures: credentials, links, and servers that die or freeze."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import time
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import botocore.auth
import httpx
import pytest
from botocore.exceptions import ConnectionClosedError

from shared import s3_store
from shared.errors import StorageUnavailableError, TransientError
from shared.object_store import object_store_from_url
from shared.s3_store import S3Store
from tests.integration.storage.stores import BUCKET, DEAD_AFTER_S, calls
from tests.swift_s3 import S3Server, running_swift_s3


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


def test_parts_that_a_killed_writer_left_are_removed(s3: S3Store) -> None:
    """They cost money for ever; not those of a writer that may be at work."""
    client, address = s3._client, s3._address("jobs/j1/x")
    upload = client.create_multipart_upload(**address)
    client.upload_part(**address, UploadId=upload["UploadId"], PartNumber=1, Body=bytes(10))
    assert s3.remove_unfinished(time.time() - 60) == 0
    assert s3.remove_unfinished(time.time() + 60) == 1
    assert "Uploads" not in client.list_multipart_uploads(Bucket=BUCKET, Prefix=s3._prefix)


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
