"""The scheme of keys, file names in links, and how a storage is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from shared import object_store as keys_module
from shared.object_store import LocalDiskStore, content_disposition, object_store_from_url
from tests.swift_s3 import S3Server


def test_the_scheme_of_keys() -> None:
    """What is written today is found by tomorrow's code."""
    assert keys_module.job_manifest_key("job_1") == "manifests/job_1.json"
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
