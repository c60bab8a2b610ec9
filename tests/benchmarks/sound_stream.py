"""Whether anybody can hear where a track was put together: joints between frames, and where a loop runs into itself.

Owns tracks of few frames, made in chunks as the farm makes them. Leaves out the measures (`sound_metrics`) and tracks
of an hour (`sound_long`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from shared.plan import CHUNK_FRAMES
from shared.spectrogram_params import FRAME_COLUMNS, SpectrogramParams
from tests.benchmarks.sound_metrics import column_errors, heard, joint_ratio, seam_ratio
from workers.phase import LOOK_AHEAD_COLUMNS, StreamState, loop_overlap_columns, waveform_from_mel_amplitudes
from workers.spectrogram import Array

TURN: Final = 200
"""Columns: far from both edges of a frame and from where blocks of columns end."""
LOOP_TURNS: Final = 3


def chunks(
    frame_count: int, frame: Callable[[int], Array], params: SpectrogramParams, is_loop: bool = False
) -> Iterator[Array]:
    """The waveforms of a track's chunks, laid end to end the track; of a loop the last one is longer (`laid`).

    `frame(index)` gives mel amplitudes (channel, frequency, time). The state goes from chunk to chunk as bytes.
    """
    state = None
    for first in range(0, frame_count, CHUNK_FRAMES):
        stop = min(first + CHUNK_FRAMES, frame_count)
        is_last = stop == frame_count
        mel = [frame(index) for index in range(first, stop)]
        if is_loop or not is_last:
            mel.append(frame(stop % frame_count)[..., :LOOK_AHEAD_COLUMNS])
        waveform, after = waveform_from_mel_amplitudes(
            np.concatenate(mel, axis=-1), params, state=state, is_last=is_last, is_loop=is_loop
        )
        state = StreamState.from_bytes(after.to_bytes()) if after else None
        yield waveform


def laid(waveforms: Sequence[Array], params: SpectrogramParams, is_loop: bool = False) -> Array:
    """One waveform of a whole track. What a loop has more than its length takes the place of its start."""
    track = np.concatenate(waveforms, axis=-1)
    if not is_loop:
        return track
    overlap = loop_overlap_columns(params) * params.hop_length
    length = track.shape[-1] - overlap
    track[:, :overlap] = track[:, length:]
    return track[:, :length]


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
    for frames, is_loop in ((repetitions, False), (1, True)):
        errors, other = (_errors(mel, frames, params, is_loop) for mel in (mel_amplitudes, turned))
        joints = np.arange(FRAME_COLUMNS, len(errors), FRAME_COLUMNS)
        found += [seam_ratio(errors, joints, other, joints + TURN), joint_ratio(errors, joints)]
    return Joints(*found)


def _errors(mel_amplitudes: Array, frames: int, params: SpectrogramParams, is_loop: bool) -> Array:
    """The `column_errors` of a track that repeats a picture; a loop is played LOOP_TURNS times in a row."""
    track = laid([*chunks(frames, lambda index: mel_amplitudes, params, is_loop)], params, is_loop)
    turns = LOOP_TURNS if is_loop else 1
    wanted = np.tile(mel_amplitudes, (1, 1, frames * turns))
    return column_errors(heard(np.tile(track, (1, turns)), params, wanted.shape[-1]), wanted)
