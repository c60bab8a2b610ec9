"""The denoiser against diffusers' own UNet, and what is kept from one call to the next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D

from workers.checkpoint import load_checkpoint
from workers.cpu_layers import quicken
from workers.denoiser import Denoiser
from workers.seamless import TimeCircle

CPU = torch.device("cpu")
MINI = Path(__file__).parents[3] / "workers" / "models" / "riffarm-mini"
TOKENS = 5


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """As a worker on a CPU has it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def wide_unet(seed: int = 0, **changes: Any) -> UNet2DConditionModel:
    """Two levels as Stable Diffusion has them, in widths that the compiled loops take."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    unet: UNet2DConditionModel = UNet2DConditionModel(**(options | changes)).eval()
    with torch.no_grad():
        for weights in unet.parameters():
            # Normalisation begins as nothing but itself, which would hide what it does with its weights.
            weights.add_(0.1 * torch.randn_like(weights))
    return unet


UNETS = [
    pytest.param({}, id="narrow heads"),
    pytest.param({"attention_head_dim": 2, "use_linear_projection": True}, id="wider heads, projected linearly"),
    pytest.param({"attention_head_dim": 1, "upcast_attention": True}, id="heads as wide as all"),
    pytest.param({"block_out_channels": (8, 24)}, id="widths of no whole lanes"),
    pytest.param({"attention_head_dim": (2, 4), "transformer_layers_per_block": 2}, id="heads by level"),
]


def inputs(frames: int = 1, rows: int = 8, columns: int = 16, seed: int = 1) -> tuple[torch.Tensor, ...]:
    """Latents, a point in time, embeddings and guidance."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn((frames, 4, rows, columns), generator=generator)
    embeddings = torch.randn((2 * frames, TOKENS, 16), generator=generator)
    return latents, torch.tensor(321), embeddings, torch.linspace(1, 7, frames).view(-1, 1, 1, 1)


@torch.inference_mode()
def by_diffusers(unet: Any, given: tuple[torch.Tensor, ...], *, is_closed: bool = False) -> torch.Tensor:
    """The same without any haste."""
    latents, timestep, embeddings, guidance = given
    circle = TimeCircle(unet)
    pair = torch.cat([latents, latents])
    if is_closed:
        with circle.closed():
            predicted = unet(pair, timestep, encoder_hidden_states=embeddings).sample
    else:
        predicted = unet(pair, timestep, encoder_hidden_states=embeddings).sample
    away, towards = predicted.chunk(2)
    return away + guidance * (towards - away)


@pytest.mark.parametrize("is_closed", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize("changes", UNETS)
def test_it_predicts_what_diffusers_does(changes: dict[str, Any], is_closed: bool) -> None:
    """To a rounding, for UNets of both generations and of any width, on a circle too."""
    given = inputs()
    expected = by_diffusers(wide_unet(**changes), given, is_closed=is_closed)
    found = Denoiser(wide_unet(**changes), CPU, torch.float32)(*given, is_closed=is_closed)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 2e-4 * expected.std()


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (6, 10), (8, 34)])
def test_any_grid_is_denoised(rows: int, columns: int) -> None:
    """Grids of no whole lanes, and of no whole halves further down."""
    given = inputs(rows=rows, columns=columns)
    expected = by_diffusers(wide_unet(), given)
    found = Denoiser(wide_unet(), CPU, torch.float32)(*given, is_closed=False)
    assert (found - expected).abs().max() < 2e-4 * expected.std()


def test_other_prompts_are_heard_at_once() -> None:
    """What is kept of a prompt's embeddings is not given to another's, of the same shape and back again."""
    denoiser = Denoiser(wide_unet(), CPU, torch.float32)
    latents, timestep, embeddings, guidance = inputs()
    others = embeddings.flip(1) * 2
    calls = [denoiser(latents, timestep, words, guidance, is_closed=False) for words in (embeddings, others) * 2]
    assert torch.equal(calls[0], calls[2])
    assert torch.equal(calls[1], calls[3])
    assert (calls[0] - calls[1]).abs().max() > 1e-3


def test_a_prompt_is_projected_once_for_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second step asks no layer for the keys and values of the same embeddings."""
    unet = wide_unet()
    denoiser = Denoiser(unet, CPU, torch.float32)
    asked: list[str] = []
    for name, module in unet.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            module.register_forward_pre_hook(lambda *_, name=name: asked.append(name))
    latents, _, embeddings, guidance = inputs()
    for step in (900, 500, 100):
        denoiser(latents, torch.tensor(step), embeddings, guidance, is_closed=False)
    assert asked
    assert len(asked) == len(set(asked))


def test_guidance_is_each_frames_own() -> None:
    """At 1 the negative prompt is not heard, at more it is; frames of a batch differ in theirs."""
    denoiser = Denoiser(wide_unet(), CPU, torch.float32)
    latents, timestep, embeddings, guidance = inputs(frames=2)
    deaf, hearing = denoiser(latents, timestep, embeddings, guidance, is_closed=False)
    embeddings = torch.cat([embeddings[:2] + 1, embeddings[2:]])
    still_deaf, changed = denoiser(latents, timestep, embeddings, guidance, is_closed=False)
    assert torch.allclose(deaf, still_deaf, atol=1e-5)
    assert (hearing - changed).abs().max() > 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_near(dtype: torch.dtype) -> None:
    """Weights stay in their precision; what comes out is float32 and near."""
    given = inputs()
    expected = by_diffusers(wide_unet(), given)
    unet = wide_unet()
    found = Denoiser(unet, CPU, dtype)(*given, is_closed=True)
    assert unet.dtype == dtype
    assert found.dtype == torch.float32
    found = Denoiser(wide_unet(), CPU, dtype)(*given, is_closed=False)
    assert (found - expected).abs().mean() < 0.05 * expected.std()


def test_the_same_call_gives_the_same_bits() -> None:
    """Twice, and from a denoiser made anew."""
    one, other = (Denoiser(wide_unet(), CPU, torch.float32) for _ in range(2))
    given = inputs()
    first = one(*given, is_closed=True)
    one(*inputs(seed=5), is_closed=False)
    assert torch.equal(first, one(*given, is_closed=True))
    assert torch.equal(first, other(*given, is_closed=True))


@pytest.mark.parametrize("is_closed", [False, True], ids=["open", "closed"])
@torch.inference_mode()
def test_an_autoencoder_is_quickened_too(is_closed: bool) -> None:
    """Both ways between pictures and latents, as before to a rounding."""
    plain, quick = (autoencoder() for _ in range(2))
    quicken(quick)
    blocks = [one for one in quick.modules() if isinstance(one, ResnetBlock2D | Upsample2D)]
    assert all("forward" in vars(block) for block in blocks)
    picture = torch.rand((1, 3, 32, 64), generator=torch.Generator().manual_seed(3)) * 2 - 1
    found = []
    for vae in (plain, quick):
        circle = TimeCircle(vae)
        if is_closed:
            with circle.closed():
                latents = vae.encode(picture).latent_dist.mode()
                found.append((latents, vae.decode(latents).sample))
        else:
            latents = vae.encode(picture).latent_dist.mode()
            found.append((latents, vae.decode(latents).sample))
    for expected, quickened in zip(*found, strict=True):
        assert (expected - quickened).abs().max() < 2e-4 * expected.std()


def autoencoder() -> AutoencoderKL:
    """Three levels, with attention in the middle as Stable Diffusion's has it."""
    torch.manual_seed(2)
    made: AutoencoderKL = AutoencoderKL(
        sample_size=32,
        latent_channels=4,
        block_out_channels=(16, 32, 32),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
    ).eval()
    return made


@torch.inference_mode()
def test_the_built_in_model_is_what_diffusers_makes_of_it() -> None:
    """The model that ships, whole: its weights are no random ones."""
    plain, quick = (load_checkpoint(str(MINI), None, torch.float32).unet for _ in range(2))
    generator = torch.Generator().manual_seed(4)
    latents = torch.randn((1, 4, 64, 64), generator=generator)
    embeddings = torch.randn((2, 77, 128), generator=generator)
    given = (latents, torch.tensor(500), embeddings, torch.full((1, 1, 1, 1), 5.0))
    expected = by_diffusers(plain, given, is_closed=True)
    found = Denoiser(quick, CPU, torch.float32)(*given, is_closed=True)
    assert (found - expected).abs().max() < 2e-4 * expected.std()
