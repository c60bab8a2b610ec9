"""The gateway over a real Valkey: what it takes, and what it answers."""

from __future__ import annotations

import hashlib
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from api.event_reader import CLIENT_NAME
from shared.farm_state import FarmState
from shared.job_store import JobStore
from shared.object_store import object_store_from_url
from shared.settings import Settings
from shared.uploads import upload_from_id
from tests.conftest import Valkey, wait_until
from tests.fake_worker import FakeWorker
from tests.integration.gateway_probes import CLIP, TRACK, recorded, served, tickets, waiting_batches
from tests.tiny_audio import FORMATS, RATE_HZ, write_tone


def test_a_job_is_recorded_in_storage_queued_and_answered_whole(
    gateway: TestClient, valkey: Valkey, settings: Settings
) -> None:
    """202 comes with the job's place, every default and drawn seed."""
    answer = gateway.post("/v1/jobs", json=TRACK)
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["status"], job["stage"], job["queue_position"]) == ("queued", None, 1)
    assert all(isinstance(keyframe["seed"], int) for keyframe in job["input"]["keyframes"])
    assert (job["input"]["sampler"], job["input"]["num_inference_steps"]) == ("dpmpp_2m_karras", 16)
    assert job["progress"] == {
        "frames_done": 0,
        "frames_total": 8,
        "frames_reused": 0,
        "fraction": 0.0,
        "audio_s_ready": 0.0,
        "eta_s": None,
    }
    assert waiting_batches(valkey) == 2
    manifest = json.loads(next(path for path in recorded(settings) if path.stem == job["id"]).read_text())
    assert json.loads(manifest["input"]) == job["input"]
    assert gateway.get(f"/v1/jobs/{job['id']}").json() == job


def test_resubmitting_a_jobs_input_is_accepted_as_it_is(gateway: TestClient) -> None:
    """`input` can be sent back and resolves to itself."""
    job = gateway.post("/v1/jobs", json=CLIP).json()
    assert gateway.post("/v1/jobs", json=job["input"]).json()["input"] == job["input"]


def test_a_ten_hour_track_takes_no_more_room_in_the_queue_than_a_clip(gateway: TestClient, valkey: Valkey) -> None:
    """However much work waits, one message says so."""
    gateway.post("/v1/jobs", json={**TRACK, "duration_s": 36_000})
    gateway.post("/v1/jobs", json=CLIP)
    assert (waiting_batches(valkey), tickets(valkey)) == (441, 1)


def test_plan_answers_and_queues_nothing(gateway: TestClient, valkey: Valkey, settings: Settings) -> None:
    """Planning leaves no trace."""
    plan = gateway.post("/v1/jobs/plan", json=TRACK).json()
    assert (plan["frames_total"], plan["batches_total"], plan["chunks_total"]) == (8, 2, 1)
    assert (plan["samples_total"], plan["frames_ready"]) == (1_806_336, 0)
    assert (waiting_batches(valkey), recorded(settings)) == (0, [])


def test_a_plan_says_what_it_costs_or_why_that_is_not_known(gateway: TestClient, job_store: JobStore) -> None:
    """Nothing is guessed: until something was done each cost is null with its reason; then they follow the pace."""
    plan = gateway.post("/v1/jobs/plan", json={**TRACK, "formats": ["wav", "mp3"]}).json()
    assert {*plan["cost"]["unknown"]} == {"render_s", "sound_s", "gpu_s", "wait_s"}
    assert "no worker serves render.riffarm-mini" in plan["cost"]["unknown"]["wait_s"]
    assert [plan["cost"][field] for field in ("render_s", "sound_s", "gpu_s", "wait_s")] == [None] * 4
    assert 0 <= plan["bytes"]["wav"] - 2 * plan["samples_total"] < 200_000
    assert plan["bytes"]["mp3"] < plan["bytes"]["wav"] / 5
    job_store.redis.hset("riffarm:pace", mapping={"render.riffarm-mini": "1500", "sound": "4000"})
    beat = {
        "name": "w1",
        "device": "cuda:0",
        "queues": ["render", "sound"],
        "models": ["riffarm-mini"],
        "items_done": 0,
        "frames_per_minute": 0.0,
    }
    FarmState(job_store.redis).beat("w1/1", beat)
    gateway.post("/v1/jobs", json=TRACK)
    cost = gateway.post("/v1/jobs/plan", json=TRACK).json()["cost"]
    assert cost == {"render_s": 3.0, "sound_s": 4.0, "gpu_s": 3.0, "wait_s": 3.0, "unknown": {}}


def test_listing_pages_newest_first_and_filters(gateway: TestClient) -> None:
    """Pages join without gap or repeat; filters combine."""
    ids = [gateway.post("/v1/jobs", json={**CLIP, "labels": {"n": str(n % 2)}}).json()["id"] for n in range(5)]
    seen: list[str] = []
    url: str | None = "/v1/jobs?limit=2"
    while url:
        page = gateway.get(url).json()
        seen += [job["id"] for job in page["data"]]
        url = page["next"] and page["next"].removeprefix("http://127.0.0.1:8000")
    assert sorted(seen, reverse=True) == sorted(ids, reverse=True)
    assert len(seen) == 5
    odd = gateway.get("/v1/jobs", params={"label.n": "1", "type": "clip", "status": "queued"}).json()["data"]
    assert {job["id"] for job in odd} == {ids[1], ids[3]}
    assert gateway.get("/v1/jobs?type=track").json() == {"data": [], "next": None}


def test_cancel_is_at_once_for_a_waiting_job_and_safe_to_repeat(gateway: TestClient) -> None:
    """A canceled job stays canceled and keeps its time."""
    job_id = gateway.post("/v1/jobs", json=CLIP).json()["id"]
    first = gateway.post(f"/v1/jobs/{job_id}/cancel").json()
    second = gateway.post(f"/v1/jobs/{job_id}/cancel").json()
    assert first["status"] == second["status"] == "canceled"
    assert first["finished_at"] == second["finished_at"]


@pytest.mark.parametrize(
    ("headers", "applied"),
    [
        (["wait=1"], "wait=1"),
        (["respond-async, wait=1"], "wait=1"),
        (["Wait = 1; a=b, respond-async"], "wait=1"),
        (['foo="a,wait=9", WAIT="1"'], "wait=1"),
        (["respond-async", "wait=1"], "wait=1"),
        (["wait=1, wait=60"], "wait=1"),
        (["respond-async"], None),
        (["waiting=9, handling=lenient;wait=9"], None),
        ([""], None),
    ],
)
def test_preferences_come_in_any_case_and_order(gateway: TestClient, headers: list[str], applied: str | None) -> None:
    """RFC 7240: of one that comes twice the first counts; others are nothing to us."""
    answer = gateway.post("/v1/jobs", json=CLIP, headers=[("Prefer", one) for one in headers])
    assert (answer.status_code, answer.headers.get("preference-applied")) == (202, applied)


@pytest.mark.parametrize(
    "prefer", ["wait=0", "wait=61", "wait", "wait=", "wait=-1", "wait=1.5", "wait=ten", "wait=1 0"]
)
def test_a_wait_that_cannot_be_is_refused(gateway: TestClient, prefer: str) -> None:
    """Before any work is queued."""
    answer = gateway.post("/v1/jobs", json=CLIP, headers={"Prefer": prefer})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "Prefer")
    assert gateway.get("/v1/jobs").json()["data"] == []


def test_hundreds_wait_at_one_connection_and_hear_of_the_end_at_once(settings: Settings, job_store: JobStore) -> None:
    """Whoever goes away meanwhile cancels nothing."""
    with served(settings) as url:
        limits = httpx.Limits(max_connections=None)
        with httpx.Client(timeout=70, limits=limits) as client, ThreadPoolExecutor(300) as pool:
            waiting = [
                pool.submit(client.post, f"{url}/v1/jobs", json=CLIP, headers={"Prefer": "wait=60"}) for _ in range(300)
            ]
            wait_until(lambda: len(_unfinished(job_store)) == 300, "all are recorded")
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}/v1/jobs", json=CLIP, headers={"Prefer": "wait=60"}, timeout=1)
            assert len(_unfinished(job_store)) == 301
            connections = cast("list[dict[str, str]]", job_store.redis.client_list())
            assert len([one for one in connections if one["name"] == CLIENT_NAME]) == 2
            assert len(connections) < 100
            started_s = time.monotonic()
            worker = FakeWorker(settings, job_store, object_store_from_url(settings.storage_url))
            while worker.work(500):
                pass
            answers = [one.result() for one in waiting]
        assert {answer.json()["status"] for answer in answers} == {"succeeded"}
        assert {answer.headers["preference-applied"] for answer in answers} == {"wait=60"}
        assert time.monotonic() - started_s < 40
        assert _unfinished(job_store) == set()


def _unfinished(job_store: JobStore) -> set[str]:
    return cast("set[str]", job_store.redis.smembers("riffarm:jobs:active"))


def test_prefer_wait_says_that_it_waited(gateway: TestClient) -> None:
    """Without a worker the wait runs out and the job is answered as it is."""
    answer = gateway.post("/v1/jobs", json=CLIP, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=1")
    assert answer.json()["status"] == "queued"


def test_a_picture_is_uploaded_checked_and_used(gateway: TestClient) -> None:
    """An upload's id works as seed image and mask; the same picture has the same id."""
    picture = io.BytesIO()
    Image.new("RGB", (512, 512), "white").save(picture, "PNG")
    answers = [gateway.post("/v1/uploads", files={"content": ("a.png", picture.getvalue())}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert {"kind": "image", "width": 512, "height": 512}.items() <= answers[0].json().items()
    upload_id = answers[0].json()["id"]
    job = gateway.post("/v1/jobs", json={**CLIP, "seed_image": upload_id, "mask_image": upload_id})
    assert job.status_code == 202


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_sound_is_uploaded_and_known_without_decoding_it_again(
    gateway: TestClient, settings: Settings, tmp_path: Path, suffix: str
) -> None:
    """The answer says what it is, whatever its name, and the same is kept beside it."""
    content = write_tone(tmp_path / f"a.{suffix}", channels=2).read_bytes()
    answers = [gateway.post("/v1/uploads", files={"content": ("a.png", content)}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    upload = answers[0].json()
    assert answers[1].json() == upload
    assert upload == {
        "kind": "audio",
        "id": f"upl_{hashlib.sha256(content).hexdigest()}",
        "media_type": {"mp3": "audio/mpeg", "opus": "audio/ogg"}.get(suffix, f"audio/{suffix}"),
        "bytes": len(content),
        "duration_s": 2.0,
        "sample_rate_hz": RATE_HZ,
        "channels": 2,
    }
    known = upload_from_id(object_store_from_url(settings.storage_url), upload["id"])
    assert known is not None
    assert known.model_dump() == upload
    assert len(recorded(settings)) == 3


def test_a_sound_is_converted_and_is_no_seed_image(gateway: TestClient, tmp_path: Path) -> None:
    """An upload's kind decides what it is good for."""
    content = write_tone(tmp_path / "a.flac", channels=1).read_bytes()
    upload_id = gateway.post("/v1/uploads", files={"content": ("a.flac", content)}).json()["id"]
    problem = gateway.post("/v1/jobs", json={**CLIP, "seed_image": upload_id}).json()
    assert (problem["errors"][0]["field"], problem["errors"][0]["message"]) == (
        "seed_image",
        "this upload is a sound: remix it, or convert it to a picture",
    )
    request = {"type": "convert", "source": upload_id, "stereo": True, "f_max_hz": 8_000}
    plan = gateway.post("/v1/jobs/plan", json=request).json()
    assert (plan["frames_total"], plan["duration_s"]) == (0, 2.0)
    job = gateway.post("/v1/jobs", json=request).json()
    assert (job["type"], job["status"], job["progress"]["fraction"]) == ("convert", "queued", 0.0)
    upside_down = gateway.post("/v1/jobs", json={**request, "f_min_hz": 9_000}).json()
    assert upside_down["errors"][0]["field"] == "f_min_hz"


def test_a_loop_that_turns_within_a_measure_is_warned_of(gateway: TestClient) -> None:
    """The plan says so, and the job."""
    request = {"type": "track", "keyframes": [{"prompt": "a"}], "duration_s": 30.0, "loop": True}
    assert "30.72 s" in gateway.post("/v1/jobs/plan", json=request).json()["warnings"][0]
    assert "30.72 s" in gateway.post("/v1/jobs", json=request).json()["warnings"][0]


def test_what_was_not_uploaded_is_not_known(gateway: TestClient, settings: Settings) -> None:
    """Ids that are none, and those of nothing."""
    store = object_store_from_url(settings.storage_url)
    for upload_id in ("", "og_beat", "upl_", "upl_../x", "upl_" + "0" * 64, "upl_" + "0" * 65):
        assert upload_from_id(store, upload_id) is None


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"just text", 415),
        (b"", 415),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
        (b"\x89PNG\r\n\x1a\n" + b"0" * 99, 422),
    ],
)
def test_an_upload_that_is_no_picture_is_refused(gateway: TestClient, content: bytes, status: int) -> None:
    """Decoding decides, not the name."""
    assert gateway.post("/v1/uploads", files={"content": ("a.png", content)}).status_code == status


def test_a_truncated_picture_and_a_bomb_are_refused(gateway: TestClient, settings: Settings) -> None:
    """Half a file, and a small file of a great many pixels."""
    whole = io.BytesIO()
    Image.effect_noise((256, 256), 50).save(whole, "PNG")
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    for content in (whole.getvalue()[:5_000], bomb.getvalue()):
        problem = gateway.post("/v1/uploads", files={"content": ("a.png", content)}).json()
        assert (problem["status"], problem["errors"][0]["field"]) == (422, "content")
    assert recorded(settings) == []


def test_the_catalogue_lists_models_and_seed_images(gateway: TestClient) -> None:
    """What a request can name can be asked for, and each picture seen."""
    assert "riffarm-mini" in [model["name"] for model in gateway.get("/v1/models").json()["data"]]
    seed_images = gateway.get("/v1/seed-images").json()["data"]
    assert {"og_beat", "agile", "marim", "motorway", "vibes"} <= {one["id"] for one in seed_images}
    for one in seed_images:
        answer = gateway.get(one["picture"])
        assert Image.open(io.BytesIO(answer.content)).height == 512


@pytest.mark.parametrize(
    ("wanted", "status", "size"), [("bytes=0-9", 206, 10), ("bytes=-9", 206, 9), ("items=0-9", 200, None)]
)
def test_a_range_in_other_units_than_bytes_is_passed_over(
    gateway: TestClient, wanted: str, status: int, size: int | None
) -> None:
    """As RFC 9110 has it: whoever sends what we do not know gets the whole file."""
    path = "/v1/seed-images/og_beat/picture"
    answer = gateway.get(path, headers={"Range": wanted})
    assert (answer.status_code, len(answer.content)) == (status, size or len(gateway.get(path).content))


def test_every_problem_has_a_page_and_the_documentation_works_offline(gateway: TestClient) -> None:
    """The type of a problem can be opened; /docs refers to nothing outside."""
    problem = gateway.post("/v1/jobs", json={}).json()
    assert gateway.get(problem["type"]).status_code == 200
    page = gateway.get("/docs")
    assert page.status_code == 200
    assert "https://" not in page.text
    document = gateway.get("/openapi.json").json()
    assert document["paths"]["/v1/jobs"]["post"]["responses"]["422"]["content"].keys() == {"application/problem+json"}
