"""From a track's chunks to its files: one gain, the exact length, the audio formats, and the picture of the whole.

Owns the two passes over a track (levels, then files), the cut at its end and the overview. Works block by block, so
that memory does not grow with the track. Leaves out where chunks come from and files go to, how levels are measured
(`workers.loudness`) and held down (`workers.limiter`), and files (`workers.encoding`). Equal sound gives equal bytes
in every format.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workers.encoding import FORMATS as FORMATS
from workers.encoding import AudioFormat as AudioFormat
from workers.encoding import TrackShape, audio_file
from workers.limiter import TAIL_S, THRESHOLD, limited
from workers.loudness import LoudnessMeter, TruePeakMeter
from workers.tags import Tags

Array = NDArray[np.float32]

FADE_S: Final = 0.02
_BLOCK_SAMPLES: Final = 65_536
_SILENT_PEAK: Final = 1e-30
"""What is smaller is no sound but rounding, and has no gain that float32 holds."""
_LEADS_PER_S: Final = 25


@dataclass(frozen=True, slots=True)
class Levels:
    """How loud a track is before its gain; `tail` (channel, sample) is its end, which a loop's start follows."""

    loudness_lufs: float | None
    true_peak_dbtp: float
    tail: Array


def levels_from_chunks(chunks: Iterable[Array], sample_rate_hz: int, total_samples: int | None = None) -> Levels:
    """Measure a track in one pass over its chunks (channel, sample), or over its first `total_samples` samples.

    The loudness is gated as if the track peaked at full scale, so it moves with the waveform's scale and does not
    depend on it. It is None for silence, DC and less than 400 ms; the true peak of silence is -inf. Raises ValueError
    when a sample is no finite number or there are too few.
    """
    pieces = chunks if total_samples is None else cut_to_length(chunks, total_samples, 0)
    tail = np.zeros((1, 0), np.float32)
    meters: tuple[LoudnessMeter, TruePeakMeter] | None = None
    for block in _blocks(map(_finite, pieces)):
        if meters is None:
            meters = LoudnessMeter(sample_rate_hz, len(block)), TruePeakMeter(len(block))
            tail = block[:, :0]
        for meter in meters:
            meter.add(block)
        tail = np.concatenate([tail, block], axis=1)[:, -_tail_samples(sample_rate_hz) :]
    peak = meters[1].peak() if meters else 0.0
    if meters is None or peak < _SILENT_PEAK:
        return Levels(None, -math.inf, tail)
    true_peak_dbtp = 20 * math.log10(peak)
    at_full_scale_lufs = meters[0].loudness_lufs(1 / peak)
    return Levels(None if at_full_scale_lufs is None else at_full_scale_lufs + true_peak_dbtp, true_peak_dbtp, tail)


def gain_from_levels(levels: Levels, loudness_lufs: float) -> float:
    """The one factor for a whole track that brings it to `loudness_lufs`.

    Where there is no loudness, the true peak comes to where the limiter would begin; silence keeps gain 1.
    """
    if levels.true_peak_dbtp == -math.inf:
        return 1.0
    if levels.loudness_lufs is None:
        return float(THRESHOLD / 10 ** (levels.true_peak_dbtp / 20))
    return float(10 ** ((loudness_lufs - levels.loudness_lufs) / 20))


def encode(
    chunks: Iterable[Array],
    paths: Mapping[str, Path],
    *,
    sample_rate_hz: int,
    gain: float,
    total_samples: int,
    loop_tail: Array | None = None,
    tags: Tags | None = None,
    cover: Image.Image | None = None,
) -> None:
    """Write the track to `paths` (format name → file) in one pass over its chunks (channel, sample).

    Every file holds exactly `total_samples` samples at `sample_rate_hz`, or as much time at the rate its format
    takes, under `gain` and a true-peak limiter. Where that cuts into the material, the last FADE_S seconds fade out.
    A loop is told by `loop_tail` (`Levels.tail`): its end runs into its start, and it must be given whole. `cover`
    goes with `tags`. A file appears under its name when it is whole; after an exception there is none, unless an
    older one was there.

    Raises KeyError for an unknown format, ValueError for no samples, fewer than `total_samples`, a loop with more, or a
    sample that is no finite number.
    """
    if total_samples < 1:
        raise ValueError("a track without samples is no track")
    exact = (
        cut_to_length(chunks, total_samples, round(FADE_S * sample_rate_hz))
        if loop_tail is None
        else _whole(chunks, total_samples)
    )
    lead_samples = 0 if loop_tail is None else _lead_samples(sample_rate_hz)
    leveled = (_finite(block) * np.float32(gain) for block in _blocks(exact))
    finished = limited(
        leveled,
        sample_rate_hz=sample_rate_hz,
        total_samples=total_samples,
        loop_tail=None if loop_tail is None else loop_tail * np.float32(gain),
        lead_samples=lead_samples,
    )
    blocks = _blocks(finished)
    first = next(blocks)
    with ExitStack() as stack:
        shape = TrackShape(sample_rate_hz, len(first), total_samples, lead_samples)
        writers = [
            stack.enter_context(audio_file(path, FORMATS[name], shape, tags, cover)) for name, path in paths.items()
        ]
        for block in chain([first], blocks):
            for write in writers:
                write(block.T)


def cut_to_length(chunks: Iterable[Array], total_samples: int, fade_samples: int) -> Iterator[Array]:
    """The same waveform (channel, sample) ended after `total_samples`, in pieces of any length.

    When there would be more, the last `fade_samples` fade to nothing. Raises ValueError when there is too little.
    """
    seen = 0
    held: Array | None = None
    for chunk in chunks:
        seen += chunk.shape[-1]
        # What may have to be faded waits until it is known whether more follows.
        held = chunk if held is None else np.concatenate([held, chunk], axis=-1)
        if seen > total_samples:
            yield _faded_out(held[:, : held.shape[-1] - (seen - total_samples)], fade_samples)
            return
        ready = max(0, held.shape[-1] - fade_samples)
        yield held[:, :ready]
        held = held[:, ready:]
    if held is None or seen < total_samples:
        raise ValueError(f"the track has {seen} of {total_samples} samples")
    yield held


def _blocks(waveforms: Iterable[Array]) -> Iterator[Array]:
    """The same samples in equal blocks and a rest: the encoders' bytes depend on how samples are handed over."""
    rest: Array | None = None
    for waveform in waveforms:
        rest = waveform if rest is None else np.concatenate([rest, waveform], axis=-1)
        while rest.shape[-1] > _BLOCK_SAMPLES:
            yield rest[:, :_BLOCK_SAMPLES]
            rest = rest[:, _BLOCK_SAMPLES:]
    if rest is not None:
        yield rest


def _faded_out(waveform: Array, fade_samples: int) -> Array:
    faded = min(fade_samples, waveform.shape[-1])
    curve = np.ones(waveform.shape[-1], np.float32)
    curve[waveform.shape[-1] - faded :] = 0.5 + 0.5 * np.cos(np.pi * np.arange(1, faded + 1) / faded)
    return waveform * curve


def _whole(chunks: Iterable[Array], total_samples: int) -> Iterator[Array]:
    """A loop's chunks as they are. Raises ValueError unless they hold `total_samples`: a loop cannot be cut."""
    seen = 0
    for chunk in chunks:
        seen += chunk.shape[-1]
        yield chunk
    if seen != total_samples:
        raise ValueError(f"the loop has {seen} samples, not {total_samples}")


def _finite(waveform: Array) -> Array:
    if not np.isfinite(waveform).all():
        raise ValueError("the waveform holds samples that are no finite numbers")
    return waveform


def _lead_samples(sample_rate_hz: int) -> int:
    # A whole number of samples at every rate there is, so that a resampled loop stays in phase.
    return sample_rate_hz // _LEADS_PER_S


def _tail_samples(sample_rate_hz: int) -> int:
    return _lead_samples(sample_rate_hz) + math.ceil(TAIL_S * sample_rate_hz)


def overview_image(frames: Iterable[Image.Image], frame_count: int, max_columns: int = 8_192) -> Image.Image:
    """The whole track's picture: `frame_count` frames side by side, as wide as they are or `max_columns` at most.

    A long track's frames are made narrower by averaging; their left edges stay in proportion. Raises ValueError
    when there are more frames than columns, or fewer frames than `frame_count`.
    """
    if not 0 < frame_count <= max_columns:
        raise ValueError(f"an overview shows 1 to {max_columns} frames, not {frame_count}")
    overview: Image.Image | None = None
    shown = 0
    for shown, frame in enumerate(frames, start=1):
        if overview is None:
            overview = Image.new(frame.mode, (min(frame.width * frame_count, max_columns), frame.height))
        left, right = (overview.width * edge // frame_count for edge in (shown - 1, shown))
        narrow = frame.resize((right - left, frame.height), Image.Resampling.BOX)
        overview.paste(narrow, (left, 0))
    if overview is None or shown != frame_count:
        raise ValueError(f"the track has {shown} of {frame_count} frames")
    return overview
