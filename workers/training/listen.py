"""Examples to hear and see: the training data's pieces as they are played, from their pictures, and by a model.

Owns which pieces, the pictures and small sound files beside the page, and their even loudness. Leaves out the page
itself (`workers.training.listening_page`), the synthesiser and the pipeline.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.contracts import LOUDNESS_LUFS, ClipRequest
from shared.frames import Frame
from shared.plan import Plan, Sources
from shared.spectrogram_params import FRAME_COLUMNS, SpectrogramParams
from workers.diffusion import FramePipeline
from workers.encoding import FORMATS, AudioFormat, TrackShape, audio_file
from workers.limiter import limited
from workers.mastering import gain_from_levels, levels_from_chunks
from workers.phase import LOOK_AHEAD_COLUMNS, loop_overlap_columns, waveform_from_mel_amplitudes
from workers.spectrogram import Array, mel_amplitudes_from_image
from workers.training.captions import caption_from_piece, full_prompt
from workers.training.listening_page import Example, ModelFacts, Take, page
from workers.training.make import weights_sha256
from workers.training.score import DRUM_PATTERNS, GENRES, INSTRUMENT_NAMES, Piece, draw_piece
from workers.training.synthesise import loop_from_piece, pixels_from_piece

GRID: Final = SpectrogramParams()
CAPTIONS: Final = 3
"""Captions shown for a piece, drawn as the training draws them."""
_PICTURE_SIZE: Final = (512, 256)
_JPEG_QUALITY: Final = 60
_WHOLE: Final = replace(FORMATS["mp3"], compression_level=0.8)
# A picture holds nothing above 10 kHz: half the rate loses nothing.
_HALF_RATE: Final = replace(FORMATS["mp3"], compression_level=0.9, rates_hz=(22_050,))
_LEADS_PER_S: Final = 25
_HEADROOM: Final = 10 ** (-1 / 20)
"""So much lower than a job's, all alike: at these small sizes coding adds up to 1 dB to a peak."""

Pixels = NDArray[np.uint8]
Tell = Callable[[int, int], None]
"""Told how many examples are done, and of how many."""


@dataclass(frozen=True, slots=True)
class Player:
    """A loaded model, what the page tells of it, and the settings that a job has which names none."""

    pipeline: FramePipeline
    facts: ModelFacts


def write_listening_page(folder: Path, count: int, seed: int, model: Path | None, tell: Tell) -> Path:
    """Write `index.html` and its sounds and pictures into a folder; the same arguments give the same sound.

    `model` is a folder in diffusers' layout, or None for the data alone. Raises RenderError when it cannot be loaded,
    OSError when the folder cannot be written.
    """
    player = None if model is None else _player(model)
    for kind in ("sounds", "pictures"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    # No older page may stand over newer sounds.
    path.unlink(missing_ok=True)
    examples = []
    for example in _examples(dealt_pieces(count, seed), folder, player):
        examples.append(example)
        tell(len(examples), count)
    partial = path.with_suffix(".part")
    partial.write_text(page(examples, seed, None if player is None else player.facts), encoding="utf-8")
    partial.replace(path)
    return path


def dealt_pieces(count: int, seed: int) -> list[Piece]:
    """Pieces whose genres, instruments and drums are dealt from shuffled decks; all else is drawn.

    So each value comes up as often as any other, but for one, and none is picked by hand. More from the same seed begin
    with the same ones.
    """
    rng = random.Random(seed)
    decks = [_dealt(values, random.Random(rng.random())) for values in (GENRES, INSTRUMENT_NAMES, DRUM_PATTERNS)]
    return [
        replace(draw_piece(rng), genre=genre, instrument=instrument, drums=drums)
        for _, genre, instrument, drums in zip(range(count), *decks, strict=False)
    ]


def _dealt(values: Sequence[str], rng: random.Random) -> Iterator[str]:
    """A deck dealt to its end, shuffled, and dealt again."""
    while True:
        yield from rng.sample(values, len(values))


def _examples(pieces: Sequence[Piece], folder: Path, player: Player | None) -> Iterator[Example]:
    for number, piece in enumerate(pieces, start=1):
        prompt = full_prompt(piece.genre, piece.instrument, piece.drums, piece.beats, piece.root, piece.mode)
        takes = _takes_of_piece(piece, f"{number:02}", folder)
        if player is not None:
            takes.append(_take_of_model(player, prompt, number, folder))
        rng = random.Random(piece.seed)
        captions = tuple(dict.fromkeys(caption_from_piece(piece, rng) for _ in range(CAPTIONS)))
        yield Example(number, piece, prompt, captions, tuple(takes))


def _takes_of_piece(piece: Piece, name: str, folder: Path) -> list[Take]:
    """The piece's own sound at the full rate, and what its picture, as the training sees it, gives back."""
    pixels = pixels_from_piece(piece)
    picture = _write_picture(pixels, folder, f"{name}-data")
    played = _write_sound(loop_from_piece(piece, GRID)[None], folder, f"{name}-played", _WHOLE)
    heard = _write_sound(loop_from_pixels(pixels), folder, f"{name}-picture", _HALF_RATE)
    return [Take("played", picture, played), Take("picture", picture, heard)]


def _take_of_model(player: Player, prompt: str, number: int, folder: Path) -> Take:
    frame = _frame(prompt, number, player.facts.sha256)
    pixels = np.asarray(player.pipeline.render([frame])[0].convert("L"))
    name = f"{number:02}-model"
    sound = _write_sound(loop_from_pixels(pixels), folder, name, _HALF_RATE)
    return Take("model", _write_picture(pixels, folder, name), sound)


def _player(model: Path) -> Player:
    sha256 = weights_sha256(model)
    frame = _frame("any", 0, sha256)
    facts = ModelFacts(
        model.resolve().name, sha256, frame.sampler, frame.num_inference_steps, frame.start.guidance_scale
    )
    return Player(FramePipeline.from_source(str(model)), facts)


def _frame(prompt: str, seed: int, revision: str) -> Frame:
    """The one frame of a job that asks for a prompt and a seed and leaves the rest to the farm."""
    return Plan(ClipRequest(prompt=prompt, seed=seed), Sources(model_revision=revision)).frame(0)


def loop_from_pixels(pixels: Pixels) -> Array:
    """The sound of a grey picture (512, FRAME_COLUMNS) whose end runs into its start, shape (1, sample)."""
    mel = mel_amplitudes_from_image(Image.fromarray(pixels), GRID)
    seen = np.concatenate([mel, mel[..., :LOOK_AHEAD_COLUMNS]], axis=-1)
    waveform, _ = waveform_from_mel_amplitudes(seen, GRID, is_loop=True)
    # What goes on past the end takes the place of the first samples.
    samples = GRID.samples_from_columns(FRAME_COLUMNS)
    overlap = GRID.samples_from_columns(loop_overlap_columns(GRID))
    loop: Array = np.concatenate([waveform[:, samples : samples + overlap], waveform[:, overlap:samples]], axis=1)
    return loop


def _write_picture(pixels: Pixels, folder: Path, name: str) -> str:
    path = folder / "pictures" / f"{name}.jpg"
    small = Image.fromarray(pixels).resize(_PICTURE_SIZE, Image.Resampling.BOX)
    small.save(path, quality=_JPEG_QUALITY, optimize=True)
    return path.relative_to(folder).as_posix()


def _write_sound(loop: Array, folder: Path, name: str, form: AudioFormat) -> str:
    """Write a loop (1, sample) as loud as all others; limited and resampled as if it had played forever."""
    path = folder / "sounds" / f"{name}{form.suffix}"
    levels = levels_from_chunks([loop], GRID.sample_rate_hz)
    gain = np.float32(gain_from_levels(levels, LOUDNESS_LUFS))
    lead_samples = GRID.sample_rate_hz // _LEADS_PER_S
    shape = TrackShape(GRID.sample_rate_hz, 1, loop.shape[-1], lead_samples)
    with audio_file(path, form, shape, None, None) as write:
        for block in limited(
            [loop * gain],
            sample_rate_hz=GRID.sample_rate_hz,
            total_samples=loop.shape[-1],
            loop_tail=levels.tail * gain,
            lead_samples=lead_samples,
        ):
            write(block.T * np.float32(_HEADROOM))
    return path.relative_to(folder).as_posix()
