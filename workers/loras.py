"""Adding LoRA files to a model's weights, for good: W + weight * (alpha / rank) * up @ down (Hu et al. 2021).

Owns what is refused and why: pickles, damaged files, layers that the model has no place for. Leaves out the model
itself (`workers.checkpoint`) and what a farm adds to which (`shared.catalogue`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub import hf_hub_download
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open

from shared.catalogue import Lora
from shared.errors import RenderError

_ADAPTER: Final = "added"
_DOWN: Final = (".down.weight", ".lora_down.weight", ".lora_A.weight")
_UP: Final = (".up.weight", ".lora_up.weight", ".lora_B.weight")
_RIGHT: Final = (*_DOWN, *_UP, ".alpha")


def add_lora(parts: Any, lora: Lora) -> None:
    """Add a LoRA file to the denoiser and the text encoder of a `diffusers.StableDiffusionPipeline`.

    Files as diffusers and as kohya's trainer write them are read. Raises RenderError, saying what is wrong, and then
    the parts must not be used.
    """
    name = f"{lora.source}/{lora.weight_name}" if lora.weight_name else lora.source
    file = _file(name, lora)
    layers = _layers(name, file)
    try:
        with warnings.catch_warnings():
            # Of what the libraries pass over they only warn, and go on with a part of the file.
            warnings.simplefilter("error", RuntimeWarning)
            _add(parts, file, layers, lora.weight)
    except Exception as error:
        # Whatever libraries make of a file that was made for another model.
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RenderError(f"The LoRA {name!r} does not fit the model: {reason}") from error


def _add(parts: Any, file: Path, layers: int, weight: float) -> None:
    place: dict[str, Any] = {"weight_name": file.name, "use_safetensors": True}
    tensors, alphas = parts.lora_state_dict(str(file.parent), **place)
    if alphas:
        parts.load_lora_weights(_without_alphas(tensors, alphas), adapter_name=_ADAPTER)
    else:
        # By its name: what diffusers writes keeps its alphas in the file's header.
        parts.load_lora_weights(str(file.parent), adapter_name=_ADAPTER, **place)
    _check_places(layers, parts)
    parts.fuse_lora(lora_scale=weight, safe_fusing=True)
    parts.unload_lora_weights()


def _without_alphas(tensors: dict[str, torch.Tensor], alphas: dict[str, float]) -> dict[str, torch.Tensor]:
    """The same layers with alpha / rank within the matrices up: of alphas that differ the libraries lose some."""
    scaled = dict(tensors)
    for name, alpha in alphas.items():
        down = name.removesuffix(".alpha")
        up = down.replace(".down.", ".up.")
        scaled[up] = tensors[up] * (alpha / tensors[down].shape[0])
    return scaled


def _file(name: str, lora: Lora) -> Path:
    if not (lora.weight_name or lora.source).endswith(".safetensors"):
        raise RenderError(f"The LoRA {name!r} is no safetensors file; pickles, which could run any code, are not read.")
    if lora.weight_name is None:
        if not Path(lora.source).is_file():
            raise RenderError(f"There is no LoRA file {name!r}.")
        return Path(lora.source)
    try:
        return Path(hf_hub_download(lora.source, lora.weight_name, revision=lora.revision))
    except (OSError, ValueError) as error:
        raise RenderError(f"The LoRA {name!r} cannot be had from the hub: {error}") from error


def _layers(name: str, file: Path) -> int:
    """How many layers the file adds to."""
    try:
        with safe_open(file, "pt") as tensors:
            keys = [*tensors.keys()]
    except (OSError, SafetensorError) as error:
        raise RenderError(f"The LoRA {name!r} cannot be read: {error}") from error
    down, up = _count(keys, _DOWN), _count(keys, _UP)
    strange = [key for key in keys if not key.endswith(_RIGHT)]
    if strange or not down or down != up:
        # DoRA and LyCORIS among them, of which the libraries would read a part and drop the rest.
        reason = f"it has {strange[0]!r}" if strange else f"it has {down} matrices down and {up} up"
        raise RenderError(f"The LoRA {name!r} is of a kind that is not read: {reason}.")
    return down


def _count(keys: Iterable[str], endings: tuple[str, ...]) -> int:
    return sum(key.endswith(endings) for key in keys)


def _check_places(layers: int, parts: Any) -> None:
    """The libraries drop layers that have no place in the model without a word."""
    modules = (module for part in (parts.unet, parts.text_encoder) for module in part.modules())
    found = sum(isinstance(module, LoraLayer) and _ADAPTER in module.active_adapters for module in modules)
    if found != layers:
        raise ValueError(f"it adds to {layers} layers, and the model has {found} of them")
