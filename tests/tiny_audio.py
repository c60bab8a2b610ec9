"""Small audio files in every format, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE_HZ = 48_000
FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
}
"""Those that uploads take, by suffix: libsndfile's container and subtype."""
OTHER_FORMATS = {
    "rf64": ("RF64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "w64": ("W64", "PCM_16"),
}


def tone(seconds: float, rate_hz: int = RATE_HZ, channels: int = 1, level: float = 0.5) -> NDArray[np.float64]:
    """A 440 Hz sine (sample, channel) with a little noise, so that no format packs it into nothing."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(0).standard_normal((len(time_s), channels))
    return level * np.sin(2 * np.pi * 440 * time_s)[:, None] + 0.01 * noise


def write_tone(path: Path, seconds: float = 2.0, rate_hz: int = RATE_HZ, channels: int = 1) -> Path:
    """A tone in the format of the path's suffix."""
    container, subtype = (FORMATS | OTHER_FORMATS)[path.suffix[1:]]
    soundfile.write(path, tone(seconds, rate_hz, channels), rate_hz, format=container, subtype=subtype)
    return path


def cut(path: Path, kept_bytes: int) -> Path:
    """The same file ended after so many bytes, or that many before its end if negative."""
    path.write_bytes(path.read_bytes()[:kept_bytes])
    return path


def mp3_without_length(path: Path) -> Path:
    """A variable-rate MP3 of 2 s whose first frame, which tells the length, is missing."""
    soundfile.write(path, tone(2.0, 44_100), 44_100, format="MP3", bitrate_mode="VARIABLE")
    data = path.read_bytes()
    kbit_s = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)[data[2] >> 4]
    path.write_bytes(data[144_000 * kbit_s // 44_100 + (data[2] >> 1 & 1) :])
    return path
