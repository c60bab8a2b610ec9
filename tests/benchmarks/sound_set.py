"""The pictures that sound is measured on: what the farm is given, from the built-in model to true recordings.

Owns which pictures there are and how they are made, all from fixed seeds: frames of the built-in model, the seed
images, clips synthesised from scores that the model never saw, and sound files of one's own. Leaves out what is
measured on them. Every picture has been through 8 bits, as all pictures have.

There are two splits. Settings may be chosen on "tune"; figures are reported on "held_out".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import soundfile
import soxr
from PIL import Image

from shared.catalogue import models, seed_images
from shared.contracts import ClipRequest
from shared.frames import Frame, frame_hash
from shared.plan import Plan, Sources
from shared.spectrogram_params import FRAME_COLUMNS, SpectrogramParams
from workers.diffusion import FramePipeline
from workers.seed_images import PATTERNS
from workers.spectrogram import (
    Array,
    image_from_mel_amplitudes,
    mel_amplitudes_from_image,
    mel_amplitudes_from_waveform,
)
from workers.training.dataset import draw_pieces
from workers.training.synthesise import loop_from_piece, loop_mel_amplitudes

Split = Literal["tune", "held_out"]
Kind = Literal["model frames", "seed images", "synthesised clips", "your audio"]

CACHE: Final = Path(".riffarm/benchmarks")
"""Where rendered frames are kept, each under the hash of all that determines it, the model's revision included."""
MODEL: Final = "riffarm-mini"
CLIP_COUNT: Final = 8
CLIP_SEEDS: Final[dict[Split, int]] = {"tune": 500_010, "held_out": 700_001}
"""Not the seeds that the model was trained and evaluated with."""
PROMPTS: Final[dict[Split, tuple[tuple[str, int], ...]]] = {
    "tune": (
        ("slow ambient strings, no drums", 41),
        ("fast techno synth, four on the floor drums", 42),
        ("jazz vibraphone with swing drums", 43),
        ("rock organ, rock drums, minor", 44),
        ("funk marimba, funk drums", 45),
        ("classical flute in three", 46),
    ),
    "held_out": (
        ("ambient vibraphone, no drums, major", 71),
        ("techno organ with four on the floor drums", 72),
        ("slow jazz strings, swing drums", 73),
        ("fast rock synth and rock drums", 74),
        ("funk pluck with funk drums, minor", 75),
        ("classical marimba, no drums", 76),
    ),
}


@dataclass(frozen=True)
class Picture:
    """A frame to make sound of: mel amplitudes (channel, frequency, time), and its true sound where there is one.

    `true_waveform` (channel, sample) is as long as the picture, or None for what has never been a sound.
    """

    name: str
    kind: Kind
    mel_amplitudes: Array
    true_waveform: Array | None


def pictures(split: Split, params: SpectrogramParams, cache: Path = CACHE) -> list[Picture]:
    """The pictures of a split on the default grid, the same on every call; frames are rendered once into `cache`.

    The five seed images are held out: choose no setting on them.
    """
    found = [*_model_frames(split, params, cache)]
    if split == "held_out":
        found += _seed_images(params)
    return [*found, *_synthesised(split, params)]


def pictures_from_folder(folder: Path, params: SpectrogramParams) -> list[Picture]:
    """A picture of each sound file in a folder: its first FRAME_COLUMNS columns, mixed to mono.

    Raises ValueError when there is no sound file of that length.
    """
    samples = params.samples_from_columns(FRAME_COLUMNS)
    names = {f".{name.lower()}" for name in soundfile.available_formats()} | {".opus"}
    found = []
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in names):
        read, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        waveform = soxr.resample(read.mean(axis=1), rate_hz, params.sample_rate_hz)[None, :samples]
        if waveform.shape[-1] == samples and waveform.any():
            mel = _through_8_bits(mel_amplitudes_from_waveform(waveform.astype(np.float32), params), params)
            found.append(Picture(path.stem, "your audio", mel, waveform.astype(np.float32)))
    if not found:
        raise ValueError(f"{folder} has no sound file of {params.frame_s:g} s or more")
    return found


def _model_frames(split: Split, params: SpectrogramParams, cache: Path) -> Iterator[Picture]:
    pipeline: FramePipeline | None = None
    cache.mkdir(parents=True, exist_ok=True)
    for prompt, seed in PROMPTS[split]:
        frame = _frame(prompt, seed)
        path = cache / f"{frame_hash(frame)}.png"
        if not path.exists():
            pipeline = pipeline or FramePipeline.from_source(models()[MODEL].source, device="cpu")
            pipeline.render([frame])[0].save(path)
        with Image.open(path) as image:
            yield Picture(prompt, "model frames", mel_amplitudes_from_image(image, params), None)


def _frame(prompt: str, seed: int) -> Frame:
    """The frame that a job of one clip renders for a prompt."""
    request = ClipRequest(prompt=prompt, seed=seed, model=MODEL)
    return Plan(request, Sources(models()[MODEL].revision)).frame(0)


def _seed_images(params: SpectrogramParams) -> Iterator[Picture]:
    for name, entry in seed_images().items():
        loop = PATTERNS[name].loop(params)
        with Image.open(entry.path) as image:
            yield Picture(name, "seed images", mel_amplitudes_from_image(image, params), loop[None])


def _synthesised(split: Split, params: SpectrogramParams) -> Iterator[Picture]:
    """Clips that begin anywhere in their bar, as a cut from a recording does; like the seed images, they are loops."""
    rng = np.random.default_rng(CLIP_SEEDS[split])
    for piece in draw_pieces(CLIP_COUNT, CLIP_SEEDS[split]):
        loop = loop_from_piece(piece, params)
        loop = np.roll(loop, int(rng.integers(len(loop))))
        mel = _through_8_bits(loop_mel_amplitudes(loop, params), params)
        yield Picture(f"{piece.genre} {piece.instrument}, {piece.drums}", "synthesised clips", mel, loop[None])


def _through_8_bits(mel_amplitudes: Array, params: SpectrogramParams) -> Array:
    return mel_amplitudes_from_image(image_from_mel_amplitudes(mel_amplitudes, params), params)
