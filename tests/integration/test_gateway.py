"""The gateway over a real Valkey: what it takes, what it refuses and how, and that a refusal leaves nothing behind."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient
from PIL import Image

from api.main import create_app
from shared.job_store import JobStore
from shared.settings import Settings
from tests.conftest import SECRET, WEBHOOK_SECRET, Valkey

KEY = "rf_" + "k" * 40
CLIP = {"type": "clip", "prompt": "jazz piano"}
TRACK = {"type": "track", "keyframes": [{"prompt": "jazz piano"}, {"prompt": "techno synth"}], "duration_s": 40.96}


def queued_batches(valkey: Valkey) -> int:
    with redis.Redis(port=valkey.port) as client:
        return sum(client.llen(f"render.{priority}") for priority in ("interactive", "normal", "bulk"))  # type: ignore[misc]


def job_keys(valkey: Valkey) -> list[bytes]:
    with redis.Redis(port=valkey.port) as client:
        return list(client.keys("*job*"))  # type: ignore[arg-type]


def recorded(settings: Settings) -> list[Path]:
    folder = Path(settings.storage_url.removeprefix("file:"))
    return [path for path in folder.rglob("*") if path.is_file()]


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
    assert job["input"]["num_inference_steps"] == 20
    assert job["progress"] == {
        "frames_done": 0,
        "frames_total": 8,
        "frames_reused": 0,
        "fraction": 0.0,
        "audio_s_ready": 0.0,
        "eta_s": None,
    }
    assert queued_batches(valkey) == 2
    manifest = json.loads(next(path for path in recorded(settings) if path.name == "manifest.json").read_text())
    assert json.loads(manifest["input"]) == job["input"]
    assert gateway.get(f"/v1/jobs/{job['id']}").json() == job


def test_resubmitting_a_jobs_input_is_accepted_as_it_is(gateway: TestClient) -> None:
    """`input` can be sent back and resolves to itself."""
    job = gateway.post("/v1/jobs", json=CLIP).json()
    assert gateway.post("/v1/jobs", json=job["input"]).json()["input"] == job["input"]


def test_only_a_window_of_batches_is_queued(gateway: TestClient, valkey: Valkey, settings: Settings) -> None:
    """A ten-hour track does not flood the queue."""
    gateway.post("/v1/jobs", json={**TRACK, "duration_s": 36_000})
    assert queued_batches(valkey) == settings.job_window


def test_plan_answers_and_queues_nothing(gateway: TestClient, valkey: Valkey, settings: Settings) -> None:
    """Planning leaves no trace."""
    plan = gateway.post("/v1/jobs/plan", json=TRACK).json()
    assert (plan["frames_total"], plan["batches_total"], plan["chunks_total"]) == (8, 2, 1)
    assert (plan["samples_total"], plan["frames_ready"]) == (1_806_336, 0)
    assert (queued_batches(valkey), recorded(settings)) == (0, [])


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


def test_prefer_wait_says_that_it_waited(gateway: TestClient) -> None:
    """Without a worker the wait runs out and the job is answered as it is."""
    answer = gateway.post("/v1/jobs", json=CLIP, headers={"Prefer": "wait=1"})
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=1")
    assert answer.json()["status"] == "queued"


WRONG: list[tuple[str, Any, str]] = [
    ("no prompt", {"type": "clip"}, "prompt"),
    ("empty prompt", {**CLIP, "prompt": ""}, "prompt"),
    ("blank prompt", {**CLIP, "prompt": "   "}, "prompt"),
    ("long prompt", {**CLIP, "prompt": "x" * 501}, "prompt"),
    ("NUL in prompt", {**CLIP, "prompt": "a\x00b"}, "prompt"),
    ("lone surrogate", b'{"type": "clip", "prompt": "\\ud800"}', "prompt"),
    ("prompt is a number", {**CLIP, "prompt": 5}, "prompt"),
    ("strength above 1", {**CLIP, "denoising_strength": 1.01}, "denoising_strength"),
    ("strength below 0", {**CLIP, "denoising_strength": -0.1}, "denoising_strength"),
    ("strength is text", {**CLIP, "denoising_strength": "0.5"}, "denoising_strength"),
    ("strength is true", {**CLIP, "denoising_strength": True}, "denoising_strength"),
    ("zero duration", {**CLIP, "duration_s": 0}, "duration_s"),
    ("negative duration", {**CLIP, "duration_s": -5}, "duration_s"),
    ("absurd duration", {**CLIP, "duration_s": 1e9}, "duration_s"),
    ("NaN duration", b'{"type": "clip", "prompt": "a", "duration_s": NaN}', "duration_s"),
    ("infinite duration", b'{"type": "clip", "prompt": "a", "duration_s": 1e999}', "duration_s"),
    ("unknown seed image", {**CLIP, "seed_image": "nothing"}, "seed_image"),
    ("path as seed image", {**CLIP, "seed_image": "../../etc/passwd"}, "seed_image"),
    ("upload that is not there", {**CLIP, "seed_image": "upl_" + "0" * 64}, "seed_image"),
    ("mask without seed image", {**CLIP, "mask_image": "og_beat"}, "mask_image"),
    ("unknown model", {**CLIP, "model": "nothing"}, "model"),
    ("unknown format", {**CLIP, "formats": ["aiff"]}, "formats[0]"),
    ("no format", {**CLIP, "formats": []}, "formats"),
    ("format twice", {**CLIP, "formats": ["wav", "wav"]}, "formats"),
    ("unknown sampler", {**CLIP, "sampler": "magic"}, "sampler"),
    ("unknown field", {**CLIP, "promt": "a"}, "promt"),
    ("seed below 0", {**CLIP, "seed": -1}, "seed"),
    ("seed above the top", {**CLIP, "seed": 2**32}, "seed"),
    ("huge seed", b'{"type": "clip", "prompt": "a", "seed": ' + b"9" * 400 + b"}", "seed"),
    ("fractional seed", {**CLIP, "seed": 1.5}, "seed"),
    ("zero steps", {**CLIP, "num_inference_steps": 0}, "num_inference_steps"),
    ("too many variations", {**CLIP, "variations": 65}, "variations"),
    ("too much sound", {**CLIP, "variations": 64, "duration_s": 36_000}, "variations"),
    ("no type", {"prompt": "a"}, "type"),
    ("unknown type", {"type": "opera", "prompt": "a"}, "type"),
    ("no keyframes", {**TRACK, "keyframes": []}, "keyframes"),
    ("empty keyframe prompt", {**TRACK, "keyframes": [{"prompt": "a"}, {"prompt": ""}]}, "keyframes[1].prompt"),
    ("keyframe beyond", {**TRACK, "keyframes": [{"prompt": "a", "at_s": 99}]}, "keyframes[0].at_s"),
    ("more keyframes than frames", {**TRACK, "duration_s": 5.12}, "duration_s"),
    ("field of the other type", {**TRACK, "prompt": "a"}, "prompt"),
    ("unknown keyframe field", {**TRACK, "keyframes": [{"prompt": "a", "seeed": 1}]}, "keyframes[0].seeed"),
    ("label with brackets", {**CLIP, "labels": {"a[b": 5}}, "labels.a[b"),
    ("webhook without a name", {**CLIP, "webhook": {"url": "https://xn--/"}}, "webhook.url"),
    ("webhook port", {**CLIP, "webhook": {"url": "https://example.com:99999/"}}, "webhook.url"),
    ("unknown curve", {**TRACK, "alpha_curve": "wild"}, "alpha_curve"),
    ("labels as list", {**CLIP, "labels": ["a"]}, "labels"),
    ("webhook inside", {**CLIP, "webhook": {"url": "https://10.0.0.1/"}}, "webhook.url"),
    ("webhook by mapped address", {**CLIP, "webhook": {"url": "https://[::ffff:10.0.0.1]/"}}, "webhook.url"),
    ("webhook over http", {**CLIP, "webhook": {"url": "http://example.com/"}}, "webhook.url"),
    ("webhook with password", {**CLIP, "webhook": {"url": "https://a:b@example.com/"}}, "webhook.url"),
    ("webhook is no URL", {**CLIP, "webhook": {"url": "http://[oops"}}, "webhook.url"),
    ("webhook event", {**CLIP, "webhook": {"url": "https://example.com/", "events": ["job.x"]}}, "webhook.events[0]"),
    ("a list", [1, 2], "body"),
    ("a number", 5, "body"),
    ("null", None, "body"),
]


@pytest.mark.parametrize(("body", "field"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/plan"])
def test_a_wrong_field_is_named_and_nothing_is_recorded(
    gateway: TestClient, valkey: Valkey, settings: Settings, path: str, body: Any, field: str
) -> None:
    """422 with the field and what is right; no job, no message, no object."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = gateway.post(path, content=content, headers={"content-type": "application/json"})
    problem = answer.json()
    assert answer.status_code == 422, problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["code"] == "invalid_request"
    assert field in [error["field"] for error in problem["errors"]], problem
    assert all(error["message"] for error in problem["errors"])
    assert job_keys(valkey) == []
    assert (queued_batches(valkey), recorded(settings)) == (0, [])


@pytest.mark.parametrize("content", [b"", b"{", b'{"type": "clip", "prompt": "\xff\xfe"}', b"\x00\x01", b"[" * 100_000])
def test_a_body_that_is_no_json_is_a_400(gateway: TestClient, valkey: Valkey, content: bytes) -> None:
    """Broken JSON, other encodings and bottomless nesting are refused in one sentence."""
    answer = gateway.post("/v1/jobs", content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] in ("malformed_body", "invalid_request")
    assert queued_batches(valkey) == 0


def test_a_body_that_is_not_declared_as_json_is_a_415(gateway: TestClient) -> None:
    """What curl sends without a header is answered with the header to send."""
    answer = gateway.post("/v1/jobs", content=json.dumps(CLIP), headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert "Content-Type: application/json" in answer.json()["detail"]


def test_unknown_fields_name_the_nearest_known_one(gateway: TestClient) -> None:
    """A typing slip is answered with what was meant."""
    error = gateway.post("/v1/jobs", json={**CLIP, "denoising_strenght": 0.5}).json()["errors"][0]
    assert error["allowed"] == ["denoising_strength"]
    assert "did you mean 'denoising_strength'" in error["message"]


def test_a_body_above_the_limit_is_a_413_by_length_and_by_count(gateway: TestClient) -> None:
    """A gigabyte is refused by its announced length, and a stream without one as soon as it is too long."""
    declared = gateway.post("/v1/jobs", content=b"{}", headers={"content-length": str(10**9)})
    assert (declared.status_code, declared.json()["code"]) == (413, "body_too_large")
    streamed = gateway.post("/v1/jobs", content=(b" " * 65_536 for _ in range(64)))
    assert (streamed.status_code, streamed.json()["code"]) == (413, "body_too_large")


def test_storage_down_is_a_503_and_nothing_is_half_recorded(
    gateway: TestClient, valkey: Valkey, settings: Settings
) -> None:
    """A file where the folder should be: no writing, no job."""
    folder = Path(settings.storage_url.removeprefix("file:"))
    folder.rmdir()
    folder.touch()
    answer = gateway.post("/v1/jobs", json=CLIP)
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
    assert "retry-after" in answer.headers
    assert job_keys(valkey) == []
    assert queued_batches(valkey) == 0


def test_redis_down_is_a_503_and_nothing_is_half_recorded(tmp_path: Path) -> None:
    """With Redis gone nothing is written to storage; with Redis back the gateway goes on by itself."""
    valkey = Valkey(tmp_path)
    (tmp_path / "storage").mkdir()
    settings = Settings(redis_url=valkey.url, storage_url=f"file:{tmp_path / 'storage'}", secret=SECRET)
    with TestClient(create_app(settings), base_url="http://localhost") as gateway:
        assert gateway.post("/v1/jobs", json=CLIP).status_code == 202
        before = recorded(settings)
        valkey.stop()
        answer = gateway.post("/v1/jobs", json=CLIP)
        assert (answer.status_code, answer.json()["code"]) == (503, "queue_unavailable")
        assert recorded(settings) == before
        assert gateway.get("/health").status_code == 200
        assert gateway.get("/ready").json()["checks"]["redis"]
        valkey.start()
        assert gateway.post("/v1/jobs", json=CLIP).status_code == 202
    valkey.stop()


@pytest.mark.parametrize(
    "job_id", ["job_nothing", "..", "a" * 3_000, "%00", "job_%F0%9F%8E%B5", "job_1:frames", "job_1:done"]
)
def test_unknown_jobs_are_a_404(gateway: TestClient, job_id: str) -> None:
    """Any id that is not there, whatever it looks like."""
    assert gateway.get(f"/v1/jobs/{job_id}/cancel").status_code in (404, 405)
    answer = gateway.post(f"/v1/jobs/{job_id}/cancel")
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "cursor=!!", "cursor=YQ", "status=lost", "created_after=now"]
)
def test_wrong_list_queries_are_named(gateway: TestClient, query: str) -> None:
    """A list's parameters are checked like a body's fields."""
    problem = gateway.get(f"/v1/jobs?{query}").json()
    assert problem["status"] == 422
    assert problem["errors"][0]["field"] == query.split("=")[0]


def test_with_a_key_only_the_key_gets_in(settings: Settings) -> None:
    """Missing, wrong and right key; health and documentation stay open."""
    keyed = Settings.model_validate({**settings.model_dump(), "gateway_key": KEY, "secret": SECRET})
    with TestClient(create_app(keyed)) as gateway:
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}):
            answer = gateway.get("/v1/jobs", headers=header)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert gateway.get("/v1/jobs", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
        assert gateway.get("/health").status_code == 200


def test_without_a_key_other_host_names_are_refused(settings: Settings) -> None:
    """A web page that points its own name at this machine gets nothing."""
    with TestClient(create_app(settings), base_url="http://evil.example") as gateway:
        assert gateway.get("/v1/jobs").status_code == 400


def test_a_picture_is_uploaded_checked_and_used(gateway: TestClient) -> None:
    """An upload's id works as seed image and mask; the same picture has the same id."""
    picture = io.BytesIO()
    Image.new("RGB", (512, 512), "white").save(picture, "PNG")
    answers = [gateway.post("/v1/uploads", files={"content": ("a.png", picture.getvalue())}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    upload_id = answers[0].json()["id"]
    job = gateway.post("/v1/jobs", json={**CLIP, "seed_image": upload_id, "mask_image": upload_id})
    assert job.status_code == 202


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


def test_outputs_need_a_fresh_and_untouched_signature(gateway: TestClient) -> None:
    """Expired, tampered or missing signatures are refused without saying whether the file exists."""
    for query in ("expires=1&signature=00", f"expires=99999999999&signature={'0' * 64}"):
        answer = gateway.get(f"/v1/jobs/job_x/outputs/track.flac?{query}")
        assert (answer.status_code, answer.json()["code"]) == (403, "url_expired")


def test_every_problem_has_a_page_and_the_documentation_works_offline(gateway: TestClient) -> None:
    """The type of a problem can be opened; /docs refers to nothing outside."""
    problem = gateway.post("/v1/jobs", json={}).json()
    assert gateway.get(problem["type"]).status_code == 200
    page = gateway.get("/docs")
    assert page.status_code == 200
    assert "https://" not in page.text
    document = gateway.get("/openapi.json").json()
    assert document["paths"]["/v1/jobs"]["post"]["responses"]["422"]["content"].keys() == {"application/problem+json"}


def test_a_request_id_is_kept_or_made(gateway: TestClient) -> None:
    """The caller's id comes back; one that could forge a log line does not."""
    assert gateway.get("/health", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert gateway.get("/health", headers={"X-Request-Id": "a b"}).headers["x-request-id"].startswith("req_")


def test_the_webhook_secret_is_required_for_webhooks(settings: Settings) -> None:
    """A farm that cannot sign does not promise to."""
    assert settings.webhook_secret
    assert settings.webhook_secret.get_secret_value() == WEBHOOK_SECRET
    unsigned = Settings.model_validate({**settings.model_dump(), "webhook_secret": None, "secret": SECRET})
    with TestClient(create_app(unsigned), base_url="http://localhost") as gateway:
        problem = gateway.post("/v1/jobs", json={**CLIP, "webhook": {"url": "https://example.com/"}}).json()
        assert problem["errors"][0]["field"] == "webhook"


def test_ids_that_are_part_of_another_key_are_a_404(gateway: TestClient) -> None:
    """A colon would lead to a job's inner sets."""
    job_id = gateway.post("/v1/jobs", json=CLIP).json()["id"]
    for part in ("frames", "moves", "attempts", "done", "warnings"):
        assert gateway.get(f"/v1/jobs/{job_id}:{part}").status_code == 404
        assert gateway.post(f"/v1/jobs/{job_id}:{part}/cancel").status_code == 404


def test_times_without_a_zone_are_utc_and_the_first_year_is_no_error(gateway: TestClient) -> None:
    """A filter's time may be any that can be written."""
    gateway.post("/v1/jobs", json=CLIP)
    assert len(gateway.get("/v1/jobs?created_after=0001-01-01T00:00:00").json()["data"]) == 1
    assert gateway.get("/v1/jobs?created_before=2001-01-01T00:00:00Z").json()["data"] == []


def test_pages_of_other_sites_may_not_use_a_farm_without_a_key(gateway: TestClient) -> None:
    """A form in a browser needs no permission to be sent, so its origin is looked at."""
    for origin, status in (("https://evil.example", 401), ("null", 401), ("http://127.0.0.1:8000", 200)):
        assert gateway.get("/v1/jobs", headers={"Origin": origin}).status_code == status


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
