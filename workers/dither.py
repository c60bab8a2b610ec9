"""Sixteen bits from a waveform, with the noise that makes rounding errors independent of the sound.

Owns triangular dither whose noise depends on the sample's place in the track alone. Leaves out files
(`workers.mastering`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.random import Philox
from numpy.typing import NDArray

_SEED: Final = 16
_DRAWS_PER_COUNT: Final = 4  # a Philox counter step makes four numbers
_FULL_SCALE: Final = 2**15


def int16_from_samples(samples: NDArray[np.float32], first_sample: int) -> NDArray[np.int16]:
    """Samples (sample, channel) in -1..1 as 16 bit integers; `first_sample` is the place of the first in the track.

    Adds triangular noise of two steps' width before rounding (Lipshitz, Wannamaker, Vanderkooy 1992), so that the
    error's mean and power do not follow the sound. A sample of exactly 0 stays 0: digital silence is silent.
    """
    noise = _triangular(first_sample * samples.shape[1], samples.size).reshape(samples.shape)
    steps = np.rint(samples.astype(np.float64) * _FULL_SCALE + noise)
    steps[samples == 0] = 0
    return np.clip(steps, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


def _triangular(first: int, count: int) -> NDArray[np.float64]:
    """Numbers `first` on of an endless series in -1..1, each the sum of two that are evenly spread."""
    counted, skipped = divmod(first, _DRAWS_PER_COUNT)
    generator = Philox(key=_SEED)
    generator.advance(counted)
    bits = generator.random_raw(skipped + count)[skipped:]
    sums: NDArray[np.float64] = ((bits >> np.uint64(32)) + (bits & np.uint64(2**32 - 1))).astype(np.float64)
    return sums / 2**32 - 1
