"""The sheets about frames in a row: keyframes, curves, the way of the noise, joints, remixes.

Owns their requests, words and figures. Leaves out single frames (`gallery_frames`), rendering (`gallery_studio`) and
drawing (`gallery_layout`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, Final, get_args

import numpy as np
from PIL import Image

from shared.contracts import Joins
from shared.frames import Noise
from shared.plan import Plan
from shared.spectrogram_params import FRAME_COLUMNS
from tests.benchmarks.gallery_layout import Cell, Row
from tests.benchmarks.gallery_sheet import AMBIENT, JAZZ, TECHNO, Sheet, clip, distance, grey, likeness
from tests.benchmarks.gallery_studio import GRID, Request, Studio, built_in_picture

EIGHTH: Final = 0.28
WALKED: Final = 10
"""Frames in a row whose likeness is measured."""
LAGS: Final = (1, 2, 4)
_JOINT_COLUMNS: Final = 320
_SOURCE_COLUMNS: Final = 768
_ABUTTING: Final = 2
"""Pixels between frames that follow one another."""
_SHOWN: Final = 8


def track(*keyframes: dict[str, Any], **fields: Any) -> Request:
    """The fields of a track."""
    return {"type": "track", "keyframes": list(keyframes)} | fields


def keyframes(studio: Studio) -> Sheet:
    request = track(
        {"prompt": AMBIENT, "seed": 1, "at_s": 0},
        {"prompt": JAZZ, "seed": 2, "at_s": 16},
        {"prompt": TECHNO, "seed": 3, "at_s": 35.84},
        duration_s=40.96,
    )
    plan = studio.plan(request)
    cells = []
    for number, picture in enumerate(studio.frames(plan)):
        frame = plan.frame(number)
        seconds = f"{plan.frame_at_s(number):g} s"
        words = f"keyframe {plan.walk.places.index(number) + 1}" if frame.end is None else f"alpha {frame.alpha:.2f}"
        cells.append(Cell(f"{seconds}\n{words}", picture))
    return Sheet(
        "Keyframes in time",
        "Three prompts placed in a track of eight frames. A keyframe's own frame is what its prompt and seed draw "
        "alone; between two of them prompts, strengths and guidance go over along a straight line and noise along an "
        "arc.",
        request,
        "nothing; these are all frames of one job",
        [Row(" → ".join(f'"{one["prompt"]}"' for one in request["keyframes"]), cells, _ABUTTING)],
        EIGHTH,
        f"The job says: *{' '.join(plan.warnings)}*",
    )


def alpha_curve(studio: Studio) -> Sheet:
    curves = {"linear": "linear", "smooth": "smooth", "power 3": {"power": 3.0}, "power 0.33": {"power": 0.33}}
    ends = ({"prompt": AMBIENT, "seed": 1}, {"prompt": TECHNO, "seed": 1})
    rows = []
    for name, curve in curves.items():
        plan = studio.plan(track(*ends, duration_s=25.6, alpha_curve=curve))
        alphas = [plan.walk.ends_at(number)[2] for number in range(plan.base_frames - 1)]
        pictures = studio.frames(plan)
        cells = [Cell(f"alpha {one:.2f}", picture) for one, picture in zip([*alphas, 1.0], pictures, strict=True)]
        rows.append(Row(name, cells, _ABUTTING))
    return Sheet(
        "Alpha curve",
        "How alpha moves from one keyframe to the next. `smooth` leaves and arrives slowly; a power above 1 lingers at "
        "the first keyframe, one below 1 leaves it at once. Both keyframes have one seed here: only the prompt moves.",
        track(*ends, duration_s=25.6, alpha_curve={"power": 3.0}),
        "`alpha_curve`",
        rows,
        0.3,
    )


def noise_path(studio: Studio) -> Sheet:
    walks = {prompt: _walks(studio, studio.plan(clip(prompt, duration_s=600))) for prompt in (JAZZ, TECHNO)}
    rows = []
    for title, pictures in zip(("on a plain walk", "on the noise's own path"), walks[JAZZ], strict=True):
        cells = [
            Cell(f"frame {number}", one, f"{likeness(one, pictures[number - 1]):.3f}" if number else "likeness:")
            for number, one in enumerate(pictures[:_SHOWN])
        ]
        rows.append(Row(f'"{JAZZ}", {title}', cells, _ABUTTING))
    return Sheet(
        "Ten minutes of one prompt",
        "Where prompt and keyframe stand still, the noise goes on: half a quarter turn a frame. On a plain walk, "
        "from the noise of one seed to another's over all 118 frames, each frame is the one before and the music "
        "repeats every 5.12 s; on a path of its own it keeps something and never comes back.",
        clip(JAZZ, duration_s=600),
        "nothing; these are the first frames of one job, and the same with the noise of a plain walk",
        rows,
        EIGHTH,
        "\n".join(_likeness_table(studio, walks)),
    )


def _walks(studio: Studio, plan: Plan) -> tuple[list[Image.Image], list[Image.Image]]:
    """The plan's first frames, with their noise spread evenly from its seed to another's, and as they are."""
    first = plan.frame(0)
    last = plan.part_frames - 1
    noises = [Noise(seed=1)] + [Noise(seed=1, end_seed=2, alpha=number / last) for number in range(1, WALKED)]
    plain = [studio.frame(plan, 0, first.model_copy(update={"noise": noise})) for noise in noises]
    return plain, studio.frames(plan, range(WALKED))


def _likeness_table(studio: Studio, walks: dict[str, tuple[list[Image.Image], list[Image.Image]]]) -> Iterator[str]:
    yield (
        f"Self-similarity: correlation of each frame's picture with a later one's, mean over {WALKED} frames in a row, "
        "least and greatest in brackets. A frame is 5.12 s, so this is how much the music is like itself so much later."
    )
    yield ""
    yield "| prompt | apart | plain walk | the noise's own path | takes of other seeds |"
    yield "|---|---|---|---|---|"
    for prompt, both in walks.items():
        takes = studio.frames(studio.plan(clip(prompt, variations=4)))
        strangers = np.mean([likeness(*pair) for pair in combinations(takes, 2)])
        for lag in LAGS:
            apart = f"{lag} frame{'s' * (lag > 1)}, {lag * GRID.frame_s:g} s"
            plain, own = (_self_similarity(pictures, lag) for pictures in both)
            yield f"| {prompt} | {apart} | {plain} | {own} | {strangers:.3f} |"


def _self_similarity(pictures: Sequence[Image.Image], lag: int) -> str:
    found = [likeness(*pair) for pair in zip(pictures, pictures[lag:], strict=False)]
    return f"{np.mean(found):.3f} ({min(found):.3f} to {max(found):.3f})"


def joins(studio: Studio) -> Sheet:
    names: tuple[Joins, ...] = get_args(Joins)
    order = sorted(names, key=("cut", "blend", "repaint").index)
    pairs = {
        f'"{TECHNO}" with seed 3, then 4': ({"prompt": TECHNO, "seed": 3}, {"prompt": TECHNO, "seed": 4}),
        f'"{AMBIENT}", then "{JAZZ}"': ({"prompt": AMBIENT, "seed": 1}, {"prompt": JAZZ, "seed": 1}),
    }
    rows = []
    for title, ends in pairs.items():
        cells = []
        for name in order:
            plan = studio.plan(track(*ends, duration_s=10.24, joins=name))
            half = _JOINT_COLUMNS // 2
            whole = studio.joined(plan)
            picture = whole.crop((FRAME_COLUMNS - half, 0, FRAME_COLUMNS + half, whole.height))
            note = f"step: {_step(whole):.1f}"
            cells.append(Cell(name, picture, note, [half]))
        rows.append(Row(title, cells))
    return Sheet(
        "Joins",
        f"{_JOINT_COLUMNS / GRID.columns_per_s:g} s around a joint (red ticks). `cut` lays frames side by side; "
        "`blend` fades over 48 columns from the place that one frame has come to in its loop to the same place in "
        "the next; `repaint` has the model draw the middle 192 columns anew from what both frames hold there. A step "
        "that is left then is a stroke.",
        track(*pairs[title], duration_s=10.24, joins="repaint"),
        "`joins`, `keyframes`",
        rows,
        0.75,
        "*Step*: mean change of grey levels over the joint, from one column to the next, against the median of all "
        "columns. Grey is the fourth root of amplitude, so a fade is longer than it looks.",
    )


def _step(whole: Image.Image) -> float:
    changes = np.abs(np.diff(grey(whole), axis=1)).mean(axis=0)
    return float(changes[FRAME_COLUMNS - 1] / np.median(changes))


def remix(studio: Studio) -> Sheet:
    marim = built_in_picture("marim")
    played = Image.new("RGB", (_SOURCE_COLUMNS, marim.height))
    for left in range(0, _SOURCE_COLUMNS, marim.width):
        played.paste(marim, (left, 0))
    request = {
        "type": "remix",
        "source": studio.upload_sound(played),
        "keyframes": [{"prompt": TECHNO, "seed": 1}],
        "overlap_s": 1.28,
    }
    cells = []
    for strength in (0.0, 0.4, 0.6, 0.8):
        plan = studio.plan(request | {"denoising_strength": strength})
        picture = studio.joined(plan)
        kept = cells[0].picture if cells else picture
        first, last = plan.window_column(1), plan.window_column(1) + plan.overlap_columns
        label = "strength 0: the source" if strength == 0 else f"strength {strength:g}"
        cells.append(Cell(label, picture, f"{distance(picture, kept):.0f} grey levels from the source", [first, last]))
    return Sheet(
        "Remix",
        "A sound of 7.68 s, painted over by the model in two windows that overlap between the red ticks and share "
        "their noise there. Here the source is the sound of the seed image `marim`, once and a half.",
        request | {"denoising_strength": 0.4},
        "`denoising_strength`",
        [Row(f'"{TECHNO}"', cells[:2]), Row("", cells[2:])],
        0.72,
    )
