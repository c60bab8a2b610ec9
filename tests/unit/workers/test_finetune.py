"""Fine-tuning on one's own audio: it learns, goes on as if never stopped, and a farm serves what is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from diffusers import DDPMScheduler
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from shared.catalogue import ModelEntry, models
from shared.errors import RiffarmError
from tests.tiny_audio import write_tone
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.tiny_frames import PREDICTIONS, ROWS, a_frame, distance, render_one
from workers.checkpoint import load_checkpoint
from workers.cli import commands
from workers.diffusion import FramePipeline
from workers.training.finetune import FineTuneError, FineTuning, Wishes, run, usual_learning_rate
from workers.training.make_tuned import make_tuned
from workers.training.material import Material, weights_sha256
from workers.training.own_audio import OwnAudioError, recordings_from_folder
from workers.training.tuned_model import draw_curve, write_lora

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is letting go.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")

CPU = torch.device("cpu")
LORA = Wishes(steps=4, rank=4, learning_rate=None, batch=2, seed=0)
FULL = Wishes(steps=4, rank=None, learning_rate=None, batch=2, seed=0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Rounding must not depend on how many cores there are."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings with captions of their own, one with brackets."""
    folder = tmp_path_factory.mktemp("audio")
    time_s = np.arange(round(7.7 * 44_100)) / 44_100
    soundfile.write(folder / "beats.wav", 0.5 * np.sin(600 * time_s) * (time_s % 0.5 < 0.2), 44_100)
    (folder / "beats.txt").write_text("beats [take 2")
    write_tone(folder / "tone.flac", 5.2)
    (folder / "tone.txt").write_text("a tone")
    return folder


def tiny_material(seed: int = 1) -> Material:
    """Latents of five slices with two captions."""
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Material(latents, ("soft", "soft", "loud", "loud", "loud"), silent=0)


def training_of(folder: Path, wishes: Wishes = LORA, material: Material | None = None) -> FineTuning:
    """A fine-tune of a tiny checkpoint."""
    return FineTuning(load_checkpoint(str(folder), None, torch.float32), material or tiny_material(), wishes, CPU)


def stop_at(step: int) -> Callable[[int, float], None]:
    """A listener that ends the work after so many steps, as a kill would."""

    def on_step(done: int, loss: float) -> None:
        if done == step:
            raise KeyboardInterrupt

    return on_step


def go_on(done: int, loss: float) -> None:
    """A listener that lets the work go on."""


@pytest.mark.parametrize("wishes", [LORA, FULL], ids=["lora", "full"])
def test_a_fine_tune_that_was_stopped_ends_with_the_same_bits(
    folders: dict[str, Path], tmp_path: Path, wishes: Wishes
) -> None:
    """Wherever it was stopped: steps after the last checkpoint are taken again, in the log too."""
    whole = training_of(folders["epsilon"], wishes)
    run(whole, 4, tmp_path / "whole", go_on, checkpoint_steps=2)
    for step in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run(training_of(folders["epsilon"], wishes), 4, tmp_path / "cut", stop_at(step), checkpoint_steps=2)
    resumed = training_of(folders["epsilon"], wishes)
    run(resumed, 4, tmp_path / "cut", go_on, checkpoint_steps=2)
    assert weights_sha256(resumed.unet) == weights_sha256(whole.unet)
    logs = [(tmp_path / name / "training_log.jsonl").read_text().splitlines() for name in ("whole", "cut")]
    told = [[{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in log] for log in logs]
    assert told[0] == told[1]
    assert [line["step"] for line in told[0]] == [0, 1, 2, 2, 3, 4, 4]


def test_more_steps_go_on_from_fewer(folders: dict[str, Path], tmp_path: Path) -> None:
    """Two and then one more are three; fewer than there are cannot be had."""
    first, more, at_once = (training_of(folders["epsilon"]) for _ in range(3))
    run(first, 2, tmp_path / "a", go_on)
    run(more, 3, tmp_path / "a", go_on)
    run(at_once, 3, tmp_path / "b", go_on)
    assert weights_sha256(more.unet) == weights_sha256(at_once.unet)
    with pytest.raises(FineTuneError, match="3 steps already"):
        run(training_of(folders["epsilon"]), 2, tmp_path / "a", go_on)


def test_another_fine_tune_does_not_go_on_from_this_one(folders: dict[str, Path], tmp_path: Path) -> None:
    """Neither with other wishes, nor of another model, nor on other audio."""
    run(training_of(folders["epsilon"]), 1, tmp_path, go_on)
    others = {
        "rank 4, not 2": training_of(folders["epsilon"], Wishes(6, 2, None, 2, 0)),
        "seed 0, not 5": training_of(folders["epsilon"], Wishes(6, 4, None, 2, 5)),
        "another base": training_of(write_tiny_checkpoint(tmp_path / "other", ROWS, seed=1)),
        "another material": training_of(folders["epsilon"], material=tiny_material(seed=2)),
    }
    for words, other in others.items():
        with pytest.raises(FineTuneError, match=words):
            run(other, 6, tmp_path, go_on)


@pytest.mark.parametrize("prediction", [*PREDICTIONS, "sample"])
def test_what_the_denoiser_should_predict_is_what_its_scheduler_says(folders: dict[str, Path], prediction: str) -> None:
    """A denoiser that knows the slice and predicts it that way has no loss."""
    material = Material(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), ("x",), 0)
    parts = load_checkpoint(str(folders["epsilon"]), None, torch.float32)
    parts.scheduler.register_to_config(prediction_type=prediction)
    training = FineTuning(parts, material, LORA, CPU)
    signal = DDPMScheduler.from_config(parts.scheduler.config).alphas_cumprod

    def knowing(noisy: torch.Tensor, times: torch.Tensor, states: torch.Tensor) -> Any:
        clean = material.latents
        kept, lost = signal[times].sqrt().view(-1, 1, 1, 1), (1 - signal[times]).sqrt().view(-1, 1, 1, 1)
        noise = (noisy - kept * clean) / lost
        answers = {"epsilon": noise, "v_prediction": (noise - lost * noisy) / kept, "sample": clean.expand_as(noise)}
        return SimpleNamespace(sample=answers[prediction])

    training.unet = knowing
    assert training.fixed_loss() < 1e-3


def test_a_kind_of_prediction_that_is_not_known_is_refused(folders: dict[str, Path]) -> None:
    """Flow matching among them."""
    parts = load_checkpoint(str(folders["epsilon"]), None, torch.float32)
    parts.scheduler.register_to_config(prediction_type="flow_prediction")
    with pytest.raises(FineTuneError, match="flow_prediction"):
        FineTuning(parts, tiny_material(), LORA, CPU)


def test_every_slice_is_seen_before_one_is_seen_again(folders: dict[str, Path]) -> None:
    """In another order each turn."""
    training = training_of(folders["epsilon"])
    turns = [[training._pick(5 * turn + place) for place in range(5)] for turn in range(4)]
    assert all(sorted(turn) == [*range(5)] for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1


def test_a_loss_that_is_no_number_ends_it(folders: dict[str, Path], tmp_path: Path) -> None:
    """Before a checkpoint is written of it."""
    material = tiny_material()
    material.latents[:] = float("inf")
    with pytest.raises(FineTuneError, match="lower --learning-rate"):
        run(training_of(folders["epsilon"], material=material), 3, tmp_path, go_on)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_smaller_denoisers_learn_at_higher_rates() -> None:
    """Stable Diffusion's own is the usual one of all its trainers."""
    assert usual_learning_rate(860_000_000, is_full=False) == 1e-4
    assert usual_learning_rate(8_600_000, is_full=False) == pytest.approx(1e-3)
    assert usual_learning_rate(8_600_000_000, is_full=True) == 1e-5


def called(*arguments: object) -> Any:
    """The command's result; it must have succeeded."""
    result = CliRunner().invoke(commands, ["fine-tune", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def fixed_losses(folder: Path) -> list[float]:
    """Of each checkpoint, from the log that was left."""
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    return [line["fixed_loss"] for line in lines if "fixed_loss" in line]


def picture(entry: ModelEntry) -> Image.Image:
    """A frame as the farm renders it with this model."""
    parts = load_checkpoint(entry.source, entry.source_revision, torch.float32, entry.loras)
    return render_one(FramePipeline(parts, CPU), a_frame(prompt="a tone"))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_command_leaves_what_a_farm_serves(
    folders: dict[str, Path], audio: Path, tmp_path: Path, kind: str
) -> None:
    """The loss on fixed noise falls; the entry it wrote loads, and draws other pictures than the model did."""
    output = tmp_path / "My Tones"
    options = ["--learning-rate", 0.005, *(["--full"] if kind == "full" else ["--rank", 4])]
    result = called(audio, "--model", folders["epsilon"], "--output", output, "--steps", 10, "--json", *options)
    answer = json.loads(result.stdout.splitlines()[-1])
    # Half a frame apart: two slices of 7.7 s, one of 5.2 s.
    assert (answer["slices"], answer["silent"]) == (3, 0)
    names = {Path(path).name for path in answer["files"]}
    assert {"models.toml", "training_log.jsonl", "training.png"} < names
    assert ("pytorch_lora_weights.safetensors" in names) == (kind == "lora")
    first, last = fixed_losses(output)
    assert last < 0.995 * first
    entry = models(output / "models.toml")["my-tones"]
    assert len(entry.loras) == (kind == "lora")
    before = ModelEntry("before", str(folders["epsilon"]), "main", "main")
    assert distance(picture(entry), picture(before)) > 1


def test_the_same_command_goes_on_to_the_same_bytes(folders: dict[str, Path], audio: Path, tmp_path: Path) -> None:
    """Two steps and two more leave the very file that four leave at once."""
    for name, steps in (("a", 2), ("a", 4), ("b", 4)):
        called(audio, "--model", folders["v_prediction"], "--output", tmp_path / name, "--steps", steps)
    files = [(tmp_path / name / "pytorch_lora_weights.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]


def test_a_tuned_models_own_additions_stay(folders: dict[str, Path], audio: Path, tmp_path: Path) -> None:
    """A LoRA learnt on top of another is served on top of it."""
    called(audio, "--model", folders["epsilon"], "--output", tmp_path / "one", "--steps", 2)
    own = tmp_path / "one" / "models.toml"
    called(audio, "--model", "one", "--models-file", own, "--output", tmp_path / "two", "--steps", 2)
    entry = models(tmp_path / "two" / "models.toml")["two"]
    assert [Path(lora.source).parent.name for lora in entry.loras] == ["one", "two"]
    assert picture(entry).size == (64, 64)


def test_nothing_of_others_is_written_over(folders: dict[str, Path], audio: Path, tmp_path: Path) -> None:
    """A folder that holds something else, the model's own among them, and a file."""
    (tmp_path / "file").write_text("x")
    entry = ModelEntry("tiny", str(folders["epsilon"]), "main", "main")
    for output in (folders["epsilon"], audio, tmp_path / "file"):
        with pytest.raises(FineTuneError, match="holds something else"):
            tuned(entry, audio, output)


def tuned(entry: ModelEntry, audio: Path, output: Path) -> Any:
    """A short fine-tune without listeners."""
    return make_tuned(
        recordings_from_folder(audio), entry, output, LORA, on_recording=lambda done, total: None, on_step=go_on
    )


def test_silence_alone_is_refused_and_among_sound_counted(folders: dict[str, Path], tmp_path: Path) -> None:
    """Of both kinds the folder says what was found."""
    entry = ModelEntry("tiny", str(folders["epsilon"]), "main", "main")
    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(audio / "none.wav", np.zeros(6 * 44_100), 44_100)
    (audio / "none.txt").write_text("silence")
    with pytest.raises(OwnAudioError, match="all of the audio is silent"):
        tuned(entry, audio, tmp_path / "out")
    write_tone(audio / "tone.wav", 5.2)
    (audio / "tone.txt").write_text("a tone")
    found = tuned(entry, audio, tmp_path / "out")
    assert (found.slices, found.silent) == (1, 1)


def test_wrong_arguments_are_one_sentence(audio: Path, tmp_path: Path) -> None:
    """A model that is not there, a models.toml that cannot be read."""
    with pytest.raises(RiffarmError, match="There is no model folder"):
        called(audio, "--model", "./nowhere", "--output", tmp_path / "out")
    result = CliRunner().invoke(commands, ["fine-tune", str(audio), "--models-file", str(tmp_path / "no.toml")])
    assert result.exit_code == 2
    assert "--models-file" in result.output


def test_the_lora_file_names_only_the_denoisers_attention(folders: dict[str, Path], tmp_path: Path) -> None:
    """So that any reader of diffusers' files knows its layers."""
    training = training_of(folders["epsilon"])
    entry = ModelEntry("tiny", "someone/riffusion", "abc", "abc")
    lines = write_lora(training.unet, tmp_path, entry)
    assert 'source = "someone/riffusion"\nrevision = "abc"' in lines
    names = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    # Four layers, down and up, in both attentions of each block: to the picture itself and to the caption.
    assert len(names) == 4 * 2 * 2 * sum("attn1.to_q.base" in name for name in training.unet.state_dict())
    assert all(name.startswith("unet.") and ".attentions." in name and ".lora." in name for name in names)


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    """From the first step on, whatever the losses are."""
    draw_curve([(1, 0.5), (2, 0.0)], [(0, 0.6), (2, 0.4)], tmp_path / "a.png")
    draw_curve([], [(0, 0.0)], tmp_path / "b.png")
    with Image.open(tmp_path / "a.png") as drawn, Image.open(tmp_path / "b.png") as empty:
        assert drawn.size == empty.size == (800, 400)
        assert drawn.tobytes() != empty.tobytes()
