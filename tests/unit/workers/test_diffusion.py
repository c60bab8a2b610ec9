"""The diffusion pipeline on a tiny checkpoint: what determines a picture, and what must not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline, UNet2DConditionModel
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from shared.contracts import Frame, FrameEnd
from shared.errors import JobCanceled, RenderError
from tests.tiny_checkpoint import write_tiny_checkpoint
from workers import checkpoint
from workers.diffusion import FramePipeline, lerp, rgb_from_image, slerp
from workers.samplers import SAMPLERS, new_scheduler, steps_from_strength

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is letting go.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")

ROWS = COLUMNS = 64
STEPS = 6
LATENTS = (1, 4, ROWS // 8, COLUMNS // 8)
PREDICTIONS = ("epsilon", "v_prediction")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny checkpoint for each kind of prediction."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: write_tiny_checkpoint(root / kind, ROWS, kind) for kind in PREDICTIONS}


@pytest.fixture(scope="module")
def pipelines(folders: dict[str, Path]) -> dict[str, FramePipeline]:
    """A pipeline for each kind of prediction."""
    return {kind: FramePipeline.from_source(str(folder), device="cpu") for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def pipeline(pipelines: dict[str, FramePipeline]) -> FramePipeline:
    """A pipeline as most checkpoints are: epsilon prediction and a PNDM scheduler."""
    return pipelines["epsilon"]


@pytest.fixture(scope="module")
def seed_image() -> Image.Image:
    """A picture of the frame's own size with structure in every corner."""
    y, x = np.mgrid[0:ROWS, 0:COLUMNS]
    grey = 128 + 80 * np.sin(x / 5) * np.cos(y / 7)
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def an_end(**changes: Any) -> FrameEnd:
    """What a keyframe gives to a frame."""
    plain = {
        "prompt": "a slow piano",
        "negative_prompt": "",
        "seed": 1,
        "denoising_strength": 0.5,
        "guidance_scale": 5.0,
    }
    return FrameEnd(**(plain | changes))


def a_frame(end: FrameEnd | None = None, alpha: float = 0.0, **changes: Any) -> Frame:
    """A frame; changes that are no frame's own field go to its start."""
    own = {name: changes.pop(name) for name in tuple(changes) if name in Frame.model_fields}
    plain = {
        "model": "tiny",
        "model_revision": "1",
        "sampler": "dpmpp_2m",
        "num_inference_steps": STEPS,
        "columns": COLUMNS,
        "seed_image": None,
        "mask_image": None,
        "start": an_end(**changes),
        "end": end,
        "alpha": alpha,
    }
    return Frame(**(plain | own))


def pixels(image: Image.Image) -> np.ndarray:
    """Grey levels as floats, shape (row, column, channel)."""
    return np.asarray(image, np.float64)


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean difference in grey levels."""
    return float(np.abs(pixels(one) - pixels(other)).mean())


def render_one(pipeline: FramePipeline, frame: Frame, *images: Image.Image) -> Image.Image:
    """The picture of a single frame."""
    (picture,) = pipeline.render([frame], *images)
    return picture


def stock_parts(pipeline: FramePipeline, sampler: Any) -> dict[str, Any]:
    """The same parts for one of diffusers' own pipelines."""
    parts = pipeline._parts.components
    scheduler = new_scheduler(sampler, parts["scheduler"].config)
    # Its pipelines insist on this offset, which this spacing does not use.
    return parts | {"scheduler": type(scheduler).from_config(scheduler.config, steps_offset=1)}


def draw(stock: Any, parts: dict[str, Any], **options: Any) -> Image.Image:
    """What one of diffusers' own pipelines draws of the plain frame's prompt."""
    drawing = stock(**parts, requires_safety_checker=False)
    drawing.set_progress_bar_config(disable=True)
    plain = {"prompt": "a slow piano", "guidance_scale": 5.0, "num_inference_steps": STEPS}
    (picture,) = drawing(**(plain | options)).images
    return picture


def noise_from_seed(seed: int) -> torch.Tensor:
    """The noise that a seed stands for."""
    return torch.randn(LATENTS, generator=torch.Generator("cpu").manual_seed(seed))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_frame_without_a_seed_image_is_what_diffusers_own_pipeline_draws(pipelines, prediction, sampler):
    """Text to picture agrees with StableDiffusionPipeline for the same noise, prompts and guidance."""
    pipeline = pipelines[prediction]
    ours = render_one(pipeline, a_frame(sampler=sampler, negative_prompt="noise", guidance_scale=6.5))
    theirs = draw(
        StableDiffusionPipeline,
        stock_parts(pipeline, sampler),
        guidance_scale=6.5,
        negative_prompt="noise",
        latents=noise_from_seed(1),
    )
    assert ours.size == (COLUMNS, ROWS)
    assert np.abs(pixels(ours) - pixels(theirs)).max() <= 1


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("strength", [0.2, 0.5, 0.84])
def test_a_frame_from_a_seed_image_is_what_diffusers_own_pipeline_draws(
    pipelines, seed_image, prediction, sampler, strength
):
    """Picture to picture agrees with StableDiffusionImg2ImgPipeline, which starts in the middle of the walk."""
    pipeline = pipelines[prediction]
    ours = render_one(pipeline, a_frame(sampler=sampler, denoising_strength=strength, seed=7), seed_image)
    theirs = draw(
        StableDiffusionImg2ImgPipeline,
        stock_parts(pipeline, sampler),
        image=pipeline._seed_latents(seed_image.tobytes(), COLUMNS).clone(),
        strength=strength,
        generator=torch.Generator("cpu").manual_seed(7),
    )
    assert np.abs(pixels(ours) - pixels(theirs)).max() <= 1


def test_a_frame_has_the_same_bits_in_any_company_and_order(pipeline, seed_image):
    """Batches of 1, 2 and 5, in order and reversed, with strengths and samplers mixed."""
    other = an_end(prompt="techno drums", seed=9, denoising_strength=0.9)
    frames = [
        a_frame(),
        a_frame(other, 0.5),
        a_frame(other, 0.25, sampler="ddim"),
        a_frame(denoising_strength=1.0, seed=4),
        a_frame(denoising_strength=0.3, guidance_scale=2.0, num_inference_steps=9),
    ]
    alone = [render_one(pipeline, frame, seed_image).tobytes() for frame in frames]
    pairs = [image for at in (0, 2, 4) for image in pipeline.render(frames[at : at + 2], seed_image)]
    turned = pipeline.render(frames[::-1], seed_image)[::-1]
    for batched in (pairs, pipeline.render(frames, seed_image), turned):
        assert [image.tobytes() for image in batched] == alone
    assert len(set(alone)) == len(frames)


def mixed_frames() -> list[Frame]:
    """Frames that differ in prompt, guidance, alpha, strength, steps and columns."""
    other = an_end(prompt="techno drums", seed=9, denoising_strength=0.9, guidance_scale=2.0)
    alphas = [a_frame(other, alpha) for alpha in (0.0, 0.2, 0.4, 0.9)]
    return [*alphas, a_frame(columns=128), a_frame(seed=3), a_frame(num_inference_steps=9), *alphas]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_frames_denoised_together_are_the_frames_denoised_alone(folders, seed_image, prediction):
    """As on a GPU: grouped by where their walk begins, each with its own noise, prompts, guidance and mask."""
    pipeline = FramePipeline.from_source(str(folders[prediction]), device="cpu")
    mask = Image.linear_gradient("L")
    alone = pipeline.render(mixed_frames(), seed_image, mask)
    calls: list[tuple[int, int]] = []
    pipeline._is_batching = True
    together = pipeline.render(mixed_frames(), seed_image, mask, lambda done, total: calls.append((done, total)))
    assert max(np.abs(pixels(one) - pixels(other)).max() for one, other in zip(alone, together, strict=True)) <= 1
    groups = len({(frame.columns, frame.num_inference_steps) for frame in mixed_frames()})
    assert groups < len(calls) < sum(frame.num_inference_steps for frame in mixed_frames()) / 2
    assert calls[-1][0] == calls[-1][1] == len(calls)


@pytest.mark.gpu
def test_a_gpu_draws_what_a_cpu_draws(folders, pipelines, seed_image):
    """In half precision and in a batch, a picture stays within a few grey levels of the CPU's."""
    on_gpu = FramePipeline.from_source(str(folders["v_prediction"]), device="cuda").render(mixed_frames(), seed_image)
    on_cpu = pipelines["v_prediction"].render(mixed_frames(), seed_image)
    assert max(distance(one, other) for one, other in zip(on_gpu, on_cpu, strict=True)) < 3


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "techno drums"},
        {"negative_prompt": "noise"},
        {"guidance_scale": 9.0},
        {"seed": 2},
        {"num_inference_steps": 9},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_a_frame_says_changes_its_picture(pipeline, change):
    """Prompts, guidance, seed and steps all reach the picture."""
    assert distance(render_one(pipeline, a_frame()), render_one(pipeline, a_frame(**change))) > 0.5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_sampler_walks_exactly_the_steps_asked_for(pipeline, sampler):
    """Any allowed number of steps begins at full noise and ends above zero, each step lower than the last."""
    for steps in range(1, 151):
        scheduler = new_scheduler(sampler, pipeline._parts.scheduler.config)
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps.tolist()
        assert len(timesteps) == steps
        assert timesteps[0] == 999
        assert timesteps[-1] >= 0
        assert all(after < before for before, after in pairwise(timesteps))


def test_the_noise_schedule_is_the_checkpoints_own(pipelines):
    """A sampler takes what the model was trained on from the checkpoint and its spacing from the table."""
    config = new_scheduler("dpmpp_2m", pipelines["v_prediction"]._parts.scheduler.config).config
    assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert config.prediction_type == "v_prediction"
    assert config.timestep_spacing == "linspace"


def test_ddim_is_diffusers_own_ddim(pipeline):
    """Where the number of steps divides 1000 both draw the same picture, but for one time step's rounding."""
    ours = render_one(pipeline, a_frame(sampler="ddim", num_inference_steps=10))
    parts = stock_parts(pipeline, "ddim")
    config = parts["scheduler"].config | {"timestep_spacing": "trailing", "clip_sample": False}
    parts["scheduler"] = DDIMScheduler.from_config(config)
    theirs = draw(StableDiffusionPipeline, parts, num_inference_steps=10, latents=noise_from_seed(1))
    assert distance(ours, theirs) < 1


def test_strength_0_is_the_seed_image_itself(pipeline, seed_image):
    """Nothing is denoised and nothing goes through the autoencoder."""
    steps: list[int] = []
    picture = pipeline.render(
        [a_frame(denoising_strength=0.0)], seed_image, on_step=lambda done, total: steps.append(done)
    )
    assert picture[0].tobytes() == seed_image.tobytes()
    assert steps == []


def test_the_stronger_the_farther_from_the_seed_image(pipeline, seed_image):
    """The distance to the seed image, as the autoencoder draws it, grows with denoising strength."""
    kept = render_one(pipeline, a_frame(), seed_image, Image.new("L", (COLUMNS, ROWS), 0))
    frames = [a_frame(denoising_strength=s, num_inference_steps=10, seed=3) for s in (0.1, 0.3, 0.5, 0.7, 0.9)]
    distances = [distance(picture, kept) for picture in pipeline.render(frames, seed_image)]
    assert distances == sorted(distances)
    assert distances[-1] > 2 * distances[0]


def test_strength_1_ignores_the_seed_image(pipeline, seed_image):
    """Full strength is the same picture as no seed image."""
    frame = a_frame(denoising_strength=1.0)
    assert render_one(pipeline, frame, seed_image).tobytes() == render_one(pipeline, frame).tobytes()


def test_without_a_seed_image_the_strength_does_not_matter(pipeline):
    """There is nothing to keep, so all the steps are walked."""
    pictures = pipeline.render([a_frame(denoising_strength=strength) for strength in (0.0, 0.4, 1.0)])
    assert len({picture.tobytes() for picture in pictures}) == 1


@pytest.mark.parametrize(
    ("strength", "steps", "walked"), [(0.0, 20, 0), (0.01, 20, 1), (0.29, 100, 29), (0.5, 25, 12), (1.0, 7, 7)]
)
def test_strength_is_the_share_of_steps_that_are_walked(strength, steps, walked):
    """Rounded down, but never to none above 0 and never off by a floating-point hair."""
    assert steps_from_strength(strength, steps) == walked


def test_a_black_mask_keeps_the_seed_image_and_a_white_one_nothing(pipeline, seed_image):
    """All black is the seed image's round trip whatever the prompt; all white is as without a mask."""
    black, white = (Image.new("L", (COLUMNS, ROWS), level) for level in (0, 255))
    frame, other = a_frame(denoising_strength=0.8), a_frame(denoising_strength=1.0, prompt="techno drums", seed=5)
    kept = render_one(pipeline, frame, seed_image, black)
    assert kept.tobytes() == render_one(pipeline, other, seed_image, black).tobytes()
    free = render_one(pipeline, frame, seed_image)
    assert free.tobytes() == render_one(pipeline, frame, seed_image, white).tobytes()
    assert distance(kept, free) > 1


@pytest.mark.parametrize("strength", [0.8, 1.0])
def test_a_mask_repaints_its_white_side_and_keeps_its_black_side(pipeline, seed_image, strength, monkeypatch):
    """Left black, right white: the left's latents are the seed image's to the bit, also from pure noise."""
    drawn: list[torch.Tensor] = []
    draw_latents = pipeline._picture_from_latents
    monkeypatch.setattr(
        pipeline, "_picture_from_latents", lambda latents: drawn.append(latents) or draw_latents(latents)
    )
    half = np.zeros((ROWS, COLUMNS), np.uint8)
    half[:, COLUMNS // 2 :] = 255
    frame = a_frame(denoising_strength=strength)
    kept = pixels(render_one(pipeline, frame, seed_image, Image.new("L", (COLUMNS, ROWS), 0)))
    change = np.abs(pixels(render_one(pipeline, frame, seed_image, Image.fromarray(half))) - kept)
    all_kept, half_kept = drawn
    middle = LATENTS[-1] // 2
    assert torch.equal(half_kept[..., :middle], all_kept[..., :middle])
    assert (half_kept[..., middle:] - all_kept[..., middle:]).abs().mean() > 0.1
    # In the picture both sides touch a little: the autoencoder looks at all of it.
    assert 2 * change[:, : COLUMNS // 4].mean() < change[:, -COLUMNS // 4 :].mean()


def test_a_grey_mask_lies_between_black_and_white(pipeline, seed_image):
    """The greyer, the nearer to the seed image."""
    frame = a_frame(denoising_strength=1.0)
    pictures = [render_one(pipeline, frame, seed_image, Image.new("L", (8, 8), grey)) for grey in (0, 64, 160, 255)]
    distances = [distance(picture, pictures[0]) for picture in pictures]
    assert distances == sorted(distances)
    assert len(set(distances)) == 4


def test_a_mask_without_a_seed_image_is_refused(pipeline):
    """There would be nothing to keep."""
    with pytest.raises(RenderError, match="seed image"):
        pipeline.render([a_frame()], None, Image.new("L", (8, 8)))


def test_alpha_is_exact_at_both_ends(pipeline, seed_image):
    """alpha 0 is the start's own picture to the bit, alpha 1 the end's."""
    far = an_end(prompt="techno drums", negative_prompt="hiss", seed=2, denoising_strength=0.9, guidance_scale=3.0)
    start, end = a_frame(), a_frame(start=far)
    at_start, at_end, middle = pipeline.render([a_frame(far, 0.0), a_frame(far, 1.0), a_frame(far, 0.5)], seed_image)
    assert at_start.tobytes() == render_one(pipeline, start, seed_image).tobytes()
    assert at_end.tobytes() == render_one(pipeline, end, seed_image).tobytes()
    assert middle.tobytes() not in (at_start.tobytes(), at_end.tobytes())


def test_equal_ends_give_the_same_picture_at_every_alpha(pipeline):
    """Nothing moves between two equal ends."""
    pictures = pipeline.render([a_frame(an_end(), alpha) for alpha in (0.0, 0.3, 0.7, 1.0)])
    assert len({picture.tobytes() for picture in pictures}) == 1


@pytest.mark.parametrize(
    "changes", [{"prompt": "techno"}, {"negative_prompt": "noise"}, {"seed": 2}, {"guidance_scale": 15.0}]
)
def test_a_small_alpha_is_a_small_change(pipeline, changes):
    """The picture leaves the start smoothly with the prompt, the negative prompt, the seed and the guidance."""
    far = an_end(**changes)
    start, near, farther = pipeline.render([a_frame(far, alpha) for alpha in (0.0, 0.02, 0.6)])
    assert distance(start, near) < 0.3 * distance(start, farther)


def test_pictures_are_as_wide_as_the_frame_says(pipeline):
    """Columns come from the frame, rows from the model; frames of one call may differ."""
    pictures = pipeline.render([a_frame(), a_frame(columns=128), a_frame(columns=72)])
    assert [picture.size for picture in pictures] == [(64, ROWS), (128, ROWS), (72, ROWS)]
    assert {picture.mode for picture in pictures} == {"RGB"}


def test_columns_off_the_grid_are_refused(pipeline):
    """The error says which multiple is right."""
    with pytest.raises(RenderError, match="multiple of 8"):
        pipeline.render([a_frame(columns=60)])


def test_a_seed_image_of_any_size_and_mode_is_taken(pipeline, seed_image):
    """Resampled to the frame's grid; the same picture in another form gives the same frame."""
    wide = seed_image.resize((200, 90))
    assert render_one(pipeline, a_frame(denoising_strength=0.0), wide).size == (COLUMNS, ROWS)
    deep = Image.fromarray(pixels(seed_image.convert("L")).astype(np.uint16) * 257)
    forms = [seed_image, seed_image.convert("RGBA"), seed_image.convert("L"), deep]
    assert len({render_one(pipeline, a_frame(), form).tobytes() for form in forms}) == 1


def test_transparency_is_silence():
    """What is transparent becomes white, and half transparent black becomes grey."""
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (0, 0, 0, 128))
    assert rgb_from_image(clear).getpixel((0, 0)) == (255, 255, 255)
    assert rgb_from_image(clear).getpixel((1, 0)) == (127, 127, 127)
    assert rgb_from_image(clear.quantize()).getpixel((0, 0)) == (255, 255, 255)


def test_a_seed_image_is_encoded_once(pipelines, seed_image):
    """All frames and calls of one job share the seed image's latents and the prompts' embeddings."""
    pipeline = FramePipeline(pipelines["epsilon"]._parts, torch.device("cpu"))
    for seed in range(3):
        pipeline.render([a_frame(seed=seed), a_frame(seed=seed + 10)], seed_image.copy())
    assert pipeline._seed_latents.cache_info().misses == 1
    assert pipeline._embedding.cache_info().misses == 2


def test_progress_counts_every_step_of_every_frame(pipeline, seed_image):
    """The last call says all is done; a frame of half strength has half the steps."""
    calls: list[tuple[int, int]] = []
    frames = [a_frame(denoising_strength=1.0), a_frame(denoising_strength=0.5)]
    pipeline.render(frames, seed_image, on_step=lambda done, total: calls.append((done, total)))
    total = STEPS + STEPS // 2
    assert calls == [(done, total) for done in range(1, total + 1)]


def test_a_cancel_between_steps_ends_the_rendering_at_once(pipeline):
    """What the callback raises comes out unchanged, and the next rendering is whole."""
    steps: list[int] = []

    def cancel_at_third(done: int, total: int) -> None:
        steps.append(done)
        if done == 3:
            raise JobCanceled

    before = render_one(pipeline, a_frame()).tobytes()
    with pytest.raises(JobCanceled):
        pipeline.render([a_frame(), a_frame(seed=2)], on_step=cancel_at_third)
    assert steps == [1, 2, 3]
    assert render_one(pipeline, a_frame()).tobytes() == before


def test_the_words_a_prompt_loses_are_named(pipeline):
    """The tokenizer reads 75 letters here; the rest is given back word for word."""
    read = "abc de " * 15
    assert pipeline.truncated_words(read) == ""
    assert pipeline.truncated_words(read + "And Bells!") == "And Bells!"
    assert pipeline.truncated_words("") == ""


def test_what_a_prompt_loses_does_not_reach_the_picture(pipeline):
    """A prompt that is cut off draws what its read part draws."""
    read = "abc de " * 15
    pictures = pipeline.render([a_frame(prompt=prompt) for prompt in (read, read + "and bells", read[:-9])])
    assert pictures[0].tobytes() == pictures[1].tobytes() != pictures[2].tobytes()


NOISES = st.integers(0, 2**32 - 1).map(noise_from_seed)
ALPHAS = st.floats(0, 1)


@given(NOISES, NOISES, ALPHAS)
def test_slerp_keeps_noise_as_strong_as_noise(start, end, alpha):
    """The norm stays between the ends' norms, where a straight way would lose up to 30 %."""
    norms = sorted((start.norm().item(), end.norm().item()))
    assert 0.999 * norms[0] <= slerp(start, end, alpha).norm().item() <= 1.001 * norms[1] + 1e-6


@given(NOISES, NOISES)
def test_slerp_is_exact_at_both_ends(start, end):
    """To the bit."""
    assert torch.equal(slerp(start, end, 0.0), start)
    assert torch.equal(slerp(start, end, 1.0), end)


@given(NOISES, ALPHAS, st.sampled_from([1.0, 1 + 1e-6, 0.5, -1.0, -1 + 1e-6, 0.0]))
def test_slerp_of_parallel_and_opposite_noises_is_finite(start, alpha, factor):
    """No arc, no division by its sine."""
    assert torch.isfinite(slerp(start, start * factor, alpha)).all()


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), ALPHAS)
def test_lerp_stays_between_its_ends(start, end, alpha):
    """And is exact at both."""
    assert lerp(start, end, 0.0) == start
    assert lerp(start, end, 1.0) == end
    low, high = sorted((start, end))
    assert low - 1e-9 <= lerp(start, end, alpha) <= high + 1e-9


@pytest.fixture
def broken(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a checkpoint to break."""
    return Path(shutil.copytree(folders["epsilon"], tmp_path / "broken"))


def assert_refused(folder: Path, *words: str) -> None:
    """Loading fails with one clear sentence that has these words."""
    with pytest.raises(RenderError) as error:
        FramePipeline.from_source(str(folder), device="cpu")
    for word in words:
        assert word in error.value.message
    assert "\n" not in error.value.message


@pytest.mark.parametrize("name", ["no/such/folder", "./nowhere", "../nowhere", "nowhere"])
def test_a_missing_folder_is_named(tmp_path, monkeypatch, name):
    """A path that is no hub id is never looked for anywhere else."""
    monkeypatch.chdir(tmp_path)
    assert_refused(Path(name) if name == "nowhere" else tmp_path / name, "no model folder", Path(name).name)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    """It lacks the index that every checkpoint has."""
    assert_refused(tmp_path, "model_index.json")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(broken, part):
    """Each part of the layout is needed."""
    shutil.rmtree(broken / part)
    assert_refused(broken, f"has no {part}")


def test_pickled_weights_are_never_read(tmp_path):
    """A checkpoint of pickles alone is refused with the reason."""
    assert_refused(write_tiny_checkpoint(tmp_path / "pickled", is_pickled=True), "pickle", "safetensors")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.6])
def test_truncated_weights_are_refused(broken, part, kept):
    """Cut off within the header or within the numbers."""
    (weights,) = (broken / part).glob("*.safetensors")
    data = weights.read_bytes()
    weights.write_bytes(data[: int(kept * len(data))])
    assert_refused(broken, "cannot be loaded")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_with_a_tensor_missing_are_refused(broken, part):
    """It would be drawn at random, another one each time."""
    (weights,) = (broken / part).glob("*.safetensors")
    tensors = load_file(weights)
    lost = sorted(tensors)[len(tensors) // 2]
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, weights, {"format": "pt"})
    assert_refused(broken, "cannot be loaded", part, "lack 1 tensor")


def test_weights_under_the_old_names_of_attention_are_read(pipeline, broken):
    """The autoencoders of Stable Diffusion 1 have them, and the same picture comes out."""
    (weights,) = (broken / "vae").glob("*.safetensors")
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(weights)
    renamed = {
        name.replace(new, old): tensors[name]
        for name in tensors
        for new, old in [next((pair for pair in old_names.items() if pair[0] in name), ("", ""))]
    }
    assert renamed.keys() != tensors.keys()
    save_file(renamed, weights, {"format": "pt"})
    old = FramePipeline.from_source(str(broken), device="cpu")
    assert render_one(old, a_frame()).tobytes() == render_one(pipeline, a_frame()).tobytes()


def test_code_of_a_checkpoint_is_never_run(broken):
    """A part that brings its own class never has it imported."""
    index = json.loads((broken / "model_index.json").read_text())
    (broken / "model_index.json").write_text(json.dumps(index | {"unet": ["own_unet", "OwnUnet"]}))
    trace = broken / "was_run"
    (broken / "unet" / "own_unet.py").write_text(f"open({str(trace)!r}, 'w')\nclass OwnUnet: ...\n")
    with suppress(RenderError):
        FramePipeline.from_source(str(broken), device="cpu")
    assert not trace.exists()


def test_a_hub_id_is_asked_for_by_revision_and_without_pickles(folders, monkeypatch):
    """An id goes to the hub with its revision; nothing but settings, words and safetensors comes back."""
    asked: dict[str, Any] = {}

    def snapshot_download(source: str, **options: Any) -> str:
        asked.update(options, source=source)
        return str(folders["epsilon"])

    monkeypatch.setattr(checkpoint, "snapshot_download", snapshot_download)
    assert FramePipeline.from_source("riffusion/riffusion-model-v1", revision="abc123", device="cpu").rows == ROWS
    assert asked["source"] == "riffusion/riffusion-model-v1"
    assert asked["revision"] == "abc123"
    assert {pattern.rpartition(".")[2] for pattern in asked["allow_patterns"]} == {"json", "txt", "safetensors"}


def test_a_hub_that_cannot_be_reached_is_named_as_the_reason(monkeypatch):
    """What looks like an id may be a mistyped folder: the error speaks of both."""

    def snapshot_download(source: str, **options: Any) -> str:
        raise OSError("no connection")

    monkeypatch.setattr(checkpoint, "snapshot_download", snapshot_download)
    with pytest.raises(RenderError, match=r"no model folder 'some/model'.*hub: no connection"):
        FramePipeline.from_source("some/model", device="cpu")


def test_parts_that_do_not_fit_together_are_refused(tmp_path, folders):
    """A denoiser that reads wider prompts than the text encoder writes, as larger models do."""
    parts = StableDiffusionPipeline.from_pretrained(folders["epsilon"], safety_checker=None)
    for changes, words in (({"cross_attention_dim": 32}, "prompts 32 wide"), ({"in_channels": 9}, "inpainting")):
        other = UNet2DConditionModel.from_config(parts.unet.config, **changes)
        folder = Path(shutil.copytree(folders["epsilon"], tmp_path / str(next(iter(changes)))))
        other.save_pretrained(folder / "unet")
        assert_refused(folder, words)


def test_a_scheduler_without_a_noise_schedule_is_refused(broken):
    """Flow matching, for one, is another kind of model; a damaged file is none at all."""
    file = broken / "scheduler" / "scheduler_config.json"
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    file.write_text(json.dumps(config))
    assert_refused(broken, "beta_schedule")
    file.write_text("{")
    assert_refused(broken, "scheduler", "cannot be read")


def test_precision_follows_the_device_unless_asked_for(folders):
    """float32 on a CPU by default; bfloat16 stays near it."""
    exact = FramePipeline.from_source(str(folders["epsilon"]), device="cpu")
    rough = FramePipeline.from_source(str(folders["epsilon"]), device="cpu", dtype="bfloat16")
    assert exact.device == rough.device == torch.device("cpu")
    assert exact._parts.unet.dtype == torch.float32
    assert 0 < distance(render_one(exact, a_frame()), render_one(rough, a_frame())) < 4
