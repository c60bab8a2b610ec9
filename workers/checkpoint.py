"""Reading a Stable Diffusion checkpoint: a folder in diffusers' layout, or a hub id.

Owns what is refused and why: pickles, missing parts, damaged weights, parts that do not fit together. Leaves out
what is done with the model (`workers.diffusion`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from shared.errors import RenderError

_WEIGHTED: Final = ("unet", "vae", "text_encoder")
_PARTS: Final = (*_WEIGHTED, "tokenizer", "scheduler")
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_PICKLES: Final = ("*.bin", "*.ckpt", "*.pt", "*.pth")


def load_checkpoint(source: str, revision: str | None, dtype: torch.dtype) -> Any:
    """The parts as a `diffusers.StableDiffusionPipeline` on the CPU, without a safety checker.

    Only safetensors are read and no code of the checkpoint's is run. Raises RenderError, saying what is wrong.
    """
    folder = Path(source)
    if folder.is_dir():
        _check_folder(folder)
    elif not _HUB_ID.fullmatch(source):
        raise RenderError(f"There is no model folder {source!r}.")
    parts = _read(source, revision, dtype)
    _check_fit(source, parts)
    return parts


def _read(source: str, revision: str | None, dtype: torch.dtype) -> Any:
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        return StableDiffusionPipeline.from_pretrained(
            source,
            revision=revision,
            dtype=dtype,
            use_safetensors=True,
            low_cpu_mem_usage=False,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RenderError(f"The model {source!r} cannot be loaded: {reason}") from error


def _check_folder(folder: Path) -> None:
    if not (folder / "model_index.json").is_file():
        raise RenderError(f"The folder {str(folder)!r} is no Stable Diffusion model: it has no model_index.json.")
    for part in _PARTS:
        if not (folder / part).is_dir() or not any((folder / part).iterdir()):
            raise RenderError(f"The model {str(folder)!r} has no {part}.")
    for part in _WEIGHTED:
        if not any((folder / part).glob("*.safetensors")):
            is_pickle = any(any((folder / part).glob(pattern)) for pattern in _PICKLES)
            found = "only a pickle, which could run any code" if is_pickle else "none"
            raise RenderError(f"The {part} of {str(folder)!r} needs safetensors weights; there is {found}.")


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
    if parts.scheduler.config.get("beta_schedule") is None:
        raise RenderError(f"The scheduler of {source!r} names no beta_schedule: its noise is not known.")
    # Some tokenizers name no limit; the text encoder has one all the same.
    parts.tokenizer.model_max_length = min(parts.tokenizer.model_max_length, text.max_position_embeddings)
