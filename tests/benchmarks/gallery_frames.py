"""The sheets about one frame: prompts, weights, guidance, seeds, samplers, seed images, masks, tempo.

Owns their requests, words and figures. Leaves out frames in a row (`gallery_tracks`), rendering (`gallery_studio`) and
drawing (`gallery_layout`).
"""

from __future__ import annotations

from itertools import combinations, product
from typing import get_args

import numpy as np
from PIL import Image

from shared.contracts import DEFAULT_STEPS, Sampler
from shared.spectrogram_params import FRAME_COLUMNS
from tests.benchmarks.gallery_layout import Cell, Row
from tests.benchmarks.gallery_sheet import (
    AMBIENT,
    JAZZ,
    SIXTH,
    TECHNO,
    Sheet,
    clip,
    distance,
    highs,
    likeness,
)
from tests.benchmarks.gallery_studio import Studio, built_in_picture


def prompts(studio: Studio) -> Sheet:
    words = (
        AMBIENT,
        "slow classical piano, no drums",
        "slow classical flute, no drums",
        "medium tempo jazz vibraphone, swing drums",
        "medium tempo rock electric guitar, rock drums",
        "medium tempo funk organ, funk drums",
        "fast jazz trumpet, swing drums",
        TECHNO,
    )
    cells = [Cell(prompt, studio.clip(clip(prompt))) for prompt in words]
    return Sheet(
        "Prompts",
        "Eight prompts, one seed. The model knows the words listed in [model.md](../model.md). Level lines are held "
        "tones, upright ones are strokes.",
        clip(words[0]),
        "`prompt`",
        [Row("", cells[:4]), Row("", cells[4:])],
    )


def negative_prompt(studio: Studio) -> Sheet:
    rows = []
    levels: dict[str, list[float]] = {"": [], "no drums": []}
    for prompt in ("slow ambient strings", "slow classical piano"):
        cells = []
        for seed, unwanted in product((1, 2), levels):
            picture = studio.clip(clip(prompt, seed, negative_prompt=unwanted))
            levels[unwanted].append(highs(picture))
            cells.append(Cell(f'seed {seed}, "{unwanted}"', picture, f"highs: {highs(picture):.0f}"))
        rows.append(Row(f'"{prompt}", negative prompt:', cells))
    plain, without = (np.mean(one) for one in levels.values())
    return Sheet(
        "Negative prompt",
        "What it names is led away from. Slow ambient strings and a slow classical piano come with few strokes; led "
        "away from `no drums` they have more. It works the harder, the higher `guidance_scale` is, and not at all at "
        "1. Words the model never met do nothing here either.",
        clip("slow ambient strings", negative_prompt="no drums"),
        "`prompt`, `negative_prompt`, `seed`",
        rows,
        figures=f"*Highs* are how dark the upper quarter is, in grey levels of 255: {plain:.0f} on average without a "
        f"negative prompt, {without:.0f} with it.",
    )


def weights(studio: Studio) -> Sheet:
    levels = (0, 0.5, 1, 1.5, 2)

    def prompt(weight: float) -> str:
        return f"medium tempo classical piano, (rock drums:{weight:g})"

    pictures = {(seed, weight): studio.clip(clip(prompt(weight), seed)) for seed in (1, 2) for weight in levels}

    def apart(seed: int, weight: float) -> float:
        return distance(pictures[seed, weight], pictures[seed, 0])

    rows = [
        Row(
            f"seed {seed}",
            [Cell(f"weight {one:g}", pictures[seed, one], f"apart: {apart(seed, one):.1f}") for one in levels],
        )
        for seed in (1, 2)
    ]
    means = [np.mean([apart(seed, one) for seed in (1, 2)]) for one in levels]
    return Sheet(
        "Weights in a prompt",
        "`(words:1.5)` count half as much again, `(words:0)` are not there at all: the picture is that of the prompt "
        "without them. `(words)` is 1.1, `[words]` 1/1.1.",
        clip(prompt(1.5)),
        "the weight, `seed` 1 and 2",
        rows,
        0.45,
        "*Apart* is how far a picture is from that at weight 0, in grey levels of 255. Mean at weights "
        + ", ".join(f"{one:g}: {mean:.1f}" for one, mean in zip(levels, means, strict=True))
        + ".",
    )


def guidance_scale(studio: Studio) -> Sheet:
    scales = (1.0, 2.0, 3.0, 5.0, 9.0, 15.0)
    rows = []
    for prompt in (TECHNO, AMBIENT):
        pictures = [studio.clip(clip(prompt, guidance_scale=scale)) for scale in scales]
        cells = [
            Cell(f"guidance {scale:g}", one, f"{distance(one, pictures[0]):.0f} from 1")
            for scale, one in zip(scales, pictures, strict=True)
        ]
        rows.append(Row(f'"{prompt}"', cells))
    return Sheet(
        "Guidance",
        "How strictly the prompt is followed. 1 is what the model draws for the prompt by itself; more leads on, "
        "away from what it draws for the negative prompt or for no words at all. 5 is the default; far above it "
        "pictures harden.",
        clip(TECHNO, guidance_scale=9.0),
        "`guidance_scale`, `prompt`",
        rows,
        SIXTH,
        "Under each picture: mean distance from guidance 1 in grey levels of 255.",
    )


def seeds(studio: Studio) -> Sheet:
    rows = []
    takes = {}
    for prompt in (JAZZ, TECHNO):
        plan = studio.plan(clip(prompt, variations=4))
        takes[prompt] = studio.frames(plan)
        cells = [Cell(f"seed {seed}", one) for seed, one in enumerate(takes[prompt], start=1)]
        rows.append(Row(f'"{prompt}"', cells))
    apart = [np.mean([likeness(*pair) for pair in combinations(one, 2)]) for one in takes.values()]
    return Sheet(
        "Seeds and variations",
        "One prompt, other takes. `variations` renders the seeds that follow `seed` as pieces of their own, in one "
        "job; a seed alone gives the same picture as within it.",
        clip(JAZZ, variations=4),
        "`prompt`",
        rows,
        figures=f"Correlation of two takes of one prompt: {apart[0]:.2f} (jazz), {apart[1]:.2f} (techno) on average.",
    )


def num_inference_steps(studio: Studio) -> Sheet:
    counts = (2, 4, 6, 8, 10, 12, 16, 30)
    pictures = [studio.clip(clip(JAZZ, num_inference_steps=one)) for one in counts]
    best = studio.clip(clip(JAZZ, num_inference_steps=50))
    cells = [
        Cell(f"{one} steps", picture, f"{distance(picture, best):.1f} from 50 steps")
        for one, picture in zip(counts, pictures, strict=True)
    ]
    return Sheet(
        "Steps",
        f"One prompt, one seed, more and more steps of `dpmpp_2m_karras`. {DEFAULT_STEPS} is the default; how each "
        "sampler nears its last picture is drawn in [steps.png](steps.png).",
        clip(JAZZ, num_inference_steps=8),
        "`num_inference_steps`",
        [Row(f'"{JAZZ}"', cells[:4]), Row("", cells[4:])],
        figures="Under each picture: mean distance from the picture of 50 steps in grey levels of 255.",
    )


def samplers(studio: Studio) -> Sheet:
    names: tuple[Sampler, ...] = get_args(Sampler)
    pictures = [studio.clip(clip(JAZZ, sampler=name)) for name in names]
    best = studio.clip(clip(JAZZ, num_inference_steps=50))
    notes = {"lcm": "for models distilled for it", "euler_a": "fresh noise at every step"}
    cells = [
        Cell(name, one, notes.get(name, f"{distance(one, best):.1f} away"))
        for name, one in zip(names, pictures, strict=True)
    ]
    return Sheet(
        "Samplers",
        f"One prompt, one seed, {DEFAULT_STEPS} steps each. All that draw nothing on the way end at nearly the same "
        "picture. `euler_a` draws noise at every step and ends elsewhere; `lcm` needs a model that was distilled "
        "for it, which the built-in one is not.",
        clip(JAZZ, sampler="unipc"),
        "`sampler`",
        [Row(f'"{JAZZ}", {DEFAULT_STEPS} steps', cells[:4]), Row("", cells[4:])],
        figures="*Away*: mean distance from 50 steps of `dpmpp_2m_karras` in grey levels of 255.",
    )


def denoising_strength(studio: Studio) -> Sheet:
    strengths = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
    rows = []
    for seed_image, prompt in (("og_beat", AMBIENT), ("marim", TECHNO)):
        kept = built_in_picture(seed_image)
        pictures = [studio.clip(clip(prompt, seed_image=seed_image, denoising_strength=one)) for one in strengths]
        cells = [
            Cell(f"strength {one:g}", picture, f"{distance(picture, kept):.0f} from it")
            for one, picture in zip(strengths, pictures, strict=True)
        ]
        rows.append(Row(f'seed image {seed_image}, prompt "{prompt}"', cells))
    return Sheet(
        "Seed images and denoising_strength",
        "The picture begins as a seed image. Strength 0 is that image to the pixel, 1 ignores it; between, the "
        "rhythm stays longest. A strength of .75 takes three quarters of the steps and of the time.",
        clip(AMBIENT, seed_image="og_beat", denoising_strength=0.5),
        "`denoising_strength`, `seed_image`, `prompt`",
        rows,
        SIXTH,
        "Under each picture: mean distance from the seed image in grey levels of 255.",
    )


def mask_image(studio: Studio) -> Sheet:
    halves, low, ramp = np.zeros((3, 512, 512), np.uint8)
    halves[:, 256:] = 255
    low[:256] = 255
    ramp[:] = np.linspace(0, 255, 512, dtype=np.uint8)
    middle = np.full((512, 512), 160, np.uint8)
    shown = {
        "black left, white right": halves,
        "black below": low,
        "from black to white": ramp,
        "grey (160) everywhere": middle,
    }
    base = clip(AMBIENT, seed_image="og_beat", denoising_strength=0.9)
    kept = built_in_picture("og_beat")
    above, requests = [Cell("the seed image, og_beat", kept)], [base]
    for words, pixels in shown.items():
        above.append(Cell(words, Image.fromarray(pixels)))
        requests.append(base | {"mask_image": studio.upload_picture(Image.fromarray(pixels))})
    pictures = [studio.clip(request) for request in requests]
    below = [
        Cell("" if number else "without a mask", picture, f"{distance(picture, kept):.0f} from it")
        for number, picture in enumerate(pictures)
    ]
    return Sheet(
        "Masks",
        "White is painted anew, black keeps the seed image to the pixel. A mask is an uploaded picture of the seed "
        "image's size: its upper half is the higher frequencies, its left half comes first. Grey is painted "
        "with so much of the strength.",
        requests[1],
        "`mask_image`",
        [Row("what goes in", above), Row(f'what comes out: "{AMBIENT}"', below)],
        0.44,
        "Under each picture: mean distance from the seed image in grey levels of 255.",
    )


def tempo_bpm(studio: Studio) -> Sheet:
    tempos = (80, 100, 120)
    rows = []
    for title, fields in (
        (f'"{JAZZ}"', clip(JAZZ)),
        ("the same from seed image og_beat, strength 0.5", clip(JAZZ, seed_image="og_beat", denoising_strength=0.5)),
    ):
        cells = []
        for bpm in tempos:
            plan = studio.plan(fields | {"tempo_bpm": bpm})
            beat = 60 * plan.params.columns_per_s / bpm
            beats = round(plan.frame_length / beat)
            picture = studio.frame(plan, 0)
            marks = [beat * number * picture.width / float(plan.frame_length) for number in range(beats)]
            label = f"{bpm} bpm: {beats} beats, {plan.frame_at_s(1):g} s"
            cells.append(Cell(label, picture, f"{picture.width} columns", marks))
        rows.append(Row(title, cells))
    return Sheet(
        "Tempo",
        "A frame is made as long as its beats (ticks), so its picture is wider or narrower than "
        f"{FRAME_COLUMNS} columns, and every frame of a track begins on a measure. It sets the grid: a seed image "
        "is stretched to it; where a prompt alone puts its strokes is left to the model.",
        clip(JAZZ, tempo_bpm=100, seed_image="og_beat", denoising_strength=0.5),
        "`tempo_bpm`, with and without `seed_image`",
        rows,
        0.6,
    )
