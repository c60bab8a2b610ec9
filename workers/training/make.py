"""The whole making of the built-in model, stage by stage; a finished stage is never repeated.

Owns the order: clips, autoencoder, tokenizer, text encoder, latents, denoiser with text encoder, the model's folder.
Leaves out how each is done.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from workers.training.captions import caption_from_piece
from workers.training.dataset import clips, draw_pieces
from workers.training.latents import LatentPool
from workers.training.loop import Tell, append_log, cut_log, train, untold
from workers.training.naming import Naming, TextTraining
from workers.training.networks import (
    MAX_TOKENS,
    denoiser,
    networks_from,
    save_model,
    text_encoder,
    train_tokenizer,
)
from workers.training.recipe import CHANGEABLE, Recipe, RecipeError, flat
from workers.training.steering import SteeringCheck
from workers.training.train_unet import UnetTraining
from workers.training.train_vae import HELD_OUT_CLIPS, VaeTraining


def make_model(recipe: Recipe, folder: Path, model: Path, start: Path | None = None, tell: Tell = untold) -> None:
    """Make the model in `folder`, going on from whatever is there, and save it as `model`.

    start: a model's folder whose weights are trained on; the autoencoder and the tokenizer are taken from it as they
    are, and so are the networks' sizes, whatever the recipe says. The log of the training,
    `folder`/training_log.jsonl, ends with the hash of the saved weights. Raises RecipeError when `folder` holds a
    training of another recipe or another start.
    """
    torch.set_num_threads(recipe.torch_threads)
    folder.mkdir(parents=True, exist_ok=True)
    _begin(recipe, folder, start)
    vae = trained_autoencoder(recipe, folder, tell)
    tokenizer = learnt_tokenizer(recipe, folder)
    check = SteeringCheck(recipe.data, vae, tokenizer, folder)
    data, unet = recipe.data, recipe.unet
    with LatentPool(data, folder / "vae", folder / "latents", tell) as latents:
        networks, naming = _networks(recipe, folder, tokenizer, start, tell)
        trainee = UnetTraining(unet, data, tokenizer, latents, check, networks, naming)
        latents.wait(data.first_clips)
        train(trainee, folder, unet.steps, unet.check_steps, recipe.checkpoint_minutes, tell)
    trainee.use_average()
    save_model(vae, trainee.unet, trainee.text, tokenizer, model)
    cut_log(folder, "model", 0)
    append_log(folder, {"part": "model", "sha256": weights_sha256(model)})


def _networks(
    recipe: Recipe, folder: Path, tokenizer: CLIPTokenizer, start: Path | None, tell: Tell
) -> tuple[tuple[UNet2DConditionModel, CLIPTextModel], Naming]:
    """Denoiser and text encoder to train, new or those of `start`, and what guesses what captions say.

    A text encoder that learns from the denoiser's error alone lets words fall together that make little difference at
    first, and does not tell them apart later; so a new one is taught them before.
    """
    steps = recipe.unet.naming_steps
    torch.manual_seed(recipe.unet.seed)
    unet, text = networks_from(start) if start else (denoiser(recipe.unet), text_encoder(recipe.unet, tokenizer))
    naming = Naming(unet)
    if steps:
        text = CLIPTextModel(text.config)
        trainee = TextTraining(recipe.unet, recipe.data, tokenizer, unet, text, naming)
        train(trainee, folder, steps, steps, recipe.checkpoint_minutes, tell)
    return (unet, text), naming


def _begin(recipe: Recipe, folder: Path, start: Path | None) -> None:
    """Note in an empty folder what it is for, or see that it is for this."""
    if start and not (start / "model_index.json").is_file():
        raise RecipeError(f"--from {start}: must be a model's folder in diffusers' layout; it has no model_index.json")
    if start and json.loads((start / "unet" / "config.json").read_text()).get("addition_embed_type") != "text":
        raise RecipeError(
            f"--from {start}: its denoiser must take the caption as a whole too (addition_embed_type: text), as those "
            "made by riffarm train do; riffarm fine-tune takes any"
        )
    wanted = {**flat(recipe), "from": weights_sha256(start) if start else "nothing"}
    note = folder / "recipe.json"
    if note.exists():
        _check_same(json.loads(note.read_text(encoding="utf-8")), wanted, folder)
        return
    if start:
        for part in ("vae", "tokenizer"):
            _appear(folder / part, lambda fresh, part=part: shutil.copytree(start / part, fresh))  # type: ignore[misc]
        cut_log(folder, "from", 0)
        append_log(folder, {"part": "from", "sha256": wanted["from"]})
    partial = note.with_suffix(".partial")
    partial.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, note)


def _check_same(kept: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    for key, value in wanted.items():
        if key not in CHANGEABLE and kept.get(key) != value:
            raise RecipeError(
                f"{key} = {value!r}: {folder} holds a training with {kept.get(key)!r}; "
                "go on with that, or train in another --folder"
            )


def _appear(folder: Path, make: Callable[[Path], object]) -> None:
    """Have `make` fill a folder that takes the place of `folder` only when it is whole."""
    fresh = folder.with_name(folder.name + ".partial")
    shutil.rmtree(fresh, ignore_errors=True)
    make(fresh)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(fresh, folder)


def trained_autoencoder(recipe: Recipe, folder: Path, tell: Tell = untold) -> AutoencoderKL:
    """The autoencoder kept in `folder`, trained there first if need be."""
    kept = folder / "vae"
    if not kept.exists():
        data = recipe.data
        _, pixels = clips(data.vae_clips, data.train_seed, folder, data.processes, tell)
        _, held_out = clips(HELD_OUT_CLIPS, data.held_out_seed, folder, data.processes, tell)
        trainee = VaeTraining(recipe.vae, pixels, held_out)
        train(trainee, folder, recipe.vae.steps, recipe.vae.check_steps, recipe.checkpoint_minutes, tell)
        _appear(kept, trainee.finished().save_pretrained)
    return AutoencoderKL.from_pretrained(kept).eval()


def learnt_tokenizer(recipe: Recipe, folder: Path) -> CLIPTokenizer:
    """The tokenizer kept in `folder`, learnt first from captions of the training pieces if need be."""
    kept = folder / "tokenizer"
    if kept.exists():
        return CLIPTokenizer.from_pretrained(kept, model_max_length=MAX_TOKENS)
    rng = random.Random(recipe.unet.seed)
    pieces = draw_pieces(recipe.data.train_clips, recipe.data.train_seed)
    captions = [caption_from_piece(p, rng) for p in pieces]
    _appear(kept, lambda fresh: train_tokenizer(captions, recipe.unet.vocabulary, fresh))
    return CLIPTokenizer.from_pretrained(kept, model_max_length=MAX_TOKENS)


def weights_sha256(model: Path) -> str:
    """One hash over all weight files of a model folder, in the order of their paths."""
    digest = hashlib.sha256()
    for path in sorted(model.rglob("*.safetensors")):
        digest.update(path.relative_to(model).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
