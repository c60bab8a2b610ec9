"""What captions say, taught to the text encoder before the denoiser trains, and kept from being forgotten.

Owns the guesses of a piece's attributes from its caption and their training. Leaves out the denoiser, which goes on
with the same guesses as a second task (`workers.training.train_unet`), and listening to pictures
(`workers.training.listeners`).
"""

from __future__ import annotations

import random
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel
from torch.nn.functional import cross_entropy
from transformers import CLIPTextModel, CLIPTokenizer

from workers.training.captions import caption_from_piece, full_prompt
from workers.training.dataset import draw_pieces
from workers.training.loop import device, learning_rate
from workers.training.networks import tokens_from_captions
from workers.training.recipe import DataRecipe, UnetRecipe
from workers.training.score import BAR_BEATS, DRUM_PATTERNS, GENRES, INSTRUMENT_NAMES, MODES, ROOTS, Piece

_VALUES: Final[dict[str, tuple[str | int, ...]]] = {
    "genre": GENRES,
    "drums": DRUM_PATTERNS,
    "instrument": INSTRUMENT_NAMES,
    "beats": tuple(BAR_BEATS),
    "root": tuple(ROOTS.values()),
    "mode": MODES,
}
_BATCH: Final = 32
_LEARNING_RATE: Final = 2e-3
_WARM_UP_STEPS: Final = 20
_CHECKED: Final = 200
"""Held-out pieces whose plainest prompts the check asks about."""


class Naming(torch.nn.Module):
    """Guesses of a piece's attributes from its caption as the denoiser is given it, one linear layer for each."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        """unet: the denoiser; only the width of what it adds to the time step for a caption matters."""
        super().__init__()
        width = unet.time_embedding.linear_2.out_features
        self.guesses = torch.nn.ModuleDict(
            {name: torch.nn.Linear(width, len(values)) for name, values in _VALUES.items()}
        )

    def forward(self, given: torch.Tensor, pieces: list[Piece]) -> torch.Tensor:
        """The cross entropy in nats, the mean over attributes; given: shape (caption, width).

        A caption names some attributes only, so the least there can be is not zero.
        """
        return torch.stack(
            [cross_entropy(guess(given).float(), _asked(name, pieces, given)) for name, guess in self.guesses.items()]
        ).mean()

    def share_named(self, given: torch.Tensor, pieces: list[Piece]) -> float:
        """Share of attributes guessed rightly."""
        right = [guess(given).argmax(1) == _asked(name, pieces, given) for name, guess in self.guesses.items()]
        return torch.stack(right).float().mean().item()


def _asked(name: str, pieces: list[Piece], given: torch.Tensor) -> torch.Tensor:
    return torch.tensor([_VALUES[name].index(getattr(piece, name)) for piece in pieces], device=given.device)


class TextTraining:
    """A new text encoder, and the denoiser's own pooling of it, learn what captions say."""

    name = "text"

    def __init__(
        self,
        recipe: UnetRecipe,
        data: DataRecipe,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        text: CLIPTextModel,
        naming: Naming,
    ) -> None:
        """All three networks are trained where they are; of the denoiser the pooling alone, which starts anew."""
        torch.manual_seed(recipe.seed)
        for module in unet.add_embedding.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.LayerNorm):
                module.reset_parameters()
        self._networks = torch.nn.ModuleList([unet.add_embedding, text, naming]).to(device()).train()
        self._pool, self._text, self._naming = unet.add_embedding, text, naming
        self._optimizer = torch.optim.AdamW(self._networks.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=1e-3)
        self._tokenizer = tokenizer
        self._pieces = draw_pieces(data.train_clips, data.train_seed)
        self._held_out = draw_pieces(_CHECKED, data.held_out_seed)
        self._rng = random.Random(recipe.seed)
        self._steps = 0

    def step(self, share: float) -> dict[str, float]:
        """One step on captions drawn anew."""
        rate = learning_rate(_LEARNING_RATE, share, self._steps, _WARM_UP_STEPS, decay_share=0.5)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        pieces = self._rng.choices(self._pieces, k=_BATCH)
        captions = [caption_from_piece(piece, self._rng) for piece in pieces]
        with torch.autocast(device().type, torch.bfloat16):
            loss = self._naming(self._given(captions), pieces)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._networks.parameters(), 1.0)
        self._optimizer.step()
        self._steps += 1
        return {"unnamed": loss.item(), "learning_rate": rate}

    def check(self) -> dict[str, float]:
        """Share of attributes named rightly from plain prompts."""
        captions = [full_prompt(p.genre, p.instrument, p.drums, p.beats, p.root, p.mode) for p in self._held_out]
        with torch.no_grad():
            return {"named": self._naming.share_named(self._given(captions), self._held_out)}

    def _given(self, captions: list[str]) -> torch.Tensor:
        """What the denoiser adds to the time step for each caption, shape (caption, width)."""
        given: torch.Tensor = self._pool(self._text(tokens_from_captions(self._tokenizer, captions).to(device()))[0])
        return given

    def state(self) -> dict[str, Any]:
        """Weights, optimiser, generators and step."""
        return {
            "networks": self._networks.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "rng": self._rng.getstate(),
            "steps": self._steps,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._networks.load_state_dict(state["networks"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._rng.setstate(state["rng"])
        self._steps = state["steps"]
