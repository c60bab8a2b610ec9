"""The synthesiser: pieces, exact loops, pictures and captions."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from shared.spectrogram_params import SpectrogramParams
from workers.training.captions import DRUM_WORDINGS, caption_from_piece
from workers.training.dataset import draw_pieces
from workers.training.score import (
    BAR_BEATS,
    DRUM_PATTERNS,
    GENRES,
    INSTRUMENT_NAMES,
    Note,
    Piece,
    notes_from_piece,
    strokes_from_piece,
)
from workers.training.synthesise import TRAINING_GRID, loop_from_piece, loop_from_score, pixels_from_piece
from workers.training.timbres import note, shaped_noise, stroke

PIECE = Piece("classical", "piano", "rock drums", root=2, mode="minor", beats=8, seed=5)


def test_a_loop_is_one_frame_long_to_the_sample() -> None:
    """512 columns of samples on either grid, at the set peak."""
    for params in (TRAINING_GRID, SpectrogramParams()):
        loop = loop_from_piece(PIECE, params)
        assert loop.shape == (512 * params.hop_length,)
        assert np.abs(loop).max() == pytest.approx(0.9, abs=1e-4)


def test_the_tail_of_the_last_note_sounds_at_the_start() -> None:
    """A note on the last eighth rings on past the seam, and nowhere is there a jump."""
    loop = loop_from_score([Note(7.75, 1.0, "organ", 60, 1.0)], [], 8, TRAINING_GRID)
    beat = len(loop) // 8
    assert np.abs(loop[: beat // 2]).max() > 0.5
    assert np.abs(loop[beat : 7 * beat]).max() < 1e-6
    jumps = np.abs(np.diff(np.concatenate([loop, loop[:1]])))
    assert jumps[-1] <= jumps[:-1].max()


def test_every_event_lies_within_the_clip() -> None:
    """Notes and strokes start inside whole bars, for every genre, pattern and tempo."""
    for genre in GENRES:
        for drums in DRUM_PATTERNS:
            for beats, bar in BAR_BEATS.items():
                piece = replace(PIECE, genre=genre, drums=drums, beats=beats)
                starts = [event.start for event in (*notes_from_piece(piece), *strokes_from_piece(piece))]
                assert beats % bar == 0
                assert all(0 <= start < beats for start in starts)


def test_the_same_seed_draws_the_same_pieces_and_pictures() -> None:
    """Drawing is repeatable, and a longer draw begins with a shorter one."""
    assert draw_pieces(20, seed=3) == draw_pieces(50, seed=3)[:20]
    assert draw_pieces(20, seed=3) != draw_pieces(20, seed=4)
    assert np.array_equal(pixels_from_piece(PIECE), pixels_from_piece(PIECE))


@pytest.mark.parametrize(("first", "second"), [("genre", "drums"), ("genre", "instrument"), ("drums", "instrument")])
def test_attributes_are_drawn_independently(first: str, second: str) -> None:
    """No pair of attributes departs from independence beyond chance (chi-squared over its mean)."""
    pieces = draw_pieces(6_000, seed=9)
    pairs = Counter((getattr(p, first), getattr(p, second)) for p in pieces)
    cells = len({getattr(p, first) for p in pieces}) * len({getattr(p, second) for p in pieces})
    expected = len(pieces) / cells
    chi = sum((pairs[pair] - expected) ** 2 / expected for pair in pairs)
    assert len(pairs) == cells
    assert chi < cells + 4 * np.sqrt(2 * cells)


def test_the_fast_training_grid_draws_the_picture_of_the_full_grid() -> None:
    """At 20 kHz and at 44.1 kHz a piece's picture is the same within two grey levels on average."""
    fast = pixels_from_piece(PIECE).astype(int)
    full = pixels_from_piece(PIECE, SpectrogramParams()).astype(int)
    assert np.abs(fast - full).mean() < 2


def test_instruments_draw_clearly_different_pictures() -> None:
    """The same score on two instruments differs by far more than rounding."""
    pictures = [
        pixels_from_piece(replace(PIECE, instrument=name, drums="no drums")).astype(int) for name in INSTRUMENT_NAMES
    ]
    assert min(np.abs(one - other).mean() for one, other in combinations(pictures, 2)) > 8


def test_sounds_are_the_same_at_any_sample_rate() -> None:
    """Notes, noise and strokes at 20 and 40 kHz agree on the samples they share."""
    for slow, fast in (
        (note("piano", 60, 400, 20_000), note("piano", 60, 400, 40_000)),
        (stroke("snare", 20_000), stroke("snare", 40_000)),
        (shaped_noise(0.2, (500.0, 4_000.0), 20_000, 1), shaped_noise(0.2, (500.0, 4_000.0), 40_000, 1)),
    ):
        shared = min(len(slow), len(fast[::2]))
        assert np.corrcoef(slow[:shared], fast[::2][:shared])[0, 1] > 0.99


def test_unknown_voices_and_drums_are_refused() -> None:
    """There is no silent stand-in for a sound that does not exist."""
    with pytest.raises(KeyError):
        note("kazoo", 60, 100, 20_000)
    with pytest.raises(KeyError):
        stroke("gong", 20_000)


def test_captions_never_name_what_is_not_heard() -> None:
    """Over many captions no other instrument or drum pattern is named, and each is named often."""
    rng = random.Random(1)
    captions = [caption_from_piece(PIECE, rng) for _ in range(400)]
    others = [w for name, words in DRUM_WORDINGS.items() if name != PIECE.drums for w in words]
    others += [name for name in (*INSTRUMENT_NAMES, *GENRES) if name not in ("piano", "classical", "rock")]
    assert not [caption for caption in captions if any(other in caption for other in others)]
    assert sum("rock drums" in caption for caption in captions) > 250
    assert sum("piano" in caption for caption in captions) > 200
    assert any("," not in caption for caption in captions)
