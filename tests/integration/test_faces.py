"""The drop-in faces, where the published clients do not look: access, links, ranges, deadlines, bad input."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from api.keys import Keys
from api.main import create_app
from shared.contracts import Job
from shared.job_store import JobStore
from shared.job_view import JobView
from shared.object_store import object_store_from_url, output_key
from shared.predictions import RIFFUSION, PredictionView, version_of
from shared.settings import Settings
from tests.conftest import SECRET, wait_until
from tests.integration.gateway_probes import CLIP, KEY
from tests.swift_s3 import S3Server
from workers.webhooks import MAX_BODY_BYTES, prediction_body

SOUND = bytes(range(256)) * 4_000
INPUT = {"prompt": "calm strings", "seed": 1}
PAGE = {"Origin": "https://riffusion-app.example"}


def made(gateway: TestClient, model: str = "riffarm/clip", headers: dict[str, str] | None = None, **body: Any) -> Any:
    """A prediction as it was answered."""
    answer = gateway.post(f"/v1/models/{model}/predictions", json={"input": INPUT, **body}, headers=headers)
    assert answer.status_code in (201, 202), answer.text
    return answer.json()


def finish(settings: Settings, job_id: str, name: str = "clip.wav") -> None:
    """Have a job end with one file, without a worker."""
    store = JobStore(settings.redis_url)
    object_store_from_url(settings.storage_url, settings.s3_endpoint_url).put(output_key(job_id, name), SOUND)
    output = {"name": name, "media_type": "audio/wav", "bytes": len(SOUND), "sha256": "ab" * 32, "duration_s": 5.12}
    assert store.finish(job_id, "succeeded", {"outputs": json.dumps([output])})
    store.redis.close()


@contextmanager
def gateway_with(settings: Settings, **changes: Any) -> Iterator[TestClient]:
    """A gateway with other settings."""
    other = Settings.model_validate({**settings.model_dump(), "secret": SECRET, "webhook_secret": None, **changes})
    with TestClient(create_app(other), base_url="http://localhost", raise_server_exceptions=False) as gateway:
        yield gateway


@pytest.mark.parametrize("kind", ["disk", "s3"])
def test_outputs_come_through_the_gateway_with_and_without_a_key(
    settings: Settings, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Wherever they are kept: no redirect, one range or all of it, and only by an untouched link."""
    changes = {}
    if kind == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        changes = {"storage_url": "s3://riffarm/faces", "s3_endpoint_url": server.endpoint_url}
    with gateway_with(settings, **changes) as gateway:
        prediction = made(gateway)
        finish(gateway.app.state.settings, prediction["id"])  # type: ignore[attr-defined]
        (url,) = gateway.get(f"/v1/predictions/{prediction['id']}").json()["output"]
        path = url.removeprefix(settings.base_url)
        whole = gateway.get(path, headers={"Authorization": "Bearer anything"}, follow_redirects=False)
        assert (whole.status_code, whole.content) == (200, SOUND)
        assert whole.headers["content-type"] == "audio/wav"
        assert whole.headers["etag"] == f'"{"ab" * 32}"'
        ends = {"bytes=0-9": SOUND[:10], "bytes=1000-": SOUND[1_000:], "bytes=-7": SOUND[-7:], "bytes=0-": SOUND}
        for wanted, part in ends.items():
            answer = gateway.get(path, headers={"Range": wanted})
            assert (answer.status_code, answer.content) == (206, part)
            assert re.fullmatch(rf"bytes \d+-\d+/{len(SOUND)}", answer.headers["content-range"])
        beyond = gateway.get(path, headers={"Range": f"bytes={len(SOUND)}-"})
        assert (beyond.status_code, beyond.json()["code"]) == (416, "range_not_satisfiable")
        assert beyond.headers["content-range"] == f"bytes */{len(SOUND)}"
        assert gateway.get(path, headers={"Range": "bytes=0-9", "If-Range": '"old"'}).status_code == 200
        head = gateway.head(path)
        assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(SOUND)), b"")
        for bad in (path[:-1], path.replace("clip.wav", "clip.mp3"), re.sub(r"expires=\d+", "expires=1", path)):
            assert gateway.get(bad).json()["code"] == "url_expired"


def test_a_wait_that_runs_out_answers_starting_though_the_job_runs(gateway: TestClient, job_store: JobStore) -> None:
    """Read by itself it is processing."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(made, gateway, headers={"Prefer": "wait=1"})

        def is_taken() -> bool:
            return job_store.take("render.riffarm-mini", "w1", "w1/1").attempt is not None

        wait_until(is_taken, "a job to take")
        prediction = answer.result(10)
    assert prediction["status"] == "starting"
    assert gateway.get(f"/v1/predictions/{prediction['id']}").json()["status"] == "processing"


def test_a_wait_ends_with_the_job(gateway: TestClient, settings: Settings, job_store: JobStore) -> None:
    """Not at its time, and with what the job made."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(made, gateway, headers={"Prefer": "respond-async, wait"})
        wait_until(lambda: bool(job_store.ids_before(float("inf"), "~", 1)), "a job")
        finish(settings, job_store.ids_before(float("inf"), "~", 1)[0])
        prediction = answer.result(10)
    assert prediction["status"] == "succeeded"
    assert len(prediction["output"]) == 1


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1m", 60), ("1h", 3_600), ("1h30m", 5_400), ("5", 5)])
def test_a_deadline_is_told_in_the_prediction(gateway: TestClient, text: str, seconds: int) -> None:
    """In the forms that clients write."""
    prediction = made(gateway, headers={"Cancel-After": text})
    times = [datetime.fromisoformat(prediction[name]) for name in ("created_at", "deadline")]
    assert (times[1] - times[0]).total_seconds() == seconds


BAD: list[tuple[str, dict[str, Any], dict[str, str], int, str]] = [
    ("riffarm/clip", {}, {"Cancel-After": "soon"}, 422, "Cancel-After"),
    ("riffarm/clip", {}, {"Cancel-After": "0s"}, 422, "Cancel-After"),
    ("riffarm/clip", {"input": {}}, {}, 422, "prompt: required"),
    ("riffarm/clip", {"input": INPUT | {"type": "track"}}, {}, 422, "type: unknown input"),
    ("riffarm/clip", {"input": INPUT | {"webhook": {"url": "x"}}}, {}, 422, "webhook: unknown input"),
    ("riffarm/clip", {"input": INPUT | {"seed": "1"}}, {}, 422, "seed"),
    ("riffarm/clip", {"input": INPUT | {"alpha": 0.5}}, {}, 422, "alpha"),
    ("riffarm/clip", {"input": INPUT | {"seed_image": "data:image/png;base64,!"}}, {}, 422, "seed_image"),
    ("riffarm/clip", {"input": INPUT | {"seed_image": "data:,x"}}, {}, 422, "seed_image"),
    ("riffarm/clip", {"input": INPUT | {"seed_image": "data:image/png;base64,AAAA"}}, {}, 415, "upload"),
    ("riffarm/clip", {"input": INPUT | {"seed_image": "http://169.254.169.254/x"}}, {}, 422, "elsewhere"),
    ("riffarm/clip", {"input": INPUT | {"seed_image": f"http://x/v1/files/upl_{'a' * 64}"}}, {}, 422, "seed_image"),
    ("riffarm/convert", {"input": {"source": 7}}, {}, 422, "source"),
    (RIFFUSION, {"input": {"prompt_a": "x", "seed_image_id": "../x"}}, {}, 422, "seed_image_id"),
    (RIFFUSION, {"input": {"prompt_c": "x"}}, {}, 422, "did you mean"),
    (RIFFUSION, {"input": {"denoising": float("2")}}, {}, 422, "denoising"),
    ("riffarm/clip", {"webhook": "http://10.0.0.1/"}, {}, 422, "webhook"),
    ("riffarm/clip", {"webhook": "https://x.example/", "webhook_events_filter": ["end"]}, {}, 422, "webhook_events"),
    ("nobody/nothing", {}, {}, 404, "There is no model"),
]


@pytest.mark.parametrize(("model", "body", "headers", "status", "words"), BAD)
def test_a_bad_prediction_is_refused_with_the_reason(
    gateway: TestClient, model: str, body: dict[str, Any], headers: dict[str, str], status: int, words: str
) -> None:
    """In the fields that the clients read; nothing is recorded."""
    answer = gateway.post(f"/v1/models/{model}/predictions", json={"input": INPUT, **body}, headers=headers)
    told = answer.json()
    assert (answer.status_code, told["status"]) == (status, status)
    assert words in told["detail"]
    assert told["title"]
    assert gateway.get("/v1/predictions").json()["results"] == []


def test_a_version_is_named_in_every_way_that_clients_name_it(gateway: TestClient) -> None:
    """By itself, by the model, by both; another's version is none."""
    version = version_of(RIFFUSION)
    for name in (version, RIFFUSION, f"{RIFFUSION}:{version}"):
        answer = gateway.post("/v1/predictions", json={"version": name, "input": {"prompt_a": "x"}})
        assert (answer.status_code, answer.json()["model"]) == (201, RIFFUSION)
    for name in (f"riffarm/clip:{version}", "0" * 64, ":"):
        answer = gateway.post("/v1/predictions", json={"version": name, "input": {}})
        assert answer.status_code == 404


def test_the_published_models_input_becomes_a_clip_between_two_prompts(gateway: TestClient) -> None:
    """What the job is told with is what the prediction was asked for; both lists show it."""
    wanted = {"prompt_a": "jazz", "prompt_b": "techno", "alpha": 0.25, "denoising": 0.6, "num_inference_steps": 20}
    prediction = made(gateway, RIFFUSION, input=wanted)
    assert prediction["input"] == wanted | {"seed_image_id": "vibes"}
    job = gateway.get(f"/v1/jobs/{prediction['id']}").json()["input"]
    assert (job["prompt"], job["end"]["prompt"], job["alpha"]) == ("jazz", "techno", 0.25)
    assert (job["denoising_strength"], job["end"]["denoising_strength"], job["guidance_scale"]) == (0.6, 0.6, 7)
    own = gateway.post("/v1/jobs", json=CLIP).json()["id"]
    models = {one["id"]: one["model"] for one in gateway.get("/v1/predictions").json()["results"]}
    assert models == {prediction["id"]: RIFFUSION, own: "riffarm/clip"}


def test_a_stream_goes_on_where_it_broke(gateway: TestClient, settings: Settings) -> None:
    """After `Last-Event-ID` nothing is told twice; a link that was changed leads nowhere."""
    prediction = made(gateway)
    finish(settings, prediction["id"])
    path = prediction["urls"]["stream"].removeprefix(settings.base_url)
    whole = gateway.get(path)
    assert whole.headers["content-type"].startswith("text/event-stream")
    ids = re.findall(r"^id: (.+)$", whole.text, re.MULTILINE)
    assert ids[-1] == ids[-2]
    rest = gateway.get(path, headers={"Last-Event-ID": ids[-4]}).text
    # A link is signed anew each time.
    assert re.findall("^event: .*$", rest, re.MULTILINE) == re.findall("^event: .*$", whole.text, re.MULTILINE)[-3:]
    assert gateway.get(path[:-1]).json()["code"] == "url_expired"


def test_keys_are_asked_for_and_may_be_called_tokens(settings: Settings, job_store: JobStore) -> None:
    """Every path of Replicate's but the signed links; another tenant's prediction is not there."""
    keys = Keys(object_store_from_url(settings.storage_url), job_store.redis)
    texts = [keys.create(name, name, ("read", "submit")).text for name in ("anna", "bert")]
    paths = ("predictions", "account", "hardware", "models/riffarm/clip", "files", "webhooks/default/secret")
    with gateway_with(settings, gateway_key=KEY) as gateway:
        for path in paths:
            assert gateway.get(f"/v1/{path}").status_code == 401
            assert gateway.get(f"/v1/{path}", headers={"Authorization": f"Token {KEY}"}).status_code == 200
        anna, bert = ({"Authorization": f"Token {text}"} for text in texts)
        prediction = made(gateway, headers=anna)
        path = f"/v1/predictions/{prediction['id']}"
        assert [gateway.get(path, headers=one).status_code for one in (anna, bert)] == [200, 404]
        assert gateway.post(f"{path}/cancel", headers=bert).status_code == 404
        assert gateway.get("/v1/account", headers=anna).json()["username"] == "anna"
        assert gateway.get("/v1/webhooks/default/secret", headers=anna).status_code == 403
        file = gateway.post("/v1/files", headers=anna, files={"content": ("a.png", _picture(), "image/png")}).json()
        for headers, status in ((anna, 200), (bert, 404)):
            assert gateway.get(f"/v1/files/{file['id']}", headers=headers).status_code == status
        assert gateway.delete(f"/v1/files/{file['id']}", headers=bert).status_code == 404
        assert gateway.get("/v1/files", headers=bert).json()["results"] == []


def test_riffusions_face_asks_for_a_key_unless_it_is_opened(settings: Settings) -> None:
    """What is answered can be read by any page; opened, what comes is the named tenant's."""
    end = {"prompt": "a", "seed": 1}
    body = json.dumps({"start": end, "end": end, "alpha": 0, "seed_image_id": "nowhere"})

    def ask(gateway: TestClient, **headers: str) -> httpx.Response:
        answer = gateway.post("/run_inference/", content=body, headers=PAGE | headers)
        assert answer.headers["access-control-allow-origin"] == "*"
        return answer

    with gateway_with(settings, gateway_key=KEY) as gateway:
        assert ask(gateway).status_code == 401
        assert ask(gateway, Authorization=f"Bearer {KEY}").status_code == 400
    with gateway_with(settings, gateway_key=KEY, riffusion_tenant="visitors") as gateway:
        assert ask(gateway).status_code == 400
        assert ask(gateway, Authorization="Bearer wrong").status_code == 401
        assert gateway.get("/v1/jobs", headers=PAGE).status_code == 401


def test_a_predictions_news_stays_short(gateway: TestClient, settings: Settings, job_store: JobStore) -> None:
    """However long its input: that is left out before its output is."""
    keyframes = [{"prompt": "p" * 400, "seed": seed} for seed in range(200)]
    prediction = made(gateway, "riffarm/track", input={"keyframes": keyframes, "duration_s": 2_000.0})
    finish(settings, prediction["id"])
    store = object_store_from_url(settings.storage_url)
    job: Job = JobView(settings, store).job(job_store.read(prediction["id"]))
    body = prediction_body(PredictionView(settings).prediction(job))
    told = json.loads(body)
    assert len(body) < MAX_BODY_BYTES
    assert (told["input"], len(told["output"]), told["status"]) == ({}, 1, "succeeded")


def _picture() -> bytes:
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, "PNG")
    return file.getvalue()
