"""The space around a loop and its tone: reverb and a gentle filter, wrapped exactly around the loop.

Owns the impulse responses and the filters. Leaves out what sounds in the room. All of it is one product of spectra, so
a tail that passes the loop's end comes in at its start.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import scipy.fft
from numpy.typing import NDArray

Array = NDArray[np.float32]
_TOP_HZ: Final = 10_000


@dataclass(frozen=True, slots=True)
class Space:
    """A reverb: its length to -60 dB, the gap before it, its loudness and where it grows dull."""

    duration_s: float
    gap_s: float
    wet: float
    """Power of the reverb over that of the direct sound, as an amplitude."""
    dull_hz: float


SPACES: Final[dict[str, Space | None]] = {
    "dry": None,
    "room": Space(duration_s=0.5, gap_s=0.008, wet=0.35, dull_hz=3_500.0),
    "hall": Space(duration_s=1.8, gap_s=0.025, wet=0.42, dull_hz=2_200.0),
}
TONES: Final = ("warm", "plain", "bright")
_WARM_HZ: Final = 1_500.0
_BRIGHT_HZ: Final = 2_000.0
_BRIGHT_GAIN: Final = 2.2


def placed(loop: Array, rate_hz: int, tone: str, space: str) -> Array:
    """A loop (sample,) in its space and tone; the result is as long and closes as exactly.

    Raises KeyError for an unknown space, ValueError for an unknown tone.
    """
    if tone == "plain" and SPACES[space] is None:
        return loop
    spectrum = scipy.fft.rfft(loop) * _response(len(loop), rate_hz, tone, space)
    heard: Array = scipy.fft.irfft(spectrum, len(loop)).astype(np.float32)
    return heard


@lru_cache(maxsize=32)
def _response(samples: int, rate_hz: int, tone: str, space: str) -> NDArray[np.complex64]:
    """What each frequency of a loop is multiplied by, shape (samples // 2 + 1,)."""
    frequency_hz = np.arange(samples // 2 + 1) * rate_hz / samples
    response = _filter(frequency_hz, tone).astype(np.complex64)
    kind = SPACES[space]
    if kind:
        response *= 1 + _reverb(kind, samples / rate_hz, frequency_hz)
    return response


def _filter(frequency_hz: NDArray[np.float64], tone: str) -> NDArray[np.float64]:
    """The gain of a tone by frequency."""
    if tone == "warm":
        return 1 / np.sqrt(1 + (frequency_hz / _WARM_HZ) ** 2)
    if tone == "bright":
        lift = (frequency_hz / _BRIGHT_HZ) ** 2
        return (1 + _BRIGHT_GAIN * lift) / (1 + lift)
    if tone == "plain":
        return np.ones_like(frequency_hz)
    raise ValueError(f"tone must be one of {', '.join(TONES)}, not {tone!r}")


def _reverb(space: Space, loop_s: float, frequency_hz: NDArray[np.float64]) -> NDArray[np.complex64]:
    """The reverb's spectrum at the frequencies of a loop of `loop_s` seconds, of power `wet` squared below `dull_hz`.

    The impulse response is noise from a fixed generator at twice the top frequency, so it is the same at every rate.
    """
    rate_hz = 2 * _TOP_HZ
    time_s = np.arange(round(space.duration_s * rate_hz)) / rate_hz
    impulse = np.random.default_rng(11).standard_normal(len(time_s)) * 10 ** (-3 * time_s / space.duration_s)
    # In at once but without a click, out to true silence.
    impulse *= np.minimum(time_s / 0.004, 1) * np.minimum((space.duration_s - time_s) / (0.2 * space.duration_s), 1)
    impulse *= space.wet / np.sqrt(np.sum(impulse**2))
    late = np.zeros(-(-len(time_s) // round(loop_s * rate_hz)) * round(loop_s * rate_hz))
    late[: len(impulse)] = impulse
    wrapped = late.reshape(-1, round(loop_s * rate_hz)).sum(axis=0)
    spectrum = np.zeros(len(frequency_hz), dtype=np.complex64)
    lines = scipy.fft.rfft(wrapped)[: len(frequency_hz)]
    spectrum[: len(lines)] = lines
    spectrum *= np.exp(-2j * np.pi * frequency_hz * space.gap_s) / (1 + (frequency_hz / space.dull_hz) ** 2)
    return spectrum
