"""The plan: pure, exact to the sample, and the same frames for the same sound."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts import ClipEnd, ClipRequest, Keyframe, PowerCurve, RemixRequest, TrackRequest
from shared.errors import InvalidRequestError
from shared.frames import frame_hash
from shared.plan import CHUNK_FRAMES, MOST_BATCH_FRAMES, REPAINT_STRENGTH, Plan, Sources
from shared.resolving import resolve
from shared.walk import curved_alpha

SOURCES = Sources("1")


def track(duration_s: float = 40.96, *prompts: str, **fields: object) -> TrackRequest:
    seeds = itertools.count(1)
    keyframes = [Keyframe(prompt=prompt, seed=next(seeds)) for prompt in prompts or ("a", "b")]
    request = TrackRequest(duration_s=duration_s, keyframes=keyframes, **fields)  # type: ignore[arg-type]
    resolved = resolve(request, SOURCES, lambda: 7)
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
    assert all(len(plan.batch_frames(batch)) <= MOST_BATCH_FRAMES for batch in range(plan.batches_total))
    assert all(1 <= len(plan.chunk(chunk).frames) <= CHUNK_FRAMES for chunk in range(plan.chunks_total))


def test_a_chunk_needs_the_next_frame_but_never_another_part() -> None:
    """What joints and the look-ahead read stays within a variation."""
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
    plan = Plan(resolve(TrackRequest(duration_s=50.0, keyframes=keyframes), SOURCES, lambda: 1), SOURCES)
    assert plan.frames_total == 10
    met = [(frame.start.prompt, frame.end and frame.end.prompt) for frame in map(plan.frame, range(10))]
    assert met[:4] == [("a", None), ("a", "b"), ("b", None), ("b", "c")]
    assert met[9] == ("c", None)
    assert plan.warnings == ("keyframes[1] begins at 10.24 s, where a frame does, and not at 10 s.",)


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
    resolved = resolve(request, SOURCES, lambda: next(seeds))
    again = resolve(TrackRequest.model_validate_json(resolved.model_dump_json()), SOURCES, lambda: 0)
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
        resolve(TrackRequest(duration_s=10.0, keyframes=keyframes), SOURCES, lambda: 1)
    assert raised.value.errors[0].field == field


def test_variations_differ_and_long_clips_move() -> None:
    """Each variation has a seed of its own, and a long clip does not repeat one frame."""
    plan = Plan(ClipRequest(prompt="a", seed=2**32 - 1, variations=3, duration_s=15.36), SOURCES)
    assert len({frame_hash(plan.frame(index)) for index in range(9)}) == 9
    assert [plan.frame(3 * part).noise.seed for part in range(3)] == [2**32 - 1, 0, 1]


def between(alpha: float, seed: int = 9, **fields: object) -> Plan:
    request = ClipRequest(prompt="a", seed=3, end=ClipEnd(prompt="b", seed=seed), alpha=alpha, **fields)  # type: ignore[arg-type]
    return Plan(resolve(request, SOURCES, lambda: 7), SOURCES)


def test_a_clip_between_two_prompts_is_the_frame_that_a_track_has_there() -> None:
    """At 0 and 1 it is a clip of one prompt, and half way what lies half way between two keyframes."""
    plain = [
        Plan(resolve(ClipRequest(prompt=prompt, seed=seed), SOURCES, lambda: 7), SOURCES)
        for prompt, seed in (("a", 3), ("b", 9))
    ]
    assert frame_hash(between(0.0).frame(0)) == frame_hash(plain[0].frame(0))
    assert frame_hash(between(1.0).frame(0)) == frame_hash(plain[1].frame(0))
    keyframes = [Keyframe(prompt="a", seed=3), Keyframe(prompt="b", seed=9)]
    walked = Plan(resolve(TrackRequest(duration_s=15.36, keyframes=keyframes), SOURCES, lambda: 7), SOURCES)
    assert frame_hash(between(0.5).frame(0)) == frame_hash(walked.frame(1))


def test_between_two_prompts_a_long_clip_moves_and_variations_differ() -> None:
    """The prompts stay where they are, the noise goes on; also where both seeds are the same."""
    for seed in (9, 3):
        plan = between(0.25, seed, variations=2, duration_s=25.6)
        frames = [plan.frame(index) for index in range(10)]
        assert len({frame_hash(frame) for frame in frames}) == 10
        assert {frame.alpha for frame in frames} == {0.25}


@given(
    st.floats(0, 1),
    st.one_of(st.sampled_from(["linear", "smooth"]), st.floats(0.1, 10).map(lambda power: PowerCurve(power=power))),
)
def test_alpha_stays_in_range_and_ends_are_exact(alpha: float, curve: str | PowerCurve) -> None:
    """0 stays 0, 1 stays 1, and nothing leaves 0..1."""
    assert 0.0 <= curved_alpha(alpha, curve) <= 1.0
    assert (curved_alpha(0.0, curve), curved_alpha(1.0, curve)) == (0.0, 1.0)


def test_a_chunk_reads_the_frames_beside_it_only_where_they_blend() -> None:
    """With `cut` a chunk need not wait for the frame before."""
    blend, cut = (Plan(track(200.0, joins=joins), SOURCES) for joins in ("blend", "cut"))
    assert blend.chunk(1).needed_frames == tuple(range(11, 25))
    assert cut.chunk(1).needed_frames == tuple(range(12, 25))


@given(
    st.decimals("0.10", 600, places=2),
    st.none() | st.decimals(30, 300, places=3),
    st.booleans(),
    st.sampled_from(["blend", "cut"]),
)
def test_chunks_cover_every_column_once(duration_s: object, tempo: object, loop: bool, joins: str) -> None:
    """At every length and tempo the chunks lie end to end, and reach the last sample."""
    tempo_bpm = None if tempo is None else float(str(tempo))
    plan = Plan(track(float(str(duration_s)), tempo_bpm=tempo_bpm, loop=loop, joins=joins), SOURCES)
    chunks = [plan.chunk(index) for index in range(plan.chunks_total)]
    assert chunks[0].columns.start == 0
    assert all(one.columns.stop == after.columns.start for one, after in itertools.pairwise(chunks))
    assert chunks[-1].columns.stop >= plan.part_columns
    assert not loop or chunks[-1].columns.stop == plan.part_columns
    assert [frame for chunk in chunks for frame in chunk.frames] == list(range(plan.frames_total))
    assert all(set(chunk.frames) <= set(chunk.needed_frames) for chunk in chunks)


@pytest.mark.parametrize(
    ("tempo", "length", "columns"),
    [(93.75, 512, 512), (120.0, 400, 400), (127.0, Fraction(48_000, 127), 376), (60.0, 400, 400), (200.0, 480, 480)],
)
def test_a_tempo_makes_a_frame_whole_beats_long(tempo: float, length: Fraction, columns: int) -> None:
    """The grid is exact; the picture is as wide as models take."""
    plan = Plan(track(tempo_bpm=tempo), SOURCES)
    assert (plan.frame_length, plan.frame_columns, plan.frame(0).columns) == (length, columns, columns)


def test_a_seed_image_keeps_its_beats_at_another_tempo() -> None:
    """Twelve beats stay twelve beats."""
    plan = Plan(track(tempo_bpm=120.0), Sources("1", seed_image_beats=12))
    assert plan.frame_length == 600


def test_a_loop_walks_back_to_where_it_began() -> None:
    """Keyframes lie on a circle: after the last one alpha leads to the first."""
    plan = Plan(track(40.96, loop=True), SOURCES)
    walk = [(plan.frame(index).start.prompt, round(plan.frame(index).alpha, 12)) for index in range(8)]
    assert walk == [("a", 0), ("a", 0.25), ("a", 0.5), ("a", 0.75), ("b", 0), ("b", 0.25), ("b", 0.5), ("b", 0.75)]
    assert plan.frame(7).end == plan.frame(0).start


def test_keyframes_of_a_loop_may_begin_late() -> None:
    """Before its first keyframe a loop comes from its last."""
    keyframes = [Keyframe(prompt="a", seed=1, at_s=10.24), Keyframe(prompt="b", seed=2, at_s=30.72)]
    request = resolve(TrackRequest(duration_s=40.96, keyframes=keyframes, loop=True), SOURCES, lambda: 1)
    first = Plan(request, SOURCES).frame(0)
    assert (first.start.prompt, first.end and first.end.prompt, first.alpha) == ("b", "a", 0.5)


def test_a_loop_near_whole_frames_is_made_to_end_on_one() -> None:
    """A tempo whose frames are no whole columns still turns after its last beat; elsewhere the client is told."""
    near = Plan(track(15.12, tempo_bpm=127.0, loop=True), SOURCES)
    assert (near.part_frames, near.frame_length, near.warnings) == (4, 378, ())
    early = Plan(track(60.0, loop=True), SOURCES)
    assert early.warnings[0].startswith("This loop turns back in the middle of a frame; after 56.32 s or 61.44 s")


def test_a_loops_last_chunk_is_long_enough_to_turn() -> None:
    """A few columns beyond whole chunks go with the last of them."""
    plan = Plan(track(61.5, loop=True), SOURCES)
    assert (plan.chunks_total, plan.chunk(0).columns) == (1, range(6_150))


def test_a_joint_knows_its_frames() -> None:
    """Painting over joints adds a picture for each, found from the frames beside it; a loop has one more."""
    plan, loop = (Plan(track(40.96, joins="repaint", loop=is_loop), SOURCES) for is_loop in (False, True))
    assert (plan.base_frames, plan.frames_total, loop.frames_total) == (8, 15, 16)
    assert [(plan.joint(index).before, plan.joint(index).after) for index in (8, 14)] == [(0, 1), (6, 7)]
    assert (loop.joint(15).before, loop.joint(15).after, loop.joint(15).cut) == (7, 0, 512)
    window = plan.frame(8)
    assert (window.is_loop, window.start.denoising_strength) == (False, REPAINT_STRENGTH)
    assert frame_hash(plan.frame(0)) in (window.seed_image or "")


@given(st.integers(1, 40), st.integers(1, 4), st.booleans())
def test_every_joint_is_painted_by_a_batch_that_has_its_frames(frames: int, parts: int, loop: bool) -> None:
    """Whichever of its batches is done last sees both frames; no batch is asked for another part's joint."""
    if loop:
        plan = Plan(track(5.12 * frames, joins="repaint", loop=True), SOURCES)
    else:
        request = ClipRequest(prompt="a", seed=1, duration_s=5.12 * frames, variations=parts, joins="repaint")
        plan = Plan(request, SOURCES)
    batches = {joint: set[int]() for joint in range(plan.base_frames, plan.frames_total)}
    for batch in range(plan.batches_total):
        for joint in plan.batch_joints(batch):
            batches[joint].add(batch)
    for joint, asked in batches.items():
        ends = plan.joint(joint)
        assert asked == {frame // plan.batch_size for frame in (ends.before, ends.after)}


def test_a_chunk_waits_for_the_joints_it_hears() -> None:
    """The joints at both its ends are painted from frames of the neighbours."""
    plan = Plan(track(200.0, joins="repaint"), SOURCES)
    joints = [one - plan.base_frames for one in plan.chunk(1).needed_frames if one >= plan.base_frames]
    assert joints == list(range(11, 24))


def test_long_tracks_have_larger_batches() -> None:
    """Few frames are shared among workers; many go together, so that a GPU has enough at a time."""
    sizes = [Plan(track(5.12 * frames), SOURCES).batch_size for frames in (8, 64, 128, 7_000)]
    assert sizes == [4, 4, 8, 16]


def remix(**fields: object) -> Plan:
    sources = Sources("1", source_sha256="ab", source_s=60.0)
    keyframes = [Keyframe(prompt="a", seed=1), Keyframe(prompt="b", seed=1)]
    request = RemixRequest(source="upl_ab", keyframes=keyframes, **fields)  # type: ignore[arg-type]
    return Plan(resolve(request, sources, lambda: 7), sources)


def test_windows_of_a_remix_overlap_and_cover_the_source() -> None:
    """Each window shares its edges with its neighbours'; together they are as long as what is asked for."""
    plan = remix(start_s=10.0, end_s=40.0, overlap_s=0.64)
    assert (plan.duration_s, plan.part_samples, plan.source_samples) == (30.0, 1_323_000, range(441_000, 1_764_000))
    assert (plan.frame_length, plan.frame_columns, plan.overlap_columns) == (448, 512, 64)
    assert [plan.window_column(index) for index in (0, 1)] == [-32, 416]
    assert plan.part_frames * plan.frame_length >= plan.part_columns
    first, second = plan.frame(0), plan.frame(1)
    assert (first.is_loop, first.noise.first_column, second.noise.first_column) == (False, -32, 416)
    assert first.noise.seed == second.noise.seed
    assert first.seed_image != second.seed_image


def test_a_remix_without_an_end_goes_to_the_sources_end() -> None:
    """What was resolved says so."""
    assert remix().duration_s == 60.0
    assert remix().request.end_s == 60.0  # type: ignore[union-attr]
    assert remix().request.keyframes[0].denoising_strength == 0.5  # type: ignore[union-attr]
