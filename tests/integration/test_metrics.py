"""What a scrape of /metrics gives: read as Prometheus reads it."""

from __future__ import annotations

import threading

import httpx
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from api.main import create_app
from shared.job_store import JobStore
from shared.object_store import object_store_from_url
from shared.settings import Settings
from tests.conftest import SECRET, wait_until
from tests.fake_worker import FakeWorker
from tests.integration.gateway_probes import CLIP, TRACK, served, submitted

KEY = "m" * 40


def scraped(text: str) -> dict[tuple[str, ...], float]:
    """Values by name and labels; every family is described, and named once."""
    families = [*text_string_to_metric_families(text)]
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert all(family.documentation and family.name.startswith("riffarm_") for family in families)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_requests_are_counted_by_route_and_kind_of_status(gateway: TestClient) -> None:
    """By template and not by path; a histogram of seconds for each; what is no route is one."""
    job_id = gateway.post("/v1/jobs", json=CLIP).json()["id"]
    for path in (f"/v1/jobs/{job_id}", "/v1/jobs/job_0", "/v1/jobs/job_1", "/a", "/b?c=d"):
        gateway.get(path)
    gateway.request("BREW", "/a")
    seen = scraped(gateway.get("/metrics").text)
    requests = {key[1:]: value for key, value in seen.items() if key[0] == "riffarm_http_requests_total"}
    assert requests == {
        ("POST", "/v1/jobs", "2xx"): 1,
        ("GET", "/v1/jobs/{job_id}", "2xx"): 1,
        ("GET", "/v1/jobs/{job_id}", "4xx"): 2,
        ("GET", "other", "4xx"): 2,
        ("other", "other", "4xx"): 1,
    }
    assert seen["riffarm_http_request_seconds_count", "GET", "/v1/jobs/{job_id}"] == 3
    assert seen["riffarm_http_request_seconds_bucket", "60.0", "GET", "/v1/jobs/{job_id}"] == 3
    assert seen["riffarm_http_requests_in_flight",] == 1


def test_what_the_farm_did_is_counted_by_whoever_did_it(
    gateway: TestClient, settings: Settings, job_store: JobStore
) -> None:
    """Frames, jobs by how they ended, seconds of work and of sound; told alike by a gateway that saw none of it."""
    worker = FakeWorker(settings, job_store, object_store_from_url(settings.storage_url))
    for request in (TRACK, TRACK | {"labels": {"a": "b"}}, CLIP):
        gateway.post("/v1/jobs", json={"seed": 1, **request} if request is CLIP else _seeded(request))
    gateway.post("/v1/jobs/" + gateway.get("/v1/jobs").json()["data"][0]["id"] + "/cancel")
    worker.work()
    with TestClient(create_app(settings), base_url="http://localhost") as other:
        seen, told = (scraped(one.get("/metrics").text) for one in (gateway, other))
    assert seen["riffarm_jobs_accepted_total",] == 3
    assert {key[1]: value for key, value in seen.items() if key[0] == "riffarm_jobs_ended_total"} == {
        "succeeded": 2,
        "failed": 0,
        "canceled": 1,
    }
    assert seen["riffarm_frames_total", "rendered"] == 8
    assert seen["riffarm_frames_total", "reused"] == 8
    assert seen["riffarm_render_seconds_total",] == 0.004
    assert seen["riffarm_gpu_seconds_total",] == 0
    assert seen["riffarm_audio_seconds_total",] == 81.92
    assert seen["riffarm_realtime_factor",] > 0
    assert seen["riffarm_deliveries_pending",] == 0
    farms = {key: value for key, value in seen.items() if "_http_" not in key[0]}
    assert {key: value for key, value in told.items() if "_http_" not in key[0]} == farms


def _seeded(track: dict[str, object]) -> dict[str, object]:
    keyframes = [{"prompt": "jazz piano", "seed": 1}, {"prompt": "techno synth", "seed": 2}]
    return track | {"keyframes": keyframes}


def test_event_streams_are_counted_while_they_are_open(settings: Settings) -> None:
    """And are left out of the seconds, which they would stretch to hours."""
    with served(settings) as url:
        job_id = submitted(url, CLIP)

        def seen() -> dict[tuple[str, ...], float]:
            return scraped(httpx.get(f"{url}/metrics").text)

        with httpx.stream("GET", f"{url}/v1/jobs/{job_id}/events") as answer:
            told = answer.iter_lines()
            next(told)
            assert seen()["riffarm_event_streams",] == 1
        wait_until(lambda: seen()["riffarm_event_streams",] == 0, "the stream is no more counted")
        assert ("riffarm_http_request_seconds_count", "GET", "/v1/jobs/{job_id}/events") not in seen()


def test_labels_stay_few_whatever_clients_send(gateway: TestClient) -> None:
    """A thousand paths, ids and methods of one's own make no new series."""
    gateway.get("/v1/jobs/job_0")
    gateway.get("/a")
    gateway.get("/metrics")
    before = len(scraped(gateway.get("/metrics").text))
    for number in range(200):
        gateway.get(f"/v1/jobs/job_{number}", headers={"x-request-id": f"mine-{number}"})
        gateway.get(f"/a/{number}?b={number}")
    assert len(scraped(gateway.get("/metrics").text)) == before


def test_a_scrape_can_be_given_a_key(settings: Settings) -> None:
    """Then only who has it may scrape; the farm's own keys are others'."""
    keyed = settings.model_dump() | {"secret": SECRET, "webhook_secret": None, "metrics_key": KEY}
    with TestClient(create_app(Settings.model_validate(keyed)), base_url="http://localhost") as gateway:
        refused = gateway.get("/metrics")
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        assert gateway.get("/metrics", headers={"authorization": f"Bearer {KEY[:-1]}"}).status_code == 401
        assert gateway.get("/metrics", headers={"authorization": f"Bearer {KEY}"}).status_code == 200


def test_many_scrapes_at_once_agree(gateway: TestClient) -> None:
    """A scrape changes nothing but the count of scrapes."""
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(gateway.get("/metrics").text)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({frozenset(key for key in scraped(text) if "_http_" not in key[0]) for text in texts}) == 1
