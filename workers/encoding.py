"""One audio file from a stream of samples: the formats there are, and how each is written, tagged and named.

Owns rates a format takes, 16 bits or none, the exact length, files that appear only when they are whole and are equal
byte for byte for equal sound. Leaves out levels and the cut at the end (`workers.mastering`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import soundfile
import soxr
from mutagen.flac import FLAC
from mutagen.mp3 import MP3
from mutagen.oggopus import OggOpus
from mutagen.oggvorbis import OggVorbis
from mutagen.wave import WAVE
from numpy.typing import NDArray
from PIL import Image

from workers import ogg
from workers.dither import int16_from_samples
from workers.tags import Tags, write_tags

Array = NDArray[np.float32]

_MAX_WAV_BYTES: Final = 2**32 - 2**22
"""Beyond it a RIFF file cannot count its bytes; the room is for tags."""


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How a format is written: names and numbers for libsndfile, and mutagen's class for its tags.

    `compression_level` runs 0..1, more is smaller; `rates_hz` are those it takes, any if empty.
    """

    suffix: str
    media_type: str
    container: str
    subtype: str
    tag_container: Callable[[Path], Any]
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
    "wav": AudioFormat(".wav", "audio/wav", "WAV", "PCM_16", WAVE),
    "flac": AudioFormat(".flac", "audio/flac", "FLAC", "PCM_16", FLAC),
    "mp3": AudioFormat(".mp3", "audio/mpeg", "MP3", "MPEG_LAYER_III", MP3, 0.1, "VARIABLE", _MP3_RATES_HZ),
    "ogg": AudioFormat(".ogg", "audio/ogg", "OGG", "VORBIS", OggVorbis, compression_level=0.3),
    "opus": AudioFormat(".opus", "audio/ogg", "OGG", "OPUS", OggOpus, compression_level=0.6, rates_hz=_OPUS_RATES_HZ),
}
"""Every output format. A new one is a line here and its name in `shared.contracts.Format`."""


@dataclass(frozen=True, slots=True)
class TrackShape:
    """What a file must hold: `total_samples` at `sample_rate_hz`, after `lead_samples` that are heard and not kept."""

    sample_rate_hz: int
    channels: int
    total_samples: int
    lead_samples: int = 0


@contextmanager
def audio_file(
    path: Path, form: AudioFormat, shape: TrackShape, tags: Tags | None, cover: Image.Image | None
) -> Iterator[Callable[[Array], None]]:
    """A function that adds samples (sample, channel) to the file, which gets its name when all is done.

    Samples after the last one that is kept are heard too, by what has a memory (resampling).
    """
    part = path.with_name(f".{path.name}.part")
    is_huge = form.container == "WAV" and shape.total_samples * shape.channels * 2 > _MAX_WAV_BYTES
    try:
        with soundfile.SoundFile(
            part,
            "w",
            form.rate_hz(shape.sample_rate_hz),
            shape.channels,
            form.subtype,
            format="RF64" if is_huge else form.container,
            compression_level=form.compression_level,
            bitrate_mode=form.bitrate_mode,
        ) as file:
            stream = _Stream(file, shape)
            yield stream.add
            stream.finish()
        # mutagen knows no RF64: ten hours of stereo go without tags.
        if tags is not None and not is_huge:
            write_tags(part, form.tag_container, tags, cover)
        if form.container == "OGG":
            ogg.set_serial(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class _Stream:
    """Samples on their way into an open file: resampled where its rate is another, counted, rounded to 16 bits."""

    def __init__(self, file: soundfile.SoundFile, shape: TrackShape) -> None:
        self._file = file
        rate_hz, own_rate_hz = file.samplerate, shape.sample_rate_hz
        is_resampled = rate_hz != own_rate_hz
        self._resampler = soxr.ResampleStream(own_rate_hz, rate_hz, shape.channels) if is_resampled else None
        self._ahead = round(shape.lead_samples * rate_hz / own_rate_hz)
        self._left = round(shape.total_samples * rate_hz / own_rate_hz)
        self._written = 0

    def add(self, samples: Array) -> None:
        """Take the next samples (sample, channel)."""
        self._keep(samples if self._resampler is None else self._resampler.resample_chunk(samples))

    def finish(self) -> None:
        """Give the file what the resampler still holds."""
        if self._resampler is not None:
            nothing = np.zeros((0, self._file.channels), np.float32)
            self._keep(self._resampler.resample_chunk(nothing, last=True))

    def _keep(self, samples: Array) -> None:
        kept = samples[self._ahead : self._ahead + self._left]
        self._ahead = max(0, self._ahead - len(samples))
        self._file.write(int16_from_samples(kept, self._written) if self._file.subtype == "PCM_16" else kept)
        self._written += len(kept)
        self._left -= len(kept)
