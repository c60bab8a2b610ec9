"""Reading a checkpoint: what is refused, with the reason, and what is read all the same."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from shared.errors import RenderError
from tests.booby_traps import write_trap
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.tiny_frames import (
    ROWS,
    a_frame,
    distance,
    render_one,
)
from workers import checkpoint
from workers.checkpoint import checkpoint_bytes, dtype_from_name, load_checkpoint, parts_bytes
from workers.diffusion import FramePipeline

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is letting go.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")


@pytest.fixture
def broken(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a checkpoint to break."""
    return Path(shutil.copytree(folders["epsilon"], tmp_path / "broken"))


def assert_refused(folder: Path, *words: str) -> None:
    """Loading fails with one clear sentence that has these words."""
    with pytest.raises(RenderError) as error:
        FramePipeline.from_source(str(folder), device="cpu")
    for word in words:
        assert word in error.value.message
    assert "\n" not in error.value.message


@pytest.mark.parametrize("name", ["no/such/folder", "./nowhere", "../nowhere", "nowhere"])
def test_a_missing_folder_is_named(tmp_path, monkeypatch, name):
    """A path that is no hub id is never looked for anywhere else."""
    monkeypatch.chdir(tmp_path)
    assert_refused(Path(name) if name == "nowhere" else tmp_path / name, "no model folder", Path(name).name)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    """It lacks the index that every checkpoint has."""
    assert_refused(tmp_path, "model_index.json")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(broken, part):
    """Each part of the layout is needed."""
    shutil.rmtree(broken / part)
    assert_refused(broken, f"has no {part}")


def test_pickled_weights_are_never_read(tmp_path):
    """A checkpoint of pickles alone is refused with the reason."""
    assert_refused(write_tiny_checkpoint(tmp_path / "pickled", is_pickled=True), "pickle", "safetensors")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.6])
def test_truncated_weights_are_refused(broken, part, kept):
    """Cut off within the header or within the numbers."""
    (weights,) = (broken / part).glob("*.safetensors")
    data = weights.read_bytes()
    weights.write_bytes(data[: int(kept * len(data))])
    assert_refused(broken, "cannot be loaded")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_with_a_tensor_missing_are_refused(broken, part):
    """It would be drawn at random, another one each time."""
    (weights,) = (broken / part).glob("*.safetensors")
    tensors = load_file(weights)
    lost = sorted(tensors)[len(tensors) // 2]
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, weights, {"format": "pt"})
    assert_refused(broken, "cannot be loaded", part, "lack 1 tensor")


def test_weights_under_the_old_names_of_attention_are_read(pipeline, broken):
    """The autoencoders of Stable Diffusion 1 have them, and the same picture comes out."""
    (weights,) = (broken / "vae").glob("*.safetensors")
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(weights)
    renamed = {
        name.replace(new, old): tensors[name]
        for name in tensors
        for new, old in [next((pair for pair in old_names.items() if pair[0] in name), ("", ""))]
    }
    assert renamed.keys() != tensors.keys()
    save_file(renamed, weights, {"format": "pt"})
    old = FramePipeline.from_source(str(broken), device="cpu")
    assert render_one(old, a_frame()).tobytes() == render_one(pipeline, a_frame()).tobytes()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_code_of_a_checkpoint_is_never_run(broken, part):
    """A part that brings its own class never has it imported, whichever of the ways to name it is used."""
    trace = broken / "was_run"
    code = f"open({str(trace)!r}, 'w')\nclass Own: ...\n"
    (broken / part / "own.py").write_text(code)
    (broken / "own.py").write_text(code)
    for config in (broken / part).glob("*config.json"):
        kinds = ("AutoConfig", "AutoModel", "AutoTokenizer")
        config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": dict.fromkeys(kinds, "own.Own")}))
    with suppress(RenderError):
        FramePipeline.from_source(str(broken), device="cpu")
    index = json.loads((broken / "model_index.json").read_text())
    (broken / "model_index.json").write_text(json.dumps(index | {part: ["own", "Own"]}))
    assert_refused(broken, "cannot be loaded")
    assert not trace.exists()


def test_a_pickle_beside_good_weights_is_never_opened(pipeline, broken):
    """As most published checkpoints have them: the same picture comes out, and nothing was unpickled."""
    names = ["unet/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.bin", "text_encoder/pytorch_model.bin"]
    names += ["text_encoder/model.pt", "tokenizer/words.pkl", "safety_checker/pytorch_model.bin", "all.ckpt"]
    traps = [write_trap(broken / name) for name in names]
    found = FramePipeline.from_source(str(broken), device="cpu")
    assert render_one(found, a_frame()).tobytes() == render_one(pipeline, a_frame()).tobytes()
    assert not any(trap.has_sprung for trap in traps)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("ending", ["bin", "ckpt", "pt"])
def test_a_pickle_in_the_place_of_weights_is_refused_unopened(broken, part, ending):
    """One part is enough."""
    (weights,) = (broken / part).glob("*.safetensors")
    weights.unlink()
    trap = write_trap(weights.with_suffix(f".{ending}"))
    assert_refused(broken, part, "pickles", "are not read")
    assert not trap.has_sprung


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("content", ["{", "[]", "null", '{"block_out_channels": 0, "hidden_size": "wide"}'])
def test_settings_that_make_no_sense_are_refused(broken, part, content):
    """Cut off, of another kind, or with values that no model has."""
    (broken / part / "config.json").write_text(content)
    assert_refused(broken, "cannot be loaded")


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_an_index_that_makes_no_sense_is_refused(broken, content):
    """A checkpoint's index names its parts."""
    (broken / "model_index.json").write_text(content)
    assert_refused(broken, str(broken))


@pytest.mark.parametrize("lost", [{"tokenizer.json", "vocab.json"}, {"tokenizer.json", "merges.txt"}])
def test_a_tokenizer_without_words_is_refused(broken, lost):
    """Its settings alone would be read, and no prompt with them."""
    for name in lost:
        (broken / "tokenizer" / name).unlink(missing_ok=True)
    assert_refused(broken, "tokenizer", "has no words")


def test_a_tokenizer_of_another_model_is_refused(broken):
    """Tokens that the text encoder has never heard of would end the worker's first job."""
    for file in (broken / "tokenizer").glob("*.json"):
        content = json.loads(file.read_text())
        vocabulary = content if file.name == "vocab.json" else content.get("model", {}).get("vocab")
        if vocabulary:
            vocabulary |= {f"word{number}": number for number in range(len(vocabulary), 2000)}
            file.write_text(json.dumps(content))
    assert_refused(broken, "2000 tokens")


@pytest.mark.parametrize("name", ["float8", "fp16", "", "int8", "Float32"])
def test_a_precision_that_is_none_is_refused_with_those_there_are(name):
    """Settings name it, so it may be misspelt."""
    with pytest.raises(RenderError, match=r"no dtype .*auto, float32, float16, bfloat16"):
        dtype_from_name(name, torch.device("cpu"))


def test_memory_is_known_before_and_after_loading(folders):
    """From the files' headers, at the precision asked for, to a hundredth of what is then there."""
    for dtype in (torch.float32, torch.bfloat16):
        expected = checkpoint_bytes(str(folders["epsilon"]), None, dtype)
        found = parts_bytes(load_checkpoint(str(folders["epsilon"]), None, dtype))
        assert expected == pytest.approx(found, rel=0.01)


def test_memory_of_a_model_that_is_not_there_is_an_error(tmp_path, broken):
    """The same sentences as for loading it."""
    with pytest.raises(RenderError, match="no model folder"):
        checkpoint_bytes(str(tmp_path / "nowhere"), None, torch.float32)
    (weights,) = (broken / "unet").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:20])
    with pytest.raises(RenderError, match="cannot be loaded"):
        checkpoint_bytes(str(broken), None, torch.float32)


def test_a_hub_id_is_asked_for_by_revision_and_without_pickles(folders, monkeypatch):
    """An id goes to the hub with its revision; nothing but settings, words and safetensors comes back."""
    asked: dict[str, Any] = {}

    def snapshot_download(source: str, **options: Any) -> str:
        asked.update(options, source=source)
        return str(folders["epsilon"])

    monkeypatch.setattr(checkpoint, "snapshot_download", snapshot_download)
    assert FramePipeline.from_source("riffusion/riffusion-model-v1", revision="abc123", device="cpu").rows == ROWS
    assert asked["source"] == "riffusion/riffusion-model-v1"
    assert asked["revision"] == "abc123"
    assert {pattern.rpartition(".")[2] for pattern in asked["allow_patterns"]} == {"json", "txt", "safetensors"}


def test_a_hub_that_cannot_be_reached_is_named_as_the_reason(monkeypatch):
    """What looks like an id may be a mistyped folder: the error speaks of both."""

    def snapshot_download(source: str, **options: Any) -> str:
        raise OSError("no connection")

    monkeypatch.setattr(checkpoint, "snapshot_download", snapshot_download)
    with pytest.raises(RenderError, match=r"no model folder 'some/model'.*hub: no connection"):
        FramePipeline.from_source("some/model", device="cpu")


def test_parts_that_do_not_fit_together_are_refused(tmp_path, folders):
    """A denoiser that reads wider prompts than the text encoder writes, as larger models do."""
    parts = StableDiffusionPipeline.from_pretrained(folders["epsilon"], safety_checker=None)
    for changes, words in (({"cross_attention_dim": 32}, "prompts 32 wide"), ({"in_channels": 9}, "inpainting")):
        other = UNet2DConditionModel.from_config(parts.unet.config, **changes)
        folder = Path(shutil.copytree(folders["epsilon"], tmp_path / str(next(iter(changes)))))
        other.save_pretrained(folder / "unet")
        assert_refused(folder, words)


def test_a_scheduler_without_a_noise_schedule_is_refused(broken):
    """Flow matching, for one, is another kind of model; a damaged file is none at all."""
    file = broken / "scheduler" / "scheduler_config.json"
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    file.write_text(json.dumps(config))
    assert_refused(broken, "beta_schedule")
    file.write_text("{")
    assert_refused(broken, "scheduler", "cannot be read")


def test_precision_follows_the_device_unless_asked_for(folders):
    """float32 on a CPU by default; bfloat16 stays near it."""
    exact = FramePipeline.from_source(str(folders["epsilon"]), device="cpu")
    rough = FramePipeline.from_source(str(folders["epsilon"]), device="cpu", dtype="bfloat16")
    assert exact.device == rough.device == torch.device("cpu")
    assert exact._parts.unet.dtype == torch.float32
    assert 0 < distance(render_one(exact, a_frame()), render_one(rough, a_frame())) < 4
