"""The diffusion pipeline on a tiny checkpoint: what determines a picture, and what must not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shared.errors import JobCanceled, RenderError
from tests.tiny_frames import (
    PREDICTIONS,
    ROWS,
    STEPS,
    a_frame,
    an_end,
    distance,
    mixed_frames,
    noise_from_seed,
    pixels,
    render_all,
    render_one,
)
from workers.batching import BatchSize
from workers.diffusion import FramePipeline, Step
from workers.noise import lerp, slerp

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is letting go.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")


def test_a_frame_has_the_same_bits_in_any_company_and_order(pipeline, seed_image):
    """Batches of 1, 2 and 5, in order and reversed, with strengths and samplers mixed."""
    other = an_end(prompt="techno drums", denoising_strength=0.9)
    frames = [
        a_frame(),
        a_frame(other, 0.5, end_seed=9),
        a_frame(other, 0.25, end_seed=9, sampler="euler_a"),
        a_frame(denoising_strength=1.0, seed=4),
        a_frame(denoising_strength=0.3, guidance_scale=2.0, num_inference_steps=9),
    ]
    alone = [render_one(pipeline, frame, seed_image).tobytes() for frame in frames]
    pairs = [image for at in (0, 2, 4) for image in render_all(pipeline, frames[at : at + 2], seed_image)]
    turned = render_all(pipeline, frames[::-1], seed_image)[::-1]
    for batched in (pairs, render_all(pipeline, frames, seed_image), turned):
        assert [image.tobytes() for image in batched] == alone
    assert len(set(alone)) == len(frames)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_frames_denoised_together_are_the_frames_denoised_alone(folders, seed_image, prediction):
    """As on a GPU: grouped by where their walk begins, each with its own noise, prompts, guidance and mask."""
    pipeline = FramePipeline.from_source(str(folders[prediction]), device="cpu")
    mask = Image.linear_gradient("L")
    alone = render_all(pipeline, mixed_frames(), seed_image, mask)
    calls: list[tuple[int, int]] = []
    pipeline._batch_size = BatchSize.fixed(8)
    together = render_all(
        pipeline, mixed_frames(), seed_image, mask, on_step=lambda step: calls.append((step.done, step.total))
    )
    assert max(np.abs(pixels(one) - pixels(other)).max() for one, other in zip(alone, together, strict=True)) <= 1
    groups = len({(frame.columns, frame.num_inference_steps) for frame in mixed_frames()})
    assert groups < len(calls) < sum(frame.num_inference_steps for frame in mixed_frames()) / 2
    assert calls[-1][0] == calls[-1][1]
    assert calls == sorted(calls)


@pytest.mark.gpu
def test_a_gpu_draws_what_a_cpu_draws(folders, pipelines, seed_image):
    """In half precision and in a batch, a picture stays within a few grey levels of the CPU's."""
    on_gpu = render_all(
        FramePipeline.from_source(str(folders["v_prediction"]), device="cuda"), mixed_frames(), seed_image
    )
    on_cpu = render_all(pipelines["v_prediction"], mixed_frames(), seed_image)
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


def test_alpha_is_exact_at_both_ends(pipeline, seed_image):
    """alpha 0 is the start's own picture to the bit, alpha 1 the end's."""
    far = an_end(prompt="techno drums", negative_prompt="hiss", denoising_strength=0.9, guidance_scale=3.0)
    start, end = a_frame(), a_frame(start=far, seed=2)
    between = [a_frame(far, alpha, end_seed=2) for alpha in (0.0, 1.0, 0.5)]
    at_start, at_end, middle = render_all(pipeline, between, seed_image)
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
    end_seed = changes.get("seed")
    far = an_end(**{name: value for name, value in changes.items() if name != "seed"})
    frames = [a_frame(far, alpha, end_seed=end_seed) for alpha in (0.0, 0.02, 0.6)]
    start, near, farther = pipeline.render(frames)
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


def test_progress_counts_every_step_of_every_frame(pipeline, seed_image):
    """The last call says all is done; a frame of half strength has half the steps."""
    calls: list[tuple[int, int]] = []
    frames = [a_frame(denoising_strength=1.0), a_frame(denoising_strength=0.5)]
    render_all(pipeline, frames, seed_image, on_step=lambda step: calls.append((step.done, step.total)))
    total = STEPS + STEPS // 2
    assert calls == [(done, total) for done in range(1, total + 1)]


def test_a_cancel_between_steps_ends_the_rendering_at_once(pipeline):
    """What the callback raises comes out unchanged, and the next rendering is whole."""
    steps: list[int] = []

    def cancel_at_third(step: Step) -> None:
        steps.append(step.done)
        if step.done == 3:
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
