"""Stable Diffusion 1.5's architecture on CUDA: the farm's way at every batch size against diffusers' stock pipeline.

Owns the measures. Weights are random (`render_model`): pictures are noise, and take the time of music. The origin's way
is the stock pipeline in float16, one picture at a time, 50 steps of PNDM, autoencoder and 32 rounds of Griffin-Lim in
line; its mel matrix is inverted once before the clock starts, which it did for every picture. Seconds are of the clock
on the wall, the device waited for at both ends. `rehearse` runs all of it on any device with a model a thousand times
smaller, to show that it runs. Leaves out the CPU (`render_cpu`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import torch
import torchaudio
from PIL import Image
from torch._C._autograd import DeviceType
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from shared.plan import LATENT_COLUMNS, MOST_BATCH_FRAMES
from shared.spectrogram_params import SpectrogramParams
from tests.benchmarks.render_cpu import PROMPTS, Results
from tests.benchmarks.render_model import (
    GUIDANCE,
    REHEARSAL,
    WHOLE,
    Scale,
    frames_of,
    origins_scheduler,
    parts_from_scale,
)
from workers.batching import BatchSize
from workers.diffusion import FramePipeline
from workers.samplers import new_scheduler
from workers.spectrogram import mel_amplitudes_from_image

_GRIFFIN_LIM_STEPS: Final = 32
_CALLS: Final = 10
_PARAMS: Final = SpectrogramParams()


def measured(*, rehearse: bool = False) -> Results | None:
    """All figures; None where there is no CUDA device and nothing is rehearsed."""
    if not torch.cuda.is_available() and not rehearse:
        return None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scale = REHEARSAL if rehearse else WHOLE
    results: Results = {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "a rehearsal"}
    # The stock pipeline comes first: afterwards the same weights lie as the farm wants them.
    parts = parts_from_scale(scale, device)
    tera = _tera_per_frame(parts, scale, device)
    matmul = _matmul_tera_per_s(scale.matrix, device)
    results |= {"unet_tera_per_frame": tera["unet"], "vae_tera_per_frame": tera["vae"], "matmul_tera_per_s": matmul}
    results |= _stock_results(parts, scale, device)
    results |= _farm_results(FramePipeline(parts, device), scale, device, tera["unet"], matmul)
    results["speed_ratio_origin"] = _ratio(results["farm_frames_per_s"], results["origin_frames_per_s"])
    results["speed_ratio_stock"] = _ratio(results["farm_frames_per_s"], results["stock_frames_per_s"])
    results["real_time"] = round(results["farm_frames_per_s"] * _PARAMS.frame_s, 2)
    results["roofline_frames_per_s"] = round(matmul / (tera["unet"] + tera["vae"]), 3)
    return results


@torch.inference_mode()
def _tera_per_frame(parts: Any, scale: Scale, device: torch.device) -> dict[str, float]:
    """10^12 operations of a frame's steps and of its decoding, a product and its sum being two."""
    latents = torch.zeros((2, 4, scale.rows // LATENT_COLUMNS, scale.rows // LATENT_COLUMNS), device=device)
    latents = latents.to(parts.unet.dtype)
    words = torch.zeros((2, 77, scale.text_width), device=device, dtype=latents.dtype)
    # Attention in one kernel is not counted everywhere; as matrices it is.
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as unet:
            parts.unet(latents, torch.tensor(1, device=device), encoder_hidden_states=words)
        with FlopCounterMode(display=False) as vae:
            parts.vae.decode(latents[:1])
    return {
        "unet": unet.get_total_flops() * scale.steps / 1e12,
        "vae": vae.get_total_flops() / 1e12,
    }


def _matmul_tera_per_s(size: int, device: torch.device) -> float:
    """What the device reaches in products of large matrices in bfloat16."""
    one, other = (torch.randn((size, size), device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = min(_seconds(lambda: one @ other, device, calls=20) for _ in range(3))
    return round(2 * size**3 / seconds / 1e12, 4)


def _stock_results(parts: Any, scale: Scale, device: torch.device) -> Results:
    """Frames per second of the origin's way, and of the stock pipeline with the farm's sampler and steps."""
    trained = parts.scheduler.config
    sound = _griffin_lim(device)

    def origins(index: int) -> None:
        parts.scheduler = origins_scheduler()
        sound(_stock_picture(parts, scale, index, scale.origins_steps))

    def stock(index: int) -> None:
        parts.scheduler = new_scheduler("dpmpp_2m", trained)
        _stock_picture(parts, scale, index, scale.steps)

    found = {}
    for name, way in (("origin", origins), ("stock", stock)):
        way(0)
        seconds = _seconds(partial(_each, way, scale.stock_frames), device)
        found[f"{name}_frames_per_s"] = round(scale.stock_frames / seconds, 4)
    parts.scheduler = origins_scheduler()
    return found


def _each(way: Callable[[int], None], count: int) -> None:
    for index in range(count):
        way(index)


def _stock_picture(parts: Any, scale: Scale, index: int, steps: int) -> Image.Image:
    picture: Image.Image = parts(
        PROMPTS[index % 2],
        height=scale.rows,
        width=scale.rows,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        generator=torch.Generator("cpu").manual_seed(index),
    ).images[0]
    return picture


def _griffin_lim(device: torch.device) -> Callable[[Image.Image], torch.Tensor]:
    """A picture's sound, as the origin makes it, on the device."""
    bank = torchaudio.functional.melscale_fbanks(
        _PARAMS.n_fft // 2 + 1, _PARAMS.f_min_hz, _PARAMS.f_max_hz, _PARAMS.mel_bins, _PARAMS.sample_rate_hz
    )
    linear_from_mel = torch.linalg.pinv(bank.T).to(device)
    griffin_lim = torchaudio.transforms.GriffinLim(
        n_fft=_PARAMS.n_fft,
        n_iter=_GRIFFIN_LIM_STEPS,
        win_length=_PARAMS.win_length,
        hop_length=_PARAMS.hop_length,
        power=1.0,
    ).to(device)

    def sound(picture: Image.Image) -> torch.Tensor:
        picture = picture.resize((picture.width, _PARAMS.mel_bins))
        amplitudes = torch.from_numpy(mel_amplitudes_from_image(picture, _PARAMS)).to(device)
        waveform: torch.Tensor = griffin_lim((linear_from_mel @ amplitudes).clamp_min(0))
        return waveform.cpu()

    return sound


def _farm_results(
    pipeline: FramePipeline, scale: Scale, device: torch.device, unet_tera: float, matmul: float
) -> Results:
    batches = []
    for size in scale.batch_sizes:
        try:
            batches.append(_batch(pipeline, scale, device, size, unet_tera))
        except torch.OutOfMemoryError:
            break
    for batch in batches:
        batch["unet_rate_share"] = round(batch["unet_tera_per_s"] / matmul, 4)
    best = max(batches, key=lambda batch: batch["unet_tera_per_s"])
    found: Results = {"batches": batches, "best_batch": best["frames"], "unet_rate_share": best["unet_rate_share"]}
    found |= _as_tasks_come(pipeline, scale, device)
    return found | {"compiled": _compiled(pipeline, scale, device, best)}


def _batch(pipeline: FramePipeline, scale: Scale, device: torch.device, size: int, unet_tera: float) -> Results:
    """A batch size: frames per second, the UNet's own rate, and memory."""
    pipeline._batch_size = BatchSize.fixed(size)
    pipeline.render(frames_of(size, scale, steps=2))
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    count = max(size, scale.frames)
    seconds = _seconds(lambda: pipeline.render(frames_of(count, scale)), device)
    if pipeline._batch_size.frames(scale.rows) < size:
        raise torch.OutOfMemoryError
    call_s = _call_seconds(pipeline, scale, device, size)
    return {
        "frames": size,
        "frames_per_s": round(count / seconds, 4),
        "unet_ms": round(call_s * 1e3, 3),
        "unet_tera_per_s": unet_tera / scale.steps * size / call_s,
        "memory_mib": _peak_mib(device),
    }


def _call_seconds(pipeline: FramePipeline, scale: Scale, device: torch.device, size: int) -> float:
    """Of one guided call of the UNet; half of a loop's steps see a circle, so half of these do."""
    grid = scale.rows // LATENT_COLUMNS
    latents = torch.randn((size, 4, grid, grid), device=device)
    words = torch.randn((2 * size, 77, scale.text_width), device=device, dtype=pipeline._parts.unet.dtype)
    guidance = torch.full((size, 1, 1, 1), GUIDANCE, device=device)
    timestep = torch.tensor(500, device=device)

    def both() -> None:
        for is_closed in (False, True):
            pipeline._denoiser(latents, timestep, words, guidance, is_closed=is_closed)

    return _seconds(both, device, calls=_CALLS) / 2


def _as_tasks_come(pipeline: FramePipeline, scale: Scale, device: torch.device) -> Results:
    """The farm as it runs: batches of a plan, in parts of the size that the device was measured for."""
    pipeline._batch_size = BatchSize(device)
    count = MOST_BATCH_FRAMES if scale is WHOLE else 2 * scale.frames
    frames = frames_of(count, scale)
    for _ in range(2):
        pipeline.render(frames)
    calls = 3
    seconds = _seconds(lambda: pipeline.render(frames), device, calls=calls)
    idle_share = _idle_share(lambda: [pipeline.render(frames) for _ in range(2)], device)
    return {
        "farm_frames_per_s": round(count / seconds, 4),
        "measured_batch": pipeline._batch_size.frames(scale.rows),
        "task_frames": count,
        "idle_share": round(idle_share, 4),
    }


def _idle_share(work: Callable[[], Any], device: torch.device) -> float:
    """The share of time between a device's first and last kernel in which it does nothing."""
    is_cuda = device.type == "cuda"
    activity = ProfilerActivity.CUDA if is_cuda else ProfilerActivity.CPU
    kind = DeviceType.CUDA if is_cuda else DeviceType.CPU
    with profile(activities=[activity], acc_events=True) as profiler:
        work()
        _wait_for(device)
    events: Any = profiler.events()
    return idle_share_of((one.time_range.start, one.time_range.end) for one in events if one.device_type == kind)


def idle_share_of(spans: Iterable[tuple[float, float]]) -> float:
    """The share of time from the first span's start to the last one's end that no span covers."""
    ordered = sorted(spans)
    first, reached = ordered[0][0], ordered[0][0]
    idle = 0.0
    for start, end in ordered:
        idle += max(0.0, start - reached)
        reached = max(reached, end)
    return idle / (reached - first)


def _compiled(pipeline: FramePipeline, scale: Scale, device: torch.device, best: Results) -> Results:
    """What torch.compile would add at the best batch size, and what it costs first. The farm does not use it."""
    denoiser, plain = pipeline._denoiser, pipeline._denoiser._unet
    denoiser._unet = torch.compile(plain, backend=scale.compiler)
    started_s = time.perf_counter()
    try:
        _call_seconds(pipeline, scale, device, best["frames"])
        warm_up_s = time.perf_counter() - started_s
        call_s = _call_seconds(pipeline, scale, device, best["frames"])
    except RuntimeError as error:
        # The compiler is not there, or gives up: all that torch raises of it is one.
        return {"error": str(error).splitlines()[0][:200]}
    finally:
        denoiser._unet = plain
    return {"unet_speed_ratio": round(best["unet_ms"] / 1e3 / call_s, 3), "warm_up_s": round(warm_up_s, 1)}


def _seconds(work: Callable[[], Any], device: torch.device, calls: int = 1) -> float:
    """Of one call, on the wall; several are preceded by one that is not counted."""
    if calls > 1:
        work()
    _wait_for(device)
    started_s = time.perf_counter()
    for _ in range(calls):
        work()
    _wait_for(device)
    return (time.perf_counter() - started_s) / calls


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_mib(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) // 2**20 if device.type == "cuda" else None


def _ratio(one: float, other: float) -> float:
    return round(one / other, 3)
