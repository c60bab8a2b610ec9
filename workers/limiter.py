"""A true-peak limiter that looks ahead and forgets: what it does to a sample depends on some 60 ms around it alone.

Owns the gain curve that keeps peaks between samples under a ceiling. It streams with constant memory, and a loop can
be limited as if it had played forever. Where nothing comes near the ceiling, samples pass bit for bit. Leaves out
measuring (`workers.loudness`), and the gain of the whole track (`workers.mastering`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from workers.loudness import KERNEL_REACH, cell_peaks

Array = NDArray[np.float32]
_Curve = NDArray[np.float64]

CEILING_DBTP: Final = -1.0
MARGIN_DB: Final = 0.2
"""The limiter aims this much lower: for what lies between the points it reads, and for the bend of its own gain."""
THRESHOLD: Final = 10 ** ((CEILING_DBTP - MARGIN_DB) / 20)
"""Largest value that passes untouched, as a factor of full scale."""
TAIL_S: Final = 0.1
"""So much of a loop's end decides how its start is limited."""
_CELL_S: Final = 0.0005
_ATTACK_CELLS: Final = 10
_RELEASE_CELLS: Final = 100
_HISTORY_CELLS: Final = _ATTACK_CELLS + _RELEASE_CELLS
# Gain comes down along a raised cosine within 5 ms and goes back along another within 50 ms.
_ATTACK: Final = np.hanning(_ATTACK_CELLS + 3)[1:-1] / np.hanning(_ATTACK_CELLS + 3).sum()
_RELEASE: Final = 0.5 + 0.5 * np.cos(np.pi * np.arange(_RELEASE_CELLS) / _RELEASE_CELLS)


def limited(
    pieces: Iterable[Array],
    *,
    sample_rate_hz: int,
    total_samples: int,
    loop_tail: Array | None = None,
    lead_samples: int = 0,
) -> Iterator[Array]:
    """The same waveform (channel, sample) with its true peak under CEILING_DBTP, in pieces of any length.

    The pieces must hold `total_samples` samples together; how they are cut changes nothing. For a loop, `loop_tail`
    is its end: TAIL_S seconds and `lead_samples`, or all of a shorter loop. The gain then runs from the end into the
    start without a step, and what is given begins `lead_samples` before the start and ends as many after the end.
    Raises ValueError when the tail is too short.
    """
    count = round(total_samples / (sample_rate_hz * _CELL_S))
    cells = _Cells(total_samples, min(max(1, count), total_samples))
    lead_cells = 1 - cells.last_edge_by(-lead_samples) if lead_samples else 0
    before = KERNEL_REACH - cells.edge(-lead_cells - _HISTORY_CELLS)
    after = KERNEL_REACH + cells.edge(lead_cells + _ATTACK_CELLS + 1)
    if loop_tail is not None and loop_tail.shape[1] < min(before, total_samples):
        raise ValueError(f"the limiter needs the last {before} samples of a loop, not {loop_tail.shape[1]}")
    wrapped = _wrapped(pieces, loop_tail, before, after)
    stream = _Stream(cells, next(wrapped, np.zeros((1, before), np.float32)), lead_cells)
    surplus = -cells.edge(-lead_cells) - lead_samples
    yield from _section(map(stream.limit, wrapped), surplus, total_samples + 2 * lead_samples)


def _wrapped(pieces: Iterable[Array], loop_tail: Array | None, before: int, after: int) -> Iterator[Array]:
    """`before` samples to go before the pieces, the pieces, and `after` to follow: of the loop, else silence."""
    start: Array | None = None
    silence = np.zeros((1, 1), np.float32)
    for piece in pieces:
        if start is None:
            silence, start = np.zeros((len(piece), 1), np.float32), piece[:, :0]
            yield _repeated(silence if loop_tail is None else loop_tail, -before, 0)
        if start.shape[1] < after:
            start = np.concatenate([start, piece[:, :after]], axis=1)
        yield piece
    yield _repeated(silence if loop_tail is None or start is None else start, 0, after)


def _section(pieces: Iterable[Array], first: int, count: int) -> Iterator[Array]:
    """`count` samples from sample `first` on."""
    for piece in pieces:
        cut = piece[:, first : first + count]
        first = max(0, first - piece.shape[1])
        count -= cut.shape[1]
        yield cut


@dataclass(frozen=True)
class _Cells:
    """Cells of about 0.5 ms, equal to one sample, that tile the track and go on in the same way beyond both ends."""

    total_samples: int
    count: int

    def edges(self, first: int, last: int) -> NDArray[np.int64]:
        """The samples that cells `first` to `last` start with; cell 0 starts with sample 0."""
        return np.arange(first, last + 1) * self.total_samples // self.count

    def edge(self, cell: int) -> int:
        """The sample a cell starts with."""
        return cell * self.total_samples // self.count

    def last_edge_by(self, sample: int) -> int:
        """The last cell that starts with this sample or before."""
        return ((sample + 1) * self.count - 1) // self.total_samples


class _Stream:
    """What the limiter remembers: samples not given out yet, and by how much recent cells exceed the threshold."""

    def __init__(self, cells: _Cells, before: Array, lead_cells: int) -> None:
        self._cells = cells
        self._samples = before
        self._first_sample = -before.shape[1]
        # The first cell whose samples are not given out; reductions are kept from _HISTORY_CELLS before it on.
        self._next = -lead_cells
        self._stop = cells.count + lead_cells
        self._reductions = np.zeros(0)

    def limit(self, piece: Array) -> Array:
        """Take the next samples, give those whose gain is known by now."""
        self._samples = np.concatenate([self._samples, piece], axis=1)
        unread = self._read_peaks()
        # The gain where a cell starts depends on _ATTACK_CELLS after that.
        ready = max(self._next, min(unread - 1 - _ATTACK_CELLS, self._stop))
        edges = self._cells.edges(self._next, ready)
        gains = _gains(self._reductions[: _HISTORY_CELLS + len(edges) + _ATTACK_CELLS])
        samples = self._samples[:, edges[0] - self._first_sample : edges[-1] - self._first_sample]
        self._reductions = self._reductions[ready - self._next :]
        self._next = ready
        keep = min(self._cells.edge(ready), self._cells.edge(unread) - KERNEL_REACH)
        self._samples = self._samples[:, keep - self._first_sample :]
        self._first_sample = keep
        return _shaped(samples, edges, gains)

    def _read_peaks(self) -> int:
        """Note the reductions of all cells that are here with what surrounds them; the first that is not."""
        known = self._next - _HISTORY_CELLS + len(self._reductions)
        unread = max(known, self._cells.last_edge_by(self._first_sample + self._samples.shape[1] - KERNEL_REACH))
        peaks = cell_peaks(self._samples, self._cells.edges(known, unread) - self._first_sample, THRESHOLD)
        reductions = 1 - THRESHOLD / np.maximum(peaks.astype(np.float64), THRESHOLD)
        self._reductions = np.concatenate([self._reductions, reductions])
        return unread


def _repeated(waveform: Array, start: int, stop: int) -> Array:
    """Samples `start` to `stop` of a waveform (channel, sample) that is played over and over."""
    repeated: Array = np.take(waveform, np.arange(start, stop), axis=1, mode="wrap")
    return repeated


def _gains(reductions: _Curve) -> _Curve:
    """The gain at each place where cells meet, from what each cell must be reduced by (1 - gain).

    `reductions` begins _HISTORY_CELLS before the first place's second cell and ends _ATTACK_CELLS after the last's.
    """
    places = len(reductions) - _HISTORY_CELLS - _ATTACK_CELLS
    if places < 1 or not reductions.any():
        return np.ones(max(places, 1))
    needed = np.maximum(reductions[:-1], reductions[1:])
    released = needed[_RELEASE_CELLS - 1 :].copy()
    for age in range(1, _RELEASE_CELLS):
        stop = len(needed) - age
        np.maximum(released, needed[stop - len(released) : stop] * _RELEASE[age], out=released)
    # Early enough for the smoothing to be down when the peak comes.
    ahead = np.lib.stride_tricks.sliding_window_view(released, len(_ATTACK)).max(axis=1)
    # Written out as a sum, so that its order does not depend on how many places there are.
    smooth = sum(weight * ahead[age : age + places] for age, weight in enumerate(_ATTACK))
    gains: _Curve = 1 - np.asarray(smooth)
    return gains


def _shaped(waveform: Array, edges: NDArray[np.int64], gains: _Curve) -> Array:
    """A waveform (channel, sample) under a gain that goes straight from edge to edge."""
    if (gains == 1).all():
        return waveform
    curve = np.interp(np.arange(edges[0], edges[-1]), edges, gains)
    shaped: Array = waveform * curve.astype(np.float32)
    return shaped
