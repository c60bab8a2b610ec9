"""Where frames lie on the track's grid, and what is heard where they meet."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.joins import (
    BLEND_COLUMNS,
    Layout,
    joined_mel_amplitudes,
    repaint_mask,
    repaint_window,
)

ROWS = 6


def frames(count: int, width: int = 128, seed: int = 1) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.random((1, ROWS, width), np.float32) for _ in range(count)]


def layout(count: int, length: Fraction | int = 128, **fields: Any) -> Layout:
    length = Fraction(length)
    columns = fields.pop("columns", -(-count * length.numerator // length.denominator))
    return Layout(count, length, columns, fields.pop("joins", "blend"), fields.pop("is_loop", False))


def test_cut_lays_frames_side_by_side() -> None:
    """Without a blend every column is a frame's own."""
    pictures = frames(3)
    whole = joined_mel_amplitudes(pictures.__getitem__, layout(3, joins="cut"), range(3 * 128))
    assert np.array_equal(whole, np.concatenate(pictures, axis=-1))


def test_blend_touches_nothing_but_the_joints() -> None:
    """Half a blend away from a joint a frame is as it was, and the track's ends are nobody's joints."""
    pictures = frames(3)
    whole = joined_mel_amplitudes(pictures.__getitem__, layout(3), range(3 * 128))
    plain = np.concatenate(pictures, axis=-1)
    changed = np.flatnonzero((whole != plain).any(axis=(0, 1)))
    half = BLEND_COLUMNS // 2
    assert set(changed) == {*range(128 - half, 128 + half), *range(256 - half, 256 + half)}


def test_equal_frames_blend_into_the_same_frame() -> None:
    """Where both sides agree, nothing is louder or softer."""
    picture = frames(1)[0]
    whole = joined_mel_amplitudes(lambda k: picture, layout(4), range(4 * 128))
    np.testing.assert_allclose(whole, np.tile(picture, 4), rtol=1e-6)


def test_blending_keeps_the_energy_of_sounds_in_different_places() -> None:
    """Two frames that share no bin cross without a dip."""
    low, high = np.zeros((1, ROWS, 128), np.float32), np.zeros((1, ROWS, 128), np.float32)
    low[:, 0], high[:, -1] = 1.0, 1.0
    whole = joined_mel_amplitudes([low, high].__getitem__, layout(2), range(256))
    np.testing.assert_allclose((whole**2).sum(axis=(0, 1)), 1.0, rtol=1e-5)
    assert whole[0, 0, 127] == pytest.approx(whole[0, -1, 128])


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 5),
    tempo=st.decimals(30, 300, places=2),
    joins=st.sampled_from(["blend", "cut"]),
    is_loop=st.booleans(),
    data=st.data(),
)
def test_any_run_of_columns_is_the_same_as_in_the_whole(
    count: int, tempo: Any, joins: str, is_loop: bool, data: st.DataObject
) -> None:
    """Chunks can be made apart: lengths are exact and values equal, at every tempo."""
    length = 8 * 6_000 / Fraction(tempo)
    plan = layout(count, length, joins=joins, is_loop=is_loop)
    pictures = frames(count, 64)
    whole = joined_mel_amplitudes(pictures.__getitem__, plan, range(plan.columns))
    assert whole.shape[-1] == plan.columns
    start = data.draw(st.integers(0, plan.columns - 1))
    stop = data.draw(st.integers(start + 1, plan.columns))
    piece = joined_mel_amplitudes(pictures.__getitem__, plan, range(start, stop))
    assert np.array_equal(piece, whole[..., start:stop])


def test_a_loop_goes_on_with_its_own_start() -> None:
    """Columns past the end are those at the start, in a loop of whole frames and in one that turns back early."""
    pictures = frames(3)
    for columns in (384, 300):
        plan = layout(3, columns=columns, is_loop=True)
        twice = joined_mel_amplitudes(pictures.__getitem__, plan, range(2 * columns))
        np.testing.assert_array_equal(twice[..., :columns], twice[..., columns:])


def test_the_wrap_of_a_loop_is_blended_like_any_joint() -> None:
    """The last column leads to the first in steps no larger than at a joint inside."""
    steps = np.arange(3)[:, None, None, None] * np.ones((3, 1, ROWS, 128), np.float32)
    plan = layout(3, is_loop=True)
    turned = joined_mel_amplitudes(list(steps).__getitem__, plan, range(2 * 384))
    assert np.abs(np.diff(turned[0, 0])).max() < 0.4


@pytest.mark.parametrize("tempo", ["93.75", "120", "127", "174.613"])
def test_the_beat_does_not_drift(tempo: str) -> None:
    """After a thousand frames a click is in the column its beat lies in, at every tempo."""
    length = 8 * 6_000 / Fraction(tempo)
    width = round(length / 8) * 8
    click = np.zeros((1, ROWS, width), np.float32)
    click[..., 0] = 1.0
    plan = layout(1_000, length)
    for frame in (1, 500, 999):
        beat = frame * length
        near = range(int(beat) - 3, int(beat) + 4)
        mel = joined_mel_amplitudes(lambda k: click, plan, near)[0, 0].astype(float)
        place = near.start + (mel * np.arange(len(near))).sum() / mel.sum()
        assert place == pytest.approx(float(beat), abs=0.05)


def test_a_window_shows_what_lies_around_the_joint() -> None:
    """Half of each frame, the joint in the middle; where a loop turns early, the half before that place."""
    columns = np.arange(512)
    before, after = (np.tile((columns + start)[None, :, None] % 251, (8, 1, 3)).astype(np.uint8) for start in (0, 100))
    window = repaint_window(before, after, 512)
    assert np.array_equal(window[:, :256], before[:, 256:])
    assert np.array_equal(window[:, 256:], after[:, :256])
    early = repaint_window(before, after, 100)
    assert np.array_equal(early[:, 156:256], before[:, :100])
    assert np.array_equal(early[:, :156], before[:, -156:])


def test_the_mask_is_white_at_the_joint_and_black_at_the_edges() -> None:
    """So that what lies beyond the window need not know."""
    mask = repaint_mask(8, 512)
    assert mask[0, 255] == mask[0, 256] == 255
    assert not mask[:, :160].any()
    assert not mask[:, -160:].any()
    assert np.array_equal(mask, mask[:, ::-1])


@pytest.mark.parametrize(("length", "width"), [(Fraction(512), 512), (Fraction(48_000, 127), 376)])
def test_a_painted_window_is_laid_over_its_joint_alone(length: Fraction, width: int) -> None:
    """White where it is painted, the frames elsewhere, and a ramp between, at every tempo."""
    frame = np.full((1, ROWS, width), 0.25, np.float32)
    window = np.ones((1, ROWS, width), np.float32)
    plan = replace(layout(3, length), joins="repaint", columns=math.ceil(3 * length))
    mel = joined_mel_amplitudes(lambda k: frame, plan, range(plan.columns), lambda k: window)[0, 0]
    for joint in (length, 2 * length):
        near = round(joint)
        assert mel[near - 10 : near + 10].min() == pytest.approx(1.0, abs=1e-6)
        assert mel[near - 130] == mel[near + 130] == pytest.approx(0.25)
        assert np.abs(np.diff(mel[near - 130 : near + 130])).max() < 0.03
    assert np.all(mel[:20] == 0.25)
    assert np.all(mel[-20:] == 0.25)


def test_a_window_is_read_in_step_with_its_frames() -> None:
    """A click painted half a window after the joint's place lies there in the track."""
    silent, window = np.zeros((1, ROWS, 512), np.float32), np.zeros((1, ROWS, 512), np.float32)
    window[..., 256 + 10] = 1.0
    plan = replace(layout(2, Fraction(512)), joins="repaint")
    mel = joined_mel_amplitudes(lambda k: silent, plan, range(1_024), lambda k: window)[0, 0]
    assert np.flatnonzero(mel).tolist() == [512 + 10]


def test_a_loop_that_turns_too_early_for_a_window_blends_there() -> None:
    """Its last frame is shorter than what is painted: the joint before it and the wrap fade instead."""
    frame = np.full((1, ROWS, 512), 0.25, np.float32)
    asked: list[int] = []

    def window(index: int) -> NDArray[np.float32]:
        asked.append(index)
        return np.ones((1, ROWS, 512), np.float32)

    plan = replace(layout(3, Fraction(512)), joins="repaint", columns=1_024 + 64, is_loop=True)
    mel = joined_mel_amplitudes(lambda k: frame, plan, range(plan.columns), window)[0, 0]
    assert set(asked) == {0}
    assert mel[1_000:] == pytest.approx(0.25)


def test_windows_of_a_remix_fade_where_they_overlap() -> None:
    """Each is heard from the middle of one overlap to the middle of the next, at its own place in time."""
    track = np.arange(3 * 448 + 64, dtype=np.float32)
    windows = [np.tile(track[448 * k : 448 * k + 512], (1, ROWS, 1)) for k in range(3)]
    plan = replace(layout(3, Fraction(448)), columns=3 * 448, overlap=64)
    mel = joined_mel_amplitudes(windows.__getitem__, plan, range(plan.columns))[0, 0]
    np.testing.assert_allclose(mel, track[32 : 32 + plan.columns], rtol=1e-5)


def test_what_cannot_be_joined_is_refused() -> None:
    """No columns, frames of different sizes and windows without an edge are errors."""
    with pytest.raises(ValueError, match="columns"):
        joined_mel_amplitudes(frames(1).__getitem__, layout(1), range(0))
    with pytest.raises(ValueError, match="no window"):
        repaint_window(np.zeros((8, 512, 3), np.uint8), np.zeros((8, 400, 3), np.uint8), 512)
    with pytest.raises(ValueError, match="wider"):
        repaint_mask(8, 128)
