"""Frames → one long spectrogram: where each frame lies on the track's grid, and what is heard where two of them meet.

Owns the joins. A frame is a loop of whole beats, so it goes on beyond its own edges: `blend` fades from the place that
one frame has come to in its loop to the same place in the next. Windows of a remix are no loops: they overlap, and fade
where they do. Owns the window and the mask of `repaint` too, where the model draws the joint anew. Leaves out what
frames are (`shared.plan`) and phase (`workers.phase`).
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
    overlap: columns that a frame's picture shares with each neighbour's, half of them before its start and half after
        its stop; 0 for frames that are loops.
    """

    frames: int
    frame_length: Fraction
    columns: int
    joins: Joins
    is_loop: bool
    overlap: int = 0


@dataclass(frozen=True, slots=True)
class _Segment:
    """A frame's place: from `start` (which may lie between two columns) to `stop`."""

    frame: int
    start: Fraction
    stop: Fraction


def joined_mel_amplitudes(
    frame: Callable[[int], Array], layout: Layout, columns: range, window: Callable[[int], Array] | None = None
) -> Array:
    """Mel amplitudes (channel, frequency, time) of the track's `columns`; a loop may be asked beyond its end.

    `frame(k)` gives frame k's mel amplitudes, 0 <= k < layout.frames; they may have any number of columns, all frames
    the same, and are stretched in time to `frame_length` by reading between columns. Where frames blend, power goes
    over linearly: sqrt((1 - t) a² + t b²) keeps amplitudes where both agree, and energy where they do not.
    `window(k)` gives what the model painted around the joint after frame k, as wide as a frame; `repaint` alone asks.

    Raises ValueError when no column is asked for.
    """
    if not columns:
        raise ValueError("no columns were asked for")
    parts = []
    index = _segment_at(layout, columns.start)
    while (segment := _segment(layout, index)).start < columns.stop:
        inside = np.arange(max(columns.start, math.ceil(segment.start)), min(columns.stop, math.ceil(segment.stop)))
        if inside.size:
            parts.append(_joined(frame, window, layout, index, inside))
        index += 1
        if not layout.is_loop and index == layout.frames:
            break
    return np.concatenate(parts, axis=-1)


def _joined(
    frame: Callable[[int], Array],
    window: Callable[[int], Array] | None,
    layout: Layout,
    index: int,
    columns: NDArray[np.intp],
) -> Array:
    """The columns of one segment, joined with the segments before and after it."""
    segment = _segment(layout, index)
    mel = _read(frame, layout, segment, columns)
    if layout.joins == "cut":
        return mel
    for joint in (index - 1, index):
        if not layout.is_loop and not 0 <= joint < layout.frames - 1:
            continue
        before, after = _segment(layout, joint), _segment(layout, joint + 1)
        shortest = min(before.stop - before.start, after.stop - after.start)
        # What a loop has left at its end may be too short to paint over.
        if window is not None and layout.frames > 1 and shortest >= REPAINT_COLUMNS:
            _paint_over(mel, window, layout, before, columns)
        else:
            _blend(mel, frame, layout, (before, after) if joint == index else (after, before), columns)
    return mel


def _blend(
    mel: Array,
    frame: Callable[[int], Array],
    layout: Layout,
    segments: tuple[_Segment, _Segment],
    columns: NDArray[np.intp],
) -> None:
    """Fade the columns of the first segment's `mel` near its joint with the other into the other's."""
    own, other = segments
    joint = max(own.start, other.start)
    width = layout.overlap or BLEND_COLUMNS
    half = min(width, float(own.stop - own.start), float(other.stop - other.start)) / 2
    # Columns are places between which time passes; a column's own middle decides its share.
    share = 0.5 - np.abs(columns + 0.5 - float(joint)) / (2 * half)
    near = np.flatnonzero(share > 0)
    if near.size:
        theirs = _read(frame, layout, other, columns[near])
        part = share[near].astype(np.float32)
        mel[..., near] = np.sqrt((1 - part) * mel[..., near] ** 2 + part * theirs**2)


def _paint_over(
    mel: Array, window: Callable[[int], Array], layout: Layout, before: _Segment, columns: NDArray[np.intp]
) -> None:
    """Put the window painted around the end of segment `before` over the columns it has changed."""
    beyond = np.asarray(columns + 0.5 - float(before.stop), np.float64)
    # A window's columns may lie closer than the track's, as close as tempo lets them.
    near = np.flatnonzero(np.abs(beyond) < REPAINT_COLUMNS)
    if near.size:
        painted = window(before.frame)
        width = painted.shape[-1]
        pace = width / float(layout.frame_length)
        share = _repaint_shares(beyond[near] * pace).astype(np.float32)
        theirs = _between_columns(painted, (beyond[near] - 0.5) * pace + width / 2)
        mel[..., near] = (1 - share) * mel[..., near] + share * theirs


def _read(frame: Callable[[int], Array], layout: Layout, segment: _Segment, columns: NDArray[np.intp]) -> Array:
    """What a segment's frame holds at the track's `columns`, also before its start and after its stop, as a loop."""
    mel = frame(segment.frame)
    width = mel.shape[-1]
    first = math.floor(segment.start)
    pace = float((width - layout.overlap) / layout.frame_length)
    places = np.asarray((columns - first - float(segment.start - first)) * pace + layout.overlap / 2, np.float64)
    return _between_columns(mel, places)


def _between_columns(mel: Array, places: NDArray[np.float64]) -> Array:
    """What lies at `places` of a picture, which may be between columns and, since it is a loop, beyond its edges."""
    width = mel.shape[-1]
    below = np.floor(places).astype(np.intp)
    beyond = (places - below).astype(np.float32)
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


def repaint_window(before: Pixels, after: Pixels, cut: int) -> Pixels:
    """The picture (row, column, channel) centred on the joint: half a frame that ends at column `cut`, half the next.

    Raises ValueError when the frames differ in size.
    """
    if before.shape != after.shape:
        raise ValueError(f"frames of {before.shape} and {after.shape} have no window in common")
    half = before.shape[1] // 2
    # A frame is a loop: what comes before its first column is its end.
    ahead = np.roll(before, -cut, axis=1)[:, before.shape[1] - half :]
    return np.concatenate([ahead, after[:, : before.shape[1] - half]], axis=1)


def repaint_mask(rows: int, columns: int) -> Pixels:
    """The mask (row, column) for a window: white at the joint, black at the outer edges, cosine ramps between.

    What is black is kept, so the repainted window fits what lies beside it. Raises ValueError when the window is
    too narrow to keep anything.
    """
    if columns <= REPAINT_COLUMNS:
        raise ValueError(f"a window must be wider than {REPAINT_COLUMNS} columns")
    shares = _repaint_shares(np.arange(columns, dtype=np.float64) + 0.5 - columns / 2)
    return np.tile(np.rint(255 * shares).astype(np.uint8), (rows, 1))


def _repaint_shares(beyond: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of a place so many columns beyond the joint is painted anew, 0..1."""
    inside = np.clip((REPAINT_COLUMNS / 2 - np.abs(beyond)) / _RAMP_COLUMNS, 0, 1)
    shares: NDArray[np.float64] = 0.5 - 0.5 * np.cos(np.pi * inside)
    return shares


def closed_loop(first: Array, overlap: Array) -> Array:
    """A loop's first chunk (channel, sample) with its beginning replaced by what the last chunk made of it."""
    return np.concatenate([overlap, first[:, overlap.shape[1] :]], axis=1)
