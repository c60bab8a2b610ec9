"""The plan: pure, exact to the sample, and the same frames for the same sound."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts import ClipRequest, Keyframe, PowerCurve, TrackRequest
from shared.errors import InvalidRequestError
from shared.plan import BATCH_FRAMES, CHUNK_FRAMES, Plan, Sources, curved_alpha, frame_hash, resolve

SOURCES = Sources("1")


def track(duration_s: float = 40.96, *prompts: str, **fields: object) -> TrackRequest:
    seeds = itertools.count(1)
    keyframes = [Keyframe(prompt=prompt, seed=next(seeds)) for prompt in prompts or ("a", "b")]
    request = TrackRequest(duration_s=duration_s, keyframes=keyframes, **fields)  # type: ignore[arg-type]
    resolved = resolve(request, lambda: 7)
    assert isinstance(resolved, TrackRequest)
    return resolved


def test_eight_frames_are_exactly_40_96_seconds() -> None:
    """The grid has no rounding: 8 frames are 1,806,336 samples."""
    plan = Plan(track(40.96), SOURCES)
    assert (plan.frames_total, plan.part_samples) == (8, 1_806_336)


@given(st.integers(1, 3_000))
def test_whole_frames_make_no_extra_frame(frames: int) -> None:
    """A duration of n frames plans n frames, whatever its decimal form."""
    plan = Plan(track(round(frames * 5.12, 2)), SOURCES)
    assert plan.frames_total == frames


@given(st.floats(0.1, 36_000), st.integers(1, 4))
def test_batches_and_chunks_cover_every_frame_once(duration_s: float, variations: int) -> None:
    """Nothing is left out and nothing is done twice."""
    plan = Plan(ClipRequest(prompt="a", seed=1, duration_s=duration_s, variations=variations), SOURCES)
    in_batches = [frame for batch in range(plan.batches_total) for frame in plan.batch_frames(batch)]
    in_chunks = [frame for chunk in range(plan.chunks_total) for frame in plan.chunk(chunk).frames]
    assert in_batches == in_chunks == list(range(plan.frames_total))
    assert all(len(plan.batch_frames(batch)) <= BATCH_FRAMES for batch in range(plan.batches_total))
    assert all(1 <= len(plan.chunk(chunk).frames) <= CHUNK_FRAMES for chunk in range(plan.chunks_total))


def test_a_chunk_needs_the_next_frame_but_never_another_part() -> None:
    """The look-ahead stays within a variation."""
    plan = Plan(ClipRequest(prompt="a", seed=1, duration_s=20 * 5.12, variations=2), SOURCES)
    assert [list(plan.chunk(chunk).needed_frames)[-1] for chunk in range(4)] == [12, 19, 32, 39]
    assert [(plan.chunk(chunk).is_first, plan.chunk(chunk).is_last) for chunk in range(4)] == [
        (True, False),
        (False, True),
        (True, False),
        (False, True),
    ]


def test_the_ends_of_a_track_are_its_keyframes_alone() -> None:
    """The first and the last frame do not know of the other keyframe."""
    plan = Plan(track(), SOURCES)
    first, last = plan.frame(0), plan.frame(7)
    assert (first.start.prompt, first.end, first.alpha) == ("a", None, 0.0)
    assert (last.start.prompt, last.end, last.alpha) == ("b", None, 0.0)
    assert [plan.frame(index).alpha for index in range(1, 7)] == pytest.approx([index / 7 for index in range(1, 7)])


def test_keyframes_are_met_at_their_times() -> None:
    """A keyframe placed in time has its own frame there."""
    keyframes = [Keyframe(prompt=name, seed=1, at_s=at_s) for name, at_s in (("a", 0.0), ("b", 10.0), ("c", 50.0))]
    plan = Plan(resolve(TrackRequest(duration_s=50.0, keyframes=keyframes), lambda: 1), SOURCES)
    assert plan.frames_total == 10
    met = [(frame.start.prompt, frame.end and frame.end.prompt) for frame in map(plan.frame, range(10))]
    assert met[0] == ("a", None)
    assert met[1] == ("a", "b")
    assert met[2] == ("b", "c")
    assert met[9] == ("c", None)


def test_equal_frames_hash_the_same_over_jobs() -> None:
    """What does not change a pixel does not change the hash; what does, does."""
    plan, longer = Plan(track(40.96), SOURCES), Plan(track(81.92), SOURCES)
    labelled = Plan(track(40.96, formats=["mp3"], labels={"a": "b"}), SOURCES)
    assert frame_hash(plan.frame(0)) == frame_hash(longer.frame(0))
    assert [frame_hash(plan.frame(i)) for i in range(8)] == [frame_hash(labelled.frame(i)) for i in range(8)]
    others = [
        Plan(track(40.96, num_inference_steps=21), SOURCES),
        Plan(track(40.96, guidance_scale=6.0), SOURCES),
        Plan(track(40.96, sampler="ddim"), SOURCES),
        Plan(track(40.96), Sources("2")),
        Plan(track(40.96), Sources("1", seed_image_sha256="ab")),
    ]
    hashes = {frame_hash(one.frame(0)) for one in (plan, *others)}
    assert len(hashes) == 6


def test_resubmitting_what_was_resolved_gives_the_same_plan() -> None:
    """A job's `input` is complete."""
    seeds = itertools.count(100)
    request = TrackRequest(duration_s=20.0, keyframes=[Keyframe(prompt="a"), Keyframe(prompt="b")])
    resolved = resolve(request, lambda: next(seeds))
    again = resolve(TrackRequest.model_validate_json(resolved.model_dump_json()), lambda: 0)
    assert again == resolved
    assert [keyframe.seed for keyframe in resolved.keyframes] == [100, 101]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("times", "field"),
    [((0.0, 0.0), "keyframes[1].at_s"), ((0.0, 99.0), "keyframes[1].at_s"), ((0.0, None), "keyframes[1].at_s")],
)
def test_keyframes_out_of_order_name_the_field(times: tuple[float | None, ...], field: str) -> None:
    """Order, end and completeness of the times are checked."""
    keyframes = [Keyframe(prompt="a", at_s=at_s) for at_s in times]
    with pytest.raises(InvalidRequestError) as raised:
        resolve(TrackRequest(duration_s=10.0, keyframes=keyframes), lambda: 1)
    assert raised.value.errors[0].field == field


def test_variations_differ_and_long_clips_move() -> None:
    """Each variation has a seed of its own, and a long clip does not repeat one frame."""
    plan = Plan(ClipRequest(prompt="a", seed=2**32 - 1, variations=3, duration_s=15.36), SOURCES)
    assert len({frame_hash(plan.frame(index)) for index in range(9)}) == 9
    assert [plan.frame(3 * part).start.seed for part in range(3)] == [2**32 - 1, 0, 1]


@given(
    st.floats(0, 1),
    st.one_of(st.sampled_from(["linear", "smooth"]), st.floats(0.1, 10).map(lambda power: PowerCurve(power=power))),
)
def test_alpha_stays_in_range_and_ends_are_exact(alpha: float, curve: str | PowerCurve) -> None:
    """0 stays 0, 1 stays 1, and nothing leaves 0..1."""
    assert 0.0 <= curved_alpha(alpha, curve) <= 1.0
    assert (curved_alpha(0.0, curve), curved_alpha(1.0, curve)) == (0.0, 1.0)
