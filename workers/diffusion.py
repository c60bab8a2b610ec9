"""The diffusion pipeline: frames in, spectrogram images out.

Owns prompts, noise, interpolation between a frame's two ends, image conditioning, masks and the denoising loop, over
the parts of a Stable Diffusion checkpoint. Leaves out reading a checkpoint (`workers.checkpoint`), what a picture
sounds like, and where frames come from and go to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image

from shared.contracts import Frame, FrameEnd, Sampler
from shared.errors import RenderError
from workers.checkpoint import load_checkpoint
from workers.samplers import new_scheduler, steps_from_strength
from workers.seamless import TimeCircle
from workers.spectrogram import rgb_from_image

Value = TypeVar("Value")
Mixable = TypeVar("Mixable", float, torch.Tensor)

_PARALLEL: Final = 0.9995
"""Cosine above which two noises span no plane to turn in."""
_EMBEDDINGS_KEPT: Final = 256
_SEED_IMAGES_KEPT: Final = 4


class _Schedule(NamedTuple):
    """What frames must share to be denoised together."""

    sampler: Sampler
    num_inference_steps: int
    first_step: int
    columns: int


@dataclass(frozen=True)
class _Canvas:
    """The seed image and the mask on a frame's grid."""

    picture: Image.Image
    latents: torch.Tensor
    mask: torch.Tensor | None
    """1 repaints, 0 keeps; shape (1, 1, latent row, latent column)."""


class FramePipeline:
    """A loaded model that renders frames, each from its own noise in whatever company.

    A frame is a loop: its last column leads to its first (`workers.seamless`).
    On a CPU a frame's bits are the same in any batch, for the same number of threads; on a GPU, where frames are
    denoised together, they may differ by a rounding.
    """

    def __init__(self, parts: Any, device: torch.device) -> None:
        """`parts` is a `diffusers.StableDiffusionPipeline`; it is moved to the device."""
        self.device = device
        # On a CPU, kernels choose their order of summing by batch size: alone, a frame keeps its bits in any company.
        self._is_batching = device.type != "cpu"
        self._dtype = parts.unet.dtype
        self._parts = parts.to(device)
        self._time = TimeCircle(parts.unet, parts.vae)
        self._embedding = lru_cache(maxsize=_EMBEDDINGS_KEPT)(self._embedding_from_prompt)
        self._seed_latents = lru_cache(maxsize=_SEED_IMAGES_KEPT)(self._latents_from_pixels)

    @classmethod
    def from_source(
        cls, source: str, revision: str | None = None, device: str = "auto", dtype: str = "auto"
    ) -> FramePipeline:
        """Load a folder in Stable Diffusion layout, or a hub id with an optional revision.

        `device` is "auto" (CUDA, then MPS, then CPU) or a torch device; `dtype` is "auto" (float16 on CUDA, float32
        elsewhere), "float32", "float16" or "bfloat16". Raises RenderError when there is no such model, a part of it
        is missing or damaged, or its weights are not safetensors.
        """
        chosen = _device(device)
        return cls(load_checkpoint(source, revision, _dtype(dtype, chosen)), chosen)

    @property
    def rows(self) -> int:
        """Rows of every picture; 512 for a Stable Diffusion 1.5 checkpoint."""
        return int(self._parts.unet.config.sample_size * self._parts.vae_scale_factor)

    def truncated_words(self, prompt: str) -> str:
        """The end of a prompt that the tokenizer cuts off; empty when all of it is read."""
        tokenizer = self._parts.tokenizer
        tokens = tokenizer(prompt, return_offsets_mapping=True, truncation=False, verbose=False)
        if len(tokens.input_ids) <= tokenizer.model_max_length:
            return ""
        # The last place is the end token's.
        first_lost, _ = tokens.offset_mapping[tokenizer.model_max_length - 1]
        return prompt[first_lost:]

    @torch.inference_mode()
    def render(
        self,
        frames: Sequence[Frame],
        seed_image: Image.Image | None = None,
        mask_image: Image.Image | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> list[Image.Image]:
        """One RGB picture per frame, `rows` high and `frame.columns` wide.

        The images of any size and mode serve all frames: white in the mask repaints, black keeps the seed image.
        `on_step(done, total)` is called after each denoising step; what it raises ends the rendering. Raises
        RenderError for a mask without a seed image and for columns the model has no grid for.
        """
        if mask_image is not None and seed_image is None:
            raise RenderError("A mask image needs a seed image to keep.")
        runs = self._runs([self._schedule(frame, seed_image is not None) for frame in frames])
        total = sum(schedule.num_inference_steps - schedule.first_step for schedule, _ in runs)
        done = count(1)

        def after_step() -> None:
            if on_step is not None:
                on_step(next(done), total)

        pictures: dict[int, Image.Image] = {}
        for schedule, indexes in runs:
            canvas = self._canvas(seed_image, mask_image, schedule.columns) if seed_image is not None else None
            if canvas is not None and schedule.first_step == schedule.num_inference_steps:
                pictures.update((index, canvas.picture.copy()) for index in indexes)
                continue
            latents = self._denoise(schedule, [frames[index] for index in indexes], canvas, after_step)
            pictures.update(zip(indexes, map(self._picture_from_latents, latents[:, None]), strict=True))
        return [pictures[index] for index in range(len(frames))]

    def _runs(self, schedules: list[_Schedule]) -> list[tuple[_Schedule, list[int]]]:
        if not self._is_batching:
            return [(schedule, [index]) for index, schedule in enumerate(schedules)]
        together: dict[_Schedule, list[int]] = {}
        for index, schedule in enumerate(schedules):
            together.setdefault(schedule, []).append(index)
        return list(together.items())

    def _schedule(self, frame: Frame, has_seed_image: bool) -> _Schedule:
        if frame.columns % self._parts.vae_scale_factor:
            raise RenderError(f"A frame's columns must be a multiple of {self._parts.vae_scale_factor}.")
        strength = _between(frame, lambda end: end.denoising_strength, lerp) if has_seed_image else 1.0
        steps = steps_from_strength(strength, frame.num_inference_steps)
        return _Schedule(frame.sampler, frame.num_inference_steps, frame.num_inference_steps - steps, frame.columns)

    def _scheduler(self, schedule: _Schedule) -> Any:
        scheduler = new_scheduler(schedule.sampler, self._parts.scheduler.config)
        scheduler.set_timesteps(schedule.num_inference_steps, device=self.device)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(schedule.first_step)
        return scheduler

    def _denoise(
        self, schedule: _Schedule, frames: list[Frame], canvas: _Canvas | None, after_step: Callable[[], None]
    ) -> torch.Tensor:
        """Latents of the finished pictures, shape (frame, channel, latent row, latent column), float32."""
        scheduler = self._scheduler(schedule)
        timesteps = scheduler.timesteps[schedule.first_step :]
        noise = torch.cat([_between(frame, self._noise(frame.columns), slerp) for frame in frames]).to(self.device)
        embeddings = self._embeddings(frames)
        scales = [_between(frame, lambda end: end.guidance_scale, lerp) for frame in frames]
        guidance = torch.tensor(scales, device=self.device).view(-1, 1, 1, 1)
        latents: torch.Tensor = noise * scheduler.init_noise_sigma
        if canvas is not None and schedule.first_step > 0:
            latents = scheduler.add_noise(canvas.latents, noise, timesteps[:1])
        for index, timestep in enumerate(timesteps):
            pair = scheduler.scale_model_input(torch.cat([latents, latents]), timestep)
            # Early steps lay out the beat, which models learn from the edges' zeros; later ones close the loop.
            is_late = schedule.first_step + index >= schedule.num_inference_steps / 2
            with self._time.closed() if is_late else nullcontext():
                predicted = self._guided(pair, timestep, embeddings, guidance)
            latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
            if canvas is not None and canvas.mask is not None:
                following = timesteps[index + 1 : index + 2]
                kept = scheduler.add_noise(canvas.latents, noise, following) if len(following) else canvas.latents
                latents = canvas.mask * latents + (1 - canvas.mask) * kept
            after_step()
        return latents

    def _guided(
        self, pair: torch.Tensor, timestep: torch.Tensor, embeddings: torch.Tensor, guidance: torch.Tensor
    ) -> torch.Tensor:
        """The denoiser's prediction, led away from the negative prompts and towards the prompts."""
        predicted: torch.Tensor = self._parts.unet(
            pair.to(self._dtype), timestep, encoder_hidden_states=embeddings, return_dict=False
        )[0]
        away, towards = predicted.float().chunk(2)
        return away + guidance * (towards - away)

    def _embeddings(self, frames: list[Frame]) -> torch.Tensor:
        """Negative prompts first, then prompts: shape (2 * frame, token, width)."""
        negative = [_between(frame, lambda end: self._embedding(end.negative_prompt), lerp) for frame in frames]
        positive = [_between(frame, lambda end: self._embedding(end.prompt), lerp) for frame in frames]
        return torch.cat(negative + positive)

    def _embedding_from_prompt(self, prompt: str) -> torch.Tensor:
        embedding: torch.Tensor = self._parts.encode_prompt(prompt, self.device, 1, False)[0]
        return embedding

    def _noise(self, columns: int) -> Callable[[FrameEnd], torch.Tensor]:
        factor = self._parts.vae_scale_factor
        shape = (1, self._parts.unet.config.in_channels, self.rows // factor, columns // factor)

        def noise(end: FrameEnd) -> torch.Tensor:
            # Always drawn on the CPU: every device then starts from the same numbers.
            return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(end.seed))

        return noise

    def _canvas(self, seed_image: Image.Image, mask_image: Image.Image | None, columns: int) -> _Canvas:
        picture = rgb_from_image(seed_image).resize((columns, self.rows), Image.Resampling.LANCZOS)
        latents = self._seed_latents(picture.tobytes(), columns)
        return _Canvas(picture, latents, self._mask(mask_image, columns) if mask_image is not None else None)

    def _mask(self, mask_image: Image.Image, columns: int) -> torch.Tensor:
        factor = self._parts.vae_scale_factor
        box = Image.Resampling.BOX
        # Area means: what is all black or all white stays so, whatever lies beside it.
        small = rgb_from_image(mask_image).convert("L").resize((columns // factor, self.rows // factor), box)
        return torch.from_numpy(np.asarray(small, np.float32) / 255)[None, None].to(self.device)

    def _latents_from_pixels(self, pixels: bytes, columns: int) -> torch.Tensor:
        picture = Image.frombytes("RGB", (columns, self.rows), pixels)
        tensor = self._parts.image_processor.preprocess(picture).to(self.device, self._dtype)
        # The mean, not a draw: the seed image is the same for every frame and worker.
        scaling: float = self._parts.vae.config.scaling_factor
        with self._time.closed():
            latents: torch.Tensor = self._parts.vae.encode(tensor).latent_dist.mode()
        return latents.float() * scaling

    def _picture_from_latents(self, latents: torch.Tensor) -> Image.Image:
        unscaled = (latents / self._parts.vae.config.scaling_factor).to(self._dtype)
        with self._time.closed():
            decoded = self._parts.vae.decode(unscaled, return_dict=False)[0]
        picture: Image.Image = self._parts.image_processor.postprocess(decoded.float(), output_type="pil")[0]
        return picture


def lerp(start: Mixable, end: Mixable, alpha: float) -> Mixable:
    """The straight way from start to end; exact at both."""
    if alpha in (0, 1):
        return end if alpha else start
    return start + alpha * (end - start)


def slerp(start: torch.Tensor, end: torch.Tensor, alpha: float) -> torch.Tensor:
    """The way along the arc from start to end, which keeps noise as strong as noise; exact at both ends.

    Parallel and opposite noises have no arc of their own: they go the straight way.
    """
    cosine: float = torch.nn.functional.cosine_similarity(
        start.double().flatten(), end.double().flatten(), dim=0
    ).item()
    if alpha in (0, 1) or abs(cosine) > _PARALLEL:
        return lerp(start, end, alpha)
    angle = math.acos(cosine)
    return (math.sin((1 - alpha) * angle) * start + math.sin(alpha * angle) * end) / math.sin(angle)


def _between(frame: Frame, value: Callable[[FrameEnd], Value], mix: Callable[[Value, Value, float], Value]) -> Value:
    start = value(frame.start)
    return start if frame.end is None or frame.alpha == 0 else mix(start, value(frame.end), frame.alpha)


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[name]
