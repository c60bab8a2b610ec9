"""The diffusion pipeline: frames in, spectrogram images out.

Owns the way of a frame through a Stable Diffusion checkpoint, and which frames go together. Leaves out reading a
checkpoint (`workers.checkpoint`), prompts (`workers.prompts`), noise (`workers.noise`), samplers (`workers.samplers`),
calling the denoiser (`workers.denoiser`), pictures and their latents (`workers.autoencoder`), how many frames a device
takes (`workers.batching`), what a picture sounds like, and where frames come from and go to.
"""

from __future__ import annotations

import resource
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from PIL import Image

from shared.contracts import Sampler
from shared.errors import RenderError
from shared.frames import Frame, FrameEnd
from shared.plan import LATENT_COLUMNS
from workers.autoencoder import Autoencoder, Canvas, Development, stacked
from workers.batching import BatchSize
from workers.checkpoint import device_from_name, dtype_from_name, load_checkpoint
from workers.denoiser import Denoiser
from workers.noise import lerp, noises_from
from workers.previews import PreviewMaker, data_url_from_image
from workers.prompts import PromptReader
from workers.samplers import model_calls, new_descent, steps_from_strength

Value = TypeVar("Value")
Pictures = Sequence[Image.Image | None]


class Step(NamedTuple):
    """How far a call of `render` is: `done` of `total` steps over all frames, and the frames this step was for.

    frames: their indexes in the call.
    step, steps: this walk's own count.
    clean: what the model makes out by now: latents of pictures (frame, channel, latent row, latent column).
    """

    done: int
    total: int
    frames: Sequence[int]
    step: int
    steps: int
    clean: Callable[[], torch.Tensor]


class _Schedule(NamedTuple):
    """What frames must share to be denoised together."""

    sampler: Sampler
    num_inference_steps: int
    first_step: int
    columns: int
    is_loop: bool
    has_canvas: bool

    @property
    def steps(self) -> int:
        """Calls of the model for one frame."""
        return model_calls(self.sampler, self.num_inference_steps - self.first_step)


@dataclass(frozen=True)
class _Item:
    """A frame of a call, by its index there."""

    index: int
    frame: Frame
    canvas: Canvas | None


class FramePipeline:
    """A loaded model that renders frames, each from its own noise in whatever company.

    A frame that is a loop leads from its last column to its first (`workers.seamless`).
    On a CPU a frame's bits are the same in any batch, for the same number of threads; on a GPU, where frames are
    denoised together, they may differ by a rounding.
    """

    def __init__(self, parts: Any, device: torch.device) -> None:
        """`parts` is a `diffusers.StableDiffusionPipeline`; it is moved to the device."""
        self.device = device
        self._parts = parts.to(device)
        self._denoiser = Denoiser(parts.unet, device, parts.unet.dtype)
        self._autoencoder = Autoencoder(parts.vae, parts.image_processor, device)
        self._prompts = PromptReader(parts.tokenizer, parts.text_encoder, device)
        self._batch_size = BatchSize(device)
        self._previews = PreviewMaker(parts.vae)

    @classmethod
    def from_source(
        cls, source: str, revision: str | None = None, device: str = "auto", dtype: str = "auto"
    ) -> FramePipeline:
        """Load a folder in Stable Diffusion layout, or a hub id with an optional revision.

        `device` is "auto" (CUDA, then MPS, then CPU) or a torch device; `dtype` is "auto" (float16 on CUDA, float32
        elsewhere), "float32", "float16" or "bfloat16". Raises RenderError when there is no such model, a part of it
        is missing or damaged, or its weights are not safetensors.
        """
        chosen = device_from_name(device)
        return cls(load_checkpoint(source, revision, dtype_from_name(dtype, chosen)), chosen)

    @property
    def rows(self) -> int:
        """Rows of every picture; 512 for a Stable Diffusion 1.5 checkpoint."""
        return int(self._parts.unet.config.sample_size * LATENT_COLUMNS)

    @property
    def memory_mb(self) -> int:
        """The most memory taken so far, in MB: the device's on CUDA, the process's elsewhere."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device) / 1e6)
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)

    def preview(self, latents: torch.Tensor) -> str:
        """A small picture of one frame's latents (channel, latent row, latent column), as a data URL."""
        return data_url_from_image(self._previews.preview(latents))

    def truncated_words(self, prompt: str) -> str:
        """The end of a prompt that the tokenizer cuts off; empty when all of it is read."""
        return self._prompts.truncated_words(prompt)

    @torch.inference_mode()
    def render(
        self,
        frames: Sequence[Frame],
        seed_images: Pictures | None = None,
        mask_images: Pictures | None = None,
        *,
        on_step: Callable[[Step], None] | None = None,
        on_picture: Callable[[int, Image.Image], None] | None = None,
    ) -> list[Image.Image]:
        """One RGB picture per frame, `rows` high and `frame.columns` wide.

        Each frame may have a seed image and a mask of any size and mode: white repaints, black keeps the seed image's
        own pixels, grey is painted with so much of the strength (differential diffusion, Levin and Fried 2023).
        `on_step` is told of each denoising step; what it raises ends the rendering. `on_picture(index, picture)` gets
        each picture as soon as it is there. Raises RenderError for a mask without a seed image, for columns the model
        has no grid for, and when not even one frame fits into the device's memory.
        """
        canvases = self._canvases(frames, seed_images or [None] * len(frames), mask_images or [None] * len(frames))
        items = [
            _Item(index, frame, canvas) for index, (frame, canvas) in enumerate(zip(frames, canvases, strict=True))
        ]
        groups = self._groups(items)
        total = sum(schedule.steps * len(group) for schedule, group in groups)
        pictures: dict[int, Image.Image] = {}
        done = 0
        for schedule, group in groups:
            report = _Report(done, total, on_step)
            for item, picture in self._rendered(schedule, group, report):
                pictures[item.index] = picture
                if on_picture:
                    on_picture(item.index, picture)
            done += schedule.steps * len(group)
        return [pictures[index] for index in range(len(frames))]

    def _rendered(
        self, schedule: _Schedule, group: list[_Item], report: _Report
    ) -> Iterator[tuple[_Item, Image.Image]]:
        """The group's pictures in order, each as soon as it is there."""
        if schedule.steps == 0:
            yield from ((item, item.canvas.picture.copy()) for item in group if item.canvas)
            return

        def denoised(batch: Sequence[_Item]) -> Iterator[tuple[_Item, Development]]:
            latents = self._denoise(schedule, batch, report)
            report.finish(schedule.steps * len(batch))
            for item, one in zip(batch, latents, strict=True):
                yield item, self._autoencoder.developed(one[None], item.canvas, is_loop=schedule.is_loop)

        waiting: deque[tuple[_Item, Development]] = deque()
        for item, development in self._batch_size.run(group, schedule.columns, denoised):
            waiting.append((item, development))
            while waiting and waiting[0][1].is_done:
                first, finished = waiting.popleft()
                yield first, finished.picture()
        yield from ((item, development.picture()) for item, development in waiting)

    def _groups(self, items: list[_Item]) -> list[tuple[_Schedule, list[_Item]]]:
        """Items that can be denoised together."""
        together: dict[_Schedule, list[_Item]] = {}
        for item in items:
            together.setdefault(self._schedule(item.frame, item.canvas is not None), []).append(item)
        return [*together.items()]

    def _schedule(self, frame: Frame, has_seed_image: bool) -> _Schedule:
        if frame.columns % LATENT_COLUMNS:
            raise RenderError(f"A frame's columns must be a multiple of {LATENT_COLUMNS}.")
        strength = _between(frame, lambda end: end.denoising_strength, lerp) if has_seed_image else 1.0
        steps = steps_from_strength(strength, frame.num_inference_steps)
        first_step = frame.num_inference_steps - steps
        return _Schedule(
            frame.sampler, frame.num_inference_steps, first_step, frame.columns, frame.is_loop, has_seed_image
        )

    def _denoise(self, schedule: _Schedule, items: Sequence[_Item], report: _Report) -> torch.Tensor:
        """Latents of the finished pictures, shape (frame, channel, latent row, latent column), float32."""
        trained = self._parts.scheduler.config
        descent = new_descent(schedule.sampler, trained, schedule.num_inference_steps, schedule.first_step, self.device)
        shape = (self._parts.unet.config.in_channels, self.rows // LATENT_COLUMNS, schedule.columns // LATENT_COLUMNS)
        noises = [noises_from(item.frame.noise, shape) for item in items]
        noise = self._next(noises)
        embeddings, guidance = self._conditions([item.frame for item in items])
        clean, mask = stacked([item.canvas for item in items])
        latents = noise if clean is None else descent.noised(clean, noise, 0)
        # Read once: asking a GPU for each number would make it wait.
        is_late = [point <= trained.num_train_timesteps / 2 for point in descent.timesteps.tolist()]
        for index, timestep in enumerate(descent.timesteps):
            # Early steps lay out the beat, which models learn from the edges' zeros; later ones close the loop.
            is_closed = schedule.is_loop and is_late[index]
            predicted = self._denoiser(latents, timestep, embeddings, guidance, is_closed=is_closed)
            step_noise = self._next(noises) if descent.needs_step_noise else None
            seen = partial(descent.clean, predicted, index, latents)
            latents = descent.step(predicted, index, latents, step_noise)
            if clean is not None and mask is not None:
                # A grey is let go that much of the way before the end: it is painted at so much of the strength.
                is_free = mask >= 1 - index / len(descent.timesteps)
                latents = torch.where(is_free, latents, descent.noised(clean, noise, index + 1))
            report.step(items, index + 1, len(descent.timesteps), seen)
        return latents

    def _conditions(self, frames: list[Frame]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (2 * frame, token, width), of negative prompts first, and guidance scales (frame, 1, 1, 1)."""
        prompts = self._prompts.embedding
        negative = [_between(frame, lambda end: prompts(end.negative_prompt), lerp) for frame in frames]
        positive = [_between(frame, lambda end: prompts(end.prompt), lerp) for frame in frames]
        scales = [_between(frame, lambda end: end.guidance_scale, lerp) for frame in frames]
        return torch.cat(negative + positive), torch.tensor(scales, device=self.device).view(-1, 1, 1, 1)

    def _next(self, noises: list[Iterator[torch.Tensor]]) -> torch.Tensor:
        return torch.cat([next(noise) for noise in noises]).to(self.device)

    def _canvases(self, frames: Sequence[Frame], seed_images: Pictures, mask_images: Pictures) -> list[Canvas | None]:
        canvases: list[Canvas | None] = []
        for frame, seed_image, mask_image in zip(frames, seed_images, mask_images, strict=True):
            if mask_image is not None and seed_image is None:
                raise RenderError("A mask image needs a seed image to keep.")
            size = (frame.columns, self.rows)
            make = self._autoencoder.canvas
            canvases.append(make(size, seed_image, mask_image, is_loop=frame.is_loop) if seed_image else None)
        return canvases


class _Report:
    """Tells `on_step` how far a whole call is; a batch that is begun anew counts anew."""

    def __init__(self, done: int, total: int, on_step: Callable[[Step], None] | None) -> None:
        self._done = done
        self._total = total
        self._on_step = on_step

    def step(self, items: Sequence[_Item], step: int, steps: int, clean: Callable[[], torch.Tensor]) -> None:
        if self._on_step:
            frames = [item.index for item in items]
            self._on_step(Step(self._done + step * len(items), self._total, frames, step, steps, clean))

    def finish(self, steps: int) -> None:
        self._done += steps


def _between(frame: Frame, value: Callable[[FrameEnd], Value], mix: Callable[[Value, Value, float], Value]) -> Value:
    start = value(frame.start)
    return start if frame.end is None or frame.alpha == 0 else mix(start, value(frame.end), frame.alpha)
