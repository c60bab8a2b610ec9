"""Many requests at once: each answered on its own, all that were taken under one batch id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from shared.contracts import Job
from shared.errors import QueueUnavailableError
from shared.job_store import JobStore
from shared.settings import Settings
from tests.conftest import Valkey
from tests.integration.gateway_probes import CLIP, TRACK, job_keys, recorded, tickets, waiting_batches


def sent(gateway: TestClient, content: Any, media_type: str = "application/json") -> Any:
    return gateway.post("/v1/jobs/batch", content=content, headers={"Content-Type": media_type})


@pytest.mark.parametrize("media_type", ["application/json", "application/x-ndjson", "application/jsonl; charset=UTF-8"])
def test_a_batch_is_answered_request_by_request_and_all_its_jobs_are_listed(
    gateway: TestClient, valkey: Valkey, media_type: str
) -> None:
    """An array or lines: in their order, each as it would have been alone."""
    requests = [CLIP, TRACK, {**CLIP, "labels": {"n": "3"}}]
    separator = "," if media_type == "application/json" else "\r\n\n"
    text = separator.join(json.dumps(one) for one in requests)
    answer = sent(gateway, f"[{text}]" if separator == "," else text, media_type)
    batch = answer.json()
    assert (answer.status_code, batch["accepted"], batch["refused"]) == (200, 3, 0)
    assert [(item["index"], item["status"], item["problem"]) for item in batch["data"]] == [
        (index, 202, None) for index in range(3)
    ]
    jobs = [item["job"] for item in batch["data"]]
    assert [job["type"] for job in jobs] == ["clip", "track", "clip"]
    assert [job["queue_position"] for job in jobs] == [1, 2, 3]
    assert {job["batch_id"] for job in jobs} == {batch["batch_id"]}
    assert batch["batch_id"].startswith("bat_")
    listed = gateway.get("/v1/jobs", params={"batch_id": batch["batch_id"]}).json()
    assert [job["id"] for job in listed["data"]] == [job["id"] for job in reversed(jobs)]
    for job in jobs:
        Job.model_validate_json(json.dumps(job))
        assert gateway.get(f"/v1/jobs/{job['id']}").json() == job
    assert (waiting_batches(valkey), tickets(valkey)) == (4, 1)


def test_one_bad_request_harms_no_other(gateway: TestClient) -> None:
    """A field, a name given twice, a number that is none, a list, what is not there: each has its own problem."""
    items = ['{"prompt": "a", "prompt": "b", "type": "clip"}', '{"type": "clip", "prompt": "a", "duration_s": NaN}']
    items += ['{"type": "clip", "prompt": "a", "promt": 1}', "[]", "null", '{"type": "clip", "prompt": "\\ud800"}']
    items += ['{"type": "clip", "prompt": "a", "seed_image": "nothing"}', '{"type": "opera"}', json.dumps(CLIP)]
    batch = sent(gateway, f"[{','.join(items)}]").json()
    assert [item["status"] for item in batch["data"]] == [400, 422, 422, 422, 422, 422, 422, 422, 202]
    codes = {item["problem"]["code"] for item in batch["data"][1:8]}
    assert (batch["data"][0]["problem"]["code"], codes) == ("malformed_body", {"invalid_request"})
    fields = [item["problem"]["errors"][0]["field"] for item in batch["data"][1:8]]
    assert fields == ["duration_s", "promt", "body", "body", "prompt", "seed_image", "type"]
    assert all(item["job"] is None and item["problem"]["instance"] for item in batch["data"][:8])
    assert len(gateway.get("/v1/jobs").json()["data"]) == batch["accepted"] == 1


def test_a_line_that_is_no_json_harms_no_other(gateway: TestClient) -> None:
    """Cut off, not UTF-8, nested without end: 400 for the line."""
    lines = [b'{"type": "clip"', b'{"type": "clip", "prompt": "\xff"}', b"[" * 20_000, json.dumps(CLIP).encode()]
    batch = sent(gateway, b"\n".join(lines), "application/x-ndjson").json()
    assert [item["status"] for item in batch["data"]] == [400, 400, 400, 202]
    assert {item["problem"]["code"] for item in batch["data"][:3]} == {"malformed_body"}


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        ("[]", "application/json", 422),
        ("{}", "application/json", 422),
        (json.dumps(CLIP), "application/json", 422),
        ("null", "application/json", 422),
        ("", "application/json", 400),
        ("[" + json.dumps(CLIP), "application/json", 400),
        (b"\xff\xfe[\x00]\x00", "application/json", 400),
        ("[" * 50_000, "application/json", 400),
        ("", "application/x-ndjson", 422),
        ("\n\r\n  \n", "application/x-ndjson", 422),
        ("{}\n" * 1_001, "application/x-ndjson", 422),
        (json.dumps([CLIP] * 1_001), "application/json", 422),
        (json.dumps([CLIP]), "text/plain", 415),
        (json.dumps([CLIP]), "application/json; charset=latin-1", 415),
        (json.dumps([CLIP]), "", 415),
    ],
)
def test_what_is_no_batch_is_refused_whole(
    gateway: TestClient, valkey: Valkey, settings: Settings, content: Any, media_type: str, status: int
) -> None:
    """None, too many, no list, no JSON, another kind of content: a problem, and nothing is recorded."""
    answer = sent(gateway, content, media_type)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert (job_keys(valkey), recorded(settings)) == ([], [])


def test_a_batch_has_a_limit_of_its_own(gateway: TestClient) -> None:
    """What is too long for one request is not for many; beyond its own limit it is refused by its length."""
    long = json.dumps([{**CLIP, "labels": {f"n{n}": "x" * 255 for n in range(16)}}] * 300)
    assert len(long) > 1_000_000
    assert sent(gateway, long).json()["accepted"] == 300
    assert sent(gateway, " " * 20_000_001).status_code == 413


def test_a_full_batch_is_taken(gateway: TestClient, valkey: Valkey) -> None:
    """A thousand clips: all recorded, listed page by page without a gap, one message to the workers."""
    batch = sent(gateway, json.dumps([{**CLIP, "seed": seed} for seed in range(1_000)])).json()
    assert batch["accepted"] == 1_000
    wanted = [item["job"]["id"] for item in batch["data"]]
    assert wanted == sorted(wanted)
    assert [item["job"]["input"]["seed"] for item in batch["data"]] == [*range(1_000)]
    seen: list[str] = []
    url: str | None = f"/v1/jobs?limit=200&batch_id={batch['batch_id']}"
    while url:
        page = gateway.get(url).json()
        seen += [job["id"] for job in page["data"]]
        url = page["next"] and page["next"].removeprefix("http://127.0.0.1:8000")
    assert seen == wanted[::-1]
    assert (waiting_batches(valkey), tickets(valkey)) == (1_000, 1)


def test_a_batch_that_redis_did_not_take_leaves_nothing(
    gateway: TestClient, valkey: Valkey, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request answers 503, and storage has no manifest of it."""

    def refuse(*arguments: Any) -> Any:
        raise QueueUnavailableError

    monkeypatch.setattr(JobStore, "accept_many", refuse)
    batch = sent(gateway, json.dumps([CLIP, {}, CLIP])).json()
    assert [item["status"] for item in batch["data"]] == [503, 422, 503]
    assert (job_keys(valkey), recorded(settings)) == ([], [])


def test_a_batch_that_storage_did_not_take_leaves_nothing(
    gateway: TestClient, valkey: Valkey, settings: Settings
) -> None:
    """A file where the manifests' folder should be."""
    (Path(settings.storage_url.removeprefix("file:")) / "manifests").touch()
    batch = sent(gateway, json.dumps([CLIP, CLIP])).json()
    assert {item["problem"]["code"] for item in batch["data"]} == {"storage_unavailable"}
    assert job_keys(valkey) == []
