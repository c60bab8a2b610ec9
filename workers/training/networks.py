"""The built-in model's parts in diffusers' own classes, and the folder they are saved in.

Owns sizes, the tokenizer and the folder's layout. Leaves out training.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Final

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers import Regex, normalizers, pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from workers.training.recipe import UnetRecipe, VaeRecipe

LATENT_CHANNELS: Final = 4
LATENT_FACTOR: Final = 8
MAX_TOKENS: Final = 77
_START, _END, _WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
_WORDS: Final = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def autoencoder(recipe: VaeRecipe) -> AutoencoderKL:
    """An untrained autoencoder of factor 8 for pictures of three channels."""
    levels = len(recipe.widths)
    return AutoencoderKL(
        block_out_channels=recipe.widths,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=recipe.norm_groups,
        layers_per_block=1,
        mid_block_add_attention=False,
        sample_size=512,
    )


def denoiser(recipe: UnetRecipe) -> UNet2DConditionModel:
    """An untrained denoiser that looks at the caption at every level but the top.

    Attention at half the latents' size is what makes instruments follow their words; leaving it to the lower levels
    gives a lower loss and pictures that ignore the instrument. The caption as a whole also joins the time step, so
    that what holds for the whole picture need not be found by attention.
    """
    lower = len(recipe.widths) - 1
    return UNet2DConditionModel(
        sample_size=64,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=recipe.widths,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * lower,
        up_block_types=("CrossAttnUpBlock2D",) * lower + ("UpBlock2D",),
        cross_attention_dim=recipe.text_width,
        # By this name the class has always taken the number of heads.
        attention_head_dim=recipe.heads,
        addition_embed_type="text",
        addition_embed_type_num_heads=recipe.heads,
        norm_num_groups=recipe.norm_groups,
    )


def text_encoder(recipe: UnetRecipe, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained text encoder for a tokenizer's vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.text_width,
            intermediate_size=4 * recipe.text_width,
            num_hidden_layers=recipe.text_layers,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=recipe.text_width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def networks_from(model: Path) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """The denoiser and the text encoder of a saved model's folder, in full precision, to be trained on."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet", torch_dtype=torch.float32, low_cpu_mem_usage=False)
    text = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32)
    return unet, text


def scheduler() -> DPMSolverMultistepScheduler:
    """The noise schedule the denoiser is trained on, as the sampler it is shipped with."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=1_000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        algorithm_type="dpmsolver++",
        solver_order=2,
        timestep_spacing="trailing",
        steps_offset=1,
    )


def train_tokenizer(captions: Iterable[str], vocabulary: int, folder: Path) -> CLIPTokenizer:
    """A byte-pair tokenizer in CLIP's own form of at most `vocabulary` tokens, learnt from captions, in a new `folder`.

    Every byte has its tokens, so that any prompt has. The same captions give the same tokens, which the library's own
    trainer does not promise.
    """
    normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    splitter = pre_tokenizers.Sequence([words, bytewise])
    counts: Counter[str] = Counter()
    for caption, times in Counter(captions).items():
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(caption)):
            counts[word] += times
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [_START, _END, *alphabet, *(byte + _WORD_END for byte in alphabet)]
    merges = _merges(counts, vocabulary - len(tokens))
    tokens += ["".join(pair) for pair in merges]
    folder.mkdir(parents=True)
    numbered = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(numbered, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _merges(words: Counter[str], most: int) -> list[tuple[str, str]]:
    """The pairs to join in turn: each time the most frequent, of equal ones the last in the alphabet."""
    splits = {word: [*word[:-1], word[-1] + _WORD_END] for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < most:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in splits.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        merges.append(max(pairs, key=lambda pair: (pairs[pair], pair)))
        splits = {word: _joined(parts, merges[-1]) for word, parts in splits.items()}
    return merges


def _joined(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Parts of a word with each occurrence of a pair made one."""
    joined: list[str] = []
    for part in parts:
        # A part that a join has just made is longer than the pair's first.
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def tokens_from_captions(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids, shape (caption, MAX_TOKENS)."""
    ids: torch.Tensor = tokenizer(
        captions, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
    ).input_ids
    return ids


def save_model(
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    folder: Path,
) -> None:
    """Save the whole model in half precision as a Stable Diffusion folder, safetensors alone, replacing `folder`."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    # Not where they lay while they were trained: that is nobody's business.
    vae.register_to_config(_name_or_path="vae")
    unet.register_to_config(_name_or_path="unet")
    # A tokenizer that was used has noted how; unused it is the same file again.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    pipeline(vae, unet, text, tokenizer).to(torch.float16).save_pretrained(fresh, safe_serialization=True)
    # The files of CLIP's own form too, for readers that know no tokenizer.json.
    tokenizer.backend_tokenizer.model.save(str(fresh / "tokenizer"))
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def pipeline(
    vae: AutoencoderKL, unet: UNet2DConditionModel, text: CLIPTextModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """The parts as one text-to-image pipeline without a safety checker."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
