"""A slice of a recording as a seed image: whole measures, fitted to one frame, closed as a loop.

Owns reading the part that is needed, where the slice begins, fitting it and its seam. Leaves out finding the beat
(`workers.seed_beat`), tempos that fit (`workers.seed_grid`) and writing the picture (`workers.seed_images`).

The slice is fitted by looking at it in 512 places, whatever its length: the pace changes, the pitch does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import soxr
from PIL import Image

from shared.audio_source import open_audio
from shared.spectrogram_params import FRAME_COLUMNS
from workers.audio_files import waveforms_from_source
from workers.seed_beat import Tempo, first_measure_s, onsets_from_waveform, tempo_from_onsets
from workers.seed_grid import MAX_TEMPO_BPM, MIN_TEMPO_BPM, BeatGrid, Meter, SeedImageError, fitting_grid
from workers.seed_images import GRID, image_from_loop
from workers.spectrogram import Array

COMMON_TIME: Final = Meter(4, 4)
_LISTENED_S: Final = 40.0
"""As much is listened to for the beat, from where the slice may begin."""
_SEAM_S: Final = 0.04
_LEAST_CONFIDENCE: Final = 0.15
_SILENCE: Final = 1e-4
"""Root mean square, -80 dBFS."""
_MIN_S: Final = 0.5
"""Of sound from which a beat can be told at all."""


@dataclass(frozen=True, slots=True)
class SliceWishes:
    """What is asked of a slice; None leaves it to what is heard.

    start_s: it begins with the first measure from here on. downbeat_s: it begins exactly here. At most one is given.
    """

    tempo_bpm: float | None = None
    meter: Meter = COMMON_TIME
    measures: int | None = None
    start_s: float | None = None
    downbeat_s: float | None = None


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice as a picture, and what was found: where it begins, its tempo in the recording, warnings."""

    image: Image.Image
    grid: BeatGrid
    start_s: float
    tempo: Tempo
    warnings: tuple[str, ...]


def slice_from_audio(path: Path, wishes: SliceWishes) -> Slice:
    """Whole measures of a recording as a picture of one frame.

    Raises SeedImageError naming the option that is wrong and what would be right.
    """
    option, from_s = ("--downbeat", wishes.downbeat_s) if wishes.downbeat_s is not None else ("--start", wishes.start_s)
    if from_s is not None and not 0 <= from_s < float("inf"):
        raise SeedImageError(f"{option} {from_s:g} is no place in a sound; it must be 0 seconds or more")
    if wishes.tempo_bpm is not None:
        # What cannot be is said before minutes are decoded.
        fitting_grid(wishes.meter, wishes.tempo_bpm, wishes.measures)
    warnings: list[str] = []
    heard, before = _heard(path, option, from_s or 0.0, warnings)
    part = heard[before:]
    onsets = onsets_from_waveform(part)
    tempo = Tempo(wishes.tempo_bpm, 1.0) if wishes.tempo_bpm is not None else _found(tempo_from_onsets(onsets), path)
    grid = fitting_grid(wishes.meter, tempo.bpm, wishes.measures)
    begins_s = 0.0
    if wishes.downbeat_s is None:
        begins_s = first_measure_s(onsets, tempo.bpm, wishes.meter.beats)
    begins = before + GRID.samples_from_s(round(begins_s, 6))
    loop = _loop(heard, begins, _length(grid, tempo), path)
    start_s = (from_s or 0.0) + begins_s
    return Slice(_fitted(loop), grid, start_s, tempo, tuple(warnings))


def _heard(path: Path, option: str, from_s: float, warnings: list[str]) -> tuple[Array, int]:
    """The sound (sample,) around the place asked for, and the number of its samples before that place."""
    first = GRID.samples_from_s(from_s)
    before = min(first, GRID.samples_from_s(_SEAM_S))
    last = first + GRID.samples_from_s(_LISTENED_S)
    done, parts = 0, []
    try:
        with open_audio(path) as audio:
            for block in waveforms_from_source(audio, GRID.sample_rate_hz, is_stereo=False, warn=warnings.append):
                parts.append(block[0, max(first - before - done, 0) : max(last - done, 0)])
                done += block.shape[-1]
                if done >= last:
                    break
    except OSError as error:
        raise SeedImageError(f"--audio {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SeedImageError(f"--audio {path}: {error}") from error
    lasts_s = done / GRID.sample_rate_hz
    if done <= first:
        raise SeedImageError(f"{option} {from_s:g} lies beyond the end of {path}, which lasts {lasts_s:.2f} s")
    heard: Array = np.concatenate(parts)
    if len(heard) - before < GRID.samples_from_s(_MIN_S):
        raise SeedImageError(
            f"--audio {path} has only {lasts_s - from_s:.2f} s of sound from {from_s:g} s on; a measure is longer"
        )
    if np.sqrt(np.mean(heard[before:] ** 2)) < _SILENCE:
        raise SeedImageError(f"--audio {path} is silent from {from_s:g} s on; --start must be where it sounds")
    return heard, before


def _found(tempo: Tempo, path: Path) -> Tempo:
    if tempo.confidence < _LEAST_CONFIDENCE or not MIN_TEMPO_BPM <= tempo.bpm <= MAX_TEMPO_BPM:
        raise SeedImageError(
            f"--audio {path} has no steady beat (confidence {tempo.confidence:.2f}); --tempo must say how fast it is"
        )
    return tempo


def _length(grid: BeatGrid, tempo: Tempo) -> int:
    """Samples of the recording that the grid's beats take."""
    return GRID.samples_from_s(round(grid.beats * 60 / tempo.bpm, 6))


def _loop(heard: Array, begins: int, length: int, path: Path) -> Array:
    """`length` samples from `begins` on; towards its end what sounds before its start fades in, so that it closes."""
    if begins + length > len(heard):
        there_s, needed_s = (max(samples, 0) / GRID.sample_rate_hz for samples in (len(heard) - begins, length))
        raise SeedImageError(
            f"--audio {path} is too short: the measures take {needed_s:.2f} s and {there_s:.2f} s are left; "
            "give a smaller --measures or an earlier --start"
        )
    loop = heard[begins : begins + length].copy()
    seam = min(begins, GRID.samples_from_s(_SEAM_S))
    # Nothing before the start: silence leads in.
    lead_in = heard[begins - seam : begins] if seam else np.zeros(GRID.samples_from_s(_SEAM_S), np.float32)
    rise = np.sin(np.linspace(0, np.pi / 2, len(lead_in), dtype=np.float32)) ** 2
    loop[-len(lead_in) :] = loop[-len(lead_in) :] * (1 - rise) + lead_in * rise
    if np.sqrt(np.mean(loop**2)) < _SILENCE:
        raise SeedImageError(f"--audio {path} is silent in the measures chosen; --start must be where it sounds")
    return loop


def _fitted(loop: Array) -> Image.Image:
    """The picture of a loop of any length: one hop is 1/FRAME_COLUMNS of it."""
    hop = max(1, round(len(loop) / FRAME_COLUMNS))
    # A hop is whole samples: what is left, half a thousandth at most, is made up for by resampling.
    even = soxr.resample(loop, len(loop), hop * FRAME_COLUMNS)
    # The resampler may round the other way; past its end a loop goes on with its start.
    exact = np.resize(even, hop * FRAME_COLUMNS)
    return image_from_loop(exact, replace(GRID, hop_length=hop))
