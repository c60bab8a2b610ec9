"""A checkpoint as Stable Diffusion 1.5 is published: its folders, files, settings and names of tensors, only narrower.

Owns the folder and LoRA files for it. Leaves out anything worth listening to: the weights are random.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from tests.booby_traps import write_trap

_TEXT_WIDTH: Final = 32
_VERSION: Final = "0.6.0"
_INDEX: Final = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": _VERSION,
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
_SCHEDULER: Final = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": _VERSION,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
_UNET: Final = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": _VERSION,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [32, 64, 64, 64],
    "center_input_sample": False,
    "cross_attention_dim": _TEXT_WIDTH,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
_VAE: Final = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": _VERSION,
    "act_fn": "silu",
    "block_out_channels": [32, 32, 32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
_OLD_ATTENTION: Final = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789,.'-!?"
_MERGES: Final = (("p", "i"), ("a", "n"), ("o", "</w>"), ("pi", "an"), ("t", "e"), ("c", "h"))


def write_sd15_checkpoint(folder: Path, rows: int = 512, seed: int = 0) -> Path:
    """Write a checkpoint for pictures of `rows` rows (a multiple of 64) into `folder` and return it.

    The same arguments give the same weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vocabulary = _write_tokenizer(folder / "tokenizer")
        _write_text_encoder(folder / "text_encoder", vocabulary)
        unet = {**_UNET, "sample_size": rows // 8}
        _write_part(folder / "unet", unet, UNet2DConditionModel.from_config(unet).state_dict())
        vae = {**_VAE, "sample_size": rows}
        _write_part(folder / "vae", vae, _old_names(AutoencoderKL.from_config(vae).state_dict()))
    _write_json(folder / "scheduler" / "scheduler_config.json", _SCHEDULER)
    # There in the published folder, as pickles, and of no use to spectrograms.
    _write_json(folder / "safety_checker" / "config.json", {"architectures": ["StableDiffusionSafetyChecker"]})
    write_trap(folder / "safety_checker" / "pytorch_model.bin")
    write_trap(folder / "unet" / "diffusion_pytorch_model.bin")
    _write_json(folder / "feature_extractor" / "preprocessor_config.json", {"feature_extractor_type": "CLIP"})
    _write_json(folder / "model_index.json", _INDEX)
    return folder


def _write_part(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    _write_json(folder / "config.json", config)
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})


def _old_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The autoencoder's attention as it was named when the model was published."""
    renamed = {}
    for name, tensor in tensors.items():
        old = name
        for new_part, old_part in _OLD_ATTENTION.items():
            old = old.replace(f".{new_part}.", f".{old_part}.") if ".attentions." in name else old
        renamed[old] = tensor
    return renamed


def _write_tokenizer(folder: Path) -> int:
    """A byte-pair tokenizer of 77 tokens a prompt; the size of its vocabulary."""
    pieces = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]
    pieces += ["".join(pair) for pair in _MERGES if "</w>" not in pair]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    _write_json(folder / "vocab.json", {piece: number for number, piece in enumerate(pieces)})
    merges = [" ".join(pair) for pair in _MERGES if "</w>" not in pair]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    _write_json(folder / "special_tokens_map.json", marks | {"pad_token": "<|endoftext|>"})
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, "errors": "replace"}
    _write_json(folder / "tokenizer_config.json", marks | settings | {"pad_token": "<|endoftext|>"})
    return len(pieces)


def _write_text_encoder(folder: Path, vocabulary: int) -> None:
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=_TEXT_WIDTH,
        intermediate_size=4 * _TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=_TEXT_WIDTH,
        hidden_act="quick_gelu",
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=1,
    )
    tensors = CLIPTextModel(config).state_dict()
    named = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in tensors.items()}
    # A buffer that was published with the weights and is none.
    named["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    _write_json(folder / "config.json", config.to_dict() | {"architectures": ["CLIPTextModel"]})
    save_file(named, folder / "model.safetensors", {"format": "pt"})


def _write_json(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2), encoding="utf-8")


Deltas = dict[str, dict[str, torch.Tensor]]
"""By part ("unet", "text_encoder") and module: what a LoRA file of weight 1 adds to the module's weights."""
_TARGETS: Final = {
    "unet": (
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
        "up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_out.0",
    ),
    "text_encoder": tuple(
        f"text_model.encoder.layers.1.{layer}"
        for layer in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1")
    ),
}
_RANK: Final = 4


def write_lora(
    file: Path,
    checkpoint: Path,
    layout: Literal["kohya", "diffusers"],
    alphas: tuple[float, ...] = (2.0,),
    seed: int = 0,
) -> Deltas:
    """Write a LoRA file for a checkpoint; what it adds to which weights.

    As kohya's trainer writes it (with an alpha of its own) or as diffusers does (alpha is the rank).
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    deltas: Deltas = {}
    for part, modules in _TARGETS.items():
        weights = part_tensors(checkpoint, part)
        for module in modules:
            height, width = weights[f"{module}.weight"].shape
            down = torch.randn(_RANK, width, generator=generator)
            up = 0.3 * torch.randn(height, _RANK, generator=generator)
            alpha = alphas[len(tensors) // 3 % len(alphas)] if layout == "kohya" else _RANK
            tensors |= (
                _kohya(part, module, down, up, alpha) if layout == "kohya" else _diffusers(part, module, down, up)
            )
            scale = alpha / _RANK
            deltas.setdefault(part, {})[module] = scale * up @ down
    save_file(tensors, file, {"format": "pt"})
    return deltas


def part_tensors(checkpoint: Path, part: str) -> dict[str, torch.Tensor]:
    """The weights of a part by their names in the file."""
    (file,) = (checkpoint / part).glob("*.safetensors")
    return load_file(file)


def merge_by_hand(checkpoint: Path, deltas: Deltas, weight: float) -> None:
    """Add a LoRA's deltas to the checkpoint's own files."""
    for part, modules in deltas.items():
        tensors = part_tensors(checkpoint, part)
        for module, delta in modules.items():
            tensors[f"{module}.weight"] = tensors[f"{module}.weight"] + weight * delta
        (file,) = (checkpoint / part).glob("*.safetensors")
        save_file(tensors, file, {"format": "pt"})


def _kohya(part: str, module: str, down: torch.Tensor, up: torch.Tensor, alpha: float) -> dict[str, torch.Tensor]:
    prefix = {"unet": "lora_unet", "text_encoder": "lora_te"}[part]
    name = f"{prefix}_{module.replace('.', '_')}"
    return {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(alpha)}


def _diffusers(part: str, module: str, down: torch.Tensor, up: torch.Tensor) -> dict[str, torch.Tensor]:
    name = f"{part}.{module}"
    return {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
