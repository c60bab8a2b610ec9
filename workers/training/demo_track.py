"""The track of `make demo`, rendered as the farm does, without a farm.

Owns its request and what it takes. Leaves out what is heard in it (`workers.training.evaluate`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from shared.contracts import Joins, Keyframe, TrackRequest
from shared.plan import Plan, Sources
from shared.resolving import resolve
from shared.spectrogram_params import FRAME_COLUMNS
from workers.joins import Layout, joined_mel_amplitudes
from workers.phase import waveform_from_mel_amplitudes
from workers.spectrogram import Array, mel_amplitudes_from_image
from workers.training.crew import PROCESSES, Crew
from workers.training.dataset import Pixels
from workers.training.renders import pipeline_from_folder, pixels_from_waveform, waveform_from_pixels
from workers.training.score import Piece

FIRST: Final = Piece("jazz", "piano", "swing drums", "acoustic", 0, "major", 8, "plain", "room", 0)
LAST: Final = Piece("techno", "synth", "four on the floor drums", "electronic", 0, "major", 8, "plain", "room", 0)
PROMPTS: Final = ("medium tempo jazz piano, swing drums", "medium tempo techno synth, four on the floor drums")
"""What `make demo` asks for, and what its ends should be heard as; its prompts name no key."""
DURATION_S: Final = 40.96
SEEDS: Final = (4, 2)
_JOINS: Final[Joins] = "blend"


@dataclass(frozen=True, slots=True)
class DemoTrack:
    """The pictures of the finished sound, one for each frame's time (frame, 512, 512), and the seconds on two cores."""

    pixels: Pixels
    seconds: float


def demo_track(model: Path, revision: str, crew: Crew) -> DemoTrack:
    """Render the track with the model in a folder, turn it into one piece of sound, and draw that again."""
    plan = demo_plan(revision)
    made = crew.done("demo", rendered_frame, [(model, plan, number) for number in range(plan.frames_total)])
    # The first sound of a process compiles what makes it.
    waveform_from_pixels(made[0][0])
    started_s = time.process_time()
    waveform = _sound(plan, [pixels for pixels, _ in made])
    seconds = sum(seconds for _, seconds in made) / PROCESSES + time.process_time() - started_s
    picture = pixels_from_waveform(waveform)
    columns = range(0, plan.frames_total * FRAME_COLUMNS, FRAME_COLUMNS)
    return DemoTrack(np.stack([picture[:, start : start + FRAME_COLUMNS] for start in columns]), seconds)


def demo_plan(revision: str) -> Plan:
    """What the demo renders."""
    keyframes = [Keyframe(prompt=prompt, seed=seed) for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
    sources = Sources(model_revision=revision)
    request = resolve(TrackRequest(keyframes=keyframes, duration_s=DURATION_S, joins=_JOINS), sources, lambda: 0)
    return Plan(request, sources)


def rendered_frame(item: tuple[Path, Plan, int]) -> tuple[Pixels, float]:
    """One frame of a plan, grey, and the seconds of one core it took."""
    model, plan, number = item
    pipeline = pipeline_from_folder(model)
    started_s = time.process_time()
    picture = pipeline.render([plan.frame(number)])[0]
    return np.asarray(picture.convert("L")), time.process_time() - started_s


def _sound(plan: Plan, frames: list[Pixels]) -> Array:
    """The waveform (1, sample) of all frames joined; the demo is one chunk."""
    mel = [mel_amplitudes_from_image(Image.fromarray(frame), plan.params) for frame in frames]
    layout = Layout(plan.part_frames, plan.frame_length, plan.part_columns, _JOINS, plan.is_loop)
    joined = joined_mel_amplitudes(lambda number: mel[number], layout, plan.chunk(0).columns)
    return waveform_from_mel_amplitudes(joined, plan.params, quality=plan.request.quality)[0]
