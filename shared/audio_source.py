"""Audio files as people bring them: what is taken, whether a file is whole, and its samples in blocks.

Owns the limits and the sentence for everything that is refused. Both sides ask: the gateway to check an upload, a
worker to use it. Leaves out resampling, mixing and levels (`workers.audio_files`).
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import soundfile
from numpy.typing import NDArray

from shared.spectrogram_params import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ

MAX_AUDIO_S: Final = 1_800.0
MAX_CHANNELS: Final = 8

_BLOCK_SAMPLES: Final = 65_536
_UNKNOWN_FORMAT: Final = 1
"""libsndfile's number for a file it does not recognise."""
# Its log of a header whose sizes do not fit the file. RIFF's and FORM's own sizes are often sloppy: not asked.
_SIZES: Final = re.compile(r"^ *(?:data|SSND|Data Size|Riff size|riff) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_LENGTH_LEFT_OPEN: Final = 0x7FFF_F000
"""From here on a size is a writer's word for "until the end", as when it wrote to a pipe."""
_MAX_OGG_PAGE_BYTES: Final = 65_307


class NotAudioError(ValueError):
    """The file is not audio of a kind known here."""


class AudioSource:
    """An open audio file within the limits.

    `duration_s` is what its header says, None when that can only be found by decoding; `container` and `subtype`
    are libsndfile's names.
    """

    def __init__(self, path: Path, file: Any, max_s: float) -> None:
        self.sample_rate_hz: int = file.samplerate
        self.channels: int = file.channels
        self.container: str = file.format
        self.subtype: str = file.subtype
        self._path = path
        self._file = file
        self._max_s = max_s
        # Without a length in its header, libsndfile guesses an MP3's from its first frame, and ends there.
        self._samples = None if file.format == "MP3" and not _has_mp3_length(path) else int(file.frames)

    @property
    def duration_s(self) -> float | None:
        """Seconds of sound."""
        return None if self._samples is None else self._samples / self.sample_rate_hz

    def check(self) -> None:
        """Raise ValueError with a sentence for what the header alone shows to be wrong."""
        if not MIN_SAMPLE_RATE_HZ <= self.sample_rate_hz <= MAX_SAMPLE_RATE_HZ:
            taken = f"{MIN_SAMPLE_RATE_HZ} to {MAX_SAMPLE_RATE_HZ}"
            raise ValueError(f"the audio has {self.sample_rate_hz} samples a second; {taken} are taken")
        if self.channels > MAX_CHANNELS:
            raise ValueError(f"the audio has {self.channels} channels; {MAX_CHANNELS} are taken at most")
        if self._samples is not None:
            self._check_length(self._samples)
        for announced, found in _SIZES.findall(self._file.extra_info):
            if int(found) < int(announced) < _LENGTH_LEFT_OPEN:
                raise ValueError(f"the audio is cut off: its header announces {announced} bytes, {found} are there")
        if self.container == "OGG" and not _has_ogg_end(self._path):
            raise ValueError("the audio is cut off: its last page is missing")
        if self._samples == 0:
            raise ValueError("the audio has no samples")

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """All samples as float32 (sample, channel), in -1..1 but for loud floats; to be read once.

        Raises ValueError with a sentence when they end before the header says, cannot be decoded, are no finite
        numbers or more than is taken.
        """
        done = 0
        try:
            with self._decoder() as decoder:
                while len(block := decoder.read(out=np.empty((_BLOCK_SAMPLES, self.channels), np.float32))):
                    if not np.isfinite(block).all():
                        raise ValueError("the audio holds samples that are no finite numbers")
                    done += len(block)
                    self._check_length(done)
                    yield block
        except soundfile.LibsndfileError as error:
            after_s = done / self.sample_rate_hz
            raise ValueError(f"the audio is damaged or cut off after {after_s:.2f} s") from error
        if done < (self._samples or 1):
            of = "" if self._samples is None else f" of {self._samples}"
            raise ValueError(f"the audio is cut off: only {done}{of} samples can be decoded")

    def _check_length(self, samples: int) -> None:
        if samples > self._max_s * self.sample_rate_hz:
            raise ValueError(f"the audio is longer than {self._max_s / 60:g} minutes")

    @contextmanager
    def _decoder(self) -> Iterator[Any]:
        if self._samples is not None:
            yield self._file
            return
        # From a pipe it decodes until the end.
        reading, writing = os.pipe()
        feeder = threading.Thread(target=_feed, args=(self._path, writing), daemon=True)
        feeder.start()
        try:
            # The pipe is ours to close: the feeder waits as long as it is open.
            with os.fdopen(reading, "rb") as pipe, soundfile.SoundFile(pipe.fileno(), closefd=False) as decoder:
                yield decoder
        finally:
            feeder.join()


@contextmanager
def open_audio(path: Path, max_s: float = MAX_AUDIO_S) -> Iterator[AudioSource]:
    """An audio file of any kind libsndfile knows, checked as far as its header goes.

    Raises NotAudioError when it is none, ValueError with a sentence when it is damaged, cut off, empty or beyond the
    limits, OSError when it cannot be read.
    """
    with path.open("rb"):
        pass  # libsndfile's own errors do not tell a missing file from a damaged one
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        if error.code == _UNKNOWN_FORMAT:
            raise NotAudioError("this is no audio file of a known kind") from error
        raise ValueError("the audio cannot be decoded: it is damaged or cut off") from error
    with file:
        source = AudioSource(path, file, max_s)
        source.check()
        yield source


def _has_ogg_end(path: Path) -> bool:
    """Whether an Ogg file's last page is whole and marked as the end of its stream."""
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, 2 * _MAX_OGG_PAGE_BYTES), os.SEEK_END)
        tail = file.read()
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    if len(page) < 27:
        return False
    length = 27 + page[26] + sum(page[27 : 27 + page[26]])
    return bool(page[5] & 4) and len(page) >= length


def _has_mp3_length(path: Path) -> bool:
    """Whether an MP3's first frame says how many follow."""
    with path.open("rb") as file:
        head = file.read(10)
        if head.startswith(b"ID3"):
            # Four times seven bits.
            file.seek(10 + sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True)))
        else:
            file.seek(0)
        return re.search(b"Xing|Info|VBRI", file.read(1_500)) is not None


def _feed(path: Path, writing: int) -> None:
    # The reader may have enough before the end.
    with suppress(BrokenPipeError), os.fdopen(writing, "wb") as pipe, path.open("rb") as file:
        while data := file.read(_BLOCK_SAMPLES):
            pipe.write(data)
