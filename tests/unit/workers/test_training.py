"""Training: its recipe, and its loop with the log, the curves and what a killed one goes on from."""

from __future__ import annotations

import io
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
from PIL import Image
from rich.console import Console
from transformers import CLIPTokenizer
from typer.testing import CliRunner

from workers.cli import BUILT_IN_MODEL, commands
from workers.training import loop, progress
from workers.training.curves import draw_curves
from workers.training.loop import append_log, cut_log, learning_rate, read_log, train
from workers.training.naming import Naming, TextTraining
from workers.training.networks import (
    MAX_TOKENS,
    autoencoder,
    denoiser,
    text_encoder,
    train_tokenizer,
)
from workers.training.recipe import Recipe, RecipeError, read_recipe
from workers.training.train_unet import UnetTraining
from workers.training.train_vae import VaeTraining


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Rounding must not depend on how many cores there are."""
    torch.set_num_threads(1)


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
