"""mel amplitudes → waveform, as one stream of any length in constant memory.

Owns the stream: which waveform has these mel amplitudes, from block to block and from chunk to chunk. A track is
inverted in chunks, on any machine, and what a chunk needs of its past is its `StreamState`. Each block of columns is

1. turned into linear amplitudes by a regularised pseudo-inverse of the mel matrix;
2. given a first phase that continues its past (`workers.phase_gradient`);
3. improved by Griffin-Lim with momentum (Perraudin, Balazs and Søndergaard 2013), its past held fixed, each step
   scaling the amplitudes to the wanted mel energy;
4. overlapped and added at the full sample rate, the spectrum extended by zeros above what the mel bins reach.

Steps 1 to 3 run at the lowest sample rate that holds all mel bins. Leaves out pictures (`workers.spectrogram`) and
levels (`workers.mastering`). Equal input gives equal bits on one kind of processor, however the track is cut.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import scipy.fft
import scipy.sparse
import torch
from numpy.typing import NDArray

from shared.spectrogram_params import SpectrogramParams
from workers.phase_gradient import first_phase
from workers.spectrogram import Array, mel_matrix

BLOCK_COLUMNS: Final = 128
"""Columns made at once. Chunks whose lengths are multiples of it leave no trace in the waveform."""
LOOK_AHEAD_COLUMNS: Final = 16
"""Columns of the next chunk that a chunk must see, unless it is the last."""
_ITERATIONS: Final = 24
_MOMENTUM: Final = 0.99
_OVERSAMPLING: Final = 2
_RATE_MARGIN: Final = 1.04
_REGULARISATION: Final = 1e-3
_TINY: Final = 1e-9
_FLOOR: Final = 1e-6
_HANN_GAMMA: Final = 0.25645
"""Square width of the Gauss window most like a Hann window of width 1."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """What the next chunk of a track needs of its past.

    columns_done: columns turned into waveform so far.
    spectrum: the newest fixed columns, complex, (channel, column, bin).
    tail: what those columns reach into the next chunk, (channel, sample).
    """

    columns_done: int
    spectrum: NDArray[np.complex64]
    tail: Array

    def to_bytes(self) -> bytes:
        """The state as an .npz file."""
        file = io.BytesIO()
        np.savez(file, columns_done=np.int64(self.columns_done), spectrum=self.spectrum, tail=self.tail)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> StreamState:
        """The state that `to_bytes` wrote. Raises ValueError when the bytes hold anything else."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                return cls(int(file["columns_done"]), file["spectrum"], file["tail"])
        except (AttributeError, EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError("these bytes hold no stream state") from error


@dataclass(frozen=True, slots=True)
class _Grid:
    """A mel grid at the working sample rate. A frame of samples spans `half` hops on either side of its column."""

    hop: int
    output_hop: int
    half: int
    fft_length: int
    gamma_hops: float
    window: torch.Tensor
    output_window: torch.Tensor
    pseudo_inverse: torch.Tensor
    mel_from_linear: Any
    linear_from_mel: Any


def waveform_from_mel_amplitudes(
    mel_amplitudes: Array,
    params: SpectrogramParams,
    state: StreamState | None = None,
    is_last: bool = True,
    on_block: Callable[[float], None] | None = None,
) -> tuple[Array, StreamState | None]:
    """The waveform (channel, sample) in float32 of one chunk of a track, and the state for the next chunk.

    `mel_amplitudes` (channel, frequency, time) holds the chunk's own columns and, unless it `is_last`, the first
    LOOK_AHEAD_COLUMNS of the next. The waveform has own columns * hop_length samples: chunks laid end to end are the
    track. `state` is the one the chunk before gave, None for the first; the last chunk gives None. `on_block` is
    told the finished fraction 0..1 after each block; what it raises ends the work.

    Raises ValueError when there are too few columns, or when the window is too long for the look-ahead.
    """
    grid = _grid(params)
    own = mel_amplitudes.shape[-1] - (0 if is_last else LOOK_AHEAD_COLUMNS)
    if own < 1:
        raise ValueError("a chunk needs a column of its own, and its look-ahead unless it is the last")
    if state is not None and mel_amplitudes.shape[-1] < LOOK_AHEAD_COLUMNS:
        raise ValueError("a chunk may not be shorter than the look-ahead of the one before")
    blocks = []
    for start in range(0, own, BLOCK_COLUMNS):
        stop = min(start + BLOCK_COLUMNS, own)
        seen = mel_amplitudes[..., start : stop + LOOK_AHEAD_COLUMNS]
        waveform, state = _next_block(seen, stop - start, grid, params, state)
        blocks.append(waveform)
        if on_block:
            on_block(stop / own)
    return np.concatenate(blocks, axis=-1), None if is_last else state


def _next_block(
    mel_amplitudes: Array, own: int, grid: _Grid, params: SpectrogramParams, state: StreamState | None
) -> tuple[Array, StreamState]:
    """The waveform of `own` columns, and the state after them; `mel_amplitudes` goes on as far as may be seen.

    A sample is final when all columns whose window covers it are, so columns are fixed `half` ahead of the waveform.
    """
    channels, _, columns = mel_amplitudes.shape
    done, fixed, lead = 0, 0, grid.half
    past = torch.zeros((channels, 0, grid.fft_length // 2 + 1), dtype=torch.complex64)
    tail = torch.zeros((channels, 0))
    if state is not None:
        done, fixed, lead = state.columns_done, min(grid.half, columns), 0
        past, tail = torch.from_numpy(state.spectrum), torch.from_numpy(state.tail)
    new = _spectrum(mel_amplitudes[..., fixed:], past, grid)[:, : max(own + grid.half - fixed, 0)]
    signal = _output_signal(new, tail, grid)
    first, last = lead * grid.output_hop, (lead + own) * grid.output_hop
    # Columns that reach into these samples from either side; at the track's ends there are none.
    earlier, later = min(done, grid.half), min(grid.half, columns - own)
    weight = _weight(grid.output_window, grid.output_hop, earlier + own + later)
    begin = (earlier + grid.half) * grid.output_hop
    waveform = signal[:, first:last] * weight[begin : begin + last - first]
    kept = torch.cat([past, new], dim=1)[:, 1 - 2 * grid.half :]
    return waveform.numpy(), StreamState(done + own, kept.clone().numpy(), signal[:, last:].clone().numpy())


def _spectrum(mel_amplitudes: Array, past: torch.Tensor, grid: _Grid) -> torch.Tensor:
    """Complex columns (channel, column, bin) with these mel amplitudes that go on from the fixed `past`."""
    loudest = float(mel_amplitudes.max(initial=0.0))
    wanted = torch.from_numpy(np.array(mel_amplitudes, np.float32)).transpose(1, 2)
    linear = (wanted @ grid.pseudo_inverse).clamp_min_(0.0)
    if loudest == 0.0:
        return linear.to(torch.complex64)
    phase = first_phase(linear.numpy(), past.numpy(), 2 * grid.half, grid.fft_length / grid.hop, grid.gamma_hops)
    estimate = torch.polar(linear, torch.from_numpy(phase))
    before, after = past.shape[1], linear.shape[1]
    start = before * grid.hop
    base = torch.nn.functional.pad(_signal(past, grid.fft_length, grid.window, grid.hop), (0, after * grid.hop))
    weight = _weight(grid.window, grid.hop, before + after)
    previous = None
    for _ in range(_ITERATIONS):
        signal = base.clone()
        signal[:, start:] += _signal(estimate, grid.fft_length, grid.window, grid.hop)
        signal *= weight
        frames = signal[:, start:].unfold(-1, len(grid.window), grid.hop) * grid.window
        found = torch.fft.rfft(frames, n=grid.fft_length)
        goal = found if previous is None else found + _MOMENTUM * (found - previous)
        previous = found
        estimate = _with_mel_energy(found.abs(), wanted, grid, loudest) * torch.sgn(goal)
    return estimate


def _with_mel_energy(amplitudes: torch.Tensor, wanted: torch.Tensor, grid: _Grid, loudest: float) -> torch.Tensor:
    """Amplitudes (channel, column, bin) scaled so that their mel amplitudes come near `wanted`."""
    floor = _FLOOR * loudest
    flat = amplitudes.flatten(0, 1).T.contiguous().numpy()
    ratio = (wanted.flatten(0, 1).T.numpy() + floor) / (grid.mel_from_linear @ flat + floor)
    scale = torch.from_numpy(grid.linear_from_mel @ ratio)
    return amplitudes * scale.T.reshape(amplitudes.shape)


def _output_signal(spectrum: torch.Tensor, tail: torch.Tensor, grid: _Grid) -> torch.Tensor:
    """`_signal` at the full sample rate, on top of the `tail` of the columns before."""
    signal = _signal(spectrum, grid.fft_length * grid.output_hop // grid.hop, grid.output_window, grid.output_hop)
    signal *= grid.output_hop / grid.hop
    signal = torch.nn.functional.pad(signal, (0, max(0, tail.shape[-1] - signal.shape[-1])))
    signal[:, : tail.shape[-1]] += tail
    return signal


def _signal(spectrum: torch.Tensor, fft_length: int, window: torch.Tensor, hop: int) -> torch.Tensor:
    """Overlapped and added frames (channel, sample) of complex columns, a sample's windows not yet weighed out."""
    if not spectrum.shape[1]:  # the transform refuses to do nothing
        return torch.zeros((spectrum.shape[0], len(window) - hop))
    frames = torch.fft.irfft(spectrum, n=fft_length)[..., : len(window)] * window
    return _overlapped_and_added(frames, hop)


def _overlapped_and_added(frames: torch.Tensor, hop: int) -> torch.Tensor:
    """(channel, column, sample of frame) → (channel, sample), each frame a hop later than the one before."""
    channels, columns, length = frames.shape
    hops = frames.reshape(channels, columns, length // hop, hop)
    signal = frames.new_zeros((channels, columns + length // hop - 1, hop))
    for index in range(length // hop):
        signal[:, index : index + columns] += hops[:, :, index]
    return signal.flatten(1)


def _weight(window: torch.Tensor, hop: int, columns: int) -> torch.Tensor:
    """What to multiply a sum of `columns` twice windowed frames by, (sample,)."""
    squares = (window * window).expand(1, columns, -1)
    return _overlapped_and_added(squares, hop)[0].clamp_min(1e-3).reciprocal()


@lru_cache(maxsize=4)
def _grid(params: SpectrogramParams) -> _Grid:
    half = -(-params.win_length // (2 * params.hop_length))
    if half >= LOOK_AHEAD_COLUMNS:
        raise ValueError(f"the window must be shorter than {2 * LOOK_AHEAD_COLUMNS} hops")
    hop = _working_hop(params, 2 * half)
    mel = _working_mel_matrix(params, hop, 2 * half * hop * _OVERSAMPLING)
    square = mel @ mel.T
    ridge = _REGULARISATION * np.trace(square) / len(square) * np.eye(len(square))
    total = mel.sum(axis=0)
    share = np.divide(1.0, total, out=np.zeros_like(total), where=total > _TINY * total.max())
    return _Grid(
        hop=hop,
        output_hop=params.hop_length,
        half=half,
        fft_length=2 * half * hop * _OVERSAMPLING,
        gamma_hops=_HANN_GAMMA * (params.win_length / params.hop_length) ** 2,
        window=_hann(2 * half * hop, params.win_length * hop / params.hop_length),
        output_window=_hann(2 * half * params.hop_length, params.win_length),
        pseudo_inverse=torch.from_numpy(np.linalg.solve(square + ridge, mel).astype(np.float32)),
        mel_from_linear=scipy.sparse.csr_array(mel.astype(np.float32)),
        linear_from_mel=scipy.sparse.csr_array((mel * share).T.astype(np.float32)),
    )


def _working_hop(params: SpectrogramParams, span_hops: int) -> int:
    """Fewest samples a hop that hold f_max with some room, at a length that transforms quickly."""
    hop = math.ceil(2 * params.f_max_hz * _RATE_MARGIN / params.columns_per_s)
    while hop < params.hop_length and scipy.fft.next_fast_len(span_hops * hop, real=True) > span_hops * hop:
        hop += 1
    return min(hop, params.hop_length)


def _working_mel_matrix(params: SpectrogramParams, hop: int, fft_length: int) -> NDArray[np.float64]:
    """Mel filters (mel, bin) for the working transform, which lies between the lines of the grid's own.

    A line of the grid's transform is read between the two working bins beside it.
    """
    filters = mel_matrix(params).numpy().astype(np.float64)
    # Both transforms in lines per column rate: the grid's is finer.
    place = np.arange(filters.shape[1]) * (fft_length * params.hop_length / (params.n_fft * hop))
    below = place.astype(np.intp)
    share = place - below
    matrix = np.zeros((len(filters), fft_length // 2 + 2))
    inside = below < fft_length // 2 + 1
    for part, bins in ((1 - share, below), (share, below + 1)):
        np.add.at(matrix.T, bins[inside], (filters * part)[:, inside].T)
    return matrix[:, :-1] * (params.hop_length / hop)


def _hann(length: int, width: float) -> torch.Tensor:
    """A Hann window of any width in the middle of `length` samples."""
    place = (np.arange(length) - length // 2) / width
    return torch.from_numpy(
        np.where(np.abs(place) < 0.5, 0.5 + 0.5 * np.cos(2 * np.pi * place), 0.0).astype(np.float32)
    )
