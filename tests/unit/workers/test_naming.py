"""Teaching a text encoder what captions say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from transformers import CLIPTokenizer

from workers.cli import BUILT_IN_MODEL
from workers.training.dataset import draw_pieces
from workers.training.naming import Naming, TextTraining
from workers.training.networks import MAX_TOKENS, denoiser, text_encoder
from workers.training.recipe import read_recipe


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Rounding must not depend on how many cores there are."""
    torch.set_num_threads(1)


def test_a_new_text_encoder_learns_what_captions_say() -> None:
    """From chance, .22 over the six attributes, to most of them right in prompts of pieces it never met."""
    recipe = read_recipe()
    small = replace(recipe.unet, widths=(16, 16), text_width=64)
    tokenizer = CLIPTokenizer.from_pretrained(BUILT_IN_MODEL / "tokenizer", model_max_length=MAX_TOKENS)
    torch.manual_seed(1)
    unet, text = denoiser(small), text_encoder(small, tokenizer)
    convolutions = unet.conv_in.weight.detach().clone()
    training = TextTraining(small, recipe.data, tokenizer, unet, text, Naming(unet))
    assert training.check()["named"] < 0.35
    losses = [training.step(step / 200)["unnamed"] for step in range(200)]
    assert training.check()["named"] > 0.75
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])
    assert torch.equal(convolutions, unet.conv_in.weight)


def test_what_can_be_told_costs_less_than_what_cannot() -> None:
    """A guess that knows nothing costs what chance does, one that is right next to nothing."""
    unet = denoiser(replace(read_recipe().unet, widths=(16, 16)))
    naming = Naming(unet)
    pieces = draw_pieces(50, 1)
    for weight in naming.parameters():
        torch.nn.init.zeros_(weight)
    given = torch.zeros(50, unet.time_embedding.linear_2.out_features)
    given[:, :2] = torch.nn.functional.one_hot(torch.tensor([piece.mode == "minor" for piece in pieces]).long(), 2)
    chance = sum(map(math.log, (10, 6, 18, 3, 7, 2))) / 6
    assert naming(given, pieces).item() == pytest.approx(chance, abs=1e-3)
    with torch.no_grad():
        naming.guesses["mode"].weight[:, :2] = 30 * torch.eye(2)
    assert naming(given, pieces).item() == pytest.approx(chance - math.log(2) / 6, abs=1e-3)
