"""The proof of the built-in model: its design, measures, listeners, verdicts, report and command."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from workers.cli import commands
from workers.training import asked_pictures, crossing, evaluate, lessons, renders
from workers.training.crew import Crew, sources_sha256
from workers.training.crossing import MAX_PROMPTS, balanced_rows, crossed_pieces, prompt_from_piece, sweeps
from workers.training.dataset import Pixels
from workers.training.demo_track import demo_plan
from workers.training.features import Features, features_from_pixels
from workers.training.honesty import logged, nearest, other_seeds
from workers.training.listeners import ATTRIBUTES, CLASSES, Listeners, taught
from workers.training.loop import untold
from workers.training.musicality import (
    chroma_from_pixels,
    key_margin,
    measured_tempo_bpm,
    nearness,
    onset_periodicity,
    tempo_error_bpm,
)
from workers.training.points import Shown, rhythm_and_spread, steering
from workers.training.renders import KeptOrder, Order, frame_from_order, pixels_from_waveform
from workers.training.score import DRUM_PATTERNS, GENRES, Piece
from workers.training.statistics import (
    PERMUTATIONS,
    bootstrap_interval,
    p_value,
    permuted_accuracies,
    wilson_interval,
)

PIECE = Piece("jazz", "organ", "no drums", "acoustic", 9, "minor", 6, "plain", "dry", 5)


# Statistics.


def test_the_wilson_interval_has_its_known_values() -> None:
    """0.4 of 10 lies in 0.168..0.687; an empty trial has no interval."""
    assert wilson_interval(4, 10) == pytest.approx((0.1682, 0.6873), abs=1e-4)
    assert wilson_interval(0, 50)[0] == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="at least one"):
        wilson_interval(0, 0)


def test_the_bootstrap_interval_of_a_mean_is_nearly_the_normal_one() -> None:
    """1.96 standard errors on either side, the same each time; of nothing there is none."""
    values = np.random.default_rng(1).normal(5, 2, 400)
    low, high = bootstrap_interval(values, lambda drawn: float(drawn.mean()))
    assert (low, high) == pytest.approx((values.mean() - 0.196, values.mean() + 0.196), abs=0.03)
    assert (low, high) == bootstrap_interval(values, lambda drawn: float(drawn.mean()))
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval(values[:0], lambda drawn: 0.0)


def test_permutation_finds_what_is_there_and_nothing_else() -> None:
    """Perfect hearing is as unlikely as can be; deaf hearing is not unlikely, within groups or not."""
    rng = np.random.default_rng(3)
    wanted = np.array(list("abcd") * 30)
    groups = np.repeat([str(k) for k in range(30)], 4)
    deaf = rng.permutation(wanted)
    for cells in (groups, np.zeros_like(wanted)):
        perfect = permuted_accuracies(wanted, wanted, cells, seed=1)
        assert p_value(1.0, perfect) == 1 / (PERMUTATIONS + 1)
        assert perfect.mean() == pytest.approx(0.25, abs=0.01)
        assert p_value(float(np.mean(wanted == deaf)), permuted_accuracies(wanted, deaf, cells, seed=1)) > 0.05


# The design.


def _level(piece: Piece, name: str) -> Any:
    return (piece.root, piece.mode) if name == "key" else getattr(piece, name)


def test_every_value_is_as_frequent_as_any_other_and_pairs_nearly_so() -> None:
    """Counts of an attribute differ by one at most, and no pair is far from its share."""
    pieces = crossed_pieces()
    names = ("genre", "drums", "instrument", "beats", "key")
    sizes = {}
    for name in names:
        counts = Counter(_level(piece, name) for piece in pieces)
        sizes[name] = len(counts)
        assert max(counts.values()) - min(counts.values()) <= 1
    assert sizes == {"genre": 10, "drums": 6, "instrument": 18, "beats": 3, "key": 14}
    for first, second in combinations(names, 2):
        pairs = Counter((_level(piece, first), _level(piece, second)) for piece in pieces)
        fair = MAX_PROMPTS / (sizes[first] * sizes[second])
        assert all(abs(count - fair) < 2 for count in pairs.values())
        assert len(pairs) >= 0.9 * min(MAX_PROMPTS, sizes[first] * sizes[second])


def test_prompts_and_seeds_are_fixed_and_fewer_are_the_first_of_them() -> None:
    """No two prompts have a seed in common, not even with the sweeps."""
    pieces = crossed_pieces()
    assert crossed_pieces(10) == pieces[:10]
    seeds = [piece.seed for piece in pieces] + [sweep.pieces[0].seed for sweep in sweeps()]
    assert len(set(seeds)) == len(seeds)
    assert prompt_from_piece(PIECE) == "slow jazz organ, no drums, in A minor"
    for count in (1, MAX_PROMPTS + 1):
        with pytest.raises(ValueError, match="prompts must be"):
            crossed_pieces(count)


def test_a_sweep_changes_one_word_and_nothing_else() -> None:
    """All values of its attribute, each once, beside the same words and the same seed."""
    for sweep in sweeps():
        assert [getattr(piece, sweep.attribute) for piece in sweep.pieces] == list(CLASSES[sweep.attribute])
        others = {replace(piece, **{sweep.attribute: "same"}) for piece in sweep.pieces}
        assert len(others) == 1


def test_swapping_makes_pairs_evener_than_chance() -> None:
    """Two attributes of four levels in 16 rows can meet exactly once each, and do."""
    rows = balanced_rows([4, 4], 16, random.Random(1))
    assert len({tuple(row) for row in rows.tolist()}) == 16


# Measures on pictures with a known answer.


def _beats_picture(beats: int, accent: int = 1) -> Pixels:
    """Broad dark strokes `beats` times in 5.12 s, every `accent`th of them darker."""
    loudness = np.zeros((512, 512))
    for beat in range(beats):
        start = round(beat * 512 / beats)
        for column in range(12):
            loudness[:, (start + column) % 512] = (0.9 if beat % accent == 0 else 0.6) * (1 - column / 12)
    return np.rint(255 * (1 - loudness)).astype(np.uint8)


@pytest.mark.parametrize("beats", [6, 8, 12])
def test_a_picture_of_beats_is_measured_at_its_tempo(beats: int) -> None:
    """The pulse is found to half a bpm, whatever its octave, and it is regular."""
    picture = _beats_picture(beats, accent=2)
    assert tempo_error_bpm(measured_tempo_bpm(picture), beats * 60 / 5.12) < 0.5
    assert onset_periodicity(picture) > 0.9


def test_noise_has_no_pulse() -> None:
    """Columns that come and go at random repeat nowhere."""
    columns = np.random.default_rng(2).integers(0, 256, 512, dtype=np.uint8)
    assert onset_periodicity(np.tile(columns, (512, 1))) < 0.4


def test_half_and_double_of_a_tempo_are_the_same_pulse() -> None:
    """What lies elsewhere is an error."""
    assert tempo_error_bpm(70, 140) == tempo_error_bpm(140, 70) == 0
    assert tempo_error_bpm(94, 70) == pytest.approx(23)


def test_sound_in_a_key_is_found_in_that_key() -> None:
    """The scale of A minor, played as sines, lies in A minor and not in E flat minor."""
    time_s = np.arange(44_100 * 2) / 44_100
    notes = [220 * 2 ** (step / 12) for step in (0, 2, 3, 5, 7, 8, 10, 12, 15, 19)]
    waveform = np.mean([np.sin(2 * np.pi * note * time_s) for note in notes], axis=0).astype(np.float32)[None]
    chroma = chroma_from_pixels(pixels_from_waveform(waveform))
    assert chroma.sum() == pytest.approx(1, abs=1e-5)
    assert key_margin(chroma, 9, "minor") > 0.1
    assert key_margin(chroma, 3, "minor") < 0


def test_silence_is_in_no_key() -> None:
    """A white picture's chroma is flat, so no key has more than another."""
    assert key_margin(chroma_from_pixels(np.full((512, 512), 255, np.uint8)), 0, "major") == pytest.approx(0, abs=1e-6)


def test_a_copy_is_near_and_a_stranger_is_not() -> None:
    """A copied picture is at no distance; others are at about their usual one, softened or not."""
    others = np.random.default_rng(4).random((50, 4_096)).astype(np.float32)
    stranger = np.random.default_rng(5).random((1, 4_096)).astype(np.float32)
    near = nearness(np.concatenate([others[:1], stranger, 0.5 * stranger]), others)
    assert near[0] < 0.01
    assert (near[1:] > 0.9).all()


def test_features_do_not_depend_on_how_often_they_are_read() -> None:
    """The same picture, the same row of finite numbers."""
    picture = _beats_picture(8)
    features = features_from_pixels(picture)
    assert np.isfinite(features).all()
    assert np.array_equal(features, features_from_pixels(picture))


# Listeners.


def _toy_pieces(count: int) -> list[Piece]:
    rng = random.Random(8)
    return [
        replace(
            PIECE,
            genre=rng.choice(GENRES),
            drums=rng.choice(DRUM_PATTERNS),
            instrument=rng.choice(CLASSES["instrument"]),
            beats=rng.choice((6, 8, 12)),
        )
        for _ in range(count)
    ]


def _toy_features(pieces: list[Piece], noise: float = 0.2) -> Features:
    """Four numbers for each class of each attribute, with noise."""
    rng = np.random.default_rng(9)
    rows = [[float(label(piece) == name) for a, label in ATTRIBUTES.items() for name in CLASSES[a]] for piece in pieces]
    told = np.tile(np.array(rows), (1, 4))
    return (told + noise * rng.standard_normal(told.shape)).astype(np.float32)


@pytest.fixture(scope="module")
def toy_listeners() -> Listeners:
    """Listeners that hear toy features."""
    pieces = _toy_pieces(500)
    return taught(pieces, _toy_features(pieces), epochs=8)


def test_listeners_learn_what_can_be_learnt(toy_listeners: Listeners, tmp_path: Path) -> None:
    """Strangers are heard rightly, and so they are by listeners that were kept in a file."""
    pieces = _toy_pieces(700)[500:]
    toy_listeners.save(tmp_path / "listeners.npz")
    kept = Listeners.load(tmp_path / "listeners.npz")
    features = _toy_features(pieces)
    for name in ATTRIBUTES:
        assert toy_listeners.accuracy(name, pieces, features) > 0.95
        assert np.array_equal(kept.heard(name, features), toy_listeners.heard(name, features))


def test_teaching_twice_gives_the_same_listeners() -> None:
    """Not a bit differs."""
    pieces = _toy_pieces(60)
    one, other = (taught(pieces, _toy_features(pieces), epochs=2) for _ in range(2))
    assert all(np.array_equal(one.weights[name], other.weights[name]) for name in one.weights)


# Points and verdicts.


def _toy_shown(pieces: list[Piece], played: list[Piece]) -> Shown:
    """Pictures asked as `pieces` in which `played` is heard."""
    return Shown(pieces, np.zeros((len(pieces), 1, 1), np.uint8), _toy_features(played, 0.1))


def test_steering_holds_for_who_follows_and_not_for_who_does_not(toy_listeners: Listeners) -> None:
    """All heard as asked passes; what was asked of others, or one attribute ignored in the sweeps, does not."""
    pieces = _toy_pieces(90)
    swept = [(sweep, _toy_shown(list(sweep.pieces), list(sweep.pieces))) for sweep in sweeps()]
    point = steering(toy_listeners, _toy_shown(pieces, pieces), swept)
    assert point["ok"]
    assert point["genre"]["p_value"] < 0.001
    assert point["drums"]["fixed_accuracy"] > 0.9
    assert point["genre"]["shuffled_low"] <= point["genre"]["chance"] <= point["genre"]["shuffled_high"]
    assert not steering(toy_listeners, _toy_shown(pieces, pieces[1:] + pieces[:1]), swept)["ok"]
    deaf = [(sweep, _toy_shown(list(sweep.pieces), [sweep.pieces[0]] * len(sweep.pieces))) for sweep in sweeps()]
    assert not steering(toy_listeners, _toy_shown(pieces, pieces), deaf)["ok"]


def test_a_collapsed_model_fails_by_its_spread() -> None:
    """Real pictures pass beside themselves; one picture over and over has no spread."""
    pixels = np.stack([_beats_picture(beats, accent) for beats in (6, 8, 12) for accent in (1, 2)])
    pieces = [PIECE] * len(pixels)
    real = Shown.of(pieces, pixels)
    assert rhythm_and_spread(real, real)["ok"]
    point = rhythm_and_spread(Shown.of(pieces, np.repeat(pixels[:1], len(pixels), axis=0)), real)
    assert not point["ok"]
    assert point["spread_ratio"]["ratio"] == pytest.approx(0, abs=1e-3)


def test_copies_and_equal_seeds_are_found() -> None:
    """Pictures of the training fail where strangers pass, and so does a model that ignores its seed."""
    rng = np.random.default_rng(6)
    training, real, drawn = (rng.integers(0, 256, (40, 512, 512), dtype=np.uint8) for _ in range(3))
    small = np.stack([(255 - p[::-1].reshape(64, 8, 64, 8).mean(axis=(1, 3)).ravel()) / 255 for p in training])
    assert nearest(drawn[:12], real, small.astype(np.float32))["ok"]
    assert not nearest(training[:12], real, small.astype(np.float32))["ok"]
    assert other_seeds((drawn[:4], drawn[4:8]), (real[:4], real[4:8]))["ok"]
    assert not other_seeds((drawn[:4], drawn[:4]), (real[:4], real[4:8]))["ok"]


def test_the_log_must_end_with_these_weights() -> None:
    """An older model's line, or none, is not enough."""
    lines = [{"part": "unet", "step": 1}, {"part": "model", "sha256": "a"}, {"part": "model", "sha256": "b"}]
    assert logged(lines, "b")["ok"]
    assert not logged(lines, "a")["ok"]
    assert not logged([], "a")["ok"]


# What is made, and how it is kept.


def test_an_order_without_words_is_a_frame_without_words() -> None:
    """Its frame differs from one with words in the prompt alone; settings are the evaluation's own."""
    spoken = frame_from_order(Order(Path("m"), "r", "slow jazz piano", 3))
    silent = frame_from_order(Order(Path("m"), "r", "", 3))
    assert silent.start.prompt == ""
    assert silent.model_copy(update={"start": spoken.start}) == spoken
    assert (spoken.sampler, spoken.num_inference_steps, spoken.start.guidance_scale) == ("dpmpp_2m_karras", 16, 5.0)


def test_a_kept_picture_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is there is read; its sound is made from it when that is wanted too."""
    made = []

    def rendered(order: Order, frame: Any) -> Pixels:
        made.append(order.prompt)
        return _beats_picture(8)

    monkeypatch.setattr(renders, "_rendered", rendered)
    monkeypatch.setattr(renders, "sounded", lambda pixels: 255 - pixels)
    order = Order(Path("m"), "r", "slow jazz piano", 3)
    assert np.array_equal(renders.generated(KeptOrder(order, tmp_path)), _beats_picture(8))
    both = renders.generated(KeptOrder(order, tmp_path, is_sounded=True))
    assert np.array_equal(both[1], 255 - both[0])
    renders.generated(KeptOrder(replace(order, seed=4), tmp_path))
    assert made == ["slow jazz piano"] * 2


def _doubled(value: int) -> Any:
    return np.array([2 * value])


def test_a_crew_keeps_what_it_made_and_tells_how_far_it_is(tmp_path: Path) -> None:
    """The second time nothing is done, and results are in order."""
    told: list[tuple[str, int, int]] = []
    with Crew(lambda what, done, total, words: told.append((what, done, total)), processes=0) as hands:
        for _ in range(2):
            assert hands.kept(tmp_path / "kept.npy", "doubles", _doubled, [1, 2, 3]).ravel().tolist() == [2, 4, 6]
    assert told == [("doubles", 1, 3), ("doubles", 2, 3), ("doubles", 3, 3)]


def test_a_hash_of_sources_takes_in_what_they_import() -> None:
    """Features come from the grid; two modules are not one."""
    assert sources_sha256("workers.training.features") != sources_sha256("workers.training.statistics")
    assert sources_sha256("workers.training.synthesise") != sources_sha256("workers.training.score")


def test_the_demo_renders_what_its_command_asks() -> None:
    """Eight frames from the first prompt to the second, to the end, with the Makefile's seeds."""
    plan = demo_plan("r")
    makefile = (Path(__file__).parents[3] / "Makefile").read_text(encoding="utf-8")
    first, last = plan.frame(0), plan.frame(plan.frames_total - 1)
    assert plan.frames_total == 8
    assert (first.alpha, last.alpha) == (0, 0)
    assert f'riffarm render "{first.start.prompt}" "{last.start.prompt}"' in makefile
    assert f"--duration {plan.duration_s:g}s --seed {first.noise.seed} --seed {last.noise.seed}" in makefile


# The whole, with stubs for what is slow.


def _stub_picture(piece: Piece) -> Pixels:
    """A picture by attributes: beats by tempo, and a dark line for each of the others."""
    picture = _beats_picture(piece.beats, 2)
    for offset, name in ((40, "genre"), (200, "drums"), (320, "instrument")):
        row = offset + 6 * CLASSES[name].index(getattr(piece, name))
        picture[row : row + 5] = 20 + piece.seed % 47
    return picture


def _stub_generated(item: KeptOrder) -> Pixels:
    """What was asked, drawn as real clips are here; noise when the denoiser is broken or no word is said."""
    order = item.order
    known = {prompt_from_piece(piece): piece for piece in (*crossed_pieces(), *(p for s in sweeps() for p in s.pieces))}
    if order.kind == "shuffled" or not order.prompt:
        return np.random.default_rng(order.seed).integers(0, 256, (512, 512), dtype=np.uint8)
    picture = _stub_picture(replace(known[order.prompt], seed=order.seed))
    return np.stack([picture, picture]) if item.is_sounded else picture


def _stub_demo(model: Path, revision: str, hands: Crew) -> Any:
    pixels = np.stack([_stub_picture(evaluate.demo_track.FIRST)] * 4 + [_stub_picture(evaluate.demo_track.LAST)] * 4)
    return evaluate.demo_track.DemoTrack(pixels, 12.0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that looks like a model's."""
    folder = tmp_path / "model"
    for part in ("unet", "vae"):
        (folder / part).mkdir(parents=True)
        (folder / part / "diffusion_pytorch_model.safetensors").write_bytes(part.encode())
    (folder / "model_index.json").write_text("{}")
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluation in small, all in one process, with stubs for clips, model and sound."""
    sizes: dict[str, tuple[Any, int]] = {
        "LESSONS": (lessons, 160),
        "REDRAWN_LESSONS": (lessons, 4),
        "REAL_CLIPS": (evaluate, 8),
        "TRAINING_CLIPS": (evaluate, 8),
        "_DEMO_TWINS": (evaluate, 1),
        "FLOOR_PROMPTS": (asked_pictures, 3),
        "SEED_PROMPTS": (asked_pictures, 2),
    }
    for name, (module, value) in sizes.items():
        monkeypatch.setattr(module, name, value)
    stubs: list[tuple[Any, str, Callable[..., Any]]] = [
        (lessons, "pixels_from_piece", _stub_picture),
        (lessons, "redrawn", lambda item: item[1]),
        (asked_pictures, "generated", _stub_generated),
        (evaluate, "redrawn", lambda item: item[1]),
        (evaluate, "sounded", lambda pixels: pixels),
        (evaluate, "clip_seconds", lambda order: 4.0),
        (evaluate.demo_track, "demo_track", _stub_demo),
        (evaluate, "Crew", lambda tell: Crew(tell, processes=0)),
    ]
    for module, name, stub in stubs:
        monkeypatch.setattr(module, name, stub)
    monkeypatch.setattr(crossing, "_SWEEPS", {"genre": 1, "drums": 1, "instrument": 1})


def _run(*words: object) -> Any:
    return CliRunner().invoke(commands, ["evaluate", *(str(word) for word in words)])


@pytest.mark.usefixtures("small")
def test_the_command_writes_a_report_and_one_line_of_json(model: Path, tmp_path: Path) -> None:
    """Every point has figures and its verdict, the pictures are small, and a second run gives the same."""
    where = ("--model", model, "--folder", tmp_path / "work", "--output", tmp_path / "report", "--prompts", 8, "--json")
    first = _run(*where)
    assert first.exit_code == 0, first.output
    figures = json.loads(first.stdout.splitlines()[-1])
    assert set(figures["points"]) == {
        "autoencoder", "steering", "tempo_and_key", "rhythm_and_spread", "honesty", "sound",
    }  # fmt: skip
    assert all(isinstance(point["ok"], bool) for point in figures["points"].values())
    assert figures["passed"] is False
    assert not figures["points"]["honesty"]["training_log"]["ok"]
    assert figures["points"]["honesty"]["shuffled_weights"]["ok"]
    assert figures == json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert figures["model"]["sha256"] in text
    assert "| All of it | **FAIL** |" in text
    assert all(target in text for target in ("≥ 0.80", "≥ 0.60", "≤ 8", "≥ 0.05", "≥ 0.70", "< 20", "≥ 30"))
    drawn = {path.name: path.stat().st_size for path in (tmp_path / "report").glob("*.png")}
    assert set(drawn) == {"genres.png", "instruments.png", "round_trips.png", "confusion.png"}
    assert all(f"({name})" in text and size < 400_000 for name, size in drawn.items())
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.np?")}
    again = evaluate.evaluate(model, tmp_path / "work", tmp_path / "no log", untold, prompts=8)
    assert again.figures == figures
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.np?")} == kept


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model", "nowhere"), "nowhere: there is no model_index.json; give the folder of a whole model"),
        (("--prompts", "1"), "prompts = 1: must be 2 to 240"),
        (("--prompts", "0"), "prompts = 0: must be 2 to 240"),
        (("--steps", "0"), "steps = 0: must be 1 to 100"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_one_line(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    """The command ends with 1 and names what is wrong."""
    ended = _run(*words, "--folder", tmp_path, "--output", tmp_path)
    assert ended.exit_code == 1
    assert ended.stderr.strip() == f"riffarm evaluate: {says}"
