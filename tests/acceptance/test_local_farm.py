"""`riffarm up` and `riffarm render` as programs: clear refusals, Ctrl-C at any moment, nothing left running."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
import soundfile

from tests.conftest import Farm, running_farm, wait_until

ROOT = Path(__file__).parents[2]
STUB = {"RIFFARM_WORKER_APP": "tests.stub_worker:app"}
SLOW_STUB = STUB | {"RIFFARM_STUB_FRAME_S": "0.3"}
KEYFRAMES = [{"prompt": "a", "seed": 1}, {"prompt": "b", "seed": 2}]


def up(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`riffarm up` that is expected to refuse."""
    command = [sys.executable, "-m", "api.cli", "up", *options]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **variables}
    )


def test_a_taken_port_is_one_clear_sentence(tmp_path: Path) -> None:
    """The port, the reason and the way out."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = up("--port", str(port), "--data", str(tmp_path))
    assert answer.returncode == 1
    assert (
        " ".join(answer.stderr.split())
        == f"riffarm up: cannot listen on 127.0.0.1:{port} (Address already in use); choose another with --port"
    )


def test_a_folder_that_cannot_be_written_is_one_clear_sentence(tmp_path: Path) -> None:
    """Where the folder should be there is a file (a stand-in for read-only that root cannot write to either)."""
    (tmp_path / "file").touch()
    answer = up("--port", "0", "--data", str(tmp_path / "file" / "data"))
    assert answer.returncode == 1
    assert " ".join(answer.stderr.split()).startswith("riffarm up: cannot write to")
    assert len(answer.stderr.splitlines()) <= 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--storage", "ftp://x"), "the storage ftp://x cannot be used"),
        (("--redis", "redis://127.0.0.1:1/0"), "no Redis answers at"),
        (("--redis", "nonsense"), "no Redis answers at"),
    ],
)
def test_a_wrong_storage_or_redis_is_one_clear_sentence(
    tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    """Nothing is started on what cannot work."""
    answer = up("--port", "0", "--data", str(tmp_path), *options)
    assert answer.returncode == 1
    assert " ".join(answer.stderr.split()).startswith(f"riffarm up: {sentence}")


@pytest.mark.parametrize(
    "wrong",
    [{"RIFFARM_METRICS_KEY": "x"}, {"RIFFARM_SECRET": "x"}, {"RIFFARM_METRICS_KEY": "x", "RIFFARM_LEASE_S": "1"}],
)
def test_a_wrong_setting_is_one_clear_sentence(tmp_path: Path, wrong: dict[str, str]) -> None:
    """Once, with every wrong variable, before any process is started that would say it again."""
    answer = up("--port", "0", "--data", str(tmp_path), **wrong)
    (sentence,) = answer.stderr.splitlines()
    assert (answer.returncode, answer.stdout) == (1, "")
    assert sentence.startswith("riffarm: ")
    assert all(f"{name}: " in sentence for name in wrong)
    assert not (tmp_path / "valkey").exists()


def test_two_farms_do_not_share_a_folder(farm: Farm) -> None:
    """A second Valkey on the same file would ruin it."""
    answer = up("--port", "0", "--data", str(farm.data))
    assert answer.returncode == 1
    assert "another farm runs in" in " ".join(answer.stderr.split())


@pytest.mark.parametrize("workers", ["0", "65", "auto:0", "many"])
def test_a_number_of_workers_that_cannot_be_is_one_clear_sentence(tmp_path: Path, workers: str) -> None:
    """Said before anything is started."""
    answer = up("--port", "0", "--data", str(tmp_path), "--workers", workers)
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"riffarm up: --workers {workers}")
    assert list(tmp_path.iterdir()) == []


def test_another_address_needs_a_key(tmp_path: Path) -> None:
    """Beyond loopback nothing starts without one."""
    answer = up("--host", "0.0.0.0", "--port", "0", "--data", str(tmp_path))
    assert answer.returncode == 1
    assert "set RIFFARM_GATEWAY_KEY" in answer.stderr


@pytest.mark.parametrize(
    ("moment", "number", "variables"),
    [
        ("at once", signal.SIGINT, {}),
        ("starting", signal.SIGINT, {}),
        ("rendering", signal.SIGINT, {}),
        ("rendering", signal.SIGHUP, SLOW_STUB),
    ],
    ids=["at once", "starting", "rendering", "rendering, terminal closed"],
)
def test_ctrl_c_leaves_no_process_and_no_broken_file(
    tmp_path: Path, moment: str, number: signal.Signals, variables: dict[str, str]
) -> None:
    """Whenever it comes, also as a closed terminal, all that was started ends and the folder holds no half file."""
    with rendering(tmp_path, "a", "b", **variables) as process:
        own = psutil.Process(process.pid)
        wait_until(lambda: process.poll() is not None or len(own.children(recursive=True)) >= 1, "the farm starts")
        if moment != "at once":
            wait_until(lambda: len(own.children(recursive=True)) >= 5, "workers start")
        if moment == "rendering":
            frames = tmp_path / ".riffarm" / "storage" / "frames"
            wait_until(lambda: any(frames.rglob("*.png")), "a frame", timeout_s=180)
        started = own.children(recursive=True)
        process.send_signal(number)
        assert process.wait(60) == 130
        _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []
    assert list((tmp_path / "out").rglob("*")) == []
    assert list((tmp_path / ".riffarm").rglob(".writing-*")) == []


def test_a_killed_render_takes_its_farm_with_it(tmp_path: Path) -> None:
    """kill -9 gives it no chance to tidy up; the farm it started ends all the same."""
    with rendering(tmp_path, "a") as process:
        own = psutil.Process(process.pid)
        wait_until(lambda: len(own.children(recursive=True)) >= 5, "workers start")
        started = own.children(recursive=True)
        process.kill()
        _, alive = psutil.wait_procs(started, timeout=30)
    assert alive == []


def test_a_farm_whose_command_is_gone_before_it_begins_does_not_begin(tmp_path: Path) -> None:
    """Killed within the first moments, a command leaves nothing either: the kernel was not yet asked to see to it."""
    answer = up("--port", "0", "--data", str(tmp_path / "data"), RIFFARM_STOP_WITH_PARENT="1")
    assert answer.returncode == 1
    assert not (tmp_path / "data").exists()


@contextmanager
def rendering(folder: Path, *prompts: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A long `riffarm render` with a farm of its own in the folder; nothing of it outlives the block."""
    # A shell starts what runs in its background deaf to Ctrl-C, and children inherit that: not what is tried here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "api.cli", "render", *prompts, "--duration", "3m", "--output", "out/a.flac"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        left = [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
        for one in left:
            one.kill()
        process.wait()


def test_a_place_that_cannot_be_written_is_said_before_anything_is_rendered(tmp_path: Path) -> None:
    """Nobody wants to hear it after an hour."""
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "api.cli", "render", "a", "--output", str(tmp_path / "file" / "a.flac")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert answer.returncode == 1
    assert "cannot write to" in answer.stderr
    assert not (tmp_path / ".riffarm").exists()


def test_render_on_a_running_farm_writes_every_file(farm: Farm, tmp_path: Path) -> None:
    """Paths on standard output, one a line; the rest on standard error."""
    command = [sys.executable, "-m", "api.cli", "render", "harp", "--seed", "77", "--steps", "3", "--url", farm.url]
    options = ["--format", "flac", "--format", "mp3", "--output", str(tmp_path / "new" / "harp.flac")]
    answer = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    files = [Path(line) for line in answer.stdout.splitlines()]
    assert [path.name for path in files] == ["harp.flac", "harp.mp3", "harp.png"]
    assert soundfile.info(files[0]).frames == 512 * 441
    assert "seeds 77" in answer.stderr
    wrong = subprocess.run([*command, "--format", "aiff"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "formats[0]" in wrong.stderr


def test_a_killed_gateway_is_started_again(farm: Farm) -> None:
    """The supervisor brings back what dies; clients that ask again find their jobs."""
    gateway = next(
        process for process in psutil.Process(farm.process.pid).children() if "api.main" in " ".join(process.cmdline())
    )
    gateway.kill()
    deadline_s = time.monotonic() + 60
    while not farm.client.is_farm():
        assert time.monotonic() < deadline_s, "the gateway did not come back"


def processes(farm: Farm, module: str) -> list[psutil.Process]:
    """The farm's own processes that run a module."""
    return [one for one in psutil.Process(farm.process.pid).children() if module in command(one)]


def command(process: psutil.Process) -> str:
    """How a process was started; nothing of one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def test_workers_come_with_the_backlog_and_go_when_it_is_quiet(tmp_path: Path) -> None:
    """`auto:2`: a second worker under load, both at work, /ready all along; then one goes in order and stays away."""
    variables = SLOW_STUB | {"RIFFARM_SCALE_TARGET_S": "3", "RIFFARM_SCALE_QUIET_S": "3"}
    with running_farm(tmp_path / "data", "--workers", "auto:2", environment=variables) as farm:
        assert names(farm) == {"worker-1"}
        refusals: list[int] = []

        def has_workers(wanted: set[str]) -> bool:
            answer = httpx.get(f"{farm.url}/ready")
            refusals.extend([answer.status_code] if answer.status_code != 200 else [])
            return names(farm) == wanted

        job = farm.client.submit({"type": "track", "keyframes": KEYFRAMES, "duration_s": 300})
        wait_until(lambda: has_workers({"worker-1", "worker-2"}), "a second worker comes", timeout_s=120)
        assert list(farm.client.follow(job.id))[-1].status == "succeeded"
        assert {one.worker for one in farm.client.frames(job.id)} == {"worker-1", "worker-2"}
        wait_until(lambda: has_workers({"worker-1"}), "the second worker goes")
        wait_until(lambda: len(processes(farm, "celery")) == 1, "its process ends")
        assert refusals == []
        assert farm.stop() == 0
    log = (tmp_path / "data.log").read_text()
    assert [line.split(";")[0] for line in log.splitlines() if line.startswith("workers: ")] == [
        "workers: 1 → 2",
        "workers: 2 → 1",
    ]
    assert "worker-2 ended" not in log


def names(farm: Farm) -> set[str]:
    """The workers that report."""
    return {worker.name for worker in farm.client.farm().workers}


def test_a_killed_sweeper_comes_back_and_finds_what_a_lost_worker_held(tmp_path: Path) -> None:
    """kill -9 on both: the supervisor starts them, the new sweeper gives the item back, the job succeeds."""
    variables = STUB | {"RIFFARM_STUB_FRAME_S": "0.5", "RIFFARM_LEASE_S": "4"}
    with running_farm(tmp_path / "data", "--workers", "1", environment=variables) as farm:
        job = farm.client.submit({"type": "track", "keyframes": KEYFRAMES, "duration_s": 20.48})
        wait_until(lambda: farm.client.job(job.id).progress.frames_done >= 1, "a frame")
        (sweeper,) = processes(farm, "workers.sweeper")
        (worker,) = processes(farm, "celery -")
        for one in (sweeper, worker):
            one.kill()
        wait_until(lambda: farm.client.job(job.id).status == "succeeded", "the job succeeds", timeout_s=120)
        (again,) = processes(farm, "workers.sweeper")
        assert again.pid != sweeper.pid


def test_a_job_is_paused_goes_on_is_canceled_and_tried_again(tmp_path: Path) -> None:
    """Each through the client, on one farm; what is finished is never rendered twice."""
    renders = tmp_path / "renders"
    variables = STUB | {"RIFFARM_STUB_FRAME_S": "0.2", "RIFFARM_STUB_RENDERS": str(renders)}
    with running_farm(tmp_path / "data", "--workers", "1", environment=variables) as farm:
        client = farm.client
        job = client.submit({"type": "track", "keyframes": KEYFRAMES, "duration_s": 120})
        wait_until(lambda: client.job(job.id).progress.frames_done >= 2, "frames")
        assert client.pause(job.id).status == "paused"
        wait_until(lambda: client.farm().workers[0].job is None, "the worker rests")
        resting = client.job(job.id).progress.frames_done
        assert 2 <= resting < 24
        assert client.resume(job.id).status == "running"
        wait_until(lambda: client.job(job.id).progress.frames_done > resting, "it goes on")
        assert client.cancel(job.id).status == "canceled"
        assert client.resume(job.id).status == "canceled"
        assert client.retry(job.id).status == "queued"
        assert list(client.follow(job.id))[-1].status == "succeeded"
        wait_until(lambda: client.farm().workers[0].frames_per_minute > 0, "its heartbeat tells of frames")
        assert {(queue.jobs, queue.frames, queue.audio_s) for queue in client.farm().queues} == {(0, 0, 0.0)}
        rendered = [line.split()[0] for line in renders.read_text().splitlines()]
        assert len(rendered) == len(set(rendered)) == 24


def test_a_running_farm_is_found_by_its_folder(tmp_path: Path) -> None:
    """Its operator makes keys there, from the first of which on it asks for one; nobody else can read its settings."""
    data = tmp_path / "data"

    def keys(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "api.cli", "keys", *arguments, "--data", str(data)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    with running_farm(data, "--workers", "1", environment=STUB) as farm:
        assert (data / "environment").stat().st_mode & 0o777 == 0o600
        made = keys("create", "--name", "studio", "--json")
        assert made.returncode == 0, made.stderr
        assert httpx.get(f"{farm.url}/v1/jobs").status_code == 401
        key = json.loads(made.stdout)
        assert httpx.get(f"{farm.url}/v1/jobs", headers={"Authorization": f"Bearer {key['key']}"}).status_code == 200
    assert not (data / "environment").exists()
    late = keys("list")
    assert (late.returncode, late.stderr.strip()) == (
        1,
        f"riffarm: no farm runs on {data}; start one with: riffarm up --data {data}",
    )
