"""Training, statistics and the committed model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from PIL import Image

from workers.cli import BUILT_IN_MODEL, REPORT_FOLDER
from workers.training.dataset import draw_pieces, pixels_from_tensor, tensor_from_pixels
from workers.training.evaluate import ALL_PROMPTS, crossed_pieces, prompt_from_piece
from workers.training.loop import learning_rate, train
from workers.training.make import weights_sha256
from workers.training.networks import MAX_TOKENS, tokens_from_captions, train_tokenizer
from workers.training.recipe import RECIPES, UnetRecipe, VaeRecipe
from workers.training.statistics import PERMUTATIONS, p_value, permuted_accuracies, wilson_interval
from workers.training.train_unet import UnetTraining
from workers.training.train_vae import VaeTraining

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is letting go.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")

TINY_VAE = VaeRecipe(widths=(8, 8, 8, 8), batch=1, crop_columns=16)
TINY_UNET = UnetRecipe(widths=(16, 16), heads=2, text_width=16, text_layers=1, batch=2)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Rounding must not depend on how many cores there are."""
    torch.set_num_threads(1)


def _vae_training() -> VaeTraining:
    pixels = np.random.default_rng(1).integers(0, 256, (4, 512, 512), dtype=np.uint8)
    return VaeTraining(TINY_VAE, pixels, pixels)


def _unet_training(folder: Path) -> UnetTraining:
    tokenizer = train_tokenizer(["jazz piano", "rock organ"], 300, folder / "tokenizer")
    latents = np.random.default_rng(2).standard_normal((6, 4, 16, 16)).astype(np.float16)
    return UnetTraining(TINY_UNET, tokenizer, draw_pieces(6, 1), latents, lambda unet, text: {"seen": 1.0})


@pytest.mark.parametrize("part", ["vae", "unet"])
def test_training_goes_on_from_a_checkpoint_as_if_never_stopped(part: str, tmp_path: Path) -> None:
    """Two steps, a stop and a step give the figures of three steps in a row."""

    def fresh() -> Any:
        return _vae_training() if part == "vae" else _unet_training(tmp_path)

    whole = fresh()
    expected = [whole.step(0.1) for _ in range(3)][-1]
    first = fresh()
    for _ in range(2):
        first.step(0.1)
    path = tmp_path / "state.pt"
    torch.save({"state": first.state(), "rng": torch.get_rng_state()}, path)
    second = fresh()
    saved = torch.load(path, weights_only=True)
    second.restore(saved["state"])
    torch.set_rng_state(saved["rng"])
    assert second.step(0.1) == expected


class _Counting:
    """A trainee that only counts."""

    name = "counting"

    def __init__(self) -> None:
        self.steps = 0

    def step(self, share: float) -> dict[str, float]:
        self.steps += 1
        return {"loss": share}

    def check(self) -> dict[str, float]:
        return {"steering": 1.0}

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def restore(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    """The budget counts over all runs, and the log holds one JSON object a line."""
    first = _Counting()
    train(first, tmp_path, minutes=0.0005, check_minutes=0.0001)
    lines = [json.loads(line) for line in (tmp_path / "training_log.jsonl").read_text().splitlines()]
    assert first.steps > 50
    assert any("loss" in line for line in lines)
    assert any("steering" in line for line in lines)
    second = _Counting()
    train(second, tmp_path, minutes=0.0005)
    assert second.steps == first.steps


def test_the_averaged_weights_are_only_lent_to_a_check(tmp_path: Path) -> None:
    """A check sees the averages and leaves the training's own weights as they were."""
    training = _unet_training(tmp_path)
    for _ in range(3):
        training.step(0.9)
    before = [weight.detach().clone() for weight in training.unet.parameters()]
    assert training.check() == {"seen": 1.0}
    assert all(torch.equal(a, b) for a, b in zip(before, training.unet.parameters(), strict=True))


def test_the_learning_rate_rises_holds_and_falls() -> None:
    """A warm-up of 60 steps, the peak, and nearly nothing at the end."""
    assert learning_rate(1.0, 0.0, 0, 0.4) < 0.02
    assert learning_rate(1.0, 0.5, 500, 0.4) == pytest.approx(1.0, abs=1e-5)
    assert learning_rate(1.0, 0.8, 500, 0.4) == pytest.approx(0.5, abs=1e-5)
    assert learning_rate(1.0, 1.0, 500, 0.4) < 1e-5


def test_pictures_survive_the_way_to_the_model_and_back() -> None:
    """All 256 grey levels come back as they went."""
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert np.array_equal(pixels_from_tensor(tensor_from_pixels(pixels)), pixels)


def test_any_prompt_has_tokens(tmp_path: Path) -> None:
    """Words never seen, other alphabets and nothing at all fit into the model's tokens."""
    tokenizer = train_tokenizer(["jazz piano", "rock organ"], 300, tmp_path)
    tokens = tokens_from_captions(tokenizer, ["jazz piano", "zydeco in Köln ☂ 東京", "", "word " * 200])
    assert tokens.shape == (4, MAX_TOKENS)
    assert int(tokens.max()) < len(tokenizer)
    assert not torch.equal(tokens[0], tokens[1])


def test_the_wilson_interval_has_its_known_values() -> None:
    """0.4 of 10 lies in 0.168..0.687; an empty trial has no interval."""
    assert wilson_interval(4, 10) == pytest.approx((0.1682, 0.6873), abs=1e-4)
    assert wilson_interval(0, 50)[0] == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="at least one"):
        wilson_interval(0, 0)


def test_permutation_finds_what_is_there_and_nothing_else() -> None:
    """Perfect hearing is as unlikely as can be; deaf hearing is not unlikely, within groups or not."""
    rng = np.random.default_rng(3)
    wanted = np.array(list("abcd") * 30)
    groups = np.repeat([str(k) for k in range(30)], 4)
    deaf = rng.permutation(wanted)
    for cells in (groups, np.zeros_like(wanted)):
        perfect = permuted_accuracies(wanted, wanted, cells, seed=1)
        assert p_value(1.0, perfect) == 1 / (PERMUTATIONS + 1)
        assert perfect.mean() == pytest.approx(0.25, abs=0.01)
        assert p_value(float(np.mean(wanted == deaf)), permuted_accuracies(wanted, deaf, cells, seed=1)) > 0.05


def test_prompts_cross_every_attribute_with_every_other() -> None:
    """All prompts name each combination once; fewer are the first of them."""
    pieces = crossed_pieces()
    assert len({(p.genre, p.drums, p.instrument) for p in pieces}) == ALL_PROMPTS == len(pieces) == 240
    assert len({p.seed for p in pieces}) == ALL_PROMPTS
    assert crossed_pieces(10) == pieces[:10]
    assert prompt_from_piece(replace(pieces[0], beats=6, genre="jazz", instrument="organ", drums="no drums")) == (
        "slow jazz organ, no drums"
    )
    for count in (0, ALL_PROMPTS + 1):
        with pytest.raises(ValueError, match="prompts must be"):
            crossed_pieces(count)


def test_both_recipes_differ_in_size_alone() -> None:
    """The two sets of clips never share a seed, and the autoencoder fits what pipelines ask for."""
    for recipe in RECIPES.values():
        assert recipe.data.train_seed != recipe.data.held_out_seed
        assert recipe.vae.latent_channels == 4
        assert recipe.unet.clips <= recipe.data.train_clips


def test_the_committed_model_is_small_and_safe() -> None:
    """Safetensors alone, at most 25 MB in all."""
    files = [path for path in BUILT_IN_MODEL.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files if path.suffix == ".safetensors"} == {"unet", "vae", "text_encoder"}
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt"}
    assert sum(path.stat().st_size for path in files) <= 25_000_000


def test_the_committed_weights_are_those_of_the_log_and_the_report() -> None:
    """One hash in three places: the files, the last line of the training log, the report."""
    last = json.loads((REPORT_FOLDER / "training_log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    report = json.loads((REPORT_FOLDER / "report.json").read_text(encoding="utf-8"))
    assert weights_sha256(BUILT_IN_MODEL) == last["sha256"] == report["model"]["sha256"]


def test_the_report_shows_that_the_model_follows_its_prompt() -> None:
    """The committed figures meet what this version promises."""
    steering = json.loads((REPORT_FOLDER / "report.json").read_text(encoding="utf-8"))["steering"]
    for name in ("genre", "drums"):
        assert steering[name]["accuracy"] >= 0.6
        assert steering[name]["p_value"] < 0.001
    assert steering["instrument"]["accuracy"] > steering["instrument"]["chance"]
    assert steering["instrument"]["p_value"] < 0.05


def test_diffusers_own_pipelines_run_the_committed_model() -> None:
    """Text to image, image to image and inpainting all give a picture of the asked size."""
    text = StableDiffusionPipeline.from_pretrained(str(BUILT_IN_MODEL), low_cpu_mem_usage=False, dtype=torch.float32)
    text.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 2, "guidance_scale": 3.0, "generator": torch.Generator().manual_seed(1)}
    drawn = text("slow jazz piano", height=512, width=64, **settings).images[0]
    assert drawn.size == (64, 512)
    seed = Image.new("RGB", (64, 512), "white")
    again = StableDiffusionImg2ImgPipeline(**text.components, requires_safety_checker=False)
    again.set_progress_bar_config(disable=True)
    assert again("rock organ", image=seed, strength=0.9, **settings).images[0].size == (64, 512)
    painted = StableDiffusionInpaintPipeline(**text.components, requires_safety_checker=False)
    painted.set_progress_bar_config(disable=True)
    images = painted("funk", image=seed, mask_image=seed, height=512, width=64, **settings).images
    assert images[0].size == (64, 512)
