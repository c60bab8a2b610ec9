"""mel amplitudes → waveform, as one stream of any length in constant memory.

Owns the stream: which waveform has these mel amplitudes, from block to block and from chunk to chunk. A track is
inverted in chunks, on any machine, and what a chunk needs of its past is its `StreamState`. Each block of columns is
solved between its fixed past and the columns that follow (`workers.phase_engine`, on a GPU `workers.phase_torch`), at
the lowest sample rate that holds all mel bins; then it is overlapped and added at the full one, the spectrum extended
by zeros. A loop's last block is solved between its past and the track's first columns, as they were fixed in the
beginning. Leaves out pictures (`workers.spectrogram`) and levels (`workers.mastering`). Equal input gives equal bits on
one kind of processor, however the track is cut.
"""

from __future__ import annotations

import io
import itertools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.contracts import Quality
from shared.spectrogram_params import SpectrogramParams
from workers.phase_engine import Effort, signal_from_columns, solved_columns, weight
from workers.phase_grid import LOOK_AHEAD_COLUMNS, Grid, grid_for, half_window_hops

__all__ = ["BLOCK_COLUMNS", "LOOK_AHEAD_COLUMNS", "StreamState", "loop_overlap_columns", "waveform_from_mel_amplitudes"]

BLOCK_COLUMNS: Final = 128
"""Columns made at once. Chunks whose lengths are multiples of it leave no trace in the waveform."""
EFFORTS: Final[dict[Quality, Effort]] = {
    "fast": Effort(oversampling=2, coarse_steps=4, steps=1, momentum=0.9),
    "standard": Effort(oversampling=2, coarse_steps=16, steps=6, momentum=0.95),
    "high": Effort(oversampling=2, coarse_steps=0, steps=128, momentum=0.95),
}

_CLOSING_STEPS: Final = 128
"""How many more steps the end of a loop takes."""

Array = NDArray[np.float32]
Columns = NDArray[np.complex64]


@dataclass(frozen=True, slots=True)
class StreamState:
    """What the next chunk of a track needs of its past.

    columns_done: columns turned into waveform so far.
    spectrum: the newest fixed columns, complex, (channel, bin, column).
    tail: what those columns reach into the next chunk, (channel, sample).
    opening: columns at the start of a loop that its end runs into, (channel, bin, column); of another track none.
    """

    columns_done: int
    spectrum: Columns
    tail: Array
    opening: Columns

    def to_bytes(self) -> bytes:
        """The state as an .npz file."""
        file = io.BytesIO()
        np.savez(
            file,
            columns_done=np.int64(self.columns_done),
            spectrum=self.spectrum,
            tail=self.tail,
            opening=self.opening,
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> StreamState:
        """The state that `to_bytes` wrote. Raises ValueError when the bytes hold anything else."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                return cls(int(file["columns_done"]), file["spectrum"], file["tail"], file["opening"])
        except (AttributeError, EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError("these bytes hold no stream state") from error


def loop_overlap_columns(params: SpectrogramParams) -> int:
    """Columns at a loop's start that its last chunk makes anew: those it sees, and half a window beyond."""
    return LOOK_AHEAD_COLUMNS + half_window_hops(params)


def waveform_from_mel_amplitudes(
    mel_amplitudes: Array,
    params: SpectrogramParams,
    *,
    quality: Quality = "standard",
    state: StreamState | None = None,
    is_last: bool = True,
    is_loop: bool = False,
    device: str = "cpu",
    on_block: Callable[[float], None] | None = None,
) -> tuple[Array, StreamState | None]:
    """The waveform (channel, sample) in float32 of one chunk of a track, and the state for the next chunk.

    `mel_amplitudes` (channel, frequency, time) holds the chunk's own columns and, unless it `is_last`, the first
    LOOK_AHEAD_COLUMNS of the next; in a loop the last one holds the track's first. The waveform has own columns *
    hop_length samples: chunks laid end to end are the track. A loop's last chunk has loop_overlap_columns * hop_length
    more, which take the place of the track's first samples. `state` is the one the chunk before gave, None for the
    first; the last chunk gives None. `device` is torch's name of where to compute. `on_block` is told the finished
    fraction 0..1 after each block; what it raises ends the work.

    Channels share the ways their first phase spreads: what both hold in a fixed relation (a sound panned anywhere)
    keeps its phase relation exactly, what differs is improved in each channel for itself.

    Raises ValueError when there are too few columns, when amplitudes are no finite numbers from 0 up, or when the
    window is too long for the look-ahead.
    """
    own = _own_columns(mel_amplitudes, params, state is None, is_last, is_loop)
    is_closing = is_loop and is_last
    if quality == "griffin_lim":
        return _griffin_lim_chunk(mel_amplitudes[..., :own], params, state, is_last, is_loop, on_block)
    stream = _Stream(grid_for(params, EFFORTS[quality].oversampling), EFFORTS[quality], device, is_loop)
    blocks = []
    for start, stop in itertools.pairwise(_edges(own, is_closing, is_first=state is None)):
        seen = np.ascontiguousarray(mel_amplitudes[..., start : stop + LOOK_AHEAD_COLUMNS], np.float32)
        if is_closing and stop == own:
            blocks.append(stream.closed(seen, state))
        else:
            waveform, state = stream.next_block(seen, stop - start, state)
            blocks.append(waveform)
        if on_block:
            on_block(stop / own)
    return np.concatenate(blocks, axis=-1), None if is_last else state


def _own_columns(mel_amplitudes: Array, params: SpectrogramParams, is_first: bool, is_last: bool, is_loop: bool) -> int:
    """How many columns are the chunk's own. Raises ValueError when they, or the look-ahead, cannot be."""
    own: int = mel_amplitudes.shape[-1] - (LOOK_AHEAD_COLUMNS if is_loop or not is_last else 0)
    if own < 1:
        raise ValueError("a chunk needs a column of its own, and its look-ahead unless it is the last")
    if not is_first and mel_amplitudes.shape[-1] < LOOK_AHEAD_COLUMNS:
        raise ValueError("a chunk may not be shorter than the look-ahead of the one before")
    if not (np.isfinite(mel_amplitudes).all() and (mel_amplitudes >= 0).all()):
        raise ValueError("mel amplitudes must be finite numbers from 0 up")
    least = LOOK_AHEAD_COLUMNS + half_window_hops(params)
    if is_loop and own < (2 * least if is_first and is_last else least):
        raise ValueError(f"a loop needs {2 * least} columns, and {least} of them in each chunk")
    return own


def _griffin_lim_chunk(
    mel_amplitudes: Array,
    params: SpectrogramParams,
    state: StreamState | None,
    is_last: bool,
    is_loop: bool,
    on_block: Callable[[float], None] | None,
) -> tuple[Array, StreamState | None]:
    """Clips that know nothing of each other. A loop's start is only kept, to be put where it was."""
    # Here and not at the top, like the other user of torch.
    from workers import griffin_lim

    waveform = griffin_lim.waveform_from_mel_amplitudes(mel_amplitudes, params, on_block)
    opening = waveform[:, : loop_overlap_columns(params) * params.hop_length if is_loop else 0]
    tail = state.tail if state else opening
    if is_last:
        return np.concatenate([waveform, tail], axis=-1), None
    nothing = np.zeros((len(waveform), 0, 0), np.complex64)
    done = mel_amplitudes.shape[-1] + (state.columns_done if state else 0)
    return waveform, StreamState(done, nothing, tail, nothing)


def _edges(own: int, is_closing: bool, is_first: bool) -> list[int]:
    """Where the blocks of a chunk begin and end. A block that closes a loop has a past, and room to get there."""
    edges = [*range(0, own, BLOCK_COLUMNS), own]
    if is_closing and len(edges) > 2 and own - edges[-2] < BLOCK_COLUMNS // 2:
        del edges[-2]
    if is_closing and is_first and len(edges) == 2:
        edges.insert(1, own // 2)
    return edges


@dataclass(frozen=True, slots=True)
class _Stream:
    """How the blocks of a track are made."""

    grid: Grid
    effort: Effort
    device: str
    is_loop: bool

    def next_block(self, mel_amplitudes: Array, own: int, state: StreamState | None) -> tuple[Array, StreamState]:
        """The waveform of `own` columns, and the state after them; `mel_amplitudes` goes on as far as may be seen.

        A sample is final when all columns whose window covers it are, so columns are fixed `half` ahead of the
        waveform.
        """
        half, columns = self.grid.half, mel_amplitudes.shape[-1]
        past, done, fixed = self._past(len(mel_amplitudes), state)
        fixed = min(fixed, columns)
        solved = self._solved(mel_amplitudes[..., fixed:], past, past[..., :0])
        new = solved[..., : max(own + half - fixed, 0)]
        signal = self._signal(new, state)
        # Columns that reach into these samples from either side; at the track's ends there are none.
        earlier, later = min(done, half), min(half, columns - own)
        lead = half if state is None else 0
        waveform = self._weighed(signal, lead, earlier + half, own, earlier + own + later)
        kept = np.concatenate([past, new], axis=-1)[..., 1 - 2 * half :]
        opening = (
            state.opening
            if state
            else new[..., LOOK_AHEAD_COLUMNS : LOOK_AHEAD_COLUMNS + (2 * half if self.is_loop else 0)]
        )
        tail = signal[:, (lead + own) * self.grid.output.hop :]
        return waveform, StreamState(done + own, kept.copy(), tail.copy(), opening.copy())

    def closed(self, mel_amplitudes: Array, state: StreamState | None) -> Array:
        """The waveform of a loop's last columns and, after them, of its first ones as they follow on the last.

        The end is bent to meet the start, so it takes more steps than elsewhere to be as good.
        """
        half, columns = self.grid.half, mel_amplitudes.shape[-1]
        if state is None or state.opening.shape[-1] < 2 * half:
            raise ValueError("a loop's last chunk needs the state of chunks that were made for a loop")
        past, _, fixed = self._past(len(mel_amplitudes), state)
        careful = replace(self, effort=replace(self.effort, steps=self.effort.steps + _CLOSING_STEPS))
        solved = careful._solved(mel_amplitudes[..., fixed:], past, state.opening)
        signal = self._signal(np.concatenate([solved, state.opening], axis=-1), state)
        return self._weighed(signal, 0, 2 * half, columns + half, columns + 4 * half)

    def _past(self, channels: int, state: StreamState | None) -> tuple[Columns, int, int]:
        """The fixed columns before a block, how many columns are done, and how many of the block's are fixed."""
        if state is None:
            return np.zeros((channels, self.grid.bins, 0), np.complex64), 0, 0
        return state.spectrum, state.columns_done, self.grid.half

    def _solved(self, wanted: Array, past: Columns, future: Columns) -> Columns:
        """Fixed columns for these mel amplitudes, on a scale where the loudest is about 1."""
        loudest = float(wanted.max(initial=0.0))
        if loudest == 0.0:
            return np.zeros((len(wanted), self.grid.bins, wanted.shape[-1]), np.complex64)
        # A power of two: nothing is rounded on the way there and back.
        scale = np.float32(2.0) ** np.float32(np.frexp(loudest)[1])
        return self._solver()(wanted / scale, past / scale, future / scale, self.grid, self.effort) * scale

    def _solver(self) -> Callable[..., Columns]:
        if self.device == "cpu":
            return solved_columns
        # Here and not at the top: torch takes half a gigabyte, which a worker for sound alone has no use for.
        from workers import phase_torch

        return partial(phase_torch.solved_columns, device=self.device)

    def _signal(self, columns: Columns, state: StreamState | None) -> Array:
        """The columns' signal at the full sample rate, on top of the tail of those before."""
        signal = signal_from_columns(columns, self.grid.output)
        signal *= np.float32(self.grid.output.hop / self.grid.working.hop)
        if state is None:
            return signal
        signal = np.pad(signal, ((0, 0), (0, max(0, state.tail.shape[-1] - signal.shape[-1]))))
        signal[:, : state.tail.shape[-1]] += state.tail
        return signal

    def _weighed(self, signal: Array, first: int, skipped: int, hops: int, columns: int) -> Array:
        """`hops` of the signal from its hop `first` on, the windows weighed out.

        The first of them is hop `skipped` of the sum of all `columns` that reach into them.
        """
        hop = self.grid.output.hop
        by_sample = weight(self.grid.output, columns)[:, skipped : skipped + hops].T.ravel()
        waveform: Array = signal[:, first * hop : (first + hops) * hop] * by_sample
        return waveform
