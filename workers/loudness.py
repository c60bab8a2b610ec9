"""How loud a track is, measured as it streams by: integrated loudness in LUFS and true peak in dBTP.

Owns the measures of ITU-R BS.1770-5: K-weighting, gated blocks of 400 ms, peaks between samples. A meter keeps the
state of its filters, one number for every 100 ms and a few samples, so pieces may have any size and change nothing.
Leaves out what is done about the level (`workers.limiter`, `workers.mastering`).
"""

from __future__ import annotations

from array import array
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pyloudnorm.iirfilter import IIRfilter
from scipy.signal import sosfilt

from workers.lanes import compiled

Array = NDArray[np.float32]

OVERSAMPLING: Final = 4
KERNEL_REACH: Final = 12
"""Samples on either side of a point between samples that its value depends on."""
_STEPS_PER_S: Final = 10
_STEPS_PER_BLOCK: Final = 4
_ABSOLUTE_GATE_LUFS: Final = -70.0
_RELATIVE_GATE_LU: Final = -10.0
_OFFSET_LUFS: Final = -0.691
_CELL_SAMPLES: Final = 64


class LoudnessMeter:
    """Integrated loudness (BS.1770-5) of a waveform (channel, sample) that is added in pieces; one or two channels."""

    def __init__(self, sample_rate_hz: int, channels: int) -> None:
        self._rate_hz = sample_rate_hz
        self._sections = _k_weighting(sample_rate_hz)
        self._state = np.zeros((len(self._sections), channels, 2))
        # Weighted samples of a step that has not ended yet, squared and summed over the channels.
        self._rest = np.zeros(0)
        self._energies = array("d")
        self._range = (np.full(channels, np.inf), np.full(channels, -np.inf))

    def add(self, piece: Array) -> None:
        """Listen to the next samples."""
        if not piece.shape[1]:
            return
        weighted, self._state = sosfilt(self._sections, piece, zi=self._state)
        powers = np.concatenate([self._rest, np.square(weighted).sum(axis=0)])
        done = len(self._energies)
        start = _step_edge(done, self._rate_hz)
        steps = (start + len(powers)) * _STEPS_PER_S // self._rate_hz - done
        edges = [_step_edge(done + step, self._rate_hz) - start for step in range(steps + 1)]
        if steps:
            self._energies.extend(np.add.reduceat(powers[: edges[-1]], edges[:-1]))
        self._rest = powers[edges[-1] :]
        lowest, highest = self._range
        self._range = (
            np.minimum(lowest, piece.min(axis=1)),
            np.maximum(highest, piece.max(axis=1)),
        )

    def loudness_lufs(self, gain: float = 1.0) -> float | None:
        """What is heard so far under a gain; None where there is no such number.

        That is for less than 400 ms, silence (no block at -70 LUFS) and nothing but DC.
        """
        lowest, highest = self._range
        # By the letter, DC is as loud as the click it starts with.
        if len(self._energies) < _STEPS_PER_BLOCK or (lowest == highest).all():
            return None
        energies = np.asarray(self._energies) * gain**2
        block_samples = _STEPS_PER_BLOCK * self._rate_hz / _STEPS_PER_S
        powers = np.lib.stride_tricks.sliding_window_view(energies, _STEPS_PER_BLOCK).sum(axis=1) / block_samples
        powers = powers[powers >= 10 ** ((_ABSOLUTE_GATE_LUFS - _OFFSET_LUFS) / 10)]
        if not len(powers):
            return None
        gate = powers.mean() * 10 ** (_RELATIVE_GATE_LU / 10)
        return float(_OFFSET_LUFS + 10 * np.log10(powers[powers > gate].mean()))


class TruePeakMeter:
    """Largest value of a waveform (channel, sample) between its samples too, as BS.1770-5, annex 2, reads it."""

    def __init__(self, channels: int) -> None:
        self._held = np.zeros((channels, 2 * KERNEL_REACH), np.float32)
        self._peak = 0.0

    def add(self, piece: Array) -> None:
        """Listen to the next samples."""
        samples = np.concatenate([self._held, piece], axis=1)
        self._peak = max(self._peak, _peak_of(samples, self._peak))
        self._held = samples[:, samples.shape[1] - 2 * KERNEL_REACH :]

    def peak(self) -> float:
        """What was reached so far, as if silence followed: a factor of full scale."""
        ending = np.concatenate([self._held, np.zeros((len(self._held), 2 * KERNEL_REACH), np.float32)], axis=1)
        return max(self._peak, _peak_of(ending, self._peak))


def cell_peaks(samples: Array, edges: NDArray[np.int64], floor: float) -> Array:
    """The true peak in each cell of a waveform (channel, sample), over all channels, shape (cell,).

    Cell j holds samples `edges[j]` to `edges[j + 1]` and what lies between them and up to the next one; around all
    cells there must be KERNEL_REACH samples more. Where nothing can exceed `floor`, some value up to it may stand.
    """
    longest = int(np.diff(edges).max(initial=1))
    peaks: Array = _cell_peaks(np.ascontiguousarray(samples), edges, _KERNELS, np.float32(floor), _BOUND, longest)
    return peaks


def _peak_of(samples: Array, floor: float) -> float:
    """The peak inside `samples`, without KERNEL_REACH at either end, or some value up to `floor`."""
    inside = samples[:, KERNEL_REACH : samples.shape[1] - KERNEL_REACH]
    sample_peak = float(np.abs(inside).max(initial=0.0))
    starts = np.arange(KERNEL_REACH, samples.shape[1] - KERNEL_REACH, _CELL_SAMPLES)
    edges = np.append(starts, samples.shape[1] - KERNEL_REACH)
    # All that matters is the largest: cells that cannot beat the largest sample are skipped.
    peaks = cell_peaks(samples, edges, max(floor, sample_peak))
    return float(max(sample_peak, peaks.max(initial=0.0)))


def _k_weighting(sample_rate_hz: int) -> NDArray[np.float64]:
    """The standard's two filters as second-order sections (2, 6), for any rate: De Man, "Evaluation of
    implementations of the EBU R128 loudness measurement", AES 145, 2018."""
    shelf = IIRfilter(3.99984385397, 0.7071752369554193, 1681.9744509555319, sample_rate_hz, "high_shelf_DeMan")
    high_pass = IIRfilter(0.0, 0.5003270373253953, 38.13547087613982, sample_rate_hz, "high_pass_DeMan")
    return np.array([np.concatenate([stage.b, stage.a]) for stage in (shelf, high_pass)])


def _step_edge(step: int, sample_rate_hz: int) -> int:
    return -(-step * sample_rate_hz // _STEPS_PER_S)


def _interpolation_kernels() -> Array:
    """Filters that read the waveform at 1/4, 1/2 and 3/4 between two samples, (place, tap), each with unit sum."""
    places = np.arange(1, OVERSAMPLING) / OVERSAMPLING
    distances = np.arange(1 - KERNEL_REACH, KERNEL_REACH + 1) - places[:, None]
    window = np.i0(_KAISER_BETA * np.sqrt(1 - (distances / KERNEL_REACH) ** 2)) / np.i0(_KAISER_BETA)
    kernels = np.sinc(distances) * window
    unit: Array = (kernels / kernels.sum(axis=1, keepdims=True)).astype(np.float32)
    return unit


_KAISER_BETA: Final = 4.0
_KERNELS: Final = _interpolation_kernels()
# How far the waveform between samples may rise above them at most.
_BOUND: Final = np.float32(np.abs(_KERNELS).sum(axis=1).max() * 1.0001)


@compiled
def _interpolate(near: Array, kernels: Array, fine: Array, length: int) -> None:
    first = kernels.shape[1] // 2 - 1
    for sample in range(length):
        fine[0, sample] = near[first + sample]
    for place in range(len(kernels)):
        # Along the samples, not along the taps: sums keep their order, so the result does not depend on
        # how wide the processor's vectors are.
        row = fine[place + 1]
        row[:length] = 0
        for tap in range(kernels.shape[1]):
            for sample in range(length):
                row[sample] += kernels[place, tap] * near[tap + sample]


@compiled
def _highest(fine: Array, length: int) -> np.float32:
    """The largest value; where it lies between two neighbours, the top of the parabola through the three."""
    highest = np.float32(0)
    places = len(fine)
    before = abs(fine[places - 1, 0])
    value = abs(fine[0, 1])
    for point in range(places, places * (length - 1)):
        after = abs(fine[(point + 1) % places, (point + 1) // places])
        rise = np.float32(0)
        bend = before - 2 * value + after
        if value >= before and value >= after and bend < 0:
            rise = (after - before) ** 2 / (-8 * bend)
        highest = max(highest, value + rise)
        before, value = value, after
    return highest


@compiled
def _cell_peaks(
    samples: Array, edges: NDArray[np.int64], kernels: Array, floor: np.float32, bound: np.float32, longest: int
) -> Array:
    reach = kernels.shape[1] // 2
    peaks = np.zeros(len(edges) - 1, np.float32)
    # The cell's samples, with one before and one after, in row 0; what lies between, in the other rows.
    fine = np.empty((len(kernels) + 1, longest + 2), np.float32)
    for cell in range(len(edges) - 1):
        length = edges[cell + 1] - edges[cell] + 2
        for channel in range(samples.shape[0]):
            near = samples[channel, edges[cell] - reach : edges[cell] + length + reach - 2]
            highest = np.float32(0)
            for value in near:
                highest = max(highest, abs(value))
            if highest * bound > floor:
                _interpolate(near, kernels, fine, length)
                peaks[cell] = max(peaks[cell], _highest(fine, length))
    return peaks
