"""A track of the built-in model on a CPU: the farm's way against diffusers' stock pipeline, frame by frame.

Owns both ways and where their time goes. Both use one thread, the same weights, sampler, steps, strength, guidance,
seed image and prompts; they take turns, a batch of the farm's at a time. The stock pipeline cannot mix two prompts: it
is given the nearer one. Seconds are CPU seconds of this process, but for `unet_share`, which is of the clock on the
wall. What is compiled once is compiled before. Leaves out CUDA (`render_cuda`).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from shared.catalogue import seed_images
from shared.contracts import Keyframe, TrackRequest
from shared.frames import Frame
from shared.plan import Plan, Sources
from shared.resolving import resolve
from shared.spectrogram_params import SpectrogramParams
from workers.checkpoint import load_checkpoint
from workers.diffusion import FramePipeline
from workers.samplers import new_scheduler

MODEL: Final = Path(__file__).parents[2] / "workers" / "models" / "riffarm-mini"
SEED_IMAGE: Final = "og_beat"
PROMPTS: Final = ("slow ambient strings, no drums", "fast techno synth, four on the floor drums")
FRAMES: Final = 24
STEPS: Final = 20
Results = dict[str, Any]


class Track(NamedTuple):
    """What both ways render: a plan's frames in its batches, and the seed image of all."""

    batches: list[list[Frame]]
    seed_image: Image.Image

    @property
    def frames(self) -> int:
        """Of all batches."""
        return sum(map(len, self.batches))


class Watch:
    """Seconds that named functions take, by a clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)

    def over(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its time counted under `name`."""

        def timed(*arguments: Any, **options: Any) -> Any:
            started_s = self._clock()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[name] += self._clock() - started_s
                self.calls[name] += 1

        return timed


def track(frames: int = FRAMES, steps: int = STEPS) -> Track:
    """A walk between two prompts over a seed image, with the API's defaults for all that a request leaves out."""
    sources = Sources("1", seed_image_sha256=SEED_IMAGE)
    request = TrackRequest(
        keyframes=[Keyframe(prompt=prompt, seed=seed) for seed, prompt in enumerate(PROMPTS, start=1)],
        duration_s=frames * SpectrogramParams().frame_s,
        num_inference_steps=steps,
        seed_image=SEED_IMAGE,
    )
    plan = Plan(resolve(request, sources, lambda: 0), sources)
    batches = [[plan.frame(index) for index in plan.batch_frames(batch)] for batch in range(plan.batches_total)]
    return Track(batches, Image.open(seed_images()[SEED_IMAGE].path).convert("RGB"))


def measured(one: Track, on_batch: Callable[[], None] = lambda: None) -> Results:
    """Frames per CPU second of both ways, their ratio, and the shares of what each spends its time on."""
    ours, wall = _FarmsWay(one.seed_image), Watch(time.perf_counter)
    stock = _StockWay(one.seed_image)
    for way in (ours, stock):
        way.render(one.batches[0][:1])
        way.cpu.seconds.clear()
        way.cpu.calls.clear()
    ours.pipeline._denoiser = wall.over("unet", ours.pipeline._denoiser)
    farm = wall.over("all", ours.render)
    for batch in one.batches:
        farm(batch)
        stock.render(batch)
        on_batch()
    if ours.cpu.calls["unet"] != stock.cpu.calls["unet"]:
        raise RuntimeError(f"not the same steps: {ours.cpu.calls['unet']} and {stock.cpu.calls['unet']}")
    results: Results = {"frames": one.frames, "unet_calls_per_frame": ours.cpu.calls["unet"] / one.frames}
    results |= {"farm": _figures(ours.cpu, one.frames), "stock": _figures(stock.cpu, one.frames)}
    ratio = stock.cpu.seconds["all"] / ours.cpu.seconds["all"]
    unet_ratio = stock.cpu.seconds["unet"] / ours.cpu.seconds["unet"]
    share = wall.seconds["unet"] / wall.seconds["all"]
    return {"speed_ratio": round(ratio, 3), "unet_share": round(share, 3), "unet_ratio": round(unet_ratio, 3)} | results


def _figures(cpu: Watch, frames: int) -> Results:
    seconds = dict(cpu.seconds)
    seconds["rest"] = 2 * seconds["all"] - sum(seconds.values())
    figures: Results = {f"{name}_s": round(value / frames, 4) for name, value in seconds.items()}
    return figures | {"frames_per_cpu_s": round(frames / seconds["all"], 4)}


class _FarmsWay:
    def __init__(self, seed_image: Image.Image) -> None:
        self.pipeline = FramePipeline.from_source(str(MODEL), device="cpu")
        self.cpu = Watch(time.process_time)
        self._seed_image = seed_image
        parts = self.pipeline._parts
        self.pipeline._denoiser = self.cpu.over("unet", self.pipeline._denoiser)
        parts.vae.encode = self.cpu.over("encode", parts.vae.encode)
        parts.vae.decode = self.cpu.over("decode", parts.vae.decode)
        parts.text_encoder.forward = self.cpu.over("text", parts.text_encoder.forward)
        self.render = self.cpu.over("all", self._render)

    def _render(self, frames: list[Frame]) -> None:
        seeds = [self._seed_image] * len(frames)
        self.pipeline.render(frames, seeds)


class _StockWay:
    def __init__(self, seed_image: Image.Image) -> None:
        parts = load_checkpoint(str(MODEL), None, torch.float32).components
        self._trained = parts["scheduler"].config
        self._pipeline = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
        self._pipeline.set_progress_bar_config(disable=True)
        self.cpu = Watch(time.process_time)
        self._seed_image = seed_image
        self._pipeline.unet.forward = self.cpu.over("unet", self._pipeline.unet.forward)
        self._pipeline.vae.encode = self.cpu.over("encode", self._pipeline.vae.encode)
        self._pipeline.vae.decode = self.cpu.over("decode", self._pipeline.vae.decode)
        self._pipeline.text_encoder.forward = self.cpu.over("text", self._pipeline.text_encoder.forward)
        self.render = self.cpu.over("all", self._render)

    def _render(self, frames: list[Frame]) -> None:
        for frame in frames:
            self._pipeline.scheduler = new_scheduler(frame.sampler, self._trained)
            near = frame.end if frame.end and frame.alpha > 0.5 else frame.start
            self._pipeline(
                prompt=near.prompt,
                negative_prompt=near.negative_prompt,
                image=self._seed_image,
                strength=near.denoising_strength,
                num_inference_steps=frame.num_inference_steps,
                guidance_scale=near.guidance_scale,
                generator=torch.Generator("cpu").manual_seed(frame.noise.seed),
            )
