"""An audio file as the waveform the signal path takes: one sample rate, mono or stereo, in blocks.

Owns mixing, resampling and what a listener should know about the material. Leaves out decoding and what is refused
(`shared.audio_source`). Memory does not grow with the length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import numpy as np
import soxr
from numpy.typing import NDArray

from shared.audio_source import AudioSource

Array = NDArray[np.float32]

CLIPPED_SHARE: Final = 0.001
"""Share of samples at the rail from which on a file counts as clipped."""
# Where each channel is: Left, Right, Centre, left and right behind or beside (l, r), and the Bass channel.
_PLACES: Final = {3: "LRC", 4: "LRlr", 5: "LRClr", 6: "LRCBlr", 7: "LRCBClr", 8: "LRCBlrlr"}
_PLACES_IN_VORBIS: Final = {3: "LCR", 4: "LRlr", 5: "LCRlr", 6: "LCRlrB", 7: "LCRlrCB", 8: "LCRlrlrB"}
_HALF_POWER: Final = 0.5**0.5
_GAINS: Final = {
    "L": (1.0, 0.0),
    "R": (0.0, 1.0),
    "C": (_HALF_POWER, _HALF_POWER),
    "l": (_HALF_POWER, 0.0),
    "r": (0.0, _HALF_POWER),
    "B": (0.0, 0.0),
}
"""What left and right take of a channel (ITU-R BS.775)."""


def waveforms_from_source(
    source: AudioSource, sample_rate_hz: int, *, is_stereo: bool, warn: Callable[[str], None]
) -> Iterator[Array]:
    """The sound as float32 waveforms (channel, sample) at another rate, one channel or two, block by block.

    Stereo becomes mono by its mean, mono is the same on both sides; more channels are mixed by their places.
    `warn` is told what a listener should know, at the latest at the end. Raises ValueError as `AudioSource.blocks`.
    """
    if source.channels > 2:
        to = "stereo" if is_stereo else "mono"
        bass = ", without its bass channel" if "B" in _PLACES[source.channels] else ""
        warn(f"The audio's {source.channels} channels are mixed down to {to} as surround sound{bass}.")
    elif is_stereo and source.channels == 1:
        warn("The audio is mono: both channels are the same.")
    blocks = _watched(source, warn)
    mixed = (block @ _mixing(source, is_stereo=is_stereo) for block in blocks)
    for block in _resampled(mixed, source.sample_rate_hz, sample_rate_hz, 2 if is_stereo else 1):
        yield np.ascontiguousarray(block.T)


def _mixing(source: AudioSource, *, is_stereo: bool) -> Array:
    """Gains (channel in, channel out) that add up to 1 on each way out, so that nothing clips."""
    if source.channels <= 2:
        stereo = np.eye(2) if source.channels == 2 else np.ones((1, 2))
    else:
        places = _PLACES_IN_VORBIS if source.subtype in ("VORBIS", "OPUS") else _PLACES
        stereo = np.array([_GAINS[place] for place in places[source.channels]])
    gains = stereo if is_stereo else stereo.mean(axis=1, keepdims=True)
    mixing: Array = (gains / gains.sum(axis=0)).astype(np.float32)
    return mixing


def _watched(source: AudioSource, warn: Callable[[str], None]) -> Iterator[Array]:
    """The same blocks, with a word at the end if too many samples are at the rail."""
    rail = 1 - 2.0**-7 if source.subtype in ("PCM_U8", "PCM_S8") else 1 - 2.0**-15
    # Floats may go beyond 1, where nothing is clipped.
    top = 1.0 if source.subtype in ("FLOAT", "DOUBLE") else np.inf
    clipped = total = 0
    for block in source.blocks():
        distance = np.abs(block)
        clipped += int(np.count_nonzero((distance >= rail) & (distance <= top)))
        total += block.size
        yield block
    if clipped > CLIPPED_SHARE * total:
        warn(f"The audio is clipped: {100 * clipped / total:.1f} % of its samples are as loud as there can be.")


def _resampled(blocks: Iterable[Array], from_hz: int, to_hz: int, channels: int) -> Iterator[Array]:
    if from_hz == to_hz:
        yield from blocks
        return
    stream = soxr.ResampleStream(from_hz, to_hz, channels)
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block))
    yield stream.resample_chunk(np.zeros((0, channels), np.float32), last=True)
