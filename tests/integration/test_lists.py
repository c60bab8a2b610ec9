"""Lists of jobs: pages without gap or repeat, filters that find rare jobs at once, parameters that are checked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.intake import Jobs, fields_of_plan
from api.stamps import Stamp
from shared.contracts import ClipRequest
from shared.job_store import JobStore
from tests.integration.gateway_probes import CLIP, TRACK


def pages(gateway: TestClient, **query: str | int) -> Iterator[list[str]]:
    """The ids of each page, to the last."""
    url: str | None = "/v1/jobs"
    while url:
        page = gateway.get(url, params=query if url == "/v1/jobs" else None).json()
        yield [job["id"] for job in page["data"]]
        url = page["next"] and page["next"].removeprefix("http://127.0.0.1:8000")


def listed(gateway: TestClient, **query: str | int) -> list[str]:
    return [job_id for page in pages(gateway, **query) for job_id in page]


def submitted(gateway: TestClient, **more: Any) -> str:
    return str(gateway.post("/v1/jobs", json={**CLIP, **more}).json()["id"])


def farm_of(gateway: TestClient) -> Jobs:
    farm: Jobs = gateway.app.state.jobs  # type: ignore[attr-defined]
    return farm


def record(farm: Jobs, count: int, at_ms: int = 1_790_000_000_000, step_ms: int = 1, **fields: Any) -> list[str]:
    """Record so many jobs in Redis alone, one each `step_ms`; their ids, oldest first."""
    planned = fields_of_plan(farm.plan(ClipRequest(prompt="a")), 0, 32) | {"tenant": "default"} | fields
    jobs = {}
    for number in range(count):
        ms = at_ms + number * step_ms
        jobs[Stamp(ms, f"{number:016x}{'0' * 16}").job_id] = planned | {"created_ms": ms}
    assert all(farm.job_store.accept_many(jobs).values())
    return [*jobs]


def test_pages_are_full_and_the_last_one_says_so(gateway: TestClient) -> None:
    """Newest first, no gap, no repeat, and no empty page at the end."""
    ids = [submitted(gateway) for _ in range(6)]
    assert [*pages(gateway, limit=3)] == [sorted(ids, reverse=True)[:3], sorted(ids, reverse=True)[3:]]
    assert [len(page) for page in pages(gateway, limit=4)] == [4, 2]


def test_a_batch_of_one_millisecond_is_listed_whole(gateway: TestClient, job_store: JobStore) -> None:
    """More jobs of the same moment than a page holds: none is missed, here and where old jobs are looked for."""
    ids = record(farm_of(gateway), 700, step_ms=0)
    assert listed(gateway, limit=200) == sorted(ids, reverse=True)
    seen, last = [], "~"
    while some := job_store.ids_before(float("inf") if last == "~" else 1_790_000_000_000, last, 100):
        seen += some
        last = some[-1]
    assert seen == sorted(ids, reverse=True)


def test_jobs_that_come_or_go_between_two_pages_move_no_other(gateway: TestClient) -> None:
    """The cursor is a place in time, not a count; the job it names may be gone."""
    ids = [submitted(gateway) for _ in range(5)]
    ids.sort(reverse=True)
    page = gateway.get("/v1/jobs?limit=2").json()
    submitted(gateway)
    gateway.delete(f"/v1/jobs/{ids[1]}")
    url = page["next"].removeprefix("http://127.0.0.1:8000")
    assert [job["id"] for job in gateway.get(url).json()["data"]] == ids[2:4]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"status": "queued"}, {"track", "rock"}),
        ({"status": "canceled"}, {"jazz"}),
        ({"status": "paused"}, {"paused"}),
        ({"status": "succeeded"}, set()),
        ({"type": "track"}, {"track"}),
        ({"type": "clip"}, {"jazz", "rock", "paused"}),
        ({"label.genre": "jazz"}, {"jazz", "paused"}),
        ({"label.genre": "jazz", "status": "paused"}, {"paused"}),
        ({"label.genre": "jazz", "label.n": "1"}, {"jazz"}),
        ({"label.genre": "no"}, set()),
        ({"label.a=b": "c=d: ü"}, {"rock"}),
        ({"label.a": "b=c=d: ü"}, set()),
        ({"created_after": "2020-01-01T00:00:00Z", "type": "track"}, {"track"}),
        ({"created_before": "2020-01-01T00:00:00Z"}, set()),
        ({"created_after": "2020-01-01T00:00:00+23:00", "created_before": "9999-12-31T23:59:59Z"}, None),
        ({"batch_id": "bat_0"}, set()),
    ],
)
def test_filters_find_what_they_say(gateway: TestClient, query: dict[str, str], wanted: set[str] | None) -> None:
    """Alone and together; what is in none of the lists is in no answer."""
    ids = {
        "jazz": submitted(gateway, labels={"genre": "jazz", "n": "1"}),
        "rock": submitted(gateway, labels={"genre": "rock", "a=b": "c=d: ü"}),
        "paused": submitted(gateway, labels={"genre": "jazz", "n": "2"}),
        "track": str(gateway.post("/v1/jobs", json=TRACK).json()["id"]),
    }
    gateway.post(f"/v1/jobs/{ids['jazz']}/cancel")
    gateway.post(f"/v1/jobs/{ids['paused']}/pause")
    names = {job_id: name for name, job_id in ids.items()}
    found = [names[job_id] for job_id in listed(gateway, **query)]
    assert {*found} == ({*ids} if wanted is None else wanted)
    assert len(found) == len({*found})


def test_a_job_is_listed_by_what_it_is_now(gateway: TestClient) -> None:
    """Canceled, retried, deleted: each time it leaves the list it was in."""
    job_id = submitted(gateway, labels={"a": "b"})
    gateway.post(f"/v1/jobs/{job_id}/cancel")
    assert (listed(gateway, status="canceled"), listed(gateway, status="queued")) == ([job_id], [])
    gateway.post(f"/v1/jobs/{job_id}/retry")
    assert (listed(gateway, status="canceled"), listed(gateway, status="queued")) == ([], [job_id])
    gateway.delete(f"/v1/jobs/{job_id}")
    for query in ({"status": "canceled"}, {"status": "queued"}, {"label.a": "b"}, {"type": "clip"}):
        assert listed(gateway, **query) == []


def test_time_cuts_to_the_millisecond(gateway: TestClient) -> None:
    """Neither end is included."""
    ids = record(farm_of(gateway), 5)
    day = "2026-09-21T14:13:20"
    assert listed(gateway, created_after=f"{day}.001Z") == ids[:1:-1]
    assert listed(gateway, created_before=f"{day}.003Z", limit=1) == ids[2::-1]
    assert listed(gateway, created_after=f"{day}.001Z", created_before=f"{day}.003Z") == [ids[2]]


def test_rare_jobs_among_many_are_found_at_once(gateway: TestClient) -> None:
    """A label, a type, a status and a time that few of 10,000 have: an answer takes no longer than any other."""
    farm = farm_of(gateway)
    record(farm, 10_000, status="succeeded", announced=1)
    (rare,) = record(farm, 1, at_ms=1_700_000_000_000, labels='{"rare": "yes"}', type="track")
    for query in (
        {"label.rare": "yes"},
        {"type": "track"},
        {"status": "queued"},
        {"created_before": "2024-01-01T00:00:00Z"},
    ):
        started_s = time.monotonic()
        assert [*pages(gateway, **query)] == [[rare]]
        assert time.monotonic() - started_s < 1


def test_a_page_looks_no_further_than_it_must_and_leads_on(
    gateway: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two filters, each of many and both of one: pages may be empty, and the way through them finds it."""
    monkeypatch.setattr("api.job_lists._LOOKS_AT_ONCE", 50)
    monkeypatch.setattr("api.job_lists.MAX_LOOKS", 100)
    farm = farm_of(gateway)
    (rare,) = record(farm, 1, at_ms=1_700_000_000_000, labels='{"a": "1", "b": "1"}')
    record(farm, 250, labels='{"a": "1"}')
    record(farm, 250, at_ms=1_791_000_000_000, labels='{"b": "1"}')
    assert [*pages(gateway, **{"label.a": "1", "label.b": "1"})] == [[], [], [rare]]


@pytest.mark.parametrize(
    ("query", "field", "said"),
    [
        ("limt=5", "limt", "did you mean 'limit'"),
        ("Status=queued", "Status", "did you mean 'status'"),
        ("batch=bat_0", "batch", "did you mean 'batch_id'"),
        ("label=a", "label", "did you mean 'label.<name>'"),
        ("label.=a", "label.", "unknown parameter"),
        ("created=now", "created", "unknown parameter"),
        ("status=queued&status=failed", "status", "given twice"),
        ("label.a=1&label.a=2", "label.a", "given twice"),
        ("%00=1", "\x00", "unknown parameter"),
        ("batch_id=job_1", "batch_id", "pattern"),
        ("created_after=never", "created_after", "RFC 3339"),
        ("cursor=am9i", "cursor", "not a cursor"),
    ],
)
def test_wrong_parameters_are_named_with_the_nearest_right_one(
    gateway: TestClient, query: str, field: str, said: str
) -> None:
    """422: a filter that was mistyped must not answer as if there were none."""
    problem = gateway.get(f"/v1/jobs?{query}").json()
    (error,) = problem["errors"]
    assert (problem["status"], error["field"]) == (422, field)
    assert said in error["message"]
