"""Frames → one long spectrogram: where each frame lies on the track's grid, and what is heard where two of them meet.

Owns the joins. A frame is a loop of whole beats, so it goes on beyond its own edges: `blend` fades from the place that
one frame has come to in its loop to the same place in the next. Owns the window and the mask of `repaint` too, where
the model draws the joint anew. Leaves out what frames are (`shared.plan`) and phase (`workers.phase`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.contracts import Joins

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]

BLEND_COLUMNS: Final = 48
"""Columns of a whole blend, half of them on either side of the joint: long enough to hide it, shorter than a beat."""
REPAINT_COLUMNS: Final = 192
"""Columns around a joint that are painted anew, ramps included."""
_RAMP_COLUMNS: Final = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """How a track's frames lie on its grid.

    frames: how many; frame k begins at column k * frame_length.
    frame_length: columns a frame lasts, exactly.
    columns: where the track ends; a loop goes on there with its first column.
    """

    frames: int
    frame_length: Fraction
    columns: int
    joins: Joins
    is_loop: bool


@dataclass(frozen=True, slots=True)
class _Segment:
    """A frame's place: from `start` (which may lie between two columns) to `stop`."""

    frame: int
    start: Fraction
    stop: Fraction


def joined_mel_amplitudes(frame: Callable[[int], Array], layout: Layout, columns: range) -> Array:
    """Mel amplitudes (channel, frequency, time) of the track's `columns`; a loop may be asked beyond its end.

    `frame(k)` gives frame k's mel amplitudes, 0 <= k < layout.frames; they may have any number of columns, all frames
    the same, and are stretched in time to `frame_length` by reading between columns. Where frames blend, power goes
    over linearly: sqrt((1 - t) a² + t b²) keeps amplitudes where both agree, and energy where they do not.

    Raises ValueError when no column is asked for.
    """
    if not columns:
        raise ValueError("no columns were asked for")
    parts = []
    index = _segment_at(layout, columns.start)
    while (segment := _segment(layout, index)).start < columns.stop:
        inside = np.arange(max(columns.start, math.ceil(segment.start)), min(columns.stop, math.ceil(segment.stop)))
        if inside.size:
            parts.append(_blended(frame, layout, index, inside))
        index += 1
        if not layout.is_loop and index == layout.frames:
            break
    return np.concatenate(parts, axis=-1)


def _blended(frame: Callable[[int], Array], layout: Layout, index: int, columns: NDArray[np.intp]) -> Array:
    """The columns of one segment, blended with the segments before and after it."""
    segment = _segment(layout, index)
    mel = _read(frame, layout, segment, columns)
    if layout.joins == "cut":
        return mel
    for neighbour, joint in ((index - 1, segment.start), (index + 1, segment.stop)):
        if not layout.is_loop and not 0 <= neighbour < layout.frames:
            continue
        other = _segment(layout, neighbour)
        half = min(BLEND_COLUMNS, float(segment.stop - segment.start), float(other.stop - other.start)) / 2
        # Columns are places between which time passes; a column's own middle decides its share.
        share = 0.5 - np.abs(columns + 0.5 - float(joint)) / (2 * half)
        near = np.flatnonzero(share > 0)
        if near.size:
            theirs = _read(frame, layout, other, columns[near])
            part = share[near].astype(np.float32)
            mel[..., near] = np.sqrt((1 - part) * mel[..., near] ** 2 + part * theirs**2)
    return mel


def _read(frame: Callable[[int], Array], layout: Layout, segment: _Segment, columns: NDArray[np.intp]) -> Array:
    """What a segment's frame holds at the track's `columns`, also before its start and after its stop, as a loop."""
    mel = frame(segment.frame)
    width = mel.shape[-1]
    first = math.floor(segment.start)
    place = (columns - first - float(segment.start - first)) * float(width / layout.frame_length)
    below = np.floor(place).astype(np.intp)
    beyond = (place - below).astype(np.float32)
    read: Array = mel[..., below % width]
    if beyond.any():
        read = (1 - beyond) * read + beyond * mel[..., (below + 1) % width]
    return read


def _segment_at(layout: Layout, column: int) -> int:
    turn, inside = divmod(column, layout.columns) if layout.is_loop else (0, column)
    return turn * layout.frames + min(math.floor(inside / layout.frame_length), layout.frames - 1)


def _segment(layout: Layout, index: int) -> _Segment:
    """The segment with this number; a loop has them without end in both directions."""
    turn, frame = divmod(index, layout.frames) if layout.is_loop else (0, index)
    start = turn * layout.columns + frame * layout.frame_length
    stop = start + layout.frame_length
    if layout.is_loop and frame == layout.frames - 1:
        stop = Fraction((turn + 1) * layout.columns)
    return _Segment(frame, start, stop)


def repaint_window(before: Pixels, after: Pixels) -> Pixels:
    """The picture (row, column, channel) centred on the joint: the second half of one frame, the first of the next.

    Raises ValueError when the frames differ in size.
    """
    if before.shape != after.shape:
        raise ValueError(f"frames of {before.shape} and {after.shape} have no window in common")
    half = before.shape[1] // 2
    return np.concatenate([before[:, half:], after[:, :half]], axis=1)


def repaint_mask(rows: int, columns: int) -> Pixels:
    """The mask (row, column) for a window: white at the joint, black at the outer edges, cosine ramps between.

    What is black is kept, so the repainted window fits what lies beside it. Raises ValueError when the window is
    too narrow to keep anything.
    """
    if columns <= REPAINT_COLUMNS:
        raise ValueError(f"a window must be wider than {REPAINT_COLUMNS} columns")
    inside = REPAINT_COLUMNS / 2 - np.abs(np.arange(columns) + 0.5 - columns / 2)
    shares = 0.5 - 0.5 * np.cos(np.pi * np.clip(inside / _RAMP_COLUMNS, 0, 1))
    return np.tile(np.rint(255 * shares).astype(np.uint8), (rows, 1))


def frames_from_window(before: Pixels, after: Pixels, window: Pixels) -> tuple[Pixels, Pixels]:
    """Both frames (row, column, channel) with their halves of the repainted window in place."""
    half = before.shape[1] // 2
    kept = before.shape[1] - half
    return (
        np.concatenate([before[:, :half], window[:, :kept]], axis=1),
        np.concatenate([window[:, kept:], after[:, half:]], axis=1),
    )


def closed_loop(first: Array, overlap: Array) -> Array:
    """A loop's first chunk (channel, sample) with its beginning replaced by what the last chunk made of it."""
    return np.concatenate([overlap, first[:, overlap.shape[1] :]], axis=1)
