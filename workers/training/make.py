"""The whole making of the built-in model, stage by stage; a finished stage is never repeated.

Owns the order: clips, autoencoder, tokenizer, latents, denoiser with text encoder, the model's folder. Leaves out how
each is done.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from workers.training.captions import caption_from_piece
from workers.training.dataset import clips, draw_pieces
from workers.training.loop import append_log, train
from workers.training.networks import MAX_TOKENS, save_model, train_tokenizer
from workers.training.recipe import Recipe
from workers.training.steering import SteeringCheck
from workers.training.train_unet import UnetTraining
from workers.training.train_vae import VaeTraining, kept_latents


def make_model(recipe: Recipe, folder: Path, model: Path) -> None:
    """Make the model in `folder`, going on from whatever is there, and save it as `model`.

    The log of the training, `folder`/training_log.jsonl, ends with the hash of the saved weights.
    """
    torch.set_num_threads(recipe.torch_threads)
    vae = trained_autoencoder(recipe, folder)
    tokenizer = learnt_tokenizer(recipe, folder)
    check = SteeringCheck(recipe.data, vae, tokenizer, folder)
    trainee = UnetTraining(recipe.unet, tokenizer, *_material(recipe, vae, folder), check)
    train(trainee, folder, recipe.unet.minutes, recipe.unet.check_minutes, recipe.checkpoint_minutes)
    trainee.use_average()
    save_model(vae, trainee.unet, trainee.text, tokenizer, model)
    append_log(folder, {"part": "model", "sha256": weights_sha256(model)})


def trained_autoencoder(recipe: Recipe, folder: Path) -> AutoencoderKL:
    """The autoencoder kept in `folder`, trained there first if need be."""
    kept = folder / "vae"
    if not kept.exists():
        _, pixels = clips(recipe.data.train_clips, recipe.data.train_seed, folder)
        _, held_out = clips(recipe.data.held_out_clips, recipe.data.held_out_seed, folder)
        trainee = VaeTraining(recipe.vae, pixels, held_out)
        train(trainee, folder, recipe.vae.minutes, 3.0, recipe.checkpoint_minutes)
        trainee.finished().save_pretrained(kept)
    return AutoencoderKL.from_pretrained(kept).eval()


def learnt_tokenizer(recipe: Recipe, folder: Path) -> CLIPTokenizer:
    """The tokenizer kept in `folder`, learnt first from captions of the training pieces if need be."""
    kept = folder / "tokenizer"
    if kept.exists():
        return CLIPTokenizer.from_pretrained(kept, model_max_length=MAX_TOKENS)
    rng = random.Random(recipe.unet.seed)
    pieces = draw_pieces(recipe.data.train_clips, recipe.data.train_seed)
    return train_tokenizer([caption_from_piece(p, rng) for p in pieces], recipe.unet.vocabulary, kept)


def _material(recipe: Recipe, vae: AutoencoderKL, folder: Path) -> tuple[Any, np.ndarray[Any, Any]]:
    """The training pieces and their latents."""
    pieces, pixels = clips(recipe.data.train_clips, recipe.data.train_seed, folder)
    used = recipe.unet.clips
    return pieces[:used], kept_latents(vae, pixels[:used], folder / "latents.npy")


def weights_sha256(model: Path) -> str:
    """One hash over all weight files of a model folder, in the order of their paths."""
    digest = hashlib.sha256()
    for path in sorted(model.rglob("*.safetensors")):
        digest.update(path.relative_to(model).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
