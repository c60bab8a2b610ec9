"""What is played and what is said of it: attributes drawn apart, notes in key and in time, captions that are true."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from workers.training.captions import DRUM_WORDINGS, TEMPO_WORDS, caption_from_piece, full_prompt
from workers.training.genres import STYLES, SWUNG
from workers.training.score import (
    BAR_BEATS,
    DRUM_PATTERNS,
    GENRES,
    INSTRUMENT_NAMES,
    ROOTS,
    Piece,
    draw_piece,
    notes_from_piece,
    strokes_from_piece,
)
from workers.training.timbres import INSTRUMENTS, RANGES

PIECE = Piece("jazz", "piano", "swing drums", "acoustic", 9, "minor", 12, "plain", "room", seed=1)
IN_KEY = {"major": {0, 2, 4, 5, 7, 9, 11}, "minor": {0, 2, 3, 5, 7, 8, 10}}


def test_there_is_enough_to_choose_from() -> None:
    assert len(GENRES) >= 10
    assert len(INSTRUMENT_NAMES) >= 16
    assert len(DRUM_PATTERNS) >= 6


@pytest.mark.parametrize(
    ("first", "second"), [("genre", "drums"), ("genre", "instrument"), ("instrument", "drums"), ("genre", "beats")]
)
def test_attributes_say_nothing_of_each_other(first: str, second: str) -> None:
    """Every pair comes about as often as chance has it: a tenth of the smallest cells' count is many deviations off."""
    rng = random.Random(5)
    pairs = Counter((getattr(p, first), getattr(p, second)) for p in (draw_piece(rng) for _ in range(20_000)))
    cells = len({pair[0] for pair in pairs}) * len({pair[1] for pair in pairs})
    assert len(pairs) == cells
    expected = 20_000 / cells
    chi_squared = sum((count - expected) ** 2 / expected for count in pairs.values())
    assert chi_squared < cells + 5 * (2 * cells) ** 0.5


@pytest.mark.parametrize("genre", GENRES)
@pytest.mark.parametrize("beats", BAR_BEATS)
def test_notes_are_in_key_and_within_the_clip(genre: str, beats: int) -> None:
    for mode in IN_KEY:
        for root in ROOTS.values():
            piece = replace(PIECE, genre=genre, beats=beats, mode=mode, root=root, seed=root)
            for note in notes_from_piece(piece):
                assert (note.pitch - root) % 12 in IN_KEY[mode], note
                assert -0.1 < note.start < beats
                assert 0 < note.length <= beats
                assert 0 < note.level <= 1
                assert 28 <= note.pitch <= 100


@pytest.mark.parametrize("instrument", INSTRUMENT_NAMES)
def test_instruments_stay_within_their_range(instrument: str) -> None:
    low, high = RANGES[instrument]
    octave = 12 * INSTRUMENTS[instrument].octave
    for genre in GENRES:
        for root in ROOTS.values():
            for note in notes_from_piece(replace(PIECE, genre=genre, instrument=instrument, root=root, seed=root)):
                assert note.is_bass or low <= note.pitch + octave <= high


def test_a_piece_is_the_same_every_time() -> None:
    assert notes_from_piece(PIECE) == notes_from_piece(PIECE)
    assert strokes_from_piece(PIECE) == strokes_from_piece(PIECE)
    assert notes_from_piece(PIECE) != notes_from_piece(replace(PIECE, seed=2))


def test_genres_play_the_same_key_in_their_own_rhythm() -> None:
    rhythms = set()
    for genre in GENRES:
        notes = notes_from_piece(replace(PIECE, genre=genre, beats=8))
        rhythms.add(tuple(sorted({(round(note.start * 4), note.is_bass) for note in notes})))
    assert len(rhythms) == len(GENRES)


def test_players_are_a_little_off_the_grid_but_machines_are_not() -> None:
    def off_grid_ms(genre: str) -> float:
        piece = replace(PIECE, genre=genre, beats=12)
        grid = [k / 4 for k in range(49)] + [beat + SWUNG for beat in range(12)]
        beat_ms = 60_000 / piece.tempo_bpm
        return max(min(abs(note.start - place) for place in grid) * beat_ms for note in notes_from_piece(piece))

    assert off_grid_ms("techno") == 0
    assert 1 < off_grid_ms("jazz") <= 2 * STYLES["jazz"].looseness_ms


def test_melodies_move_by_small_steps() -> None:
    tune = [
        n.pitch for n in notes_from_piece(replace(PIECE, genre="classical", seed=4)) if n.level > 0.75 and not n.is_bass
    ]
    leaps = [abs(b - a) for a, b in pairwise(tune)]
    assert len(set(tune)) >= 4
    assert sum(leap <= 5 for leap in leaps) > 0.8 * len(leaps)


@pytest.mark.parametrize("drums", DRUM_PATTERNS)
def test_drums_are_struck_as_their_pattern_says_in_every_bar(drums: str) -> None:
    for beats, bar in BAR_BEATS.items():
        struck = strokes_from_piece(replace(PIECE, drums=drums, beats=beats))
        if drums == "no drums":
            assert not struck
            continue
        bars = Counter(int(stroke.start // bar) for stroke in struck)
        assert set(bars) == set(range(beats // bar))
        assert all(0 <= stroke.start < beats and 0 < stroke.level <= 1 for stroke in struck)


def test_some_pieces_end_in_a_fill() -> None:
    fills = sum(
        any(stroke.drum == "tom low" for stroke in strokes_from_piece(replace(PIECE, seed=seed))) for seed in range(200)
    )
    assert 30 < fills < 90


def test_captions_are_true_and_come_in_many_wordings() -> None:
    rng = random.Random(1)
    said = {caption_from_piece(PIECE, rng) for _ in range(2_000)}
    assert len(said) > 500
    assert full_prompt("jazz", "piano", "swing drums", 12) in said
    assert full_prompt("jazz", "piano", "swing drums", 12, 9, "minor") in said
    others = {genre for genre in GENRES if genre != "jazz"} | {name for name in INSTRUMENT_NAMES if name != "piano"}
    others |= {word for name, words in DRUM_WORDINGS.items() if name != "swing drums" for word in words}
    others |= {"major", "slow", "medium tempo", "in C ", "94 bpm"}
    false = [caption for caption in said for word in others if f" {word} " in f" {caption.replace(',', ' ')} "]
    assert not false
    assert any(caption.startswith("something") for caption in said)


def test_the_plainest_prompt() -> None:
    assert full_prompt("techno", "synth", "four on the floor drums", 12) == "fast techno synth, four on the floor drums"
    assert full_prompt("folk", "harp", "no drums", 6, 0, "major") == "slow folk harp, no drums, in C major"
    assert set(TEMPO_WORDS) == set(BAR_BEATS)
