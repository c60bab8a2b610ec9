"""A picture book of what each parameter does: docs/rendering/*.jpg and docs/rendering/gallery.md.

    OMP_NUM_THREADS=1 nice python -m tests.benchmarks.gallery

About four minutes on one core; what was rendered is kept in out/gallery, so that a second run takes seconds. Owns the
order of the sheets and the page. Leaves out what they show (`gallery_frames`, `gallery_tracks`).
"""

from __future__ import annotations

import json
import re
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from shared.contracts import DEFAULT_GUIDANCE, DEFAULT_SAMPLER, DEFAULT_STEPS
from tests.benchmarks import gallery_frames, gallery_tracks
from tests.benchmarks.gallery_layout import save_sheet
from tests.benchmarks.gallery_sheet import Sheet
from tests.benchmarks.gallery_studio import Request, Studio

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "docs" / "rendering"
PAGE: Final = FOLDER / "gallery.md"
KEPT: Final = ROOT / "out" / "gallery"
SHEETS: Final[tuple[Callable[[Studio], Sheet], ...]] = (
    gallery_frames.prompts,
    gallery_frames.weights,
    gallery_frames.negative_prompt,
    gallery_frames.guidance_scale,
    gallery_frames.seeds,
    gallery_tracks.noise_path,
    gallery_tracks.keyframes,
    gallery_tracks.alpha_curve,
    gallery_frames.denoising_strength,
    gallery_frames.mask_image,
    gallery_tracks.remix,
    gallery_tracks.joins,
    gallery_frames.tempo_bpm,
    gallery_frames.num_inference_steps,
    gallery_frames.samplers,
)
"""Each draws the picture of its name."""
_UPLOAD: Final = re.compile(r"upl_[0-9a-f]{64}")
_INTRODUCTION: Final = f"""# What each parameter does

Pictures of the built-in model, made by `make gallery`. Time runs to the right, 5.12 s a frame where nothing else is
said; low frequencies are at the bottom, up to 10 kHz on the mel scale; dark is loud. Every frame is rendered as a farm
renders it: {DEFAULT_STEPS} steps of `{DEFAULT_SAMPLER}`, `guidance_scale` {DEFAULT_GUIDANCE:g}, seed 1, unless
the request says otherwise. Under each sheet is one of its requests, as it can be sent to `/v1/jobs`, and what differs
in the others. `upl_…` stands for the id of an upload.

What each field means in words is told in [rendering.md](../rendering.md); how the model came to know what it knows, in
[model.md](../model.md)."""


def main() -> None:
    """Render, draw and describe all sheets."""
    studio = Studio(KEPT)
    sheets = {}
    for draw in SHEETS:
        name = draw.__name__
        sheets[name] = draw(studio)
        path = FOLDER / f"{name}.jpg"
        save_sheet(sheets[name].rows, sheets[name].scale, path)
        print(f"{name:20} {path.stat().st_size:8,} bytes  {time.process_time():6.1f} s", flush=True)
    PAGE.write_text("\n\n".join(_sections(sheets)) + "\n", encoding="utf-8")
    print(f"{studio.rendered} frames rendered")


def _sections(sheets: dict[str, Sheet]) -> Iterator[str]:
    yield _INTRODUCTION
    for name, sheet in sheets.items():
        yield f"## {sheet.title}"
        yield _wrapped(sheet.text)
        yield f"![{sheet.title}]({name}.jpg)"
        if sheet.figures:
            yield sheet.figures if "|" in sheet.figures else _wrapped(sheet.figures)
        yield _wrapped(f"Varied: {sheet.varied}.")
        yield f"```json\n{_as_sent(sheet.request)}\n```"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def _as_sent(request: Request) -> str:
    """The request as JSON, a keyframe a line, ids of uploads cut short."""
    fields = []
    for name, value in request.items():
        text = json.dumps(value)
        if name == "keyframes":
            text = "[\n    " + ",\n    ".join(map(json.dumps, value)) + "\n  ]"
        fields.append(f'  "{name}": {text}')
    return _UPLOAD.sub("upl_…", "{\n" + ",\n".join(fields) + "\n}")


if __name__ == "__main__":
    main()
