"""The original Riffusion web app's requests, word for word, against a running farm without a key."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from PIL import Image

from tests.conftest import running_farm

PAGE = "https://riffusion-app.example"


@pytest.fixture(scope="module")
def renders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file in which the workers note what they render."""
    return tmp_path_factory.mktemp("riffusion") / "renders"


@pytest.fixture(scope="module")
def server(renders: Path) -> Iterator[httpx.Client]:
    """The farm that the web app is pointed at."""
    environment = {"RIFFARM_WORKER_APP": "tests.stub_worker:app", "RIFFARM_STUB_RENDERS": str(renders)}
    with (
        running_farm(renders.with_name("data"), "--workers", "1", environment=environment) as farm,
        httpx.Client(base_url=farm.url, timeout=60) as client,
    ):
        yield client


def asked(alpha: float, start: str, end: str, seed: int, end_seed: int, **fields: Any) -> str:
    """A request's body, its fields in the web app's order."""
    ends = [
        {"prompt": prompt, "seed": number, "denoising": 0.75, "guidance": 7}
        for prompt, number in ((start, seed), (end, end_seed))
    ]
    body = {
        "alpha": alpha,
        "num_inference_steps": 50,
        "seed_image_id": "og_beat",
        "mask_image_id": None,
        "start": ends[0],
        "end": ends[1],
    }
    return json.dumps(body | fields)


def answered(server: httpx.Client, body: str, content_type: str = "text/plain;charset=UTF-8") -> dict[str, Any]:
    # A page's fetch without headers of its own sends this type.
    answer = server.post("/run_inference/", content=body, headers={"Content-Type": content_type, "Origin": PAGE})
    assert answer.status_code == 200, answer.text
    assert answer.headers["access-control-allow-origin"] == "*"
    told: dict[str, Any] = answer.json()
    assert set(told) == {"image", "audio", "duration_s"}
    return told


def decoded(url: str, media_type: str) -> io.BytesIO:
    head, _, content = url.partition(",")
    assert head == f"data:{media_type};base64"
    return io.BytesIO(base64.b64decode(content, validate=True))


def picture(told: dict[str, Any]) -> np.ndarray[Any, Any]:
    image = Image.open(decoded(told["image"], "image/jpeg"))
    assert (image.format, image.size, image.mode) == ("JPEG", (512, 512), "RGB")
    return np.asarray(image)


def test_five_requests_in_a_row_interpolate(server: httpx.Client) -> None:
    """One prompt from seed to seed, as the app begins: each answer is a picture of 512×512 and a sound as long as it
    says, no two the same, and all of them well within the app's patience."""
    began_s = time.monotonic()
    prompt = "lo-fi beat for the holidays"
    told = [answered(server, asked(alpha, prompt, prompt, 7, 8)) for alpha in (0, 0.25, 0.5, 0.75, 1)]
    assert time.monotonic() - began_s < 55
    for one in told:
        samples, rate_hz = soundfile.read(decoded(one["audio"], "audio/mpeg"))
        assert one["duration_s"] == 5.12
        assert len(samples) == round(5.12 * rate_hz)
        assert np.abs(samples).max() > 0.01
    assert not any((picture(a) == picture(b)).all() for a, b in pairwise(told))
    assert len({one["audio"] for one in told}) == 5


def test_a_transition_ends_where_the_next_prompt_begins(server: httpx.Client) -> None:
    """As the app goes on: what alpha 1 gives of two prompts, alpha 0 gives of the second and what follows."""
    last = answered(server, asked(1, "church bells", "electronic beats", 21, 21))
    first = answered(server, asked(0, "electronic beats", "electronic beats", 21, 22))
    middle = answered(server, asked(0.5, "church bells", "electronic beats", 21, 21))
    assert (picture(last) == picture(first)).all()
    assert not (picture(last) == picture(middle)).all()


def test_the_same_request_is_the_same_sound_and_renders_nothing(server: httpx.Client, renders: Path) -> None:
    """The frame is kept; the body may be said to be JSON, as the app's own server does."""
    body = asked(0.25, "jazz", "techno", 3, 3)
    first = answered(server, body)
    rendered = len(renders.read_text().splitlines())
    again = answered(server, body, "application/json")
    assert again == first
    assert len(renders.read_text().splitlines()) == rendered


def test_a_page_of_any_site_may_ask_and_read_errors(server: httpx.Client) -> None:
    """The preflight allows the headers that the app sends; an error is a sentence that the page can read."""
    headers = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "access-control-allow-origin,content-type",
    }
    preflight = server.options("/run_inference/", headers=headers)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "*"
    allowed = preflight.headers["access-control-allow-headers"].lower().replace(" ", "").split(",")
    assert {"access-control-allow-origin", "content-type"} <= {*allowed}
    assert server.get("/v1/jobs", headers={"Origin": PAGE}).status_code == 401
    assert "access-control-allow-origin" not in server.get("/health", headers={"Origin": PAGE}).headers


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("{", "not JSON"),
        ("[]", "body"),
        (asked(2, "a", "b", 1, 1), "alpha"),
        (asked(0, "", "b", 1, 1), "start.prompt"),
        (asked(0, "a", "b", -1, 1), "start.seed"),
        (asked(0, "a", "b", 1, 1, seed_image_id="../../etc/passwd"), "seed_image"),
        (asked(0, "a", "b", 1, 1, seed_image_id="nowhere"), "seed_image"),
        (asked(0, "a", "b", 1, 1, mask_image_id="mask_gradient_dark"), "mask_image"),
        (asked(0, "a", "b", 1, 1, num_inference_steps=1_000), "num_inference_steps"),
        (json.dumps({"alpha": 0}), "start"),
    ],
)
def test_a_bad_request_is_answered_as_the_original_does(server: httpx.Client, body: str, sentence: str) -> None:
    """Status 400 and the reason as plain text, for pages of any site."""
    answer = server.post("/run_inference/", content=body, headers={"Origin": PAGE})
    assert (answer.status_code, answer.headers["content-type"]) == (400, "text/plain; charset=utf-8")
    assert sentence in answer.text
    assert answer.headers["access-control-allow-origin"] == "*"


def test_every_seed_image_that_the_app_offers_is_there(server: httpx.Client) -> None:
    """Those of the original server, and what else its settings list; `none` as a mask is the empty name."""
    pictures = set()
    for name in ("og_beat", "agile", "marim", "motorway", "vibes", "funk", "lounge"):
        told = answered(server, asked(0, "a", "b", 1, 1, seed_image_id=name, mask_image_id=""))
        pictures.add(told["image"])
    assert len(pictures) == 5


def test_a_frame_that_cannot_be_rendered_says_why(server: httpx.Client) -> None:
    """And the page can read that too."""
    answer = server.post("/run_inference/", content=asked(0, "it refuses", "b", 1, 1), headers={"Origin": PAGE})
    assert (answer.status_code, answer.text) == (500, "the stub was told to refuse")
    assert answer.headers["access-control-allow-origin"] == "*"
