"""A Stable Diffusion checkpoint of a few hundred kilobytes: the real layout and shapes, narrow, with random weights.

Owns the folder that tests load instead of a real model. Leaves out anything worth listening to.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, Literal

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

_WIDTHS: Final = (8, 16, 16, 16)
_TEXT_WIDTH: Final = 16
_SPECIAL: Final = ("<|startoftext|>", "<|endoftext|>")
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789,.'-!?"


def write_tiny_checkpoint(
    folder: Path,
    rows: int = 64,
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
    is_pickled: bool = False,
    seed: int = 0,
) -> Path:
    """Write a checkpoint for pictures of `rows` rows (a multiple of 64) into `folder` and return it.

    Its scheduler is written as Stable Diffusion 1.5 ships it. The same arguments give the same weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _tokenizer(folder / "tokenizer")
        parts = StableDiffusionPipeline(
            vae=_vae(rows),
            text_encoder=_text_encoder(tokenizer),
            tokenizer=tokenizer,
            unet=_unet(rows),
            scheduler=_scheduler(prediction_type),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    parts.save_pretrained(folder, safe_serialization=True)
    if is_pickled:
        _pickle_weights(folder)
    return folder


def _unet(rows: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=rows // 8,
        in_channels=4,
        out_channels=4,
        block_out_channels=_WIDTHS,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=_TEXT_WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()


def _vae(rows: int) -> AutoencoderKL:
    vae = AutoencoderKL(
        sample_size=rows,
        latent_channels=4,
        block_out_channels=(4, 8, 8, 8),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
    ).eval()
    with torch.no_grad():
        latents = vae.encode(torch.rand(1, 3, rows, rows) * 2 - 1).latent_dist.mode()
    # As in a trained model, a picture's latents are about as strong as the noise.
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    return vae


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_TEXT_WIDTH,
            intermediate_size=2 * _TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            projection_dim=_TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """A tokenizer whose tokens are single letters."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS), *_SPECIAL]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def _scheduler(prediction_type: str) -> PNDMScheduler:
    return PNDMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        set_alpha_to_one=False,
        skip_prk_steps=True,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def _pickle_weights(folder: Path) -> None:
    """Put a pickle in the place of every safetensors file, as checkpoints used to have."""
    names = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
    for part, stem in names.items():
        (folder / part / f"{stem}.safetensors").unlink()
        pickled = "pytorch_model.bin" if part == "text_encoder" else f"{stem}.bin"
        torch.save({}, folder / part / pickled)
