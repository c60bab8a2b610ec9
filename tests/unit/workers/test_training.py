"""Training: its recipe, its loop, what it goes on from, and the committed model."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from PIL import Image
from rich.console import Console
from transformers import CLIPTokenizer
from typer.testing import CliRunner

from tests.tiny_frames import a_frame, an_end
from workers.cli import BUILT_IN_MODEL, REPORT_FOLDER, commands
from workers.diffusion import FramePipeline
from workers.training import loop, make, progress
from workers.training.curves import draw_curves
from workers.training.dataset import clips_path, draw_pieces, pixels_from_tensor, tensor_from_pixels
from workers.training.latents import LatentPool, clips_at, make_shards, shard_path
from workers.training.loop import append_log, cut_log, learning_rate, read_log, train
from workers.training.make import make_model, weights_sha256
from workers.training.naming import Naming, TextTraining
from workers.training.networks import (
    MAX_TOKENS,
    autoencoder,
    denoiser,
    networks_from,
    text_encoder,
    tokens_from_captions,
    train_tokenizer,
)
from workers.training.recipe import CHANGEABLE, Recipe, RecipeError, flat, read_recipe
from workers.training.train_unet import UnetTraining
from workers.training.train_vae import VaeTraining

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is letting go.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")

TINY_TOML = """
torch_threads = 1
checkpoint_minutes = 0
[data]
train_clips = 6
vae_clips = 6
first_clips = 3
clips_per_step = 1
shard_clips = 2
processes_beside = 1
[vae]
widths = [8, 8, 8, 8]
batch = 1
crop_columns = 16
steps = 2
[unet]
widths = [16, 16]
heads = 2
text_width = 16
text_layers = 1
batch = 2
steps = 3
warm_up_steps = 1
naming_steps = 2
"""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Rounding must not depend on how many cores there are."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def toml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own file for a training of seconds."""
    path = tmp_path_factory.mktemp("toml") / "tiny.toml"
    path.write_text(TINY_TOML)
    return path


@pytest.fixture(scope="module")
def tiny(toml: Path) -> Recipe:
    """The recipe of that file."""
    return read_recipe(toml)


# The recipe.


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[unet]\nbacth = 1", "unet.bacth: there is no such key; there are widths, "),
        ("[cuda.vae]\nbacth = 1", "cuda.vae.bacth: there is no such key; there are widths, "),
        ("speed = 1", "speed: there is no such key; there are torch_threads, "),
        ("[vae]\nsteps = 0", "vae.steps = 0: input should be greater than or equal to 1"),
        ("[vae]\ncrop_columns = 60", "vae.crop_columns = 60: input should be a multiple of 8"),
        ("[unet]\nbatch = 'all'", "unet.batch = 'all': input should be a valid integer"),
        ("[unet]\nwidths = [32]", "unet.widths = [32]: tuple should have at least 2 items"),
        ("[unet]\nheads = 3", "unet.heads = 3: must divide unet.text_width and each of unet.widths but the first"),
        ("[vae]\nnorm_groups = 5", "vae.norm_groups = 5: must divide each of vae.widths"),
        ("[data]\nheld_out_seed = 1", "data.held_out_seed = 1: must differ from data.train_seed"),
        ("[data]\nfirst_clips = 90_000", "data.first_clips = 90000: must be data.train_clips ("),
        ("unet = 1", "unet = 1: must be a table, [unet]"),
        ("cuda = 1", "cuda = 1: must be a table, such as [cuda.unet]"),
        ("[vae", "cannot be read as TOML"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_said_in_one_line(text: str, says: str, tmp_path: Path) -> None:
    """The file, the key, its value, and what would be right."""
    path = tmp_path / "own.toml"
    path.write_text(text)
    for kind in ("cpu", "cuda"):
        with pytest.raises(RecipeError) as caught:
            read_recipe(path, kind)
        assert str(caught.value).startswith(f"{path}: {says}")
        assert "\n" not in str(caught.value)


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    """No file, and no model to start from."""
    runner = CliRunner()
    absent = runner.invoke(commands, ["train", str(tmp_path / "absent.toml"), "--folder", str(tmp_path)])
    assert absent.exit_code == 1
    assert absent.stderr.splitlines()[-1].startswith(f"riffarm train: {tmp_path / 'absent.toml'}: cannot be read")
    empty = runner.invoke(commands, ["train", "--folder", str(tmp_path / "work"), "--from", str(tmp_path)])
    assert empty.exit_code == 1
    assert empty.stderr.splitlines()[-1].startswith(f"riffarm train: --from {tmp_path}: must be a model's folder")


def test_a_users_file_comes_before_all_of_the_packages(tmp_path: Path) -> None:
    """Few keys are enough; its [cuda] is for CUDA alone, and its plain keys hold there too."""
    own = read_recipe()
    path = tmp_path / "own.toml"
    path.write_text("[unet]\nbatch = 5\n[cuda.unet]\nsteps = 77\n")
    on_cpu, on_cuda = read_recipe(path, "cpu"), read_recipe(path, "cuda")
    assert on_cpu == replace(own, unet=replace(own.unet, batch=5))
    assert (on_cuda.unet.batch, on_cuda.unet.steps) == (5, 77)
    assert on_cuda.vae == read_recipe(kind="cuda").vae


def test_both_columns_make_the_same_networks_within_25_megabytes(tmp_path: Path) -> None:
    """The folder's size is that of its weights in half precision and a little."""
    cpu, cuda = read_recipe(kind="cpu"), read_recipe(kind="cuda")
    tokenizer = train_tokenizer(["jazz piano"], cpu.unet.vocabulary, tmp_path / "tokenizer")
    sizes = []
    for recipe in (cpu, cuda):
        with torch.device("meta"):
            networks = autoencoder(recipe.vae), denoiser(recipe.unet), text_encoder(recipe.unet, tokenizer)
        sizes.append([sum(weight.numel() for weight in network.parameters()) for network in networks])
    assert sizes[0] == sizes[1]
    assert 2 * sum(sizes[0]) + 100_000 <= 25_000_000


# The loop, its log and its curves.


def _vae_training(recipe: Recipe, folder: Path) -> VaeTraining:
    pixels = np.random.default_rng(1).integers(0, 256, (4, 32, 512), dtype=np.uint8)
    return VaeTraining(recipe.vae, pixels, pixels[:1])


def _unet_training(recipe: Recipe, folder: Path) -> UnetTraining:
    tokenizer = train_tokenizer(["jazz piano", "rock organ"], 600, folder / "tokens" / str(time.monotonic_ns()))
    latents = np.random.default_rng(2).standard_normal((6, 4, 16, 16)).astype(np.float16)

    def check(unet: Any, text: Any) -> dict[str, float]:
        return {"seen": float(torch.rand(1))}

    torch.manual_seed(1)
    networks = denoiser(recipe.unet), text_encoder(recipe.unet, tokenizer)
    return UnetTraining(recipe.unet, recipe.data, tokenizer, latents, check, networks, Naming(networks[0]))


def _text_training(recipe: Recipe, folder: Path) -> TextTraining:
    tokenizer = CLIPTokenizer.from_pretrained(BUILT_IN_MODEL / "tokenizer", model_max_length=MAX_TOKENS)
    torch.manual_seed(1)
    unet, text = denoiser(recipe.unet), text_encoder(recipe.unet, tokenizer)
    return TextTraining(recipe.unet, recipe.data, tokenizer, unet, text, Naming(unet))


class _Cut(Exception):  # noqa: N818 — not an error, a kill
    """The process is gone."""


def _cut_after(trainee: Any, steps: int, at_step: Callable[[int], None]) -> None:
    """Have a trainee die in the step after so many."""
    step, done = trainee.step, iter(range(1, steps + 1))

    def stepped(share: float) -> Any:
        number = next(done, None)
        if number is None:
            raise _Cut
        at_step(number)
        return step(share)

    trainee.step = stepped


def _timeless(folder: Path) -> list[dict[str, Any]]:
    return [{name: v for name, v in line.items() if name != "seconds"} for line in read_log(folder / loop.LOG_NAME)]


@pytest.mark.parametrize("make_trainee", [_vae_training, _text_training, _unet_training])
def test_a_training_that_was_killed_goes_on_as_if_it_never_was(
    make_trainee: Callable[[Recipe, Path], Any], tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights and the same log, though the log had run ahead of the last checkpoint."""
    monkeypatch.setattr(loop, "LOG_STEPS", 2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    expected = make_trainee(tiny, whole)
    train(expected, whole, 7, 3, 0.0)

    killed = make_trainee(tiny, parts)
    checkpoint, kept = parts / f"{killed.name}.checkpoint.pt", parts / "kept.pt"
    _cut_after(killed, 5, lambda step: shutil.copy(checkpoint, kept) if step == 4 else None)
    with pytest.raises(_Cut):
        train(killed, parts, 7, 3, 0.0)
    assert read_log(parts / loop.LOG_NAME)[-1]["step"] == 4
    kept.replace(checkpoint)  # the checkpoint after step 3
    with (parts / loop.LOG_NAME).open("a") as log:
        log.write('{"part": "un')  # and a line that was being written

    going_on = make_trainee(tiny, parts)
    train(going_on, parts, 7, 3, 0.0)
    assert _timeless(parts) == _timeless(whole)
    assert [line["step"] for line in _timeless(whole)] == [2, 3, 4, 6, 6, 7, 7]
    one, other = expected.state(), going_on.state()
    for name in {"model", "unet", "text", "naming", "networks"} & one.keys():
        assert all(torch.equal(one[name][key], other[name][key]) for key in one[name])
    if "average" in one:
        assert all(map(torch.equal, one["average"], other["average"]))

    train(make_trainee(tiny, parts), parts, 7, 3, 0.0)  # what is finished is not repeated
    assert _timeless(parts) == _timeless(whole)


def test_the_averaged_weights_are_only_lent_to_a_check(tiny: Recipe, tmp_path: Path) -> None:
    """A check sees the averages, and leaves the training's own weights and its dice as they were."""
    training = _unet_training(tiny, tmp_path)
    for _ in range(3):
        training.step(0.9)
    before = [weight.detach().clone() for weight in training.unet.parameters()]
    dice = torch.get_rng_state()
    assert set(training.check()) == {"seen"}
    assert all(torch.equal(a, b) for a, b in zip(before, training.unet.parameters(), strict=True))
    assert torch.equal(dice, torch.get_rng_state())


def test_what_the_log_says_too_much_of_one_part_is_cut(tmp_path: Path) -> None:
    """Lines without a step go, and other parts' stay."""
    for part, step in (("vae", 50), ("vae", 100), ("unet", 100)):
        append_log(tmp_path, {"part": part, "step": step, "loss": 1 / 3})
    append_log(tmp_path, {"part": "model", "sha256": "a"})
    cut_log(tmp_path, "vae", 50)
    cut_log(tmp_path, "model", 0)
    lines = read_log(tmp_path / loop.LOG_NAME)
    assert [(line["part"], line["step"]) for line in lines] == [("vae", 50), ("unet", 100)]
    assert lines[0] == {"part": "vae", "step": 50, "loss": 0.33333}
    assert read_log(tmp_path / "absent.jsonl") == []


def test_the_learning_rate_rises_holds_and_falls() -> None:
    """A warm-up, the peak, and nearly nothing at the end."""
    assert learning_rate(1.0, 0.0, 0, 60, 0.4) < 0.02
    assert learning_rate(1.0, 0.5, 500, 60, 0.4) == pytest.approx(1.0, abs=1e-5)
    assert learning_rate(1.0, 0.8, 500, 60, 0.4) == pytest.approx(0.5, abs=1e-5)
    assert learning_rate(1.0, 1.0, 500, 60, 0.4) < 1e-5
    assert learning_rate(1.0, 1.0, 500, 60, 0.0) == pytest.approx(1.0, abs=1e-5)


def test_curves_have_a_panel_for_each_figure(tmp_path: Path) -> None:
    """Nothing is drawn of nothing; more figures make a larger picture."""
    log, picture = tmp_path / loop.LOG_NAME, tmp_path / "curves.png"
    append_log(tmp_path, {"part": "from", "sha256": "a"})
    draw_curves(log, picture)
    assert not picture.exists()
    sizes = []
    for figures in ({"loss": 0.5}, {"psnr_db": 20.0}):
        for step in (50, 100):
            append_log(tmp_path, {"part": "vae", "step": step, "seconds": step, **figures})
        draw_curves(log, picture)
        with Image.open(picture) as drawn:
            sizes.append(drawn.size)
            assert len(set(drawn.convert("L").tobytes())) > 10
    assert sizes[1][0] == 2 * sizes[0][0]
    assert [path.name for path in tmp_path.glob("*.png")] == ["curves.png"]


def test_steps_count_on_over_trainings_that_went_on_from_each_other(tmp_path: Path) -> None:
    """A log of several trainings makes one line, from left to right."""
    once, twice = tmp_path / "once.png", tmp_path / "twice.png"
    for step in (50, 100):
        append_log(tmp_path, {"part": "unet", "step": step, "seconds": step, "loss": 1 / step})
    append_log(tmp_path, {"part": "from", "sha256": "a"})
    for step in (50, 100):
        append_log(tmp_path, {"part": "unet", "step": step, "seconds": step, "loss": 1 / (100 + step)})
    draw_curves(tmp_path / loop.LOG_NAME, twice)
    (tmp_path / loop.LOG_NAME).unlink()
    for step in (50, 100, 150, 200):
        append_log(tmp_path, {"part": "unet", "step": step, "seconds": step, "loss": 1 / step})
    draw_curves(tmp_path / loop.LOG_NAME, once)
    assert once.read_bytes() == twice.read_bytes()


def test_off_a_terminal_a_line_now_and_then_tells_of_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """First and last, and one every 30 seconds between."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    out = io.StringIO()
    with progress.shown(Console(file=out)) as tell:
        for done in range(101):
            clock.now = 40.0 * done / 3
            tell("unet", done, 100, "loss 0.5")
    lines = out.getvalue().splitlines()
    assert lines[0] == "unet 0 of 100; loss 0.5"
    assert lines[1] == "unet 3 of 100, 21 min 33 s left; loss 0.5"
    assert lines[-1] == "unet 100 of 100, 0 min 00 s left; loss 0.5"
    assert len(lines) == 35


def test_on_a_terminal_there_are_bars() -> None:
    """One for each part, with its figures."""
    out = io.StringIO()
    with progress.shown(Console(file=out, force_terminal=True, width=120, _environ={})) as tell:
        tell("clips", 8, 8, "")
        tell("vae", 1, 4, "l1 0.5")
    assert "8/8" in out.getvalue()
    assert "1/4" in out.getvalue()
    assert "l1 0.5" in out.getvalue()


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
