"""Reading a Stable Diffusion checkpoint: a folder in diffusers' layout, or a hub id.

Owns what is refused and why: pickles, missing parts, damaged weights, parts that do not fit together; and how much
memory a model takes. Leaves out what is added to it (`workers.loras`), what is done with it (`workers.diffusion`) and
how long it is kept (`workers.shelf`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from transformers import CLIPTextModel
from transformers.utils import logging as transformers_logging

from shared.catalogue import Lora
from shared.errors import RenderError
from workers.loras import add_lora

# Off: it would need one more library.
_LOW_MEMORY: Final = {"low_cpu_mem_usage": False}
_WEIGHTED: Final[dict[str, tuple[Any, dict[str, bool]]]] = {
    "unet": (UNet2DConditionModel, _LOW_MEMORY),
    "vae": (AutoencoderKL, _LOW_MEMORY),
    "text_encoder": (CLIPTextModel, {}),
}
_PARTS: Final = (*_WEIGHTED, "tokenizer", "scheduler")
_WORDS: Final = ({"tokenizer.json"}, {"vocab.json", "merges.txt"})
"""Files that a tokenizer has its words in, one way or the other."""
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_FILES: Final = ["model_index.json", *(f"{part}/*.{kind}" for part in _PARTS for kind in ("json", "txt"))]
_HUB_WEIGHTS: Final = [f"{part}/*.safetensors" for part in _WEIGHTED]
_HUB_TWINS: Final = ["*.fp16.*", "*non_ema*"]
"""The same weights once more, in forms that are not read."""
_DTYPES: Final = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def device_from_name(name: str) -> torch.device:
    """The device of this name; "auto" is CUDA, then MPS, then the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def dtype_from_name(name: str, device: torch.device) -> torch.dtype:
    """The precision of this name; "auto" is float16 on CUDA and float32 elsewhere. Raises RenderError."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in _DTYPES:
        raise RenderError(f"There is no dtype {name!r} to load a model in; there are auto, {', '.join(_DTYPES)}.")
    return _DTYPES[name]


def load_checkpoint(source: str, revision: str | None, dtype: torch.dtype, loras: Sequence[Lora] = ()) -> Any:
    """The parts as a `diffusers.StableDiffusionPipeline` on the CPU, without a safety checker.

    What `loras` say is added to the weights. Only safetensors are read and no code of the checkpoint's is run. Raises
    RenderError, saying what is wrong.
    """
    folder = _folder(source, revision)
    _check_layout(source, folder)
    _check_noise_schedule(source, folder)
    parts = _read(source, folder, dtype)
    _check_fit(source, parts)
    for lora in loras:
        add_lora(parts, lora)
    return parts


def checkpoint_bytes(source: str, revision: str | None, dtype: torch.dtype) -> int:
    """Bytes that the weights will take in memory, from the headers of their files alone.

    Raises RenderError when there is no such model or its headers cannot be read.
    """
    folder = _folder(source, revision)
    _check_layout(source, folder)
    files = chain.from_iterable((folder / part).glob("*.safetensors") for part in _WEIGHTED)
    try:
        return sum(_elements(file) for file in files if not any(map(file.match, _HUB_TWINS))) * dtype.itemsize
    except (OSError, SafetensorError) as error:
        raise RenderError(f"The model {source!r} cannot be loaded: {error}") from error


def _elements(file: Path) -> int:
    with safe_open(file, "pt") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118 — no dict


def parts_bytes(parts: Any) -> int:
    """Bytes of memory that a loaded model's weights take."""
    models = (getattr(parts, part) for part in _WEIGHTED)
    tensors = chain.from_iterable(chain(model.parameters(), model.buffers()) for model in models)
    return sum(tensor.nbytes for tensor in tensors)


def is_hub_id(source: str) -> bool:
    """Whether a source may be a hub id; else it can only be a folder."""
    return bool(_HUB_ID.fullmatch(source))


def _folder(source: str, revision: str | None) -> Path:
    folder = Path(source)
    return folder if folder.is_dir() else _download(source, revision)


def _download(source: str, revision: str | None) -> Path:
    if not is_hub_id(source):
        raise RenderError(f"There is no model folder {source!r}.")
    try:
        return Path(
            snapshot_download(
                source,
                revision=revision,
                allow_patterns=_HUB_FILES + _HUB_WEIGHTS,
                ignore_patterns=_HUB_TWINS,
            )
        )
    except (OSError, ValueError) as error:
        raise RenderError(f"There is no model folder {source!r}, nor can it be had from the hub: {error}") from error


def _check_layout(source: str, folder: Path) -> None:
    if not (folder / "model_index.json").is_file():
        raise RenderError(f"{source!r} is no Stable Diffusion model: it has no model_index.json.")
    for part in _PARTS:
        if not (folder / part).is_dir() or not any((folder / part).iterdir()):
            raise RenderError(f"The model {source!r} has no {part}.")
    words = {file.name for file in (folder / "tokenizer").iterdir()}
    if not any(kind <= words for kind in _WORDS):
        # Read all the same, it would know no word.
        raise RenderError(
            f"The tokenizer of {source!r} has no words: neither tokenizer.json nor vocab.json, merges.txt."
        )
    for part in _WEIGHTED:
        if not any((folder / part).glob("*.safetensors")):
            raise RenderError(
                f"The {part} of {source!r} has no safetensors weights; pickles, which could run any code, are not read."
            )


def _check_noise_schedule(source: str, folder: Path) -> None:
    """Without a noise schedule of its own, diffusers would take one that the model was never trained on."""
    try:
        config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RenderError(f"The scheduler of {source!r} cannot be read: {error}") from error
    if "beta_schedule" not in config:
        raise RenderError(f"The scheduler of {source!r} names no beta_schedule: its noise is not known.")


def _read(source: str, folder: Path, dtype: torch.dtype) -> Any:
    for logging in (diffusers_logging, transformers_logging):
        # What matters of their cautions is checked here; the rest would bury the farm's own log.
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        weighted = {part: _read_weighted(folder, part, dtype) for part in _WEIGHTED}
        return StableDiffusionPipeline.from_pretrained(
            folder, **weighted, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    except Exception as error:
        # Whatever libraries make of settings that nobody meant.
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RenderError(f"The model {source!r} cannot be loaded: {reason}") from error


def _read_weighted(folder: Path, part: str, dtype: torch.dtype) -> Any:
    """One part with weights, of a class that is ours to choose, whatever the checkpoint's index names."""
    model_class, options = _WEIGHTED[part]
    model, found = model_class.from_pretrained(
        folder, subfolder=part, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
    )
    if missing := sorted(found["missing_keys"]):
        # They would be drawn at random and pass for a model.
        raise ValueError(f"the weights of its {part} lack {len(missing)} tensors, {missing[0]} among them")
    return model.eval()


def _check_fit(source: str, parts: Any) -> None:
    unet, vae, text = parts.unet.config, parts.vae.config, parts.text_encoder.config
    if unet.in_channels != vae.latent_channels:
        raise RenderError(
            f"The denoiser of {source!r} takes {unet.in_channels} channels and its autoencoder makes "
            f"{vae.latent_channels}: models made for inpainting alone are not served."
        )
    if unet.cross_attention_dim != text.hidden_size:
        raise RenderError(
            f"The denoiser of {source!r} reads prompts {unet.cross_attention_dim} wide and its text encoder "
            f"writes {text.hidden_size}: only models of Stable Diffusion 1 and 2 are served."
        )
    if len(parts.tokenizer) > text.vocab_size:
        raise RenderError(
            f"The tokenizer of {source!r} has {len(parts.tokenizer)} tokens and its text encoder {text.vocab_size}."
        )
    # Some tokenizers name no limit; the text encoder has one all the same.
    parts.tokenizer.model_max_length = min(parts.tokenizer.model_max_length, text.max_position_embeddings)
