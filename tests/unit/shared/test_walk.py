"""The walk: what moves between keyframes, and the noise that keeps going where nothing else does."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.frames import FrameEnd, Noise
from shared.walk import NOISE_STEP, Walk


def end(prompt: str, strength: float = 1.0) -> FrameEnd:
    return FrameEnd(prompt=prompt, negative_prompt="", denoising_strength=strength, guidance_scale=5.0)


def angle(one: Noise, other: Noise) -> float:
    """The angle between two noises, in quarter turns: different seeds share nothing."""
    shares = [
        {noise.seed: math.cos(noise.alpha * math.pi / 2), noise.end_seed or -1: math.sin(noise.alpha * math.pi / 2)}
        for noise in (one, other)
    ]
    cosine = sum(share * shares[1].get(seed, 0.0) for seed, share in shares[0].items() if seed != -1)
    return math.acos(min(1.0, max(-1.0, cosine))) / (math.pi / 2)


def test_a_constant_prompt_never_stands_still_and_never_comes_back() -> None:
    """Over an hour every frame's noise is a step from the last one's and far from all others."""
    walk = Walk((0,), (end("a"),), (7,), 700)
    noises = [walk.noise_at(frame) for frame in range(700)]
    assert noises[0] == Noise(seed=7)
    assert all(angle(one, after) == pytest.approx(NOISE_STEP) for one, after in pairwise(noises))
    # Two waypoints on, nothing is left of what was.
    apart = math.ceil(2 / NOISE_STEP)
    assert min(angle(noises[0], other) for other in noises[apart:]) == pytest.approx(1.0)
    assert len({(noise.seed, noise.alpha) for noise in noises}) == 700


def test_a_loop_of_one_prompt_goes_round_in_a_circle() -> None:
    """Its last frame is a step from its first, and it does not lead there and back the same way."""
    walk = Walk((0,), (end("a"),), (7,), 16, is_loop=True)
    noises = [walk.noise_at(frame) for frame in range(16)]
    assert angle(noises[-1], noises[0]) == pytest.approx(angle(noises[0], noises[1]))
    assert len({(noise.seed, noise.end_seed, noise.alpha) for noise in noises}) == 16
    assert len({noise.seed for noise in noises}) >= 3


def test_two_keyframes_of_one_seed_and_prompt_are_constant() -> None:
    """Nothing moves where nothing was said to move."""
    walk = Walk((0, 9), (end("a"), end("a")), (7, 7), 10)
    assert {walk.noise_at(frame) for frame in range(10)} == {Noise(seed=7)}
    assert {walk.ends_at(frame) for frame in range(10)} == {(end("a"), None, 0.0)}


@given(st.integers(1, 300), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_the_noise_meets_the_seeds_of_its_keyframes(frames: int, first: int, last: int) -> None:
    """However far apart they are, and in steps of about one size."""
    walk = Walk((0, frames), (end("a"), end("b")), (first, last), frames + 1)
    noises = [walk.noise_at(frame) for frame in range(frames + 1)]
    assert (noises[0], noises[-1]) == (Noise(seed=first), Noise(seed=last))
    if first != last:
        turns = max(1, round(frames * NOISE_STEP))
        assert sum(noise.alpha == 0 for noise in noises) <= turns + 1
        assert all(0 <= noise.alpha < 1 and (noise.end_seed is None) == (noise.alpha == 0) for noise in noises)


def test_prompts_stay_where_they_are_outside_the_keyframes() -> None:
    """Before the first and after the last keyframe only the noise goes on."""
    walk = Walk((3, 6), (end("a"), end("b")), (1, 2), 12)
    assert [walk.ends_at(frame)[0].prompt for frame in (0, 3, 6, 11)] == ["a", "a", "b", "b"]
    assert [walk.ends_at(frame)[2] for frame in (0, 3, 6, 11)] == [0, 0, 0, 0]
    assert len({walk.noise_at(frame) for frame in (0, 1, 2, 3, 6, 7, 8)}) == 7


def test_noise_that_belongs_to_places_is_one_seeds_everywhere() -> None:
    """A window's noise is found by its first column; between two seeds it fades from one to the other."""
    walk = Walk((0, 4), (end("a"), end("b")), (1, 2), 5)
    assert walk.shared_noise_at(0, -32) == Noise(seed=1, first_column=-32)
    assert walk.shared_noise_at(1, 416) == Noise(seed=1, end_seed=2, alpha=0.25, first_column=416)
    assert walk.shared_noise_at(4, 1760) == Noise(seed=2, first_column=1760)
