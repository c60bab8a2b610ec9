"""Fine-tuning a Stable Diffusion checkpoint's denoiser on slices of a user's own audio.

Owns the steps, what is learnt (low-rank layers beside the attention, or all weights), the log, and checkpoints to go
on from. What a step draws depends on the seed and its number alone, so a fine-tune that was stopped ends as if it
never was. Leaves out the slices (`workers.training.material`) and what is written at the end
(`workers.training.tuned_model`).
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import DDPMScheduler
from peft import LoraConfig

from shared.errors import RiffarmError
from workers.prompts import PromptReader
from workers.training.material import Material, weights_sha256

CAPTION_DROPOUT: Final = 0.1
"""How often a caption is left out, so that guidance has something to guide away from."""
LORA_LAYERS: Final = ("to_q", "to_k", "to_v", "to_out.0")
LOG_FILE: Final = "training_log.jsonl"
_CHECKPOINT: Final = "checkpoint.pt"
_WARM_UP_STEPS: Final = 20
_FIXED_SLICES: Final = 8
_LITERAL: Final = frozenset("()[]")
_ESCAPED: Final = str.maketrans({letter: f"\\{letter}" for letter in "()[]:\\"})

OnStep = Callable[[int, float], None]
"""Told the number of finished steps and the last one's loss; what it raises ends the work."""


class FineTuneError(RiffarmError):
    """The fine-tune cannot be done."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked of a fine-tune.

    rank: of the low-rank layers; None trains all of the denoiser's weights.
    learning_rate: None is the usual one for the model's size.
    batch: slices in a step.
    """

    steps: int
    rank: int | None
    learning_rate: float | None
    batch: int
    seed: int


def usual_learning_rate(weights: int, *, is_full: bool) -> float:
    """The rate for a denoiser of so many weights: that of Stable Diffusion's for one of its size, more for smaller."""
    return (1e-5 if is_full else 1e-4) * max(1.0, math.sqrt(860e6 / weights))


class FineTuning:
    """A denoiser that learns from material, step by step."""

    def __init__(self, parts: Any, material: Material, wishes: Wishes, device: torch.device) -> None:
        """`parts` is a `diffusers.StableDiffusionPipeline` in float32; its denoiser is moved to the device and changed.

        Raises FineTuneError for a kind of prediction that is not known.
        """
        self.unet = parts.unet
        self._material, self._wishes, self._device = material, wishes, device
        count = sum(weight.numel() for weight in self.unet.parameters())
        self._rate = wishes.learning_rate or usual_learning_rate(count, is_full=wishes.rank is None)
        self._settings = asdict(wishes) | {
            "learning_rate": self._rate,
            "base": weights_sha256(self.unet),
            "material": material.sha256,
        }
        del self._settings["steps"]  # more of them go on from where fewer ended
        schedule = DDPMScheduler.from_config(parts.scheduler.config)
        self._signal = schedule.alphas_cumprod.to(device)
        self._prediction = schedule.config.prediction_type
        if self._prediction not in ("epsilon", "v_prediction", "sample"):
            raise FineTuneError(f"the model predicts {self._prediction!r}; epsilon, v_prediction and sample are known")
        self._captions = [*dict.fromkeys(("", *material.captions))]
        self._embeddings = _embeddings(self._captions, parts, device)
        self._weights = _weights_to_train(self.unet.to(device), wishes)
        self._optimizer = torch.optim.AdamW(self._weights, lr=self._rate, weight_decay=1e-2)

    def step(self, number: int) -> float:
        """One optimiser step, the `number`-th from 0; its loss."""
        chance = random.Random(f"{self._wishes.seed} step {number}")
        size = self._wishes.batch
        picks = [self._pick(number * size + place) for place in range(size)]
        captions = ["" if chance.random() < CAPTION_DROPOUT else self._material.captions[pick] for pick in picks]
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * min(1.0, (number + 1) / _WARM_UP_STEPS)
        times = torch.tensor([chance.randrange(len(self._signal)) for _ in picks])
        loss = self._loss(picks, captions, times, chance.getrandbits(62))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        return loss.item()

    @torch.no_grad()
    def fixed_loss(self) -> float:
        """The loss on the same few slices, captions, noises and times at any step: what learning alone changes."""
        chance = random.Random(f"{self._wishes.seed} fixed")
        count = len(self._material.captions)
        losses = []
        for place in range(_FIXED_SLICES):
            pick = chance.randrange(count)
            times = torch.tensor([int((place + 0.5) / _FIXED_SLICES * len(self._signal))])
            losses.append(self._loss([pick], [self._material.captions[pick]], times, chance.getrandbits(62)).item())
        return sum(losses) / len(losses)

    def _pick(self, place: int) -> int:
        """The slice at a place of an endless row in which all slices come once before one comes again."""
        count = len(self._material.captions)
        turn, within = divmod(place, count)
        return _order(self._wishes.seed, turn, count)[within]

    def _loss(self, picks: list[int], captions: list[str], times: torch.Tensor, noise_seed: int) -> torch.Tensor:
        """The mean squared error of what the denoiser predicts."""
        latents = self._material.latents[picks]
        # On the CPU, so that every device sees the same noise.
        noise = torch.randn(latents.shape, generator=torch.Generator("cpu").manual_seed(noise_seed)).to(self._device)
        latents, times = latents.to(self._device), times.to(self._device)
        signal = self._signal[times].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        target = {
            "epsilon": noise,
            "v_prediction": signal.sqrt() * noise - (1 - signal).sqrt() * latents,
            "sample": latents,
        }[self._prediction]
        states = self._embeddings[[self._captions.index(caption) for caption in captions]]
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            guess = self.unet(noisy, times, states).sample
        loss: torch.Tensor = (guess.float() - target).square().mean()
        return loss

    def save(self, path: Path, steps: int) -> None:
        """Write a checkpoint that is either whole or absent."""
        partial = path.with_suffix(".partial")
        weights = [weight.detach() for weight in self._weights]
        content = {"settings": self._settings, "steps": steps, "weights": weights}
        torch.save(content | {"optimizer": self._optimizer.state_dict()}, partial)
        partial.replace(path)

    def restore(self, path: Path) -> int:
        """Go on from a checkpoint; how many steps it has. Raises FineTuneError when it is of another fine-tune."""
        saved = torch.load(path, weights_only=True, map_location=self._device)
        for name, value in self._settings.items():
            if saved["settings"][name] != value:
                is_wish = name in asdict(self._wishes)
                what = f"{name} {saved['settings'][name]}, not {value}" if is_wish else f"another {name}"
                raise FineTuneError(
                    f"{path.parent} holds a fine-tune with {what}; remove it to begin anew, or choose another --output"
                )
        with torch.no_grad():
            for weight, value in zip(self._weights, saved["weights"], strict=True):
                weight.copy_(value)
        self._optimizer.load_state_dict(saved["optimizer"])
        return int(saved["steps"])


@lru_cache(maxsize=2)
def _order(seed: int, turn: int, count: int) -> list[int]:
    """All slices in the order in which one turn takes them."""
    return random.Random(f"{seed} turn {turn}").sample(range(count), count)


def _embeddings(captions: list[str], parts: Any, device: torch.device) -> torch.Tensor:
    """What the model hears in each caption, shape (caption, token, width), float32."""
    reader = PromptReader(parts.tokenizer, parts.text_encoder.to(device), device)
    # A caption has no weights: its brackets are brackets.
    prompts = [text if _LITERAL.isdisjoint(text) else text.translate(_ESCAPED) for text in captions]
    # A copy, as what was made for inference alone can be no part of a training.
    return torch.cat([reader.embedding(prompt) for prompt in prompts]).float().clone()


def _weights_to_train(unet: Any, wishes: Wishes) -> list[torch.nn.Parameter]:
    unet.requires_grad_(wishes.rank is None)
    if wishes.rank is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(wishes.seed)
            unet.add_adapter(LoraConfig(r=wishes.rank, lora_alpha=wishes.rank, target_modules=[*LORA_LAYERS]))
    return [weight for weight in unet.parameters() if weight.requires_grad]


def run(training: FineTuning, steps: int, folder: Path, on_step: OnStep, *, checkpoint_steps: int = 50) -> None:
    """Train until there are `steps` steps, going on from a checkpoint in `folder`.

    The log is in `folder` too: a line for each step, and every `checkpoint_steps` the loss that learning alone changes.
    Raises FineTuneError as `FineTuning.restore`, and when the loss is no number any more.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / _CHECKPOINT, folder / LOG_FILE
    done = training.restore(checkpoint) if checkpoint.exists() else 0
    if done > steps:
        raise FineTuneError(f"{folder} has {done} steps already; --steps must be as many, or more to go on")
    _cut(log, done)
    if done == 0:
        _append(log, {"step": 0, "fixed_loss": training.fixed_loss()})
    for number in range(done, steps):
        began = time.monotonic()
        loss = training.step(number)
        if not math.isfinite(loss):
            raise FineTuneError(f"the loss is {loss} at step {number + 1}; a lower --learning-rate would be right")
        _append(log, {"step": number + 1, "loss": loss, "seconds": time.monotonic() - began})
        if (number + 1) % checkpoint_steps == 0 or number + 1 == steps:
            _append(log, {"step": number + 1, "fixed_loss": training.fixed_loss()})
            training.save(checkpoint, number + 1)
        on_step(number + 1, loss)


def _cut(log: Path, steps: int) -> None:
    """Drop the lines of steps that are taken again."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() and steps else []
    kept = [line for line in lines if json.loads(line)["step"] <= steps]
    log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _append(log: Path, line: dict[str, float]) -> None:
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps({name: round(value, 6) for name, value in line.items()}) + "\n")
