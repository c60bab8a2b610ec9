"""A job's events, frames and pictures over HTTP: a real gateway over a real Valkey, and steps a worker would take."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import httpx
import pytest
import redis
from fastapi.testclient import TestClient

from api.event_reader import CLIENT_NAME, EventReader
from api.main import create_app
from shared.dispatch import plan_of
from shared.frames import frame_hash
from shared.job_store import JobStore
from shared.object_store import frame_key, object_store_from_url
from shared.plan import Plan
from shared.settings import Settings
from tests.conftest import Valkey, wait_until
from tests.integration.gateway_probes import CLIP, KEY, PREVIEW, RENDERED, TRACK, served, submitted, taken


class Told(NamedTuple):
    id: str
    kind: str
    data: Any


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    """A gateway that listens: only a real one streams."""
    with served(settings) as address:
        yield address


def events(lines: Iterator[str]) -> Iterator[Told]:
    """What a stream tells, event by event; comments are left out."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield Told(fields.get("id", ""), fields["event"], json.loads(fields["data"]))
            fields = {}


def told(url: str, job_id: str, last_id: str | None = None) -> list[Told]:
    """All that a stream tells until the gateway ends it."""
    headers = {"Last-Event-ID": last_id} if last_id else {}
    with httpx.stream("GET", f"{url}/v1/jobs/{job_id}/events", headers=headers) as answer:
        return list(events(answer.iter_lines()))


def test_a_stream_tells_all_that_happens_and_ends_with_the_whole_job(url: str, job_store: JobStore) -> None:
    """Each event arrives while the job goes on, in the form that the job itself has; ids are those of the stream."""
    job_id = submitted(url, TRACK)
    with httpx.stream("GET", f"{url}/v1/jobs/{job_id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        stream = events(answer.iter_lines())
        assert next(stream)[1:] == ("status", {"status": "queued", "stage": None})
        attempt = taken(job_store, job_id)
        assert next(stream)[1:] == ("status", {"status": "running", "stage": "rendering"})
        job_store.add_event(job_id, "preview", PREVIEW)
        assert next(stream)[1:] == ("preview", PREVIEW)
        assert httpx.get(f"{url}/v1/jobs/{job_id}").json()["previews"] == [PREVIEW]
        job_store.record_frames(attempt, {0: RENDERED})
        assert next(stream)[1:] == ("log", {"message": "frame 0: 1.25 s on w1"})
        assert next(stream)[1:] == ("frame", httpx.get(f"{url}/v1/jobs/{job_id}/frames").json()["data"][0])
        progress = next(stream)
        now = httpx.get(f"{url}/v1/jobs/{job_id}").json()["progress"]
        assert progress.kind == "progress"
        assert progress.data | {"eta_s": None} == now | {"eta_s": None}
        assert (now["frames_done"], now["fraction"]) == (1, round(0.85 / 8, 4))
        job_store.finish(job_id, "failed", {"error": '{"code": "x", "message": "y", "retryable": false}'})
        assert next(stream)[1:] == ("status", {"status": "failed", "stage": None})
        last = next(stream)
        assert last[1:] == ("completed", httpx.get(f"{url}/v1/jobs/{job_id}").json())
        assert (last.data["status"], last.data["previews"]) == ("failed", [])
        assert next(stream, None) is None


def test_a_broken_stream_goes_on_without_a_gap(url: str, job_store: JobStore) -> None:
    """Wherever it broke off, and also when the job ended meanwhile."""
    job_id = submitted(url, CLIP)
    taken(job_store, job_id)
    for number in range(200):
        job_store.add_event(job_id, "log", {"message": str(number)})
    with httpx.stream("GET", f"{url}/v1/jobs/{job_id}/events") as answer:
        stream = events(answer.iter_lines())
        first = [next(stream) for _ in range(70)]
    job_store.add_event(job_id, "log", {"message": "200"})
    job_store.finish(job_id, "canceled")
    rest = told(url, job_id, first[-1].id)
    logged = [event.data["message"] for event in [*first, *rest] if event.kind == "log"]
    assert logged == [str(number) for number in range(201)]
    assert [event.kind for event in rest[-2:]] == ["status", "completed"]
    assert [event.kind for event in told(url, job_id, rest[-1].id)] == ["completed"]


def test_a_stream_whose_beginning_is_gone_begins_with_how_the_job_is(url: str, job_store: JobStore) -> None:
    """What was told first makes room for later events: a running job is not shown as waiting for it."""
    job_id = submitted(url, CLIP)
    attempt = taken(job_store, job_id)
    job_store.add_event(job_id, "log", {"message": "still there"})
    job_store.redis.xtrim(f"riffarm:job:{job_id}:events", maxlen=1, approximate=False)
    with httpx.stream("GET", f"{url}/v1/jobs/{job_id}/events") as answer:
        stream = events(answer.iter_lines())
        assert [next(stream)[1:] for _ in range(2)] == [
            ("status", {"status": "running", "stage": "rendering"}),
            ("log", {"message": "still there"}),
        ]
    job_store.give_back(attempt)


def test_a_stream_goes_on_through_pause_cancel_and_retry(url: str, job_store: JobStore) -> None:
    """It tells of each, and ends with the job's last end alone."""
    job_id = submitted(url, CLIP)
    with httpx.stream("GET", f"{url}/v1/jobs/{job_id}/events") as answer:
        stream = events(answer.iter_lines())
        assert next(stream).data["status"] == "queued"
        for action, status in (("pause", "paused"), ("resume", "queued")):
            httpx.post(f"{url}/v1/jobs/{job_id}/{action}").raise_for_status()
            assert next(stream)[1:] == ("status", {"status": status, "stage": None})
    for action in ("cancel", "retry"):
        httpx.post(f"{url}/v1/jobs/{job_id}/{action}").raise_for_status()
    with httpx.stream("GET", f"{url}/v1/jobs/{job_id}/events") as answer:
        stream = events(answer.iter_lines())
        statuses = [next(stream).data["status"] for _ in range(5)]
        assert statuses == ["queued", "paused", "queued", "canceled", "queued"]
        httpx.post(f"{url}/v1/jobs/{job_id}/cancel").raise_for_status()
        assert [event.kind for event in stream] == ["status", "completed"]


def test_who_comes_after_the_end_is_told_at_once(url: str, job_store: JobStore) -> None:
    """Also when the events have expired."""
    job_id = submitted(url, CLIP)
    taken(job_store, job_id)
    job_store.finish(job_id, "canceled")
    job = httpx.get(f"{url}/v1/jobs/{job_id}").json()
    assert [event[1:] for event in told(url, job_id)] == [("completed", job)]
    job_store.redis.delete(f"riffarm:job:{job_id}:events")
    assert [event[1:] for event in told(url, job_id, "1-0")] == [("completed", job)]


def test_a_stream_outlives_connections_of_the_gateway_to_redis(url: str, valkey: Valkey, job_store: JobStore) -> None:
    """Cut off all clients in the middle: what is told afterwards arrives."""
    job_id = submitted(url, CLIP)
    with httpx.stream("GET", f"{url}/v1/jobs/{job_id}/events") as answer:
        stream = events(answer.iter_lines())
        assert next(stream).kind == "status"
        with redis.Redis(port=valkey.port) as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        job_store.add_event(job_id, "log", {"message": "still there"})
        assert next(stream).data == {"message": "still there"}


def test_streams_share_their_connections_to_redis(url: str, valkey: Valkey, job_store: JobStore) -> None:
    """Fifty followers of five jobs hear of every end over two connections."""
    job_ids = [submitted(url, CLIP) for _ in range(5)]
    seen: list[str] = []
    threads = [threading.Thread(target=lambda one=one: seen.extend(ends_of_stream(url, one))) for one in job_ids * 10]
    for thread in threads:
        thread.start()
    wait_until(lambda: seen.count("status") == 50, "fifty streams have begun")
    with redis.Redis(port=valkey.port) as client:
        names = [one["name"] for one in client.client_list()]  # type: ignore[union-attr]
    assert names.count(CLIENT_NAME) == 2
    for job_id in job_ids:
        job_store.finish(job_id, "canceled")
    for thread in threads:
        thread.join()
    assert seen.count("completed") == 50


def test_a_gateway_told_to_stop_ends_its_streams(settings: Settings, job_store: JobStore) -> None:
    """Without `completed`, so that who follows comes back; the job goes on."""
    with ExitStack() as stack:
        stopping = stack.enter_context(ExitStack())
        url = stopping.enter_context(served(settings))
        job_id = submitted(url, CLIP)
        answer = stack.enter_context(httpx.stream("GET", f"{url}/v1/jobs/{job_id}/events"))
        stream = events(answer.iter_lines())
        assert next(stream).kind == "status"
        stopping.close()
        assert list(stream) == []
    assert job_store.status(job_id) == "queued"


def ends_of_stream(url: str, job_id: str) -> Iterator[str]:
    """Kinds of a stream's first and last event, each when it came."""
    with httpx.stream("GET", f"{url}/v1/jobs/{job_id}/events", timeout=60) as answer:
        stream = events(answer.iter_lines())
        yield next(stream).kind
        yield list(stream)[-1].kind


def test_a_stream_without_news_says_so_and_a_client_that_leaves_is_no_mistake(
    url: str, job_store: JobStore, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Comments keep proxies from cutting it off; nothing is logged when it is cut off in the middle."""
    monkeypatch.setattr("api.event_reader._LOOK_AGAIN_S", 0.05)
    job_id = submitted(url, CLIP)
    for number in range(300):
        job_store.add_event(job_id, "log", {"message": str(number)})
    for _ in range(5):
        with httpx.stream("GET", f"{url}/v1/jobs/{job_id}/events") as answer:
            assert sum(1 for _, line in zip(range(8), answer.iter_lines(), strict=False) if line)
    with httpx.stream("GET", f"{url}/v1/jobs/{job_id}/events") as answer:
        assert next(line for line in answer.iter_lines() if line.startswith(":")) == ": ping"
    httpx.get(f"{url}/health").raise_for_status()
    assert "error" not in "".join(capfd.readouterr())


def test_news_told_while_a_follower_looks_is_not_missed(valkey: Valkey, job_store: JobStore) -> None:
    """Whenever an event comes, between looking and waiting too: it is passed on long before the next look."""
    job_store.create("job_1", {"created_ms": 1})

    async def passed_on() -> list[str]:
        seen: list[str] = []
        async with EventReader(valkey.url) as reader:
            with reader.following("job_1") as follower:
                last_id = "0"
                job_store.add_event("job_1", "log", {"message": "0"})
                while "99" not in seen:
                    news = await asyncio.wait_for(follower.news(last_id), 10)
                    last_id = news.events[-1].id
                    seen += [event.data["message"] for event in news.events if event.kind == "log"]
                    if len(seen) < 100:
                        await asyncio.to_thread(job_store.add_event, "job_1", "log", {"message": str(len(seen))})
        return seen

    assert asyncio.run(passed_on()) == [str(number) for number in range(100)]


def test_a_reader_stops_whenever_it_is_told_to(valkey: Valkey) -> None:
    """Also in the middle of connecting, where a library may swallow the first word of it."""

    async def stopped_after(turns: int) -> None:
        async with EventReader(valkey.url):
            for _ in range(turns):
                await asyncio.sleep(0)

    async def stopped_at_every_turn() -> None:
        for turns in range(40):
            await asyncio.wait_for(stopped_after(turns), 10)

    asyncio.run(stopped_at_every_turn())


def test_what_cannot_be_followed_is_a_problem(gateway: TestClient, settings: Settings) -> None:
    """An unknown job, an id that is none, a key that is missing."""
    for path in ("events", "frames", "frames/0/picture"):
        problem = gateway.get(f"/v1/jobs/job_0/{path}")
        assert (problem.status_code, problem.json()["code"]) == (404, "not_found")
        assert problem.headers["content-type"] == "application/problem+json"
    job_id = gateway.post("/v1/jobs", json=CLIP).json()["id"]
    for last_id in ("x", "1", "1-", "-1", "1-1-1", "9" * 30 + "-0", "+inf"):
        problem = gateway.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": last_id})
        assert (problem.status_code, problem.json()["errors"][0]["field"]) == (422, "Last-Event-ID")
    locked = Settings.model_validate({**settings.model_dump(), "gateway_key": KEY})
    with TestClient(create_app(locked), base_url="http://localhost") as guarded:
        assert guarded.get(f"/v1/jobs/{job_id}/events").status_code == 401
        assert guarded.get("/v1/jobs/job_0/frames").status_code == 401


def test_a_frame_whose_worker_was_lost_waits_again(gateway: TestClient, job_store: JobStore) -> None:
    """It is nobody's until its batch is taken anew, whatever was shown of it; each start is counted."""
    job_id = gateway.post("/v1/jobs", json=CLIP).json()["id"]

    def frame() -> tuple[str, str | None, int]:
        (one,) = gateway.get(f"/v1/jobs/{job_id}/frames").json()["data"]
        return one["state"], one["worker"], one["attempts"]

    assert frame() == ("waiting", None, 0)
    attempt = taken(job_store, job_id)
    assert frame() == ("waiting", "w1", 1)
    job_store.add_event(job_id, "preview", PREVIEW)
    assert frame() == ("rendering", "w1", 1)
    job_store.give_back(attempt, "w1", "its process died")
    assert frame() == ("waiting", None, 1)
    taken(job_store, job_id)
    assert frame() == ("rendering", "w1", 2)
    job_store.finish(job_id, "canceled")
    assert frame() == ("missing", None, 0)


def test_frames_are_listed_in_order_page_by_page(gateway: TestClient, job_store: JobStore) -> None:
    """Each with its state, its record, and its picture once it is there."""
    job = gateway.post("/v1/jobs", json=TRACK).json()
    job_id = job["id"]
    job_store.record_frames(taken(job_store, job_id), {0: RENDERED, 1: {"reused": True}})
    job_store.add_event(job_id, "preview", PREVIEW | {"frame": 2})
    frames: list[dict[str, Any]] = []
    path: str | None = f"{job['urls']['frames']}?limit=3"
    while path:
        page = gateway.get(path.removeprefix("http://127.0.0.1:8000")).json()
        frames += page["data"]
        path = page["next"]
    assert [frame["number"] for frame in frames] == list(range(8))
    assert [frame["state"] for frame in frames] == ["finished", "finished", "rendering"] + ["waiting"] * 5
    assert frames[0] == {
        "number": 0,
        "state": "finished",
        "seconds": 1.25,
        "memory_mb": 900.0,
        "worker": "w1",
        "attempts": 1,
        "reused": False,
        "picture": f"{job['urls']['frames']}/0/picture",
    }
    assert (frames[1]["reused"], frames[1]["seconds"], frames[2]["picture"]) == (True, None, None)
    # Of frames that are not finished the batch is told.
    assert [(frame["worker"], frame["attempts"]) for frame in frames[2:]] == [("w1", 1)] * 2 + [(None, 0)] * 4
    job_store.finish(job_id, "canceled")
    states = [frame["state"] for frame in gateway.get(f"/v1/jobs/{job_id}/frames").json()["data"]]
    assert states == ["finished"] * 2 + ["missing"] * 6
    for query in ("limit=0", "limit=201", "cursor=x", "cursor=-1"):
        assert gateway.get(f"/v1/jobs/{job_id}/frames?{query}").status_code == 422
    assert gateway.get(f"/v1/jobs/{job_id}/frames?cursor=99").json() == {"data": [], "next": None}


def test_a_frames_picture_is_the_one_that_was_stored(
    gateway: TestClient, job_store: JobStore, settings: Settings
) -> None:
    """As soon as it is there; before, and beyond the last frame, there is none."""
    job_id = gateway.post("/v1/jobs", json=TRACK).json()["id"]
    plan = plan_of(job_store.read(job_id))
    assert isinstance(plan, Plan)
    store = object_store_from_url(settings.storage_url)
    store.put(frame_key(frame_hash(plan.frame(5))), b"PNG of frame 5", "image/png")
    answer = gateway.get(f"/v1/jobs/{job_id}/frames/5/picture")
    assert (answer.status_code, answer.content) == (200, b"PNG of frame 5")
    assert answer.headers["content-type"] == "image/png"
    assert "immutable" in answer.headers["cache-control"]
    for named, status in ((answer.headers["etag"], 304), (f'"a", W/{answer.headers["etag"]}', 304), ('"a"', 200)):
        again = gateway.get(f"/v1/jobs/{job_id}/frames/5/picture", headers={"If-None-Match": named})
        assert (again.status_code, bool(again.content)) == (status, status == 200)
        assert again.headers["etag"] == answer.headers["etag"]
    assert "not rendered yet" in gateway.get(f"/v1/jobs/{job_id}/frames/4/picture").json()["detail"]
    assert gateway.get(f"/v1/jobs/{job_id}/frames/8/picture").status_code == 404
    for number in ("-1", "x", "9" * 30):
        assert gateway.get(f"/v1/jobs/{job_id}/frames/{number}/picture").status_code == 422


def test_the_document_describes_events_and_frames(gateway: TestClient) -> None:
    """The kind of content, and the problems of each."""
    paths = gateway.get("/openapi.json").json()["paths"]
    followed = paths["/v1/jobs/{job_id}/events"]["get"]["responses"]
    assert "text/event-stream" in followed["200"]["content"]
    assert "FramePage" in json.dumps(paths["/v1/jobs/{job_id}/frames"]["get"]["responses"]["200"])
    picture = paths["/v1/jobs/{job_id}/frames/{number}/picture"]["get"]["responses"]
    assert picture["200"]["content"].keys() == {"image/png"}
    for responses in (followed, picture):
        assert responses["404"]["content"].keys() == {"application/problem+json"}
