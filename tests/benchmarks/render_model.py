"""Stable Diffusion 1.5's architecture with random weights, made on the spot: nothing is loaded from anywhere.

Owns the model, the frames it renders and how large a run is. Leaves out what is measured (`render_cuda`).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from shared.frames import Frame, FrameEnd, Noise
from shared.plan import LATENT_COLUMNS
from tests.benchmarks.render_cpu import MODEL, PROMPTS, STEPS

ORIGINS_STEPS: Final = 50
GUIDANCE: Final = 7.0


class Scale(NamedTuple):
    """How large a run is: the model's widths, and how much is done with it."""

    widths: tuple[int, int, int, int]
    vae_widths: tuple[int, int, int, int]
    layers: int
    text_width: int
    text_layers: int
    rows: int
    batch_sizes: tuple[int, ...]
    frames: int
    steps: int
    origins_steps: int
    stock_frames: int
    matrix: int
    compiler: str


WHOLE: Final = Scale(
    widths=(320, 640, 1280, 1280),
    vae_widths=(128, 256, 512, 512),
    layers=2,
    text_width=768,
    text_layers=12,
    rows=512,
    batch_sizes=(1, 2, 4, 8, 16, 32, 64),
    frames=8,
    steps=STEPS,
    origins_steps=ORIGINS_STEPS,
    stock_frames=4,
    matrix=8192,
    compiler="inductor",
)
REHEARSAL: Final = Scale(
    widths=(32, 32, 64, 64),
    vae_widths=(16, 16, 16, 16),
    layers=1,
    text_width=64,
    text_layers=1,
    rows=64,
    batch_sizes=(1, 2),
    frames=2,
    steps=3,
    origins_steps=4,
    stock_frames=1,
    matrix=128,
    compiler="eager",
)


def parts_from_scale(scale: Scale, device: torch.device) -> Any:
    """A `StableDiffusionPipeline` on the device, in float16 on CUDA; elsewhere in bfloat16, which CPUs know better."""
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer", model_max_length=77)
    torch.manual_seed(0)
    with device:
        unet, vae = _unet(scale), _vae(scale)
        text_encoder = CLIPTextModel(_text_config(scale, tokenizer))
    parts = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=origins_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    parts.set_progress_bar_config(disable=True)
    return parts.to(device, torch.float16 if device.type == "cuda" else torch.bfloat16)


def _unet(scale: Scale) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=scale.rows // LATENT_COLUMNS,
        block_out_channels=scale.widths,
        layers_per_block=scale.layers,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=scale.text_width,
        attention_head_dim=8,
    )


def _vae(scale: Scale) -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=scale.rows,
        latent_channels=4,
        block_out_channels=scale.vae_widths,
        layers_per_block=scale.layers,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=min(32, scale.vae_widths[0]),
    )


def _text_config(scale: Scale, tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=scale.text_width,
        intermediate_size=4 * scale.text_width,
        num_hidden_layers=scale.text_layers,
        num_attention_heads=scale.text_width // 64,
        max_position_embeddings=77,
        projection_dim=scale.text_width,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def origins_scheduler() -> PNDMScheduler:
    """PNDM as Stable Diffusion 1.5 ships it."""
    return PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        set_alpha_to_one=False,
        skip_prk_steps=True,
        steps_offset=1,
    )


def frames_of(count: int, scale: Scale, steps: int | None = None) -> list[Frame]:
    """Loops without a seed image, along the way between two prompts."""
    start, end = (
        FrameEnd(prompt=prompt, negative_prompt="", denoising_strength=1.0, guidance_scale=GUIDANCE)
        for prompt in PROMPTS
    )
    return [
        Frame(
            model="random",
            model_revision="1",
            sampler="dpmpp_2m",
            num_inference_steps=steps or scale.steps,
            columns=scale.rows,
            is_loop=True,
            seed_image=None,
            mask_image=None,
            noise=Noise(seed=1, end_seed=2, alpha=(index + 1) / (count + 1)),
            start=start,
            end=end,
            alpha=(index + 1) / (count + 1),
        )
        for index in range(count)
    ]
