"""The making of a model: latents, what is left in a folder, what it goes on from, and the committed model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from PIL import Image
from typer.testing import CliRunner

from tests.tiny_frames import a_frame, an_end
from workers.cli import BUILT_IN_MODEL, REPORT_FOLDER, commands
from workers.diffusion import FramePipeline
from workers.training import loop, make
from workers.training.dataset import clips_path, draw_pieces, pixels_from_tensor, tensor_from_pixels
from workers.training.latents import LatentPool, clips_at, make_shards, shard_path
from workers.training.loop import read_log
from workers.training.make import make_model, weights_sha256
from workers.training.networks import (
    MAX_TOKENS,
    autoencoder,
    networks_from,
    tokens_from_captions,
    train_tokenizer,
)
from workers.training.recipe import CHANGEABLE, Recipe, RecipeError, flat, read_recipe

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is letting go.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Rounding must not depend on how many cores there are."""
    torch.set_num_threads(1)


# Latents.


def test_the_pool_of_clips_grows_with_the_steps_until_it_is_whole() -> None:
    """A step draws from the same clips however long the wait for them was."""
    data = replace(read_recipe().data, train_clips=100, vae_clips=10, first_clips=10, clips_per_step=0.5)
    assert [clips_at(data, step) for step in (0, 1, 2, 180, 1_000)] == [10, 10, 11, 100, 100]


@pytest.fixture(scope="module")
def work(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures made up beforehand, so that no test has to draw music."""
    folder = tmp_path_factory.mktemp("work")
    rng = np.random.default_rng(4)
    data = tiny.data
    for count, seed in ((data.vae_clips, data.train_seed), (1, data.held_out_seed)):
        np.save(clips_path(folder, count, seed), rng.integers(0, 256, (count, 512, 512), dtype=np.uint8))
    return folder


def test_latents_are_the_same_in_whatever_order_they_are_made(tiny: Recipe, work: Path, tmp_path: Path) -> None:
    """A file that was being written when its maker died is made anew."""
    vae = tmp_path / "vae"
    autoencoder(tiny.vae).save_pretrained(vae)
    for name, orders in {"one": [[0, 1, 2]], "other": [[2], [0, 1]]}.items():
        folder = tmp_path / name / "latents"
        folder.mkdir(parents=True)
        shutil.copy(next(work.glob("clips-1-*.npy")), folder.parent)
        shard_path(folder, 1).with_suffix(".partial.npy").write_bytes(b"torn")
        for order in orders:
            make_shards(tiny.data, vae, folder, order)
    one, other = (LatentPool(tiny.data, vae, tmp_path / name / "latents") for name in ("one", "other"))
    latents = one[[5, 0, 3]]
    assert latents.shape == (3, 4, 64, 64)
    assert latents.dtype == np.float16
    assert np.array_equal(latents, other[[5, 0, 3]])
    assert np.array_equal(latents[1], one[[0]][0])
    assert not np.array_equal(latents[0], latents[1])
    assert not list(tmp_path.rglob("*.partial.npy"))


def test_latents_that_nobody_makes_are_not_waited_for(tiny: Recipe, tmp_path: Path) -> None:
    """A pool that was never begun says so."""
    with pytest.raises(RuntimeError, match="nobody makes them"):
        LatentPool(tiny.data, tmp_path / "vae", tmp_path)[[0]]


# From nothing to a model's folder.


@pytest.fixture(scope="module")
def made(toml: Path, work: Path, monkeypatch_module: pytest.MonkeyPatch) -> Path:
    """A model made by the command, in `work`."""
    told = CliRunner().invoke(commands, ["train", str(toml), "--folder", str(work), "--json"])
    assert told.exit_code == 0, told.output
    model = work / "riffarm-mini"
    assert json.loads(told.stdout) == {"files": [str(model)]}
    return model


@pytest.fixture(scope="module")
def monkeypatch_module() -> Any:
    """Little to measure, so that a training takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(make, "HELD_OUT_CLIPS", 1)
        patch.setattr(make, "SteeringCheck", lambda data, vae, tokenizer, folder: lambda unet, text: {"drums": 0.5})
        yield patch


def test_a_training_leaves_a_model_a_log_and_curves(made: Path, work: Path) -> None:
    """The log's lines in order, the last with the hash of the weights."""
    lines = read_log(work / loop.LOG_NAME)
    assert [(line["part"], line.get("step")) for line in lines] == [
        *[("vae", 2)] * 2,
        *[("text", 2)] * 2,
        *[("unet", 3)] * 2,
        ("model", None),
    ]
    assert set(lines[1]) == {"part", "step", "seconds", "psnr_db"}
    assert set(lines[2]) == {"part", "step", "seconds", "unnamed", "learning_rate"}
    assert set(lines[3]) == {"part", "step", "seconds", "named"}
    assert set(lines[4]) == {"part", "step", "seconds", "loss", "unnamed", "learning_rate"}
    assert lines[-1]["sha256"] == weights_sha256(made)
    assert (work / "curves.png").stat().st_size > 1_000
    assert json.loads((made / "unet" / "config.json").read_text())["addition_embed_type"] == "text"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_farm_and_diffusers_render_with_what_was_made(made: Path, dtype: str) -> None:
    """The pooled caption joins the time step in every precision."""
    farm = FramePipeline.from_source(str(made), device="cpu", dtype=dtype)
    frame = a_frame(an_end(prompt="jazz"), num_inference_steps=2, columns=64)
    assert farm.render([frame])[0].size == (64, 512)
    stock = StableDiffusionPipeline.from_pretrained(str(made), low_cpu_mem_usage=False, dtype=getattr(torch, dtype))
    stock.set_progress_bar_config(disable=True)
    assert stock("jazz", height=512, width=64, num_inference_steps=2).images[0].size == (64, 512)


def test_what_was_made_does_not_say_where(made: Path) -> None:
    assert not [path for path in made.rglob("*.json") if str(made.parent) in path.read_text(encoding="utf-8")]


def test_the_caption_as_a_whole_joins_the_time_step(made: Path) -> None:
    """Words change what is predicted even where attention hears none of them."""
    unet, _ = networks_from(made)
    unet.eval()
    for name, weight in unet.named_parameters():
        if "attn2.to_out" in name:
            torch.nn.init.zeros_(weight)
    noise, words = torch.randn(1, 4, 8, 8), torch.randn(2, MAX_TOKENS, 16)
    with torch.no_grad():
        one, other = (unet(noise, torch.tensor([500]), words[index : index + 1]).sample for index in (0, 1))
    assert not torch.equal(one, other)


def test_a_finished_making_is_not_repeated(made: Path, work: Path, tiny: Recipe, monkeypatch_module: Any) -> None:
    """Called again it saves the same weights and leaves the log as it was."""
    before = weights_sha256(made), (work / loop.LOG_NAME).read_text()
    make_model(replace(tiny, checkpoint_minutes=9.0), work, made)
    assert (weights_sha256(made), (work / loop.LOG_NAME).read_text()) == before


def test_a_folder_holds_one_training(made: Path, work: Path, tiny: Recipe) -> None:
    """Another recipe, or another start, is refused before anything is done."""
    other = replace(tiny, unet=replace(tiny.unet, batch=3))
    with pytest.raises(RecipeError, match=r"unet.batch = 3: .* holds a training with 2; go on with that, or train in"):
        make_model(other, work, made)
    with pytest.raises(RecipeError, match=r"from = '[0-9a-f]{64}': .* holds a training with 'nothing'"):
        make_model(tiny, work, made, made)
    assert flat(tiny).keys() >= CHANGEABLE


def _are_close(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(map(lambda a, b: torch.allclose(a, b, atol=1e-4), one.parameters(), other.parameters()))


def test_a_start_whose_denoiser_has_no_pooled_caption_is_refused(made: Path, tiny: Recipe, tmp_path: Path) -> None:
    """In one line, before anything is done."""
    start = tmp_path / "start"
    shutil.copytree(made, start)
    config = json.loads((start / "unet" / "config.json").read_text())
    (start / "unet" / "config.json").write_text(json.dumps({**config, "addition_embed_type": None}))
    with pytest.raises(RecipeError, match="its denoiser must take the caption as a whole too"):
        make_model(tiny, tmp_path / "work", tmp_path / "model", start)
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize("naming_steps", [0, 1])
def test_training_goes_on_from_a_models_weights(
    made: Path, work: Path, tiny: Recipe, tmp_path: Path, monkeypatch_module: Any, naming_steps: int
) -> None:
    """The autoencoder and the tokenizer are that model's, so is a text encoder that is not taught anew; the log begins
    with what it was begun from."""
    shutil.copytree(work / "latents", tmp_path / "latents")
    unet = replace(tiny.unet, steps=1, learning_rate=1e-9, widths=(16, 32), naming_steps=naming_steps)
    later = replace(tiny, unet=unet)
    make_model(later, tmp_path, tmp_path / "model", made)
    lines = read_log(tmp_path / loop.LOG_NAME)
    assert lines[0] == {"part": "from", "sha256": weights_sha256(made)}
    assert {line["part"] for line in lines} == {"from", "unet", "model", *["text"] * naming_steps}
    (old_unet, old_text), (new_unet, new_text) = networks_from(made), networks_from(tmp_path / "model")
    assert _are_close(old_unet.mid_block, new_unet.mid_block)
    # What pools the caption is taught anew with the text encoder.
    assert _are_close(old_text, new_text) == _are_close(old_unet.add_embedding, new_unet.add_embedding)
    assert _are_close(old_text, new_text) == (naming_steps == 0)
    for part in ("vae/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json", "tokenizer/tokenizer.json"):
        assert (made / part).read_bytes() == (tmp_path / "model" / part).read_bytes()
    assert not [path for path in (tmp_path / "model").rglob("*.json") if str(made) in path.read_text(encoding="utf-8")]


# Pictures and words on their way to the model.


def test_pictures_survive_the_way_to_the_model_and_back() -> None:
    """All 256 grey levels come back as they went."""
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert np.array_equal(pixels_from_tensor(tensor_from_pixels(pixels)), pixels)


def test_more_pieces_of_a_seed_begin_with_the_same_ones() -> None:
    """So the autoencoder's clips are the first of the denoiser's."""
    assert draw_pieces(9, 1)[:4] == draw_pieces(4, 1)


def test_any_prompt_has_tokens(tmp_path: Path) -> None:
    """Words never seen, other alphabets and nothing at all fit into the model's tokens."""
    tokenizer = train_tokenizer(["jazz piano", "rock organ"], 600, tmp_path / "one")
    tokens = tokens_from_captions(tokenizer, ["jazz piano", "zydeco in Köln ☂ 東京", "", "word " * 200])
    assert tokens.shape == (4, MAX_TOKENS)
    assert int(tokens.max()) < len(tokenizer)
    assert not torch.equal(tokens[0], tokens[1])
    assert tokenizer.tokenize("Jazz  organ") == ["jazz</w>", "organ</w>"]


def test_the_same_captions_make_the_same_tokens(tmp_path: Path) -> None:
    """No more than asked for, the most frequent first."""
    for name in ("one", "other"):
        tokenizer = train_tokenizer(["jazz piano"] * 3 + ["rock organ", "jazz organ"], 514 + 4, tmp_path / name)
    assert len(tokenizer) == 514 + 4
    assert tokenizer.tokenize("jazz") == ["jazz</w>"]
    assert tokenizer.tokenize("rock") == ["r", "o", "c", "k</w>"]
    for file in ("vocab.json", "merges.txt", "tokenizer.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


# The committed model.


def test_the_committed_model_is_small_and_safe() -> None:
    """Safetensors alone, at most 25 MB in all."""
    files = [path for path in BUILT_IN_MODEL.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files if path.suffix == ".safetensors"} == {"unet", "vae", "text_encoder"}
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt"}
    assert sum(path.stat().st_size for path in files) <= 25_000_000


def test_the_committed_weights_are_those_of_the_log_and_the_report() -> None:
    """One hash in three places: the files, the last line of the training log, the report."""
    last = read_log(REPORT_FOLDER / "training_log.jsonl")[-1]
    report = json.loads((REPORT_FOLDER / "report.json").read_text(encoding="utf-8"))
    assert weights_sha256(BUILT_IN_MODEL) == last["sha256"] == report["model"]["sha256"]


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
