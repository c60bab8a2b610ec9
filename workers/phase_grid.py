"""A mel grid at the lowest sample rate that holds it: hops, windows and matrices for `workers.phase`.

Owns everything that follows from `SpectrogramParams` and how much longer than its window the transform is. Leaves out
all signals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.spectrogram_params import SpectrogramParams
from workers.fourier import Plan, is_quick, plan
from workers.phase_gradient import Gradient, gradient_for
from workers.projection import Filters, filters_from_matrix
from workers.spectrogram import mel_matrix

LOOK_AHEAD_COLUMNS: Final = 16
"""Columns of the next chunk that a chunk must see, unless it is the last."""
_RATE_MARGIN: Final = 1.04
_REGULARISATION: Final = 1e-3
_TINY: Final = 1e-9
_HANN_GAMMA: Final = 0.25645
"""Square width of the Gauss window most like a Hann window of width 1."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """How columns and signal relate at one sample rate: a frame of `window.size` samples every `hop`."""

    hop: int
    window: Floats
    plan: Plan

    @property
    def as_tuple(self) -> tuple[int, Floats, Floats, Plan]:
        """What compiled code takes: hop, window, the same on the way back (which undoes the transform's gain), plan."""
        return self.hop, self.window, self.window / np.float32(self.plan.length), self.plan


class PseudoInverse(NamedTuple):
    """The regularised pseudo-inverse of the mel matrix, factored: forth, scale, back, then the filters themselves."""

    forth: Filters
    scale: Floats
    back: Filters
    linear_from_mel: Filters


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A mel grid at the working sample rate. A frame spans `half` hops on either side of its column.

    coarse: the same with a transform no longer than the window, where this one's is longer.
    mel: mel amplitudes from linear ones, (mel bin, bin); share: a mel ratio's part in each bin, (bin, mel bin).
    """

    coarse: Grid | None
    half: int
    working: Frame
    output: Frame
    gradient: Gradient
    mel: Floats
    share: Floats
    mel_from_linear: Filters
    linear_from_mel: Filters
    pseudo_inverse: PseudoInverse

    @property
    def bins(self) -> int:
        """Bins of the working transform."""
        return self.working.plan.length // 2 + 1


def half_window_hops(params: SpectrogramParams) -> int:
    """Whole hops that half a window reaches over. Raises ValueError when that is more than the look-ahead holds."""
    half = -(-params.win_length // (2 * params.hop_length))
    if half >= LOOK_AHEAD_COLUMNS:
        raise ValueError(f"the window must be shorter than {2 * LOOK_AHEAD_COLUMNS} hops")
    return half


@lru_cache(maxsize=8)
def grid_for(params: SpectrogramParams, oversampling: int) -> Grid:
    """The grid whose transform is `oversampling`, 1 or 2, times its window. Raises what `half_window_hops` does."""
    half = half_window_hops(params)
    span = 2 * half
    hop = _working_hop(params, span)
    length, output_length = (span * each * oversampling for each in (hop, params.hop_length))
    is_half = oversampling == 2
    mel = _working_mel_matrix(params, hop, length)
    total = mel.sum(axis=0)
    share = np.divide(mel, total, out=np.zeros_like(mel), where=total > _TINY * total.max()).T
    return Grid(
        coarse=grid_for(params, 1) if oversampling > 1 else None,
        half=half,
        working=Frame(hop, _hann(span * hop, params.win_length * hop / params.hop_length), plan(length, is_half)),
        output=Frame(
            params.hop_length, _hann(span * params.hop_length, params.win_length), plan(output_length, is_half)
        ),
        gradient=gradient_for(
            length // 2 + 1, span, length / hop, _HANN_GAMMA * (params.win_length / params.hop_length) ** 2
        ),
        mel=mel.astype(np.float32),
        share=share.astype(np.float32),
        mel_from_linear=filters_from_matrix(mel),
        linear_from_mel=filters_from_matrix(share),
        pseudo_inverse=_pseudo_inverse(mel),
    )


def _pseudo_inverse(mel: NDArray[np.float64]) -> PseudoInverse:
    """Filters overlap with few others, so their square is a narrow band, and so is its Cholesky factor."""
    square = mel @ mel.T
    ridge = _REGULARISATION * np.trace(square) / len(square) * np.eye(len(square))
    factor = np.linalg.cholesky(square + ridge)
    diagonal = np.diag(factor)
    unit = np.where(np.abs(factor) > _TINY * diagonal, factor / diagonal, 0.0)
    return PseudoInverse(
        filters_from_matrix(np.tril(unit, -1)),
        (1 / diagonal**2).astype(np.float32),
        filters_from_matrix(np.tril(unit, -1).T),
        filters_from_matrix(mel.T),
    )


def _working_hop(params: SpectrogramParams, span: int) -> int:
    """Fewest samples a hop that hold f_max with some room, at a length that transforms quickly."""
    hop = math.ceil(2 * params.f_max_hz * _RATE_MARGIN / params.columns_per_s)
    while hop < params.hop_length and not is_quick(span * hop):
        hop += 1
    return min(hop, params.hop_length)


def _working_mel_matrix(params: SpectrogramParams, hop: int, fft_length: int) -> NDArray[np.float64]:
    """Mel filters (mel, bin) for the working transform, whose bins lie between the lines of the grid's own.

    A line of the grid's transform is read between the two working bins beside it.
    """
    filters = mel_matrix(params)
    # Both transforms in lines per column rate: the grid's is finer.
    place = np.arange(filters.shape[1]) * (fft_length * params.hop_length / (params.n_fft * hop))
    below = place.astype(np.intp)
    share = place - below
    matrix = np.zeros((len(filters), fft_length // 2 + 2))
    inside = below < fft_length // 2 + 1
    for part, bins in ((1 - share, below), (share, below + 1)):
        np.add.at(matrix.T, bins[inside], (filters * part)[:, inside].T)
    return matrix[:, :-1] * (params.hop_length / hop)


def _hann(length: int, width: float) -> Floats:
    """A Hann window of any width in the middle of `length` samples."""
    place = (np.arange(length) - length // 2) / width
    return np.where(np.abs(place) < 0.5, 0.5 + 0.5 * np.cos(2 * np.pi * place), 0.0).astype(np.float32)
