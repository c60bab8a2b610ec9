"""Several models in one farm: work goes to workers that have the model, and waits for one that does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.contracts import TERMINAL, Job
from shared.farm_state import FarmState
from shared.redis_connection import redis_from_url
from tests.acceptance.test_local_farm import up
from tests.conftest import SECRET, Farm, Valkey, running_farm, wait_until
from tests.sd15_checkpoint import write_lora, write_sd15_checkpoint

CLIP = {"type": "clip", "prompt": "piano", "seed": 1, "num_inference_steps": 1}


def own_models(folder: Path) -> Path:
    """A catalogue with a model of the published layout, and the same with something added."""
    write_sd15_checkpoint(folder / "sd15")
    write_lora(folder / "warm.safetensors", folder / "sd15", "kohya")
    entries = '[sd15]\nsource = "sd15"\nrevision = "1"\n["sd15.warm"]\nsource = "sd15"\nrevision = "1"\n'
    file = folder / "own.toml"
    file.write_text(f'{entries}[["sd15.warm".loras]]\nsource = "warm.safetensors"\n', encoding="utf-8")
    return file


@contextmanager
def worker(farm: Farm, environment: dict[str, str], *options: str) -> Iterator[None]:
    """A worker of its own beside the farm's; its log goes to `data`.worker.log."""
    command = [sys.executable, "-m", "workers.main", "--name", "beside", *options]
    variables = os.environ | {"RIFFARM_STORAGE_URL": f"file:{farm.data / 'storage'}"} | environment
    with farm.data.with_suffix(".worker.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=variables)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def test_work_waits_for_a_worker_that_has_its_model(tmp_path: Path, valkey: Valkey) -> None:
    """A farm's workers never touch another model's work; one that has it does, and the heartbeats tell them apart."""
    environment = {
        "RIFFARM_MODELS_FILE": str(own_models(tmp_path)),
        "RIFFARM_REDIS_URL": valkey.url,
        "RIFFARM_SECRET": SECRET,
    }
    options = ("--workers", "1", "--models", "riffarm-mini", "--redis", valkey.url)
    state = FarmState(redis_from_url(valkey.url))
    with running_farm(tmp_path / "data", *options, environment=environment) as farm:
        jobs = [farm.client.submit({**CLIP, "model": name}).id for name in ("sd15", "sd15.warm", "riffarm-mini")]
        assert ended(farm, jobs[2]).status == "succeeded"
        assert [farm.client.job(one).status for one in jobs[:2]] == ["queued", "queued"]
        (beat,) = state.workers()
        assert (beat["models"], beat["loaded"], beat["device"]) == (["riffarm-mini"], ["riffarm-mini"], "cpu")
        assert 0 < beat["memory_bytes"] < beat["memory_budget_bytes"]
        with worker(farm, environment, "--models", "sd15,sd15.warm", "--queues", "render"):
            ends = [ended(farm, one) for one in jobs[:2]]
            assert [end.status for end in ends] == ["succeeded"] * 2, [end.error for end in ends]
            names = {"sd15", "sd15.warm"}
            wait_until(lambda: {*beats(state)["beside"]["loaded"]} == names, "the worker tells what it has loaded")
            assert beats(state)["beside"]["queues"] == ["render"]
        # What is added to a model makes other pictures, so other files.
        files = [next(one for one in end.outputs if one.name.endswith(".flac")).sha256 for end in ends]
        assert files[0] != files[1]


def ended(farm: Farm, job_id: str) -> Job:
    """The job after its end."""
    wait_until(lambda: farm.client.job(job_id).status in TERMINAL, "the job ends", timeout_s=180)
    return farm.client.job(job_id)


def beats(state: FarmState) -> dict[str, dict[str, Any]]:
    """Heartbeats by the worker's name."""
    return {beat["name"]: beat for beat in state.workers()}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--models", "nothing"), "there is no model nothing; there are riffarm-mini"),
        (("--queues", "nothing"), "there is no queue 'nothing' here"),
        (("--queues", "render.nothing"), "there is no queue 'render.nothing' here"),
    ],
)
def test_a_worker_for_what_is_not_there_says_so_and_ends(options: tuple[str, ...], sentence: str) -> None:
    """Instead of waiting for ever for work that never comes."""
    variables = {
        "RIFFARM_REDIS_URL": "redis://127.0.0.1:1/0",
        "RIFFARM_STORAGE_URL": "file:x",
        "RIFFARM_SECRET": SECRET,
    }
    command = [sys.executable, "-m", "workers.main", *options]
    answer = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert sentence in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_farm_for_models_that_are_not_there_says_so(tmp_path: Path) -> None:
    """Before anything is started."""
    answer = up("--port", "0", "--data", str(tmp_path), "--models", "nothing")
    assert answer.returncode == 1
    assert " ".join(answer.stderr.split()) == (
        "riffarm up: there is no model nothing; there are riffarm-mini; choose others with --models"
    )
