"""Joint training of the denoiser and its text encoder on the clips' latents.

Owns the denoising loss, captions drawn anew each time, and the moving average that is shipped. Leaves out the
autoencoder, making latents (`workers.training.latents`), telling captions apart (`workers.training.naming`) and the
loop around (`workers.training.loop`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel, CLIPTokenizer

from workers.training.captions import caption_from_piece
from workers.training.dataset import draw_pieces
from workers.training.latents import clips_at
from workers.training.loop import device, learning_rate
from workers.training.naming import Naming
from workers.training.networks import scheduler, tokens_from_captions
from workers.training.recipe import DataRecipe, UnetRecipe
from workers.training.score import Piece

Check = Callable[[UNet2DConditionModel, CLIPTextModel], dict[str, float]]


class Latents(Protocol):
    """Latents of clips by their indexes."""

    def __getitem__(self, picks: list[int], /) -> np.ndarray[Any, Any]:
        """Shape (clip, channel, row, column)."""


class UnetTraining:
    """The denoiser learns velocities at all noise levels, the text encoder what words mean to it."""

    name = "unet"

    def __init__(
        self,
        recipe: UnetRecipe,
        data: DataRecipe,
        tokenizer: CLIPTokenizer,
        latents: Latents,
        check: Check,
        networks: tuple[UNet2DConditionModel, CLIPTextModel],
        naming: Naming,
    ) -> None:
        """latents: of the training clips; naming: the second task, which keeps what captions say apart."""
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.device = device()
        unet, text = networks
        self.unet, self.text = unet.to(self.device).train(), text.to(self.device).train()
        if self.device.type == "cpu":
            # Plain products: at this width torch's own attention is slower on a CPU, backwards above all.
            self.unet.set_attn_processor(AttnProcessor())
        self.naming = naming.to(self.device)
        self._weights = [*self.unet.parameters(), *self.text.parameters(), *self.naming.parameters()]
        self._average = [weight.detach().clone() for weight in self._weights]
        self._optimizer = torch.optim.AdamW(self._weights, lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-3)
        self._tokenizer, self._latents, self._check = tokenizer, latents, check
        self._data, self._pieces = data, draw_pieces(data.train_clips, data.train_seed)
        self._signal = scheduler().alphas_cumprod
        self._rng = random.Random(recipe.seed)
        self.steps = 0

    def step(self, share: float) -> dict[str, float]:
        """One step on one batch; frames of half the width at first."""
        recipe = self.recipe
        rate = learning_rate(recipe.learning_rate, share, self.steps, recipe.warm_up_steps, recipe.decay_share)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        latents, pieces = self._batch(is_half=share < recipe.half_width_share)
        error, unnamed = self._losses(latents, pieces)
        loss = error + recipe.naming_weight * unnamed
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        self.steps += 1
        decay = min(recipe.ema_decay, 1 - 1 / (self.steps / 8 + 1))
        torch._foreach_lerp_(self._average, [weight.detach() for weight in self._weights], 1 - decay)
        return {"loss": error.item(), "unnamed": unnamed.item(), "learning_rate": rate}

    def check(self) -> dict[str, float]:
        """Steering of the averaged weights."""
        own = [weight.detach().clone() for weight in self._weights]
        self.use_average()
        # Measured or not, the training goes the same way.
        with torch.random.fork_rng():
            figures = self._check(self.unet.eval(), self.text.eval())
        self._put(own)
        self.unet.train()
        self.text.train()
        return figures

    def use_average(self) -> None:
        """Put the averaged weights, those to ship, into the models."""
        self._put(self._average)

    def _put(self, values: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for weight, value in zip(self._weights, values, strict=True):
                weight.copy_(value)

    def _batch(self, is_half: bool) -> tuple[torch.Tensor, list[Piece]]:
        """Latents (frame, channel, row, column) and their pieces."""
        there = clips_at(self._data, self.steps)
        picks = [self._rng.randrange(there) for _ in range(self.recipe.batch)]
        latents = torch.from_numpy(self._latents[picks]).float()
        if is_half:
            half = latents.shape[-1] // 2
            # Clips begin on a bar, and so do their halves nearly always: the beat stays where it will be in whole ones.
            start = self._rng.randrange(2) * half
            latents = latents[..., start : start + half]
        return latents.contiguous().to(self.device), [self._pieces[index] for index in picks]

    def _caption(self, piece: Piece) -> str:
        if self._rng.random() < self.recipe.caption_dropout:
            return ""
        return caption_from_piece(piece, self._rng)

    def _losses(self, latents: torch.Tensor, pieces: list[Piece]) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean squared error of the velocity, and what of the captions cannot be told from them."""
        size = len(latents)
        # One time step from each of `size` parts of the schedule, more of them where noise is high: there the caption
        # alone decides, and there a rhythm's layout is learnt.
        share = ((torch.randperm(size) + torch.rand(size)) / size) ** self.recipe.noise_bias
        times = (share * len(self._signal)).long().clamp(max=len(self._signal) - 1)
        signal = self._signal[times].view(-1, 1, 1, 1).to(self.device)
        noise = torch.randn(latents.shape).to(self.device)
        noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
        velocity = signal.sqrt() * noise - (1 - signal).sqrt() * latents
        tokens = tokens_from_captions(self._tokenizer, [self._caption(piece) for piece in pieces]).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            states = self.text(tokens)[0]
            guess = self.unet(noisy, times.to(self.device), states).sample
            unnamed = self.naming(self.unet.add_embedding(states), pieces)
        return (guess.float() - velocity).square().mean(), unnamed

    def state(self) -> dict[str, Any]:
        """Weights, their average, optimiser, generators and step."""
        return {
            "unet": self.unet.state_dict(),
            "text": self.text.state_dict(),
            "naming": self.naming.state_dict(),
            "average": self._average,
            "optimizer": self._optimizer.state_dict(),
            "rng": self._rng.getstate(),
            "steps": self.steps,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.unet.load_state_dict(state["unet"])
        self.text.load_state_dict(state["text"])
        self.naming.load_state_dict(state["naming"])
        self._average = [value.to(self.device) for value in state["average"]]
        self._optimizer.load_state_dict(state["optimizer"])
        self._rng.setstate(state["rng"])
        self.steps = state["steps"]
