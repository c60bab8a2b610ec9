"""One long track from pictures to a finished file, in a process of its own: CPU time, memory, beat, clipping.

    python -m tests.benchmarks.sound_long --chunks 60 [--repeats 1]

Owns the way of a long track through `workers.phase` and `workers.mastering`, chunk by chunk through a temporary folder,
as `workers.tasks` sends it through storage. Prints one JSON object. Leaves out what the figures should be (`sound`).
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import psutil
import soundfile
from numpy.typing import NDArray
from PIL import Image

from shared.contracts import LOUDNESS_LUFS
from shared.plan import CHUNK_FRAMES
from shared.spectrogram_params import FRAME_COLUMNS, SpectrogramParams
from tests.benchmarks.sound_metrics import clipped_samples, drift_samples_per_hour, late_samples
from tests.benchmarks.sound_stream import chunks, layout
from workers import mastering
from workers.seed_images import PATTERNS
from workers.spectrogram import Array, image_from_mel_amplitudes, mel_amplitudes_from_image
from workers.training.synthesise import loop_mel_amplitudes

PARAMS: Final = SpectrogramParams()
_PATTERN: Final = "og_beat"
_CLICK: Final = 1.0
_LISTENED: Final = 100
"""Repetitions that are looked at for the beat."""


@dataclass(frozen=True)
class LongTrack:
    """What a track of so many chunks took and what became of it.

    `cpu_s` is sound and mastering together; `rss_mib` are pairs of CPU seconds and resident memory, one for each chunk
    that was made, measured or written. A repetition of the picture is early or late against the first by
    `jitter_samples` at most.
    """

    chunks: int
    samples: int
    cpu_s: float
    peak_rss_mib: float
    rss_mib: list[tuple[float, float]]
    drift_samples_per_hour: float
    jitter_samples: int
    clipped_samples: int


def click_picture(params: SpectrogramParams) -> Image.Image:
    """A frame of drums, bass and organ with a click on each beat."""
    pattern = PATTERNS[_PATTERN]
    loop = pattern.loop(params)
    loop[:: len(loop) // pattern.grid.beats] += np.float32(_CLICK)
    return image_from_mel_amplitudes(loop_mel_amplitudes(loop, params), params)


def long_track(chunk_count: int, folder: Path) -> LongTrack:
    """Make a track of `chunk_count` chunks that repeats one picture, and look at the finished file."""
    image = click_picture(PARAMS)
    started_s = time.process_time()
    rss_mib: list[tuple[float, float]] = []

    def note() -> None:
        rss_mib.append(
            (round(time.process_time() - started_s, 2), round(psutil.Process().memory_info().rss / 2**20, 1))
        )

    _make_chunks(image, chunk_count, folder, note)
    path = _master(chunk_count, folder, note)
    cpu_s = time.process_time() - started_s
    # The first and the last repetition have an end of the track in them.
    last = chunk_count * CHUNK_FRAMES - 2
    late = _late_samples(path, np.linspace(1, last, min(last, _LISTENED), dtype=int))
    return LongTrack(
        chunks=chunk_count,
        samples=soundfile.info(path).frames,
        cpu_s=round(cpu_s, 3),
        peak_rss_mib=_peak_rss_mib(),
        rss_mib=rss_mib,
        drift_samples_per_hour=drift_samples_per_hour(late, (last - 1) * PARAMS.frame_s),
        jitter_samples=max(map(abs, late)),
        clipped_samples=sum(clipped_samples(block.T) for block in soundfile.blocks(path, 2**16, dtype="float32")),
    )


def _make_chunks(image: Image.Image, chunk_count: int, folder: Path, note: Callable[[], None]) -> None:
    # As in workers.tasks: a frame is read for its own columns and for its neighbours' blends.
    @lru_cache(maxsize=4)
    def frame(index: int) -> Array:
        return mel_amplitudes_from_image(image, PARAMS)

    for index, waveform in enumerate(chunks(frame, layout(chunk_count * CHUNK_FRAMES), PARAMS)):
        buffer = io.BytesIO()
        soundfile.write(buffer, waveform.T, PARAMS.sample_rate_hz, format="WAV", subtype="FLOAT")
        _chunk_path(folder, index).write_bytes(buffer.getvalue())
        note()


def _master(chunk_count: int, folder: Path, note: Callable[[], None]) -> Path:
    """Level and encode the stored chunks, each read twice."""

    def stored() -> Iterator[Array]:
        for index in range(chunk_count):
            samples, _ = soundfile.read(
                io.BytesIO(_chunk_path(folder, index).read_bytes()), dtype="float32", always_2d=True
            )
            yield samples.T
            note()

    rate_hz, path = PARAMS.sample_rate_hz, folder / "track.flac"
    total_samples = PARAMS.samples_from_columns(chunk_count * CHUNK_FRAMES * FRAME_COLUMNS)
    levels = mastering.levels_from_chunks(stored(), rate_hz, total_samples)
    gain = mastering.gain_from_levels(levels, LOUDNESS_LUFS)
    mastering.encode(stored(), {"flac": path}, sample_rate_hz=rate_hz, gain=gain, total_samples=total_samples)
    return path


def _chunk_path(folder: Path, index: int) -> Path:
    return folder / f"{index:05}.wav"


def _late_samples(path: Path, frames: NDArray[np.intp]) -> list[int]:
    """By how many samples each of these repetitions of the picture is late against the first of them."""
    length = PARAMS.samples_from_columns(FRAME_COLUMNS)
    with soundfile.SoundFile(path) as file:

        def repetition(frame: int) -> Array:
            file.seek(int(frame) * length)
            samples: Array = file.read(length, dtype="float32", always_2d=True).T
            return samples

        first = repetition(frames[0])
        return [late_samples(first, repetition(frame)) for frame in frames]


def _rss_mib() -> float:
    return round(psutil.Process().memory_info().rss / 2**20, 1)


def _peak_rss_mib() -> float:
    """The most memory this process ever had resident. (getrusage would tell the parent's peak, if that was higher.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(round(int(line.split()[1]) / 1024, 1) for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    """Make the track, or the same short one several times, and print the figures of the one with the middle time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=60, help="chunks of a track; one is 61.44 s of sound")
    parser.add_argument("--repeats", type=int, default=1, help="how often to make it")
    options = parser.parse_args()
    libraries_mib = _rss_mib()
    with tempfile.TemporaryDirectory(prefix="riffarm-") as folder:
        # Compiled code and tables are there before the clock starts.
        long_track(1, Path(folder))
        tracks = [long_track(options.chunks, Path(folder)) for _ in range(options.repeats)]
    middle = sorted(tracks, key=lambda track: track.cpu_s)[len(tracks) // 2]
    print(json.dumps(asdict(middle) | {"libraries_mib": libraries_mib}))


if __name__ == "__main__":
    main()
