"""How many steps a picture needs: each sampler's distance to its own 100-step picture, and to dpmpp_2m's.

    OMP_NUM_THREADS=1 nice python -m tests.benchmarks.steps [--draw]

About eleven minutes on one core; `--draw` draws the picture again from the figures there are. Writes
docs/rendering/steps.json and steps.png. Owns the figures of the built-in model. Leaves out how fast a step is
(`render`) and whether samplers are what they are called (tests/unit/workers/test_samplers.py).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise, product
from pathlib import Path
from typing import Any, Final, get_args

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image

from shared.contracts import Sampler
from shared.frames import Frame, FrameEnd, Noise
from shared.spectrogram_params import SpectrogramParams
from workers.diffusion import FramePipeline
from workers.samplers import model_calls
from workers.spectrogram import mel_amplitudes_from_image

mpl.use("Agg")
import matplotlib.pyplot as plt

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "docs" / "rendering"
MODEL: Final = ROOT / "workers" / "models" / "riffarm-mini"
GRID: Final = SpectrogramParams()
STEPS: Final = (4, 6, 8, 10, 12, 16, 20, 30, 50)
REFERENCE_STEPS: Final = 100
GUIDANCE: Final = 5.0
COLUMNS: Final = 256
"""Half a frame, for half the time."""
PROMPTS: Final = (
    ("slow rock electric guitar, funk drums", 11),
    ("fast techno synth, four on the floor drums", 22),
    ("medium tempo ambient piano, no drums", 33),
    ("fast jazz trumpet, swing drums", 44),
)
"""Each with its seed."""
# No model here is distilled for it: its figures say nothing but that.
SAMPLERS: Final[tuple[Sampler, ...]] = tuple(name for name in get_args(Sampler) if name != "lcm")
COLOURS: Final = {
    "dpmpp_2m": "#1f4e9c",
    "dpmpp_2m_karras": "#d1495b",
    "unipc": "#2a9d8f",
    "pndm": "#8d5fb0",
    "euler": "#e08e1b",
    "ddim": "#7a7a7a",
    "euler_a": "#b08968",
}
FLOOR_DB: Final = -60.0
"""Below a picture's loudest cell; what is softer counts as this."""
Distance = Callable[[Image.Image, Image.Image], float]
Figures = dict[str, Any]
Pictures = dict[tuple[str, int], list[Image.Image]]


def main() -> None:
    """Measure unless told to draw alone, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draw", action="store_true", help="draw from the figures there are")
    path = FOLDER / "steps.json"
    if not parser.parse_args().draw:
        FOLDER.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(measured(), indent=1) + "\n", encoding="utf-8")
    figures = json.loads(path.read_text(encoding="utf-8"))
    drawn(figures, FOLDER / "steps.png")
    for line in summary(figures):
        print(line)


def measured() -> Figures:
    """All distances, means over the prompts, and the CPU seconds a picture took."""
    torch.set_num_threads(1)
    pipeline = FramePipeline.from_source(str(MODEL), device="cpu")
    pictures: Pictures = {}
    cpu_s: dict[tuple[str, int], float] = {}
    for sampler, steps in product(SAMPLERS, (*STEPS, REFERENCE_STEPS)):
        before = time.process_time()
        pictures[sampler, steps] = [_rendered(pipeline, sampler, steps, *one) for one in PROMPTS]
        cpu_s[sampler, steps] = (time.process_time() - before) / len(PROMPTS)
        print(f"{sampler:16} {steps:4} steps  {cpu_s[sampler, steps]:6.2f} s a picture", flush=True)
    return {
        "prompts": PROMPTS,
        "guidance_scale": GUIDANCE,
        "columns": COLUMNS,
        "reference_steps": REFERENCE_STEPS,
        "floor_db": FLOOR_DB,
        "samplers": {sampler: _curve(sampler, pictures, cpu_s) for sampler in SAMPLERS},
        "references_apart_db": {
            one: {other: _mean(decibels, pictures, one, other) for other in SAMPLERS} for one in SAMPLERS
        },
        "other_seed": {"grey_levels": _unrelated(grey_levels, pictures), "decibels": _unrelated(decibels, pictures)},
        "cpu_s": sum(cpu_s.values()) * len(PROMPTS),
    }


def _rendered(pipeline: FramePipeline, sampler: Sampler, steps: int, prompt: str, seed: int) -> Image.Image:
    end = FrameEnd(prompt=prompt, negative_prompt="", denoising_strength=1.0, guidance_scale=GUIDANCE)
    frame = Frame(
        model="riffarm-mini",
        model_revision="",
        sampler=sampler,
        num_inference_steps=steps,
        columns=COLUMNS,
        is_loop=False,
        seed_image=None,
        mask_image=None,
        noise=Noise(seed=seed),
        start=end,
        end=None,
        alpha=0.0,
    )
    return pipeline.render([frame])[0]


def grey_levels(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two pictures, 0..255."""
    return float(np.abs(np.asarray(one, np.float64) - np.asarray(other, np.float64)).mean())


def decibels(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two pictures' mel amplitudes in dB, above the floor."""
    return float(np.abs(_loudness_db(one) - _loudness_db(other)).mean())


def _loudness_db(image: Image.Image) -> np.ndarray:
    mel_amplitudes = mel_amplitudes_from_image(image, GRID).astype(np.float64)
    return np.maximum(20 * np.log10(mel_amplitudes / mel_amplitudes.max() + 1e-9), FLOOR_DB)


DISTANCES: Final[dict[str, Distance]] = {"grey_levels": grey_levels, "decibels": decibels}


def _curve(sampler: Sampler, pictures: Pictures, cpu_s: dict[tuple[str, int], float]) -> Figures:
    return {
        "steps": STEPS,
        "model_calls": [model_calls(sampler, steps) for steps in STEPS],
        "cpu_s_per_picture": [cpu_s[sampler, steps] for steps in STEPS],
        "to_own": {name: _distances(distance, pictures, sampler, sampler) for name, distance in DISTANCES.items()},
        "to_dpmpp_2m": {
            name: _distances(distance, pictures, sampler, "dpmpp_2m") for name, distance in DISTANCES.items()
        },
    }


def _distances(distance: Distance, pictures: Pictures, sampler: str, reference: str) -> list[float]:
    """Means over the prompts, for each number of steps."""
    return [_mean(distance, pictures, sampler, reference, steps) for steps in STEPS]


def _mean(distance: Distance, pictures: Pictures, sampler: str, reference: str, steps: int = REFERENCE_STEPS) -> float:
    pairs = zip(pictures[sampler, steps], pictures[reference, REFERENCE_STEPS], strict=True)
    return float(np.mean([distance(one, other) for one, other in pairs]))


def _unrelated(distance: Distance, pictures: Pictures) -> float:
    """What two pictures of other prompts and seeds are apart: as bad as it gets."""
    references = pictures["dpmpp_2m", REFERENCE_STEPS]
    return float(np.mean([distance(one, other) for one, other in pairwise(references)]))


def summary(figures: Figures) -> Iterator[str]:
    """For each sampler, the fewest steps whose pictures are as near to a reference as dpmpp_2m's of 20 steps."""
    bars = figures["samplers"]["dpmpp_2m"]["to_own"]
    yield f"dpmpp_2m, 20 steps: {bars['grey_levels'][6]:.2f} grey levels, {bars['decibels'][6]:.2f} dB from its 100"
    for sampler, curve in figures["samplers"].items():
        for reference, (name, bar) in product(("to_own", "to_dpmpp_2m"), bars.items()):
            enough = [step for step, far in zip(STEPS, curve[reference][name], strict=True) if far <= bar[6]]
            yield f"{sampler:16} {reference:12} {name:12} {min(enough, default='more than 50')}"


def drawn(figures: Figures, path: Path) -> None:
    """The curves of all samplers: distances in dB and in grey levels, to the own and to dpmpp_2m's 100 steps."""
    figure, panels = plt.subplots(2, 2, figsize=(12, 9), sharex=True, layout="constrained")
    references = {
        "to_own": f"the sampler's own {REFERENCE_STEPS}-step picture",
        "to_dpmpp_2m": f"dpmpp_2m's {REFERENCE_STEPS}-step picture",
    }
    units = {
        "decibels": "mel amplitudes: mean difference in dB",
        "grey_levels": "picture: mean difference in grey levels",
    }
    for (row, (name, unit)), (column, (reference, title)) in product(
        enumerate(units.items()), enumerate(references.items())
    ):
        axes = panels[row, column]
        _draw_panel(axes, figures, reference, name)
        axes.set_ylabel(unit if column == 0 else "")
        axes.set_title(f"Distance to {title}" if row == 0 else "")
        axes.set_xlabel("num_inference_steps" if row == 1 else "")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(
        "Fewer steps, same picture? Built-in model, mean over four prompts, guidance 5\n"
        "(euler_a draws fresh noise at every step and so ends elsewhere; lcm is for models distilled for it)"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_panel(axes: Any, figures: Figures, reference: str, name: str) -> None:
    for sampler, colour in COLOURS.items():
        distances = [max(far, 1e-3) for far in figures["samplers"][sampler][reference][name]]
        axes.plot(STEPS, distances, "o-", color=colour, label=sampler, linewidth=1.8, markersize=4)
    bar = figures["samplers"]["dpmpp_2m"]["to_own"][name][STEPS.index(20)]
    axes.axhline(bar, color=COLOURS["dpmpp_2m"], linestyle=":", label="dpmpp_2m, 20 steps, to its own 100")
    axes.axhline(figures["other_seed"][name], color="black", linestyle="--", label="another prompt and seed")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(STEPS, [str(steps) for steps in STEPS])
    lowest, highest = axes.get_ylim()
    levels = [level for level in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if lowest <= level <= highest]
    axes.set_yticks(levels, [f"{level:g}" for level in levels])
    axes.minorticks_off()
    axes.grid(alpha=0.25)


if __name__ == "__main__":
    main()
