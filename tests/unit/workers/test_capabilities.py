"""What each parameter does to the built-in model's pictures and sound: each test fails if its parameter is ignored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image

from shared.contracts import ClipRequest, Keyframe, RemixRequest, TrackRequest
from shared.frames import frame_hash
from shared.object_store import LocalDiskStore, frame_key, upload_key
from shared.plan import Plan, RenderRequest, Sources
from shared.resolving import resolve
from shared.spectrogram_params import SpectrogramParams
from workers.cli import BUILT_IN_MODEL
from workers.diffusion import FramePipeline
from workers.joins import repaint_mask, repaint_window
from workers.phase import waveform_from_mel_amplitudes
from workers.seed_images import FOLDER
from workers.seed_pictures import SeedPictures
from workers.spectrogram import mel_amplitudes_from_image, mel_amplitudes_from_waveform

STEPS = 8
GRID = SpectrogramParams()
SOURCES = Sources("1")
WITH_SEED = Sources("1", seed_image_sha256="ab")
BEAT_WORDS = "four on the floor drums"
BEAT = f"fast techno synth, {BEAT_WORDS}"
Grey = NDArray[np.float64]


@pytest.fixture(scope="module")
def mini() -> Iterator[FramePipeline]:
    """The built-in model on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield FramePipeline.from_source(str(BUILT_IN_MODEL), device="cpu")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def og_beat() -> Image.Image:
    return Image.open(FOLDER / "og_beat.png")


def planned(request: RenderRequest, sources: Sources = SOURCES) -> Plan:
    return Plan(resolve(request, sources, lambda: 7), sources)


def clip(prompt: str = "jazz piano", sources: Sources = SOURCES, **fields: Any) -> Plan:
    return planned(ClipRequest(prompt=prompt, num_inference_steps=STEPS, **({"seed": 1} | fields)), sources)


def track(*keyframes: Keyframe, sources: Sources = SOURCES, **fields: Any) -> Plan:
    fields = {"duration_s": 5.12 * len(keyframes), "num_inference_steps": STEPS} | fields
    return planned(TrackRequest(keyframes=list(keyframes), **fields), sources)


def drawn(
    mini: FramePipeline,
    plan: Plan,
    *numbers: int,
    seed_image: Image.Image | None = None,
    mask_image: Image.Image | None = None,
) -> list[Grey]:
    """Grey levels of the numbered frames, all of them when none is named."""
    frames = [plan.frame(number) for number in numbers or range(plan.base_frames)]
    images = mini.render(frames, [seed_image] * len(frames), [mask_image] * len(frames))
    return [np.asarray(image.convert("L"), np.float64) for image in images]


def distance(one: Grey, other: Grey) -> float:
    return float(np.abs(one - other).mean())


def likeness(one: Grey, other: Grey) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def highs(picture: Grey) -> float:
    """How dark the upper quarter is, where little but strokes is: 0..255."""
    return float(255 - picture[:128].mean())


def test_a_negative_prompt_leads_away_from_what_it_names(mini: FramePipeline) -> None:
    """A slow jazz piano strikes little unasked; led away from "no drums" it does, with every seed."""
    plain, without = (
        [highs(drawn(mini, clip("slow jazz piano", seed=seed, negative_prompt=negative))[0]) for seed in (1, 2, 3)]
        for negative in ("", "no drums")
    )
    assert all(more > 1.5 * less for more, less in zip(without, plain, strict=True))


def test_a_weight_makes_its_words_count_more_or_less(mini: FramePipeline) -> None:
    """The heavier words are, the further are pictures from those without them."""
    away = np.zeros(4)
    for seed in (1, 2, 3):
        pictures = [
            drawn(mini, clip(f"slow ambient strings, no drums, ({BEAT_WORDS}:{weight})", seed=seed))[0]
            for weight in (0.0, 0.3, 1.0, 1.5)
        ]
        away += [distance(picture, pictures[0]) for picture in pictures]
    _, light, plain, heavy = away
    assert 1.2 * light < plain
    assert 1.2 * plain < heavy


def test_guidance_makes_the_prompt_count_more(mini: FramePipeline) -> None:
    """Guidance 1 is the prompt's own picture; more leads away from what no prompt draws."""
    nothing = drawn(mini, clip(".", guidance_scale=1.0))[0]
    away = [distance(drawn(mini, clip(BEAT, guidance_scale=scale))[0], nothing) for scale in (1.0, 3.0, 7.0)]
    assert away == sorted(away)


def test_a_mask_keeps_its_black_side_within_a_decibel(mini: FramePipeline, og_beat: Image.Image) -> None:
    """Mel amplitudes of the kept half stay as they were; the white half becomes something else."""
    half = np.zeros((512, 512), np.uint8)
    half[:, 256:] = 255
    plan = clip("slow ambient strings, no drums", WITH_SEED, seed_image="og_beat", denoising_strength=1.0)
    (picture,) = mini.render([plan.frame(0)], [og_beat], [Image.fromarray(half)])
    before, after = (mel_amplitudes_from_image(image, GRID)[0] for image in (og_beat, picture))
    is_heard = before > 1e-3
    change_db = np.abs(20 * np.log10((after + 1e-9) / (before + 1e-9)))
    assert change_db[:, :248][is_heard[:, :248]].max() < 1.0
    assert change_db[:, 256:][is_heard[:, 256:]].mean() > 6.0


def test_a_grey_mask_blends(mini: FramePipeline, og_beat: Image.Image) -> None:
    """The lighter the mask, the farther from the seed image."""
    plan = clip("slow ambient strings", WITH_SEED, seed_image="og_beat", denoising_strength=0.9)
    kept = np.asarray(og_beat.convert("L"), np.float64)
    masks = [Image.new("L", (512, 512), level) for level in (64, 160, 255)]
    away = [distance(drawn(mini, plan, seed_image=og_beat, mask_image=mask)[0], kept) for mask in masks]
    assert away == sorted(away)
    assert away[0] < 0.5 * away[-1]


def test_strength_sweeps_from_the_seed_image_to_the_prompt(mini: FramePipeline, og_beat: Image.Image) -> None:
    """0 is the seed image's own sound, 1 ignores it, and what lies between moves away from it step by step."""
    kept = np.asarray(og_beat.convert("L"), np.float64)
    strengths = (0.0, 0.25, 0.5, 0.75, 1.0)
    plans = [clip("jazz piano", WITH_SEED, seed_image="og_beat", denoising_strength=one) for one in strengths]
    pictures = [drawn(mini, plan, seed_image=og_beat)[0] for plan in plans]
    away = [distance(picture, kept) for picture in pictures]
    assert away == sorted(away)
    assert away[0] == 0
    assert np.array_equal(pictures[-1], drawn(mini, clip("jazz piano"))[0])


def test_each_keyframe_has_its_own_strength_and_guidance(mini: FramePipeline, og_beat: Image.Image) -> None:
    """One prompt and seed, two keyframes: only what they say of strength and guidance tells them apart."""
    keyframes = (
        Keyframe(prompt="jazz piano", seed=1, denoising_strength=0.3),
        Keyframe(prompt="jazz piano", seed=1, denoising_strength=0.9),
    )
    near, far = drawn(mini, track(*keyframes, sources=WITH_SEED, seed_image="og_beat"), seed_image=og_beat)
    kept = np.asarray(og_beat.convert("L"), np.float64)
    assert distance(near, kept) < 0.7 * distance(far, kept)
    weak, strong = drawn(mini, track(*(Keyframe(prompt=BEAT, seed=1, guidance_scale=one) for one in (1.5, 9.0))))
    assert distance(weak, strong) > 3


def test_keyframes_are_met_exactly_and_left_smoothly(mini: FramePipeline) -> None:
    """Three keyframes placed in time: their own frames are what they draw alone, frames between lie between."""
    keyframes = [
        Keyframe(prompt=prompt, seed=seed, at_s=at_s)
        for prompt, seed, at_s in (("jazz piano", 1, 0.0), (BEAT, 2, 10.24), ("slow ambient strings", 3, 15.36))
    ]
    pictures = drawn(mini, track(*keyframes, duration_s=20.48))
    for number, keyframe in zip((0, 2, 3), keyframes, strict=True):
        alone = drawn(mini, track(keyframe.model_copy(update={"at_s": None})))[0]
        assert np.array_equal(pictures[number], alone)
    apart = distance(pictures[0], pictures[2])
    assert distance(pictures[0], pictures[1]) < apart
    assert distance(pictures[1], pictures[2]) < apart


def test_the_alpha_curve_bends_the_way(mini: FramePipeline) -> None:
    """A power above 1 stays nearer to the first keyframe."""
    keyframes = (Keyframe(prompt="jazz piano", seed=1), Keyframe(prompt=BEAT, seed=1))
    curves: tuple[Any, ...] = ("linear", {"power": 4.0})
    plans = [track(*keyframes, duration_s=15.36, alpha_curve=curve) for curve in curves]
    (first, straight), (_, late) = (drawn(mini, plan, 0, 1) for plan in plans)
    assert distance(first, late) < 0.5 * distance(first, straight)


def test_equal_keyframes_of_one_seed_are_constant(mini: FramePipeline) -> None:
    """Where nothing moves, every frame is the same to the bit."""
    same = Keyframe(prompt="jazz piano", seed=1)
    pictures = drawn(mini, track(same, same, duration_s=15.36))
    assert len({picture.tobytes() for picture in pictures}) == 1


def test_variations_are_different_takes(mini: FramePipeline) -> None:
    """One prompt, three seeds, three pictures that have little in common."""
    takes = drawn(mini, clip(variations=3))
    assert max(likeness(takes[a], takes[b]) for a, b in ((0, 1), (0, 2), (1, 2))) < 0.8


def test_a_constant_prompt_does_not_repeat_itself(mini: FramePipeline) -> None:
    """In ten minutes of one prompt each frame resembles the next far less than on the plain walk between two seeds."""
    plan = clip(duration_s=600.0)
    here, following, later = drawn(mini, plan, 0, 1, 4)
    plain = plan.frame(0).model_copy(
        update={"noise": plan.frame(0).noise.model_copy(update={"end_seed": 5, "alpha": 1 / (plan.part_frames - 1)})}
    )
    (walked,) = mini.render([plain])
    assert likeness(here, np.asarray(walked.convert("L"), np.float64)) > 0.99
    assert likeness(here, following) < 0.9
    assert likeness(here, later) < 0.6


def test_the_painted_joint_grows_together(mini: FramePipeline) -> None:
    """Where two frames meet the picture steps; painted over, it does not, and outside the window nothing changes."""
    plan = clip(BEAT, duration_s=10.24, joins="repaint", seed=3)
    before, after = mini.render([plan.frame(0), plan.frame(1)])
    window = repaint_window(np.asarray(before), np.asarray(after), 512)
    (painted,) = mini.render([plan.frame(2)], [Image.fromarray(window)], [Image.fromarray(repaint_mask(512, 512))])
    hard, soft = (np.asarray(image.convert("L"), np.float64) for image in (Image.fromarray(window), painted))
    steps = [np.abs(np.diff(picture, axis=1)).mean(axis=0) for picture in (hard, soft)]
    assert steps[0][255] > 2 * np.median(steps[0])
    assert steps[1][255] < 0.6 * steps[0][255]
    assert np.array_equal(hard[:, :160], soft[:, :160])
    assert np.array_equal(hard[:, -160:], soft[:, -160:])
    assert distance(hard[:, 200:312], soft[:, 200:312]) > 3


def test_a_painted_joint_keeps_what_the_mask_keeps(og_beat: Image.Image, tmp_path: Path) -> None:
    """Low notes kept by the job's mask are black in the mask of its joints too."""
    mask = np.full((512, 512), 255, np.uint8)
    mask[256:] = 0
    store, upload = LocalDiskStore(tmp_path / "store"), f"upl_{'cd' * 32}"
    Image.fromarray(mask).save(tmp_path / "mask.png")
    store.put_file(upload_key("cd" * 32), tmp_path / "mask.png", "image/png")
    sources = replace(WITH_SEED, mask_image_sha256="cd" * 32)
    plan = clip("jazz piano", sources, seed_image="og_beat", mask_image=upload, duration_s=10.24, joins="repaint")
    og_beat.save(tmp_path / "frame.png")
    for number in (0, 1):
        store.put_file(frame_key(frame_hash(plan.frame(number))), tmp_path / "frame.png", "image/png")
    _, painted = SeedPictures(store).pair(plan, 2)
    kept = np.asarray(painted)
    assert not kept[256:].any()
    assert kept[:250, 240:270].min() == 255
    assert plan.frame(2).mask_image != clip(duration_s=10.24, joins="repaint").frame(2).mask_image


def eight_frames() -> Plan:
    """A track of two prompts in two steps."""
    keyframes = (Keyframe(prompt=prompt, seed=1) for prompt in ("jazz piano", BEAT))
    return track(*keyframes, duration_s=40.96, num_inference_steps=2)


@pytest.fixture(scope="module")
def alone(mini: FramePipeline) -> list[bytes]:
    """Each of them drawn by itself."""
    return [drawn(mini, eight_frames(), number)[0].tobytes() for number in range(8)]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5, 6, 7], [5, 2, 7, 0, 6, 1, 4, 3]])
def test_frames_have_the_same_bits_in_any_company(mini: FramePipeline, alone: list[bytes], order: list[int]) -> None:
    """Alone, in batches of 2, 5 and 8, and in any order."""
    plan = eight_frames()
    for size in (2, 5, 8):
        for at in range(0, 8, size):
            numbers = order[at : at + size]
            assert [picture.tobytes() for picture in drawn(mini, plan, *numbers)] == [alone[one] for one in numbers]


@pytest.fixture
def source(tmp_path: Path, og_beat: Image.Image) -> tuple[LocalDiskStore, NDArray[np.float32]]:
    """A store with an uploaded sound: a built-in beat, once and a half."""
    mel = np.concatenate([mel_amplitudes_from_image(og_beat, GRID)] * 2, axis=-1)[..., :768]
    waveform, _ = waveform_from_mel_amplitudes(mel, GRID, quality="fast")
    waveform *= 0.5 / np.abs(waveform).max()
    soundfile.write(tmp_path / "source.wav", waveform.T, GRID.sample_rate_hz)
    store = LocalDiskStore(tmp_path / "store")
    store.put_file(upload_key("ab" * 32), tmp_path / "source.wav", "audio/wav")
    return store, waveform


def remix(strength: float, waveform: NDArray[np.float32], seed: int = 1, **fields: Any) -> Plan:
    sources = replace(SOURCES, source_sha256="ab" * 32, source_s=waveform.shape[-1] / GRID.sample_rate_hz)
    keyframe = Keyframe(prompt="jazz piano", seed=seed)
    request = RemixRequest(
        source=f"upl_{'ab' * 32}",
        keyframes=[keyframe],
        denoising_strength=strength,
        num_inference_steps=STEPS,
        **fields,
    )
    return planned(request, sources)


def test_a_remix_of_strength_0_is_its_source(
    mini: FramePipeline, source: tuple[LocalDiskStore, NDArray[np.float32]]
) -> None:
    """Window after window is the source's own spectrogram, at the right place."""
    store, waveform = source
    plan = remix(0.0, waveform)
    mel = mel_amplitudes_from_waveform(waveform, GRID)
    seeds = SeedPictures(store)
    for number in range(plan.base_frames):
        (picture,) = mini.render([plan.frame(number)], [seeds.pair(plan, number)[0]])
        first = plan.window_column(number)
        inside = range(max(first, 0), min(first + 512, mel.shape[-1]))
        shown = mel_amplitudes_from_image(picture, GRID, float(mel.max()))[..., inside.start - first :][
            ..., : len(inside)
        ]
        assert np.abs(shown - mel[..., inside.start : inside.stop]).max() < 0.02 * mel.max()


def test_windows_of_a_remix_agree_where_they_overlap(
    mini: FramePipeline, source: tuple[LocalDiskStore, NDArray[np.float32]]
) -> None:
    """They share their noise there: painted far from the source, their overlap is more alike than with noises apart."""
    store, waveform = source
    seeds = SeedPictures(store)
    alike, unlike = 0.0, 0.0
    for seed in (1, 2, 3):
        plan = remix(0.8, waveform, seed, overlap_s=1.28)
        frames = [plan.frame(0), plan.frame(1)]
        pictures = [seeds.pair(plan, number)[0] for number in (0, 1)]
        apart = frames[1].model_copy(update={"noise": frames[1].noise.model_copy(update={"first_column": None})})
        images = mini.render([*frames, apart], [*pictures, pictures[1]])
        first, second, other = (np.asarray(image.convert("L"), np.float64) for image in images)
        overlap = plan.overlap_columns
        alike += distance(first[:, -overlap:], second[:, :overlap])
        unlike += distance(first[:, -overlap:], other[:, :overlap])
        assert distance(first, np.asarray(pictures[0].convert("L"), np.float64)) > 5  # type: ignore[union-attr]
    assert alike < 0.85 * unlike
