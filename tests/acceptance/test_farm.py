"""A whole farm as a user starts it: real gateway, real Valkey, real Celery workers, the built-in model."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import soundfile
from mutagen.flac import FLAC
from PIL import Image
from standardwebhooks.webhooks import Webhook

from api.client import Client, FarmError
from shared.contracts import Job
from shared.spectrogram_params import SpectrogramParams
from tests.conftest import WEBHOOK_SECRET, Farm, running_farm, wait_until

STEPS = 3
STUB = {"RIFFARM_WORKER_APP": "tests.stub_worker:app", "RIFFARM_STUB_FRAME_S": "0.5"}
"""A model that costs nothing, where it is the processes that count."""
SEED_IMAGE = Path(__file__).parents[2] / "shared" / "seed_images" / "og_beat.png"
FRAME_SAMPLES = 512 * 441
seeds = itertools.count(1_000)


def track(frames: int, **fields: object) -> dict[str, Any]:
    """A quick request whose frames no other test has rendered."""
    keyframes = [{"prompt": "ambient strings", "seed": next(seeds)}, {"prompt": "techno synth", "seed": next(seeds)}]
    return {
        "type": "track",
        "keyframes": keyframes,
        "duration_s": round(frames * 5.12, 2),
        "num_inference_steps": STEPS,
    } | fields


def finished(client: Client, request: dict[str, Any]) -> Job:
    """The job after its end."""
    return list(client.follow(client.submit(request).id))[-1]


def output(job: Job, suffix: str) -> bytes:
    """An output's bytes, by its signed URL."""
    url = next(one.url for one in job.outputs if one.name.endswith(suffix))
    answer = httpx.get(url)
    assert answer.status_code == 200
    return answer.content


def audio_hash(client: Client, request: dict[str, Any]) -> str:
    """SHA-256 of a request's FLAC."""
    job = finished(client, request)
    assert job.status == "succeeded", job.error
    return hashlib.sha256(output(job, ".flac")).hexdigest()


def test_a_track_comes_out_whole(farm: Farm) -> None:
    """Every format and the picture, of the exact length, not silent, not clipped, as the job says."""
    job = finished(farm.client, track(4, formats=["wav", "flac", "mp3", "ogg", "opus"]))
    assert job.status == "succeeded", job.error
    assert job.progress.model_dump() == {
        "frames_done": 4,
        "frames_total": 4,
        "frames_reused": 0,
        "fraction": 1.0,
        "audio_s_ready": 20.48,
        "eta_s": None,
    }
    for suffix in (".wav", ".flac"):
        samples, rate = soundfile.read(io.BytesIO(output(job, suffix)), dtype="float64")
        assert (rate, len(samples)) == (44_100, 4 * FRAME_SAMPLES)
        assert np.sqrt(np.mean(samples**2)) > 0.01
        assert np.abs(samples).max() < 0.999
    for suffix in (".mp3", ".ogg", ".opus"):
        samples, rate = soundfile.read(io.BytesIO(output(job, suffix)))
        assert len(samples) / rate == pytest.approx(20.48, abs=0.1)
    assert Image.open(io.BytesIO(output(job, ".png"))).size == (2048, 512)
    for one in job.outputs:
        content = output(job, one.name)
        assert (len(content), hashlib.sha256(content).hexdigest()) == (one.bytes, one.sha256)


def test_a_second_job_reuses_the_frames_and_gives_the_same_bytes(farm: Farm) -> None:
    """The same request renders nothing twice."""
    request = track(3)
    first = finished(farm.client, request)
    second = finished(farm.client, request)
    assert (first.progress.frames_reused, second.progress.frames_reused) == (0, 3)
    assert output(first, ".flac") == output(second, ".flac")
    assert farm.client.plan(request).frames_ready == 3


def test_a_looped_track_has_no_seam_where_it_turns(farm: Farm) -> None:
    """Laid three times in a row, the wrap is no louder, softer or rougher than what lies around it."""
    job = finished(farm.client, track(3, loop=True, formats=["flac"]))
    assert job.status == "succeeded", job.error
    samples, rate = soundfile.read(io.BytesIO(output(job, ".flac")), dtype="float64")
    assert len(samples) == 3 * FRAME_SAMPLES
    turned = np.tile(samples, 3)
    bends = np.abs(np.diff(turned, 2))
    assert bends[len(samples) - 3 : len(samples) + 1].max() <= np.percentile(bends, 99.9)
    levels = 10 * np.log10(np.add.reduceat(turned**2, np.arange(0, len(turned), rate // 10)) + 1e-12)
    wrap = len(samples) // (rate // 10)
    assert levels[wrap - 2 : wrap + 3].min() > np.percentile(levels, 5) - 3


def test_a_tempo_is_kept_to_the_sample(farm: Farm) -> None:
    """Frames of a tempo that is no whole columns still give exactly the length asked for."""
    job = finished(farm.client, track(2, tempo_bpm=127.0, duration_s=11.111, formats=["wav"]))
    assert job.status == "succeeded", job.error
    samples, rate = soundfile.read(io.BytesIO(output(job, ".wav")))
    assert (len(samples), job.progress.frames_total) == (round(11.111 * rate), 3)


def test_a_file_says_what_it_is_and_shows_its_picture(farm: Farm) -> None:
    """Title, how it was made, and the spectrogram as the cover."""
    job = finished(farm.client, {"type": "clip", "prompt": "funk bass", "seed": 6, "num_inference_steps": STEPS})
    file = FLAC(io.BytesIO(output(job, ".flac")))
    assert file.tags is not None
    assert file.tags["title"] == ["funk bass"]
    assert "seeds 6" in file.tags["comment"][0]
    assert Image.open(io.BytesIO(file.pictures[0].data)).size == (512, 512)


def test_a_picture_is_converted_to_sound_and_back(farm: Farm, tmp_path: Path) -> None:
    """Both ways as jobs: exact lengths, and a picture much like the first."""
    seed_image = farm.client.upload(SEED_IMAGE)
    sound = finished(farm.client, {"type": "convert", "source": seed_image, "formats": ["flac", "ogg"]})
    assert (sound.status, sound.metrics.audio_s) == ("succeeded", 5.12), sound.error
    samples, _ = soundfile.read(io.BytesIO(output(sound, ".flac")))
    assert len(samples) == FRAME_SAMPLES
    (tmp_path / "a.flac").write_bytes(output(sound, ".flac"))
    audio = farm.client.upload(tmp_path / "a.flac")
    back = finished(farm.client, {"type": "convert", "source": audio})
    assert back.status == "succeeded", back.error
    found = Image.open(io.BytesIO(output(back, ".png")))
    assert found.size == (512, 512)
    before, after = (np.asarray(one.convert("L"), np.float64) for one in (Image.open(SEED_IMAGE), found))
    assert np.abs(before - after).mean() < 6
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.99


def test_outputs_can_be_read_in_ranges_and_not_with_a_changed_url(farm: Farm) -> None:
    """A browser can seek; a tampered link is refused."""
    job = finished(farm.client, {"type": "clip", "prompt": "funk bass", "seed": 5, "num_inference_steps": STEPS})
    one = job.outputs[0]
    part = httpx.get(one.url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, output(job, ".flac")[10:20])
    assert part.headers["content-type"] == "audio/flac"
    assert "clip.flac" in part.headers["content-disposition"]
    assert httpx.get(one.url.replace("expires=", "expires=1")).status_code == 403
    assert httpx.get(one.url.replace("clip.flac", "clip.png")).status_code == 403


def test_variations_are_different_sounds(farm: Farm) -> None:
    """Each variation is an output of its own."""
    request = {"type": "clip", "prompt": "jazz piano", "seed": 9, "variations": 2, "num_inference_steps": STEPS}
    job = finished(farm.client, request)
    assert [one.name for one in job.outputs] == ["clip-01.flac", "clip-01.png", "clip-02.flac", "clip-02.png"]
    assert job.outputs[0].sha256 != job.outputs[2].sha256


def test_frames_carry_their_grid_in_exif(farm: Farm) -> None:
    """A frame in storage can be read by any tool that knows Riffusion's tags."""
    finished(farm.client, {"type": "clip", "prompt": "rock organ", "seed": 3, "num_inference_steps": STEPS})
    frame = next((farm.data / "storage" / "frames").rglob("*.png"))
    with Image.open(frame) as image:
        assert SpectrogramParams.params_from_exif(dict(image.getexif())) == SpectrogramParams()


def test_cancel_stops_a_running_job_and_no_other(farm: Farm) -> None:
    """The canceled job ends within moments; the one beside it succeeds."""
    client = farm.client
    doomed = client.submit(track(60))
    other = client.submit(track(2, priority="interactive"))
    wait_until(lambda: client.job(doomed.id).status == "running", "the job runs")
    assert client.cancel(doomed.id).status == "canceled"
    assert list(client.follow(other.id))[-1].status == "succeeded"
    frames = client.job(doomed.id).progress.frames_done
    assert finished(client, track(2)).status == "succeeded"
    assert client.job(doomed.id).progress.frames_done <= frames + 2


def test_prefer_wait_answers_with_the_finished_job(farm: Farm) -> None:
    """One call, one sound."""
    request = {"type": "clip", "prompt": "classical flute", "seed": 4, "num_inference_steps": STEPS}
    assert farm.client.submit(request, wait_s=60).status == "succeeded"


def test_a_failed_job_says_why_and_the_worker_lives(farm: Farm) -> None:
    """A seed image damaged in storage fails its job with a sentence; the next job succeeds."""
    client = farm.client
    picture = farm.data / "picture.png"
    Image.effect_noise((512, 512), 60).save(picture)
    upload_id = client.upload(picture)
    assert upload_id == f"upl_{hashlib.sha256(picture.read_bytes()).hexdigest()}"
    stored = next((farm.data / "storage" / "uploads").rglob(upload_id.removeprefix("upl_")))
    stored.write_bytes(b"damaged")
    job = finished(client, track(2, seed_image=upload_id))
    assert job.status == "failed"
    assert job.error
    assert "cannot identify image" in job.error.message
    client.upload(picture)
    request = track(2, seed_image=upload_id, mask_image=upload_id)
    assert finished(client, request).status == "succeeded"


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """A webhook receiver that refuses the first call and takes the next."""
    calls: list[tuple[dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            calls.append((dict(self.headers.items()), self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(500 if len(calls) == 1 else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep the tests' output clean."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", calls
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_signed_webhook_tells_of_the_end_and_is_tried_again(
    farm: Farm, receiver: tuple[str, list[tuple[dict[str, str], bytes]]]
) -> None:
    """The published verifier accepts it; the id stays the same over tries."""
    url, calls = receiver
    job = finished(
        farm.client,
        {"type": "clip", "prompt": "pad", "seed": 6, "num_inference_steps": STEPS} | {"webhook": {"url": url}},
    )
    wait_until(lambda: len(calls) == 2, "the webhook comes again after a refusal")
    (first, _), (headers, body) = calls
    event = Webhook(WEBHOOK_SECRET).verify(body, headers)
    assert (event["type"], event["data"]["id"], event["data"]["status"]) == ("job.succeeded", job.id, "succeeded")
    ids = (
        {name.lower(): value for name, value in first.items()},
        {name.lower(): value for name, value in headers.items()},
    )
    assert ids[0]["webhook-id"] == ids[1]["webhook-id"]


def test_a_refused_request_is_one_clear_sentence_for_the_client(farm: Farm) -> None:
    """The Python client raises what the gateway said."""
    with pytest.raises(FarmError, match="unknown picture"):
        farm.client.submit(track(2, seed_image="nothing"))


def test_killed_workers_lose_nothing_and_one_or_two_give_the_same_bytes(tmp_path: Path, farm: Farm) -> None:
    """kill -9 on a worker and on a child in the middle of a job: it succeeds with the undisturbed farm's bytes."""
    request = track(7, num_inference_steps=6)
    undisturbed = audio_hash(farm.client, request)
    environment = {"RIFFARM_LEASE_S": "3"}
    with running_farm(tmp_path / "data", "--workers", "1", environment=environment) as alone:
        client = alone.client
        job = client.submit(request)
        for frames in (1, 3):
            wait_until(lambda least=frames: client.job(job.id).progress.frames_done >= least, f"{frames} frames")
            workers = [
                process
                for process in psutil.Process(alone.process.pid).children(recursive=True)
                if any("celery" in part for part in process.cmdline()) or "spawn_main" in " ".join(process.cmdline())
            ]
            # First the child that renders, then the worker as a whole.
            (workers[-1] if frames == 1 else workers[0]).kill()
        last = list(client.follow(job.id))[-1]
        assert last.status == "succeeded", last.error
        assert hashlib.sha256(output(last, ".flac")).hexdigest() == undisturbed


def test_a_stopped_farm_leaves_no_process_and_goes_on_when_started_again(tmp_path: Path) -> None:
    """SIGTERM in the middle of a job; the same data folder later finishes it."""
    request = track(8)
    with running_farm(tmp_path / "data", "--workers", "1", environment=STUB) as first:
        job = first.client.submit(request)
        wait_until(lambda: first.client.job(job.id).progress.frames_done >= 1, "a frame")
        processes = psutil.Process(first.process.pid).children(recursive=True)
        assert len(processes) >= 4
        assert first.stop() == 0
        _, alive = psutil.wait_procs(processes, timeout=5)
        assert alive == []
    with running_farm(tmp_path / "data", "--workers", "1", environment=STUB) as second:
        assert list(second.client.follow(job.id))[-1].status == "succeeded"


def test_the_manifest_and_the_result_stay_in_storage_and_chunks_do_not(farm: Farm) -> None:
    """What must last is there; what was needed on the way is gone."""
    job = finished(farm.client, track(2))
    folder = farm.data / "storage" / "jobs" / job.id
    last = {"manifest.json", "result.json", "outputs/track.flac", "outputs/track.png"}
    wait_until(
        lambda: {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == last,
        "only what must last is there",
    )
    assert json.loads((folder / "result.json").read_text())["status"] == "succeeded"


def test_a_job_waits_while_storage_is_away_and_then_goes_on(farm: Farm) -> None:
    """However long it takes: nothing fails, nothing is lost, the work goes on where it was."""
    client = farm.client
    job = client.submit(track(3))
    wait_until(lambda: client.job(job.id).progress.frames_done >= 1, "a frame")
    storage = farm.data / "storage"
    storage.rename(farm.data / "away")
    answer = httpx.get(f"{farm.url}/ready")
    assert answer.status_code == 503
    assert "storage" in answer.json()["checks"]["storage"]
    with pytest.raises(FarmError) as raised:
        client.submit(track(2))
    assert raised.value.code == "storage_unavailable"
    log = farm.data.with_suffix(".log")
    before = log.read_text().count("stamina.retry_scheduled")
    # More tries than an item that takes its worker down gets.
    wait_until(lambda: log.read_text().count("stamina.retry_scheduled") >= before + 4, "work is tried again")
    (farm.data / "away").rename(storage)
    last = list(client.follow(job.id))[-1]
    assert last.status == "succeeded", last.error
    assert httpx.get(f"{farm.url}/ready").status_code == 200


def test_a_killed_valkey_comes_back_with_its_jobs(tmp_path: Path) -> None:
    """kill -9 on Valkey in the middle of a job: it is started again with its file, and the job succeeds."""
    with running_farm(tmp_path / "data", "--workers", "1", environment=STUB) as farm:
        job = farm.client.submit(track(6))
        wait_until(lambda: farm.client.job(job.id).progress.frames_done >= 1, "a frame")
        children = psutil.Process(farm.process.pid).children()
        next(process for process in children if "valkey-server" in process.name()).kill()
        wait_until(lambda: _status(farm, job.id) == "succeeded", "the job succeeds", timeout_s=120)


def _status(farm: Farm, job_id: str) -> str | None:
    """The job's status, None while the farm cannot tell."""
    try:
        return farm.client.job(job_id).status
    except FarmError:
        return None


def test_equal_frames_of_a_job_are_rendered_once(farm: Farm) -> None:
    """A constant track is one frame, side by side with itself."""
    keyframes = [{"prompt": "organ", "seed": next(seeds)}] * 2
    job = finished(
        farm.client, {"type": "track", "keyframes": keyframes, "duration_s": 20.48, "num_inference_steps": STEPS}
    )
    assert job.status == "succeeded", job.error
    assert (job.progress.frames_done, job.progress.frames_reused) == (4, 3)


def test_a_canceled_job_leaves_a_result_and_no_chunks(farm: Farm) -> None:
    """How a job ended stands in storage, however it ended."""
    job = farm.client.submit(track(30))
    farm.client.cancel(job.id)
    folder = farm.data / "storage" / "jobs" / job.id
    assert json.loads((folder / "result.json").read_text())["status"] == "canceled"
    assert not list(folder.rglob("chunks/*.wav"))
