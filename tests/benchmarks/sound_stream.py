"""Whether anybody can hear where a track was put together: joints between frames, and where a loop runs into itself.

Owns tracks of few frames, joined and made in chunks as the farm does it. Leaves out the measures (`sound_metrics`) and
tracks of an hour (`sound_long`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.plan import CHUNK_FRAMES
from shared.spectrogram_params import FRAME_COLUMNS, SpectrogramParams
from tests.benchmarks.sound_metrics import NEAR_COLUMNS, column_errors, energy_dip_db, heard, joint_ratio, seam_ratio
from workers.joins import Layout, closed_loop, joined_mel_amplitudes
from workers.phase import LOOK_AHEAD_COLUMNS, StreamState, waveform_from_mel_amplitudes
from workers.spectrogram import Array

TURN: Final = 200
"""Columns: far from both edges of a frame and from where blocks of columns end."""
TURNS: Final = range(0, FRAME_COLUMNS - 60, 61)
"""Eight places of a frame that a joint is put to, on no beat in common."""
LOOP_TURNS: Final = 3
_GUARD_COLUMNS: Final = 24


def layout(frames: int, is_loop: bool = False) -> Layout:
    """Frames of the usual length that blend, as a request that says nothing of it gets them."""
    return Layout(frames, Fraction(FRAME_COLUMNS), frames * FRAME_COLUMNS, "blend", is_loop)


def chunks(frame: Callable[[int], Array], where: Layout, params: SpectrogramParams) -> Iterator[Array]:
    """The waveforms of a track's chunks; a loop's last one is longer by what its start becomes.

    `frame(index)` gives mel amplitudes (channel, frequency, time). The state goes from chunk to chunk as bytes.
    """
    state = None
    size = CHUNK_FRAMES * FRAME_COLUMNS
    for start in range(0, where.columns, size):
        stop = min(start + size, where.columns)
        is_last = stop == where.columns
        seen = stop if is_last and not where.is_loop else stop + LOOK_AHEAD_COLUMNS
        mel = joined_mel_amplitudes(frame, where, range(start, seen))
        waveform, after = waveform_from_mel_amplitudes(mel, params, state=state, is_last=is_last, is_loop=where.is_loop)
        state = StreamState.from_bytes(after.to_bytes()) if after else None
        yield waveform


def track(frame: Callable[[int], Array], where: Layout, params: SpectrogramParams) -> Array:
    """The waveform (channel, sample) of a whole track; what a loop has more than its length becomes its start."""
    waveform = np.concatenate([*chunks(frame, where, params)], axis=-1)
    samples = params.samples_from_columns(where.columns)
    return closed_loop(waveform[:, :samples], waveform[:, samples:])


class Joints(NamedTuple):
    """How well a track of one repeated picture hangs together; 1 when nobody can tell where it does.

    `joint` and `loop` compare the joints with the same content elsewhere (`seam_ratio`); `plain_joint` and `plain_loop`
    compare them with everything elsewhere (`joint_ratio`), so what the picture has at its edges counts too.
    """

    joint: float
    plain_joint: float
    loop: float
    plain_loop: float


def joints_of(mel_amplitudes: Array, params: SpectrogramParams, repetitions: int) -> Joints:
    """The figures of one picture (channel, frequency, time), repeated as a track and alone as a loop.

    The same picture is made once more with what was at its edges TURN columns after the joint.
    """
    turned = np.roll(mel_amplitudes, TURN, axis=-1)
    found = []
    for where in (layout(repetitions), layout(1, is_loop=True)):
        errors, other = (_errors(mel, where, params) for mel in (mel_amplitudes, turned))
        joints = np.arange(FRAME_COLUMNS, len(errors), FRAME_COLUMNS)
        found += [seam_ratio(errors, joints, other, joints + TURN), joint_ratio(errors, joints)]
    return Joints(*found)


def _errors(mel_amplitudes: Array, where: Layout, params: SpectrogramParams) -> Array:
    """The `column_errors` of a track that repeats a picture; a loop is played LOOP_TURNS times in a row."""
    turns = LOOP_TURNS if where.is_loop else 1
    waveform = np.tile(track(lambda index: mel_amplitudes, where, params), (1, turns))
    wanted = np.tile(mel_amplitudes, (1, 1, where.frames * turns))
    return column_errors(heard(waveform, params, wanted.shape[-1]), wanted)


class Blends(NamedTuple):
    """Each joint of a track of different frames: the joint's error over that of the two frames it joins, and the
    worst dip in level there."""

    ratios: NDArray[np.float64]
    dip_db: float


def blends_of(pictures: Sequence[Array], params: SpectrogramParams) -> Blends:
    """The joints of a track of these pictures, which are loops of equal size and blend into each other.

    All pictures are turned together, so that each joint falls on eight places of its frames, and the errors are
    averaged before they are divided: a joint that always lies on the first beat says more of the beat than of itself.
    """
    where = layout(len(pictures))
    joints = [*range(FRAME_COLUMNS, where.columns, FRAME_COLUMNS)]
    near, far, dips = [], [], []
    for turn in TURNS:
        turned = [np.roll(mel / mel.max(), -turn, axis=-1) for mel in pictures]
        wanted = joined_mel_amplitudes(turned.__getitem__, where, range(where.columns))
        found = heard(track(turned.__getitem__, where, params), params, where.columns)
        errors = column_errors(found, wanted)
        inside = errors.reshape(where.frames, FRAME_COLUMNS)[:, _GUARD_COLUMNS:-_GUARD_COLUMNS].mean(axis=1)
        near.append([errors[joint - NEAR_COLUMNS : joint + NEAR_COLUMNS].mean() for joint in joints])
        far.append((inside[:-1] + inside[1:]) / 2)
        dips.append(energy_dip_db(found, wanted, joints))
    return Blends(np.mean(near, axis=0) / np.mean(far, axis=0), max(dips))
