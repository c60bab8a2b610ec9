"""LoRA files added to a model's weights: the very sums they stand for, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from shared.catalogue import Lora
from shared.errors import RenderError
from tests.booby_traps import write_trap
from tests.sd15_checkpoint import merge_by_hand, write_lora, write_sd15_checkpoint
from workers import loras
from workers.checkpoint import load_checkpoint

Layout = Literal["kohya", "diffusers"]
LAYOUTS: tuple[Layout, ...] = ("kohya", "diffusers")
Weights = dict[str, torch.Tensor]
FLOAT32 = torch.float32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as Stable Diffusion 1.5 is published."""
    return write_sd15_checkpoint(tmp_path_factory.mktemp("sd15"))


@pytest.fixture(scope="module")
def plain(checkpoint: Path) -> Weights:
    """Its weights."""
    return weights_of(checkpoint)


def weights_of(folder: Path, *added: Lora) -> Weights:
    """All weights of the denoiser and the text encoder as loaded."""
    parts = load_checkpoint(str(folder), None, FLOAT32, added)
    return {
        f"{part}.{name}": tensor
        for part in ("unet", "text_encoder")
        for name, tensor in getattr(parts, part).state_dict().items()
    }


def changed(one: Weights, other: Weights) -> int:
    """How many tensors of two models differ; they must have the same ones."""
    assert one.keys() == other.keys()
    return sum(not torch.equal(one[name], other[name]) for name in one)


def merged(checkpoint: Path, folder: Path, deltas: Any, weight: float) -> Path:
    """A copy of the checkpoint with a LoRA's sums worked out by hand."""
    copy = Path(shutil.copytree(checkpoint, folder))
    merge_by_hand(copy, deltas, weight)
    return copy


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_weight_of_0_changes_nothing(checkpoint: Path, plain: Weights, tmp_path: Path, layout: Layout) -> None:
    """To the bit."""
    write_lora(tmp_path / "a.safetensors", checkpoint, layout)
    assert changed(weights_of(checkpoint, Lora(str(tmp_path / "a.safetensors"), 0.0)), plain) == 0


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("weight", [1.0, 0.3, -0.5])
def test_a_weight_adds_that_much_of_the_file(
    checkpoint: Path, plain: Weights, tmp_path: Path, layout: Layout, weight: float
) -> None:
    """Exactly the layers in the file change, to what merging by hand gives."""
    deltas = write_lora(tmp_path / "a.safetensors", checkpoint, layout)
    found = weights_of(checkpoint, Lora(str(tmp_path / "a.safetensors"), weight))
    expected = weights_of(merged(checkpoint, tmp_path / "by_hand", deltas, weight))
    assert changed(found, plain) == sum(map(len, deltas.values())) == 8
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-6)


def test_alphas_that_differ_from_layer_to_layer_are_kept(checkpoint: Path, tmp_path: Path) -> None:
    """Each layer by its own, in the denoiser and in the text encoder."""
    deltas = write_lora(tmp_path / "a.safetensors", checkpoint, "kohya", alphas=(2.0, 1.0, 6.0))
    found = weights_of(checkpoint, Lora(str(tmp_path / "a.safetensors")))
    expected = weights_of(merged(checkpoint, tmp_path / "by_hand", deltas, 1.0))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-6)


def test_an_alpha_in_the_files_header_is_kept(checkpoint: Path, plain: Weights, tmp_path: Path) -> None:
    """Where diffusers itself writes it."""
    module = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    weight = plain[f"unet.{module}.weight"]
    down, up = torch.randn(4, weight.shape[1]), torch.randn(weight.shape[0], 4)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers={f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up},
        unet_lora_adapter_metadata={"r": 4, "lora_alpha": 1, "target_modules": [module]},
    )
    found = weights_of(checkpoint, Lora(str(tmp_path / "pytorch_lora_weights.safetensors")))
    torch.testing.assert_close(found[f"unet.{module}.weight"], weight + up @ down / 4, rtol=1e-6, atol=1e-5)


def test_several_files_add_up(checkpoint: Path, tmp_path: Path) -> None:
    """Each by its own weight, whatever trainer wrote it."""
    by_hand = Path(shutil.copytree(checkpoint, tmp_path / "by_hand"))
    added = []
    for seed, (layout, weight) in enumerate(zip(LAYOUTS, (0.75, 0.5), strict=True)):
        file = tmp_path / f"{layout}.safetensors"
        merge_by_hand(by_hand, write_lora(file, checkpoint, layout, seed=seed), weight)
        added.append(Lora(str(file), weight))
    found, expected = weights_of(checkpoint, *added), weights_of(by_hand)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-6)


def test_no_trace_of_the_file_is_left_in_the_model(checkpoint: Path, tmp_path: Path) -> None:
    """A step costs no more than without: the layers are those that were there before."""
    write_lora(tmp_path / "a.safetensors", checkpoint, "kohya")
    plain = load_checkpoint(str(checkpoint), None, FLOAT32)
    parts = load_checkpoint(str(checkpoint), None, FLOAT32, [Lora(str(tmp_path / "a.safetensors"))])
    for part in ("unet", "text_encoder"):
        kinds = [[type(module) for module in getattr(one, part).modules()] for one in (plain, parts)]
        assert kinds[0] == kinds[1]


def assert_refused(checkpoint: Path, lora: Lora, *words: str) -> None:
    """Loading fails with one clear sentence that has these words and the file's name."""
    with pytest.raises(RenderError) as error:
        load_checkpoint(str(checkpoint), None, FLOAT32, [lora])
    for word in (*words, lora.source):
        assert word in error.value.message
    assert "\n" not in error.value.message


def test_a_file_that_is_not_there_is_named(checkpoint: Path, tmp_path: Path) -> None:
    """It is looked for nowhere else."""
    assert_refused(checkpoint, Lora(str(tmp_path / "no.safetensors")), "There is no LoRA file")


@pytest.mark.parametrize("ending", ["bin", "pt", "ckpt", "pth"])
def test_a_pickle_is_refused_unopened(checkpoint: Path, tmp_path: Path, ending: str) -> None:
    """By the catalogue as by the loader; nothing in it is run."""
    trap = write_trap(tmp_path / f"lora.{ending}")
    with pytest.raises(ValueError, match="pickle"):
        Lora(str(trap.file))
    lora = Lora("some.safetensors")
    object.__setattr__(lora, "source", str(trap.file))
    assert_refused(checkpoint, lora, "pickles", "are not read")
    assert not trap.has_sprung


def test_a_pickle_under_a_safe_name_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """The name is a promise that the content must keep."""
    trap = write_trap(tmp_path / "lora.safetensors")
    assert_refused(checkpoint, Lora(str(trap.file)), "cannot be read")
    assert not trap.has_sprung


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.9])
def test_a_truncated_file_is_refused(checkpoint: Path, tmp_path: Path, kept: float) -> None:
    """Cut off within the header or within the numbers."""
    file = tmp_path / "a.safetensors"
    write_lora(file, checkpoint, "kohya")
    data = file.read_bytes()
    file.write_bytes(data[: int(kept * len(data))])
    assert_refused(checkpoint, Lora(str(file)), "cannot be read")


def rewritten(file: Path, rename: tuple[str, str] | None = None, **tensors: torch.Tensor) -> Lora:
    """The file with names changed and tensors added."""
    old, new = rename or ("", "")
    kept = {name.replace(old, new) if old else name: tensor for name, tensor in load_file(file).items()}
    save_file(kept | tensors, file, {"format": "pt"})
    return Lora(str(file))


@pytest.mark.parametrize(
    ("layout", "rename"),
    [
        ("kohya", ("down_blocks_0_attentions_0", "down_blocks_3_attentions_0")),
        ("kohya", ("lora_te_", "lora_te2_")),
        ("diffusers", ("up_blocks.1.attentions.2", "up_blocks.1.attentions.7")),
        ("diffusers", ("unet.", "transformer.")),
        ("diffusers", ("unet.", "")),
    ],
)
def test_layers_that_the_model_has_no_place_for_are_refused(
    checkpoint: Path, tmp_path: Path, layout: Layout, rename: tuple[str, str]
) -> None:
    """Made for another model: the libraries would add what fits and drop the rest without a word."""
    file = tmp_path / "a.safetensors"
    write_lora(file, checkpoint, layout)
    assert_refused(checkpoint, rewritten(file, rename), "does not fit the model")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layers_of_another_width_are_refused(checkpoint: Path, tmp_path: Path, layout: Layout) -> None:
    """As those of a larger model of the same layout."""
    file = tmp_path / "a.safetensors"
    write_lora(file, checkpoint, layout)
    tensors = load_file(file)
    name = next(name for name in tensors if "mid_block" in name and ("down" in name or "lora_A" in name))
    assert_refused(checkpoint, rewritten(file, **{name: torch.zeros(4, 48)}), "does not fit the model")


def test_layers_of_another_kind_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    """DoRA: the libraries would drop its scales and add the rest."""
    file = tmp_path / "a.safetensors"
    write_lora(file, checkpoint, "kohya")
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.dora_scale"
    assert_refused(checkpoint, rewritten(file, **{name: torch.ones(32, 1)}), "of a kind that is not read", "dora_scale")


def test_half_a_layer_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """A matrix down without its matrix up would add nothing."""
    file = tmp_path / "a.safetensors"
    write_lora(file, checkpoint, "diffusers")
    tensors = load_file(file)
    lost = next(name for name in tensors if "lora_B" in name)
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, file)
    assert_refused(checkpoint, Lora(str(file)), "8 matrices down and 7 up")


def test_numbers_that_are_none_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    """One would make silence of every picture."""
    file = tmp_path / "a.safetensors"
    write_lora(file, checkpoint, "diffusers")
    name = next(name for name in load_file(file) if "lora_B" in name)
    broken = torch.full_like(load_file(file)[name], float("nan"))
    assert_refused(checkpoint, rewritten(file, **{name: broken}), "does not fit the model")


def test_a_file_on_the_hub_is_asked_for_by_name_and_revision(
    checkpoint: Path, plain: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One safetensors file and nothing else; a hub that cannot be reached is named as the reason."""
    write_lora(tmp_path / "a.safetensors", checkpoint, "kohya")
    asked: list[tuple[str, str, str | None]] = []

    def hf_hub_download(source: str, name: str, revision: str | None = None) -> str:
        asked.append((source, name, revision))
        if revision == "gone":
            raise OSError("no connection")
        return str(tmp_path / "a.safetensors")

    monkeypatch.setattr(loras, "hf_hub_download", hf_hub_download)
    assert changed(weights_of(checkpoint, Lora("someone/warm", 1.0, "warm.safetensors", "abc")), weights_of(checkpoint))
    assert asked == [("someone/warm", "warm.safetensors", "abc")]
    assert_refused(checkpoint, Lora("someone/warm", 1.0, "warm.safetensors", "gone"), "hub: no connection")
