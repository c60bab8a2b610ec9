"""What the gateway refuses: the field, what is right, and that a refusal leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient

from api.main import create_app
from shared.catalogue import seed_images
from shared.settings import Settings
from tests.conftest import SECRET, Valkey
from tests.integration.gateway_probes import CLIP, TRACK, job_keys, recorded, waiting_batches
from tests.tiny_audio import FORMATS, cut, write_tone

BAD_PREFIXES = [
    "..",
    "a/../b",
    "/a",
    "a//b",
    "//",
    ".a",
    "a/.b",
    "a\x00b",
    "a\nb",
    "a\x7fb",
    "a b",
    "é",
    "a\\b",
    "a" * 513,
]

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
    ("output without bucket", {**CLIP, "output": {"prefix": "a"}}, "output.bucket"),
    ("output to a bucket from a farm on a disk", {**CLIP, "output": {"bucket": "client"}}, "output.bucket"),
    ("output with a key", {**CLIP, "output": {"bucket": "client", "secret": "x"}}, "output.secret"),
    ("output as text", {**CLIP, "output": "s3://client/a"}, "output"),
    *(
        (f"prefix {prefix[:20]!r}", {**CLIP, "output": {"bucket": "client", "prefix": prefix}}, "output.prefix")
        for prefix in BAD_PREFIXES
    ),
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
    ("too loud", {**CLIP, "loudness_lufs": 0}, "loudness_lufs"),
    ("unknown quality", {**CLIP, "quality": "best"}, "quality"),
    ("unknown join", {**TRACK, "joins": "glue"}, "joins"),
    ("loop is text", {**TRACK, "loop": "yes"}, "loop"),
    ("loop of a clip", {**CLIP, "loop": True}, "loop"),
    ("loop that ends between columns", {**TRACK, "loop": True, "duration_s": 20.485}, "duration_s"),
    ("loop of no length", {**TRACK, "loop": True, "duration_s": 0.5, "keyframes": [{"prompt": "a"}]}, "duration_s"),
    ("tempo of nothing", {**CLIP, "tempo_bpm": 0}, "tempo_bpm"),
    ("tempo that fits no frame", {**CLIP, "tempo_bpm": 40, "seed_image": "og_beat"}, "tempo_bpm"),
    ("conversion of nothing", {"type": "convert"}, "source"),
    ("conversion of a seed image", {"type": "convert", "source": "og_beat"}, "source"),
    ("conversion of an upload that is not there", {"type": "convert", "source": "upl_" + "0" * 64}, "source"),
    ("prompt of a conversion", {"type": "convert", "source": "upl_" + "0" * 64, "prompt": "a"}, "prompt"),
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
    assert (waiting_batches(valkey), recorded(settings)) == (0, [])


@pytest.mark.parametrize("content", [b"", b"{", b'{"type": "clip", "prompt": "\xff\xfe"}', b"\x00\x01", b"[" * 100_000])
def test_a_body_that_is_no_json_is_a_400(gateway: TestClient, valkey: Valkey, content: bytes) -> None:
    """Broken JSON, other encodings and bottomless nesting are refused in one sentence."""
    answer = gateway.post("/v1/jobs", content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] in ("malformed_body", "invalid_request")
    assert waiting_batches(valkey) == 0


def test_a_body_that_is_not_declared_as_json_is_a_415(gateway: TestClient) -> None:
    """What curl sends without a header is answered with the header to send."""
    answer = gateway.post("/v1/jobs", content=json.dumps(CLIP), headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert "Content-Type: application/json" in answer.json()["detail"]


REMIX = {"type": "remix", "source": "upl_" + "0" * 64, "keyframes": [{"prompt": "a"}]}
CONVERT = {"type": "convert", "source": "upl_" + "0" * 64}


@pytest.mark.parametrize(
    ("body", "field", "near"),
    [
        ({**CLIP, "denoising_strenght": 0.5}, "denoising_strenght", "denoising_strength"),
        ({**CLIP, "Prompt": "a"}, "Prompt", "prompt"),
        ({**CLIP, "variation": 2}, "variation", "variations"),
        ({**CLIP, "end": {"promt": "a", "prompt": "a"}}, "end.promt", "prompt"),
        ({**CLIP, "webhook": {"url": "https://example.com/", "event": []}}, "webhook.event", "events"),
        ({**TRACK, "keyframe": []}, "keyframe", "keyframes"),
        ({**TRACK, "keyframes": [{"prompt": "a", "at": 1}]}, "keyframes[0].at", "at_s"),
        ({**TRACK, "keyframes": [{"prompt": "a"}, {"prompt": "b", "seeed": 1}]}, "keyframes[1].seeed", "seed"),
        ({**TRACK, "alpha_curve": {"power": 2, "powr": 2}}, "alpha_curve.powr", "power"),
        ({**REMIX, "overlaps_s": 1}, "overlaps_s", "overlap_s"),
        ({**REMIX, "sourse": "a"}, "sourse", "source"),
        ({**REMIX, "keyframes": [{"prompt": "a", "negative": "b"}]}, "keyframes[0].negative", "negative_prompt"),
        ({**REMIX, "webhook": {"url": "https://example.com/", "urls": ""}}, "webhook.urls", "url"),
        ({**CONVERT, "f_min": 5}, "f_min", "f_min_hz"),
        ({**CONVERT, "label": {}}, "label", "labels"),
    ],
)
def test_unknown_fields_name_the_nearest_known_one_at_every_depth(
    gateway: TestClient, body: Any, field: str, near: str
) -> None:
    """A typing slip is answered with what was meant, whatever the type of the job and however deep it stands."""
    error = next(one for one in gateway.post("/v1/jobs", json=body).json()["errors"] if one["field"] == field)
    assert error["allowed"] == [near]
    assert f"did you mean {near!r}" in error["message"]


def test_a_field_like_no_other_is_answered_with_all_there_are(gateway: TestClient) -> None:
    """Nothing is near: the whole list."""
    (error,) = gateway.post("/v1/jobs", json={**TRACK, "keyframes": [{"prompt": "a", "zzz": 1}]}).json()["errors"]
    assert {"prompt", "seed", "at_s"} <= {*error["allowed"]}


def test_a_value_that_is_none_of_those_allowed_is_answered_with_all_of_them(gateway: TestClient) -> None:
    """As a list for programs, and in words."""
    (error,) = gateway.post("/v1/jobs", json={**CLIP, "formats": ["aiff"]}).json()["errors"]
    assert error["allowed"] == ["wav", "flac", "mp3", "ogg", "opus"]
    assert error["message"] == "must be 'wav', 'flac', 'mp3', 'ogg' or 'opus'"


_OPEN = b'{"type": "clip", "prompt": "a"'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (_OPEN + b', "prompt": "b"}', "'prompt' is given twice"),
        (_OPEN + b', "pr\\u006fmpt": "b"}', "'prompt' is given twice"),
        (_OPEN + b', "labels": {"n": "1", "n": "2"}}', "labels: the name 'n' is given twice"),
        (_OPEN + b', "nonsense": {"n": 1, "n": 1}}', "'n' is given twice"),
        (b'{"type": "track", "keyframes": [{"prompt": "a"}, {"prompt": "a", "seed": 1, "seed": 2}]}', "keyframes[1]: "),
        (b"", "required"),
        (_OPEN, "delimiter"),
        (_OPEN + b"}}", "Extra data"),
        (b"{'type': 'clip'}", "double quotes"),
        (_OPEN + b', "seed": 01}', "delimiter"),
        (_OPEN + b', "seed": 0x10}', "delimiter"),
        (_OPEN + b', "seed": ' + b"9" * 5_000 + b"}", "too many digits"),
        (b'{"type": "clip", "prompt": "\xff"}', "not UTF-8"),
        (b'{"type": "clip", "prompt": "\xed\xa0\x80"}', "not UTF-8"),
        (b'{"type": "clip", "prompt": "a\x00b"}', "control character"),
        (b"\xef\xbb\xbf" + _OPEN + b"}", "BOM"),
        ('{"type": "clip", "prompt": "a"}'.encode("utf-16"), "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (_OPEN + b', "labels": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001, "nested too deeply"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/jobs/plan"])
def test_json_is_read_strictly(gateway: TestClient, valkey: Valkey, path: str, content: bytes, said: str) -> None:
    """What two readers could read differently, or one not at all, is refused in a sentence that says why."""
    answer = gateway.post(path, content=content, headers={"content-type": "application/json"})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) in {(400, "malformed_body"), (422, "invalid_request")}
    assert said in problem["detail"]
    assert (answer.status_code == 400) == bool(content)
    assert job_keys(valkey) == []


@pytest.mark.parametrize(
    ("text", "field"),
    [
        *((f'"duration_s": {number}', "duration_s") for number in ("NaN", "Infinity", "-Infinity", "1e400", "-1e400")),
        *((f'"seed": {number}', "seed") for number in ("NaN", "Infinity", "1e400", "1e3", "1.0")),
        ('"loudness_lufs": -1e999', "loudness_lufs"),
        ('"nonsense": NaN', "nonsense"),
        ('"\\ud800": 1', "body"),
        ('"model": "\\ud800"', "model"),
        ('"model": "riffarm-mini\\u0000"', "model"),
        ('"formats": ["\\udfff"]', "formats[0]"),
        ('"seed_image": "og_beat\\u0000"', "seed_image"),
        ('"seed_image": "og_beat\\n"', "seed_image"),
        ('"labels": {"\\ud800": "a"}', "labels"),
        ('"labels": {"a": "\\udc00\\ud800"}', "labels.a"),
        ('"labels": {"a\\u0000": "b"}', "labels.a\x00"),
        ('"negative_prompt": "\\u0000"', "negative_prompt"),
        ('"webhook": {"url": "https://example.com/\\ud800"}', "webhook.url"),
        ('"webhook": {"url": "https://example.com/\\u0000"}', "webhook.url"),
        ('"priority": "\\ud800"', "priority"),
        ('"labels": ' + '{"a":' * 400 + "1" + "}" * 400, "labels.a"),
        ('"nonsense": ' + "[" * 400 + "]" * 400, "nonsense"),
    ],
)
def test_values_that_are_none_are_named_with_their_field(
    gateway: TestClient, valkey: Valkey, text: str, field: str
) -> None:
    """No number, no text that can be stored, nested for no reason: 422, whatever stands where."""
    content = b'{"type": "clip", "prompt": "a", ' + text.encode() + b"}"
    answer = gateway.post("/v1/jobs", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    fields = [error["field"] for error in answer.json()["errors"]]
    assert any(one == field or one.startswith(f"{field}.") for one in fields), fields
    assert job_keys(valkey) == []


@pytest.mark.parametrize(
    "media_type",
    [
        "",
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=a",
        "application/octet-stream",
        "application/x-ndjson",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
        'application/json; charset="UTF-7"',
    ],
)
def test_another_kind_of_content_is_a_415(gateway: TestClient, valkey: Valkey, media_type: str) -> None:
    """Only JSON in UTF-8 is taken, and nothing is guessed."""
    answer = gateway.post("/v1/jobs", content=json.dumps(CLIP), headers={"content-type": media_type})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert job_keys(valkey) == []


@pytest.mark.parametrize("media_type", ["application/json", 'Application/JSON; charset="UTF-8"', "application/x+json"])
def test_json_may_be_called_so_in_several_ways(gateway: TestClient, media_type: str) -> None:
    """Case and parameters make no difference."""
    answer = gateway.post("/v1/jobs", content=json.dumps(CLIP), headers={"content-type": media_type})
    assert answer.status_code == 202


def test_a_body_above_the_limit_is_a_413_by_length_and_by_count(gateway: TestClient) -> None:
    """A gigabyte is refused by its announced length, and a stream without one as soon as it is too long."""
    declared = gateway.post("/v1/jobs", content=b"{}", headers={"content-length": str(10**9)})
    assert (declared.status_code, declared.json()["code"]) == (413, "body_too_large")
    streamed = gateway.post("/v1/jobs", content=(b" " * 65_536 for _ in range(64)))
    assert (streamed.status_code, streamed.json()["code"]) == (413, "body_too_large")


def uploaded(gateway: TestClient, path: Path) -> Any:
    """The answer to a file's upload under its own name."""
    return gateway.post("/v1/uploads", files={"content": (path.name, path.read_bytes())})


def test_a_form_has_one_file_and_nothing_else(gateway: TestClient, settings: Settings) -> None:
    """What would be passed over is named."""
    file = ("a.png", seed_images()["og_beat"].path.read_bytes())
    for field in ("content", "Content", "label"):
        answer = gateway.post("/v1/uploads", files=[("content", file), (field, file)])
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    assert recorded(settings) == []


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kept", [-1, 10_000])
def test_a_sound_that_is_cut_off_is_refused(
    gateway: TestClient, settings: Settings, tmp_path: Path, suffix: str, kept: int
) -> None:
    """422 with a sentence, and nothing is kept."""
    answer = uploaded(gateway, cut(write_tone(tmp_path / f"a.{suffix}"), kept))
    assert answer.status_code == 422, answer.json()
    (error,) = answer.json()["errors"]
    assert error["field"] == "content"
    assert "cut off" in error["message"]
    assert recorded(settings) == []


@pytest.mark.parametrize(
    ("samples", "rate_hz", "subtype", "sentence"),
    [
        (np.zeros(0), 44_100, "PCM_16", "has no samples"),
        (np.full(900, np.nan), 44_100, "FLOAT", "no finite numbers"),
        (np.zeros((900, 9)), 44_100, "PCM_16", "9 channels"),
        (np.zeros(900), 4_000, "PCM_16", "4000 samples a second"),
        (np.zeros(900), 200_000, "PCM_16", "200000 samples a second"),
        (np.zeros(8_000 * 1_801, np.int16), 8_000, "PCM_U8", "longer than 30 minutes"),
    ],
    ids=["zero samples", "NaN", "9 channels", "4 kHz", "200 kHz", "31 minutes"],
)
def test_a_sound_beyond_the_limits_is_refused(
    gateway: TestClient, settings: Settings, tmp_path: Path, samples: Any, rate_hz: int, subtype: str, sentence: str
) -> None:
    """422 with the limit, and nothing is kept."""
    soundfile.write(tmp_path / "a.wav", samples, rate_hz, subtype)
    answer = uploaded(gateway, tmp_path / "a.wav")
    assert answer.status_code == 422, answer.json()
    (error,) = answer.json()["errors"]
    assert error["field"] == "content"
    assert sentence in error["message"]
    assert recorded(settings) == []


@pytest.mark.parametrize(
    ("samples", "rate_hz", "subtype"),
    [
        (np.zeros(9_000), 8_000, "PCM_16"),
        (np.full(9_000, 0.3), 44_100, "PCM_24"),
        (np.ones(9_000), 192_000, "PCM_16"),
        (np.full((9_000, 8), 0.1), 48_000, "FLOAT"),
    ],
    ids=["silent", "constant", "clipped", "8 channels"],
)
def test_odd_but_whole_sounds_are_taken(
    gateway: TestClient, tmp_path: Path, samples: Any, rate_hz: int, subtype: str
) -> None:
    """What can be worked with is no error."""
    soundfile.write(tmp_path / "a.wav", samples, rate_hz, subtype)
    assert uploaded(gateway, tmp_path / "a.wav").status_code == 201


def test_what_is_neither_picture_nor_sound_is_a_415(gateway: TestClient, settings: Settings, tmp_path: Path) -> None:
    """A text file named .wav, and a kind of audio that is not taken."""
    (tmp_path / "a.wav").write_text("just text\n" * 1_000)
    for path in (tmp_path / "a.wav", write_tone(tmp_path / "a.aiff")):
        answer = uploaded(gateway, path)
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
        assert "WAV, FLAC, MP3, Ogg Vorbis, Opus" in answer.json()["detail"]
    assert recorded(settings) == []


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
    assert waiting_batches(valkey) == 0


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
