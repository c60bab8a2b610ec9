"""From a track's chunks to its files: one gain, the exact length, the audio formats, and the picture of the whole.

Owns levels, the cut at the end, encoding and the overview. Works block by block, so that memory does not grow with
the track. Leaves out where chunks come from and files go to, and phase (`workers.phase`). Equal sound gives equal
bytes in every format.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from PIL import Image

from workers import ogg

Array = NDArray[np.float32]

PEAK_DBFS: Final = -1.0
"""Loudest sample of a track; the room above is for what lossy formats and resampling add."""
FADE_S: Final = 0.02
_BLOCK_SAMPLES: Final = 65_536
_MAX_WAV_BYTES: Final = 2**32 - 2**16


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How a format is written: names and numbers for libsndfile.

    `compression_level` runs 0..1, more is smaller; `rates_hz` are those it takes, any if empty.
    """

    suffix: str
    media_type: str
    container: str
    subtype: str
    compression_level: float | None = None
    bitrate_mode: str | None = None
    rates_hz: tuple[int, ...] = ()

    def rate_hz(self, sample_rate_hz: int) -> int:
        """The rate a track of this sample rate is written at: its own if it may be, else the next above."""
        if not self.rates_hz or sample_rate_hz in self.rates_hz:
            return sample_rate_hz
        return min((rate for rate in self.rates_hz if rate > sample_rate_hz), default=max(self.rates_hz))


_MP3_RATES_HZ: Final = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_OPUS_RATES_HZ: Final = (8_000, 12_000, 16_000, 24_000, 48_000)

FORMATS: Final[Mapping[str, AudioFormat]] = {
    # 16 bits: their noise lies far below that of the 8 bit picture the sound comes from.
    "wav": AudioFormat(".wav", "audio/wav", "WAV", "PCM_16"),
    "flac": AudioFormat(".flac", "audio/flac", "FLAC", "PCM_16"),
    "mp3": AudioFormat(".mp3", "audio/mpeg", "MP3", "MPEG_LAYER_III", 0.1, "VARIABLE", _MP3_RATES_HZ),
    "ogg": AudioFormat(".ogg", "audio/ogg", "OGG", "VORBIS", compression_level=0.3),
    "opus": AudioFormat(".opus", "audio/ogg", "OGG", "OPUS", compression_level=0.6, rates_hz=_OPUS_RATES_HZ),
}
"""Every output format. A new one is a line here and its name in `shared.contracts.Format`."""


def peak_of(waveform: Array) -> float:
    """Largest distance from zero in a waveform (channel, sample); 0 without samples."""
    return float(np.abs(waveform).max(initial=0.0))


def gain_from_peaks(peaks: Iterable[float]) -> float:
    """The one factor for a whole track whose chunks have these peaks: the loudest comes to PEAK_DBFS.

    A silent track keeps gain 1. Raises ValueError when a peak is not a finite number.
    """
    peak = float(np.max([0.0, *peaks]))
    if not math.isfinite(peak):
        raise ValueError("the waveform holds samples that are no finite numbers")
    return float(10 ** (PEAK_DBFS / 20)) / peak if peak else 1.0


def encode(
    chunks: Iterable[Array], paths: Mapping[str, Path], *, sample_rate_hz: int, gain: float, total_samples: int
) -> None:
    """Write the track to `paths` (format name → file) in one pass over its chunks (channel, sample).

    Every file holds exactly `total_samples` samples at `sample_rate_hz`, or as much time at the rate its format
    takes. Where that cuts into the material, the last FADE_S seconds fade out. A file appears under its name when
    it is whole; after an exception there is none, unless an older one was there.

    Raises KeyError for an unknown format, ValueError when the chunks hold fewer than `total_samples` samples.
    """
    blocks = _blocks(cut_to_length(chunks, total_samples, round(FADE_S * sample_rate_hz)))
    first = next(blocks)
    with ExitStack() as stack:
        writers = [
            stack.enter_context(_writer(path, FORMATS[name], sample_rate_hz, len(first), total_samples))
            for name, path in paths.items()
        ]
        for block in chain([first], blocks):
            samples = (block * np.float32(gain)).T
            for write in writers:
                write(samples)


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


@contextmanager
def _writer(
    path: Path, form: AudioFormat, sample_rate_hz: int, channels: int, total_samples: int
) -> Iterator[Callable[[Array], None]]:
    """A function that adds samples (sample, channel) to the file, which gets its name at the end."""
    part = path.with_name(f".{path.name}.part")
    rate_hz = form.rate_hz(sample_rate_hz)
    resampler = soxr.ResampleStream(sample_rate_hz, rate_hz, channels) if rate_hz != sample_rate_hz else None
    # Ten hours of stereo are more than a RIFF file can count.
    is_huge = form.container == "WAV" and total_samples * channels * 2 > _MAX_WAV_BYTES
    try:
        with soundfile.SoundFile(
            part,
            "w",
            rate_hz,
            channels,
            form.subtype,
            format="RF64" if is_huge else form.container,
            compression_level=form.compression_level,
            bitrate_mode=form.bitrate_mode,
        ) as file:
            if resampler is None:
                yield file.write
            else:
                yield lambda samples: file.write(resampler.resample_chunk(samples))
                file.write(resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True))
        if form.container == "OGG":
            ogg.set_serial(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


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
