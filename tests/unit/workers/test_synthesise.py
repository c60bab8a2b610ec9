"""The sound of the training clips: exact loops, even levels, and every voice, drum, space and tone as it should be."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from shared.spectrogram_params import SpectrogramParams
from workers.training import rooms
from workers.training.dataset import draw_pieces
from workers.training.drum_sounds import KITS as DRUM_KITS
from workers.training.drum_sounds import stroke
from workers.training.score import GENRES, INSTRUMENT_NAMES, KITS, SPACES, TONES, Note, Piece, Stroke
from workers.training.synthesise import (
    GENRE_LEVELS,
    TRAINING_GRID,
    Array,
    Levels,
    loop_from_piece,
    loop_from_score,
    pixels_from_piece,
)
from workers.training.timbres import BASSES, TIMBRES
from workers.training.voices import note, shaped_noise

PIECE = Piece("classical", "piano", "rock drums", "acoustic", 2, "minor", 8, "plain", "hall", seed=5)
RATE_HZ = TRAINING_GRID.sample_rate_hz
PHRASE = [Note(2 * k + 0.3, 0.8, "piano", pitch, 0.9) for k, pitch in enumerate((60, 64, 67, 71))]
HITS = [Stroke(beat + 0.5, drum, 0.8) for beat, drum in enumerate(("kick", "snare", "ride", "clave"))]


def _power(sound: Array) -> float:
    return float(np.mean(np.square(sound, dtype=np.float64)))


def _centroid_hz(loop: Array) -> float:
    power = np.abs(np.fft.rfft(loop)) ** 2
    return float(np.sum(power * np.fft.rfftfreq(len(loop), 1 / RATE_HZ)) / power.sum())


def _peak(sound: Array) -> float:
    return float(np.abs(sound).max())


@pytest.mark.parametrize("params", [TRAINING_GRID, SpectrogramParams()], ids=["training", "full"])
def test_a_loop_is_one_frame_long_to_the_sample(params: SpectrogramParams) -> None:
    """512 columns of samples on either grid, at the set peak."""
    loop = loop_from_piece(PIECE, params)
    assert loop.shape == (512 * params.hop_length,)
    assert _peak(loop) == pytest.approx(0.9, abs=1e-4)


@pytest.mark.parametrize("genre", GENRES)
def test_no_mix_of_a_genre_clips(genre: str) -> None:
    """Whatever the levels, the peak is the set one and every sample a finite number."""
    for drums, kit in (("no drums", "acoustic"), ("funk drums", "electronic")):
        loop = loop_from_piece(replace(PIECE, genre=genre, drums=drums, kit=kit, tone="bright"), TRAINING_GRID)
        assert np.isfinite(loop).all()
        assert _peak(loop) == pytest.approx(0.9, abs=1e-4)
    assert set(GENRE_LEVELS) <= set(GENRES)


def test_the_tail_of_the_last_note_sounds_at_the_start() -> None:
    """A note on the last eighth rings on past the seam, and nowhere is there a jump."""
    loop = loop_from_score([Note(7.75, 1.0, "organ", 60, 1.0)], [], 8, TRAINING_GRID)
    beat = len(loop) // 8
    assert _peak(loop[: beat // 2]) > 0.5
    assert _peak(loop[beat : 7 * beat]) < 1e-6
    jumps = np.abs(np.diff(np.concatenate([loop, loop[:1]])))
    assert jumps[-1] <= jumps[:-1].max()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("tone", TONES)
def test_a_score_begun_elsewhere_is_the_same_loop_turned(tone: str, space: str) -> None:
    """Three beats later, everything, the reverb's tail with it, is three beats later around the loop."""
    loop = loop_from_score(PHRASE, HITS, 8, TRAINING_GRID, tone=tone, space=space)
    later_notes = [replace(one, start=(one.start + 3) % 8) for one in PHRASE]
    later_hits = [replace(one, start=(one.start + 3) % 8) for one in HITS]
    later = loop_from_score(later_notes, later_hits, 8, TRAINING_GRID, tone=tone, space=space)
    assert np.abs(np.roll(loop, 3 * len(loop) // 8) - later).max() < 1e-4


def test_the_same_seed_draws_the_same_pieces_and_pictures() -> None:
    """Drawing is repeatable, and a longer draw begins with a shorter one."""
    assert draw_pieces(20, seed=3) == draw_pieces(50, seed=3)[:20]
    assert draw_pieces(20, seed=3) != draw_pieces(20, seed=4)
    assert np.array_equal(pixels_from_piece(PIECE), pixels_from_piece(PIECE))
    assert not np.array_equal(pixels_from_piece(PIECE), pixels_from_piece(replace(PIECE, seed=6)))


@pytest.mark.parametrize("space", SPACES)
def test_the_fast_training_grid_draws_the_picture_of_the_full_grid(space: str) -> None:
    """At 20 kHz and at 44.1 kHz a piece's picture is the same within two grey levels on average."""
    piece = replace(PIECE, space=space)
    fast = pixels_from_piece(piece).astype(int)
    full = pixels_from_piece(piece, SpectrogramParams()).astype(int)
    assert np.abs(fast - full).mean() < 2


@pytest.mark.parametrize("voice", TIMBRES)
def test_a_voice_sounds_the_same_at_any_sample_rate_and_ends_in_silence(voice: str) -> None:
    """At 20 and 40 kHz a note agrees on the samples they share; it is heard, and its release comes to nothing."""
    slow, fast = (note(voice, 57, 400, rate_hz) for rate_hz in (20_000, 40_000))
    shared = min(len(slow), len(fast[::2]))
    assert np.corrcoef(slow[:shared], fast[::2][:shared])[0, 1] > 0.999
    assert _power(slow[: round(0.4 * 20_000)]) > 0.02
    assert _peak(slow) < 8
    assert abs(slow[-1]) < 1e-6


@pytest.mark.parametrize("voice", TIMBRES)
def test_a_soft_note_is_quieter_and_no_brighter(voice: str) -> None:
    loud, soft = note(voice, 57, 500, RATE_HZ), note(voice, 57, 500, RATE_HZ, level=0.25)
    assert _power(soft) < 0.3 * _power(loud)
    # Where there is one partial alone, hardly anything can grow duller; the attack's noise stays.
    assert _centroid_hz(soft) < 1.1 * _centroid_hz(loud)


def test_touch_changes_the_partials_of_a_piano() -> None:
    loud, soft = note("piano", 57, 500, RATE_HZ), note("piano", 57, 500, RATE_HZ, level=0.25)
    assert _centroid_hz(soft) < 0.9 * _centroid_hz(loud)


@pytest.mark.parametrize("voice", [*INSTRUMENT_NAMES, *BASSES])
def test_a_voice_is_as_loud_in_the_mix_as_any_other(voice: str) -> None:
    """Beside the same second part, each voice has the power its level says."""
    levels = Levels(lead=1.0, bass=0.5)
    is_bass = voice in BASSES
    own = [replace(one, voice=voice, pitch=one.pitch - 24 * is_bass, is_bass=is_bass) for one in PHRASE]
    other = [Note(1, 6, "organ" if is_bass else "bowed bass", 43, 1.0, is_bass=not is_bass)]
    alone = [loop_from_score(part, [], 8, TRAINING_GRID, levels=levels) for part in (own, other)]
    mix = loop_from_score(own + other, [], 8, TRAINING_GRID, levels=levels)
    shares = np.linalg.lstsq(np.stack(alone, axis=1).astype(np.float64), mix.astype(np.float64), rcond=None)[0]
    lift = _power(shares[0] * alone[0]) / _power(shares[1] * alone[1])
    assert lift == pytest.approx(0.25 if is_bass else 4.0, rel=0.01)


@pytest.mark.parametrize("kit", KITS)
@pytest.mark.parametrize("drum", DRUM_KITS["acoustic"])
def test_a_drum_sounds_the_same_at_any_sample_rate_and_ends_in_silence(drum: str, kit: str) -> None:
    slow, fast = stroke(drum, 20_000, kit), stroke(drum, 40_000, kit)
    shared = min(len(slow), len(fast[::2]))
    assert np.corrcoef(slow[:shared], fast[::2][:shared])[0, 1] > 0.99
    assert 0.2 < _peak(slow) < 2
    assert _peak(slow[-20:]) < 0.05 * _peak(slow)


def test_both_kits_have_all_drums_and_share_none() -> None:
    assert set(DRUM_KITS) == set(KITS)
    acoustic, electronic = (DRUM_KITS[kit] for kit in KITS)
    assert set(acoustic) == set(electronic)
    assert not [drum for drum in acoustic if acoustic[drum] == electronic[drum]]


def test_noise_is_the_same_at_any_sample_rate_and_in_its_band() -> None:
    slow, fast = (shaped_noise(0.2, (500.0, 4_000.0), rate_hz, seed=1) for rate_hz in (20_000, 40_000))
    assert np.corrcoef(slow, fast[::2])[0, 1] > 0.99
    power = np.abs(np.fft.rfft(slow)) ** 2
    frequency_hz = np.fft.rfftfreq(len(slow), 1 / 20_000)
    assert power[(frequency_hz < 300) | (frequency_hz > 5_300)].sum() < 1e-3 * power.sum()


def test_warm_plain_and_bright_lie_in_that_order() -> None:
    """A tone moves the centre of the spectrum and leaves the lows alone."""
    warm, plain, bright = (loop_from_score(PHRASE, HITS, 8, TRAINING_GRID, tone=tone) for tone in TONES)
    assert _centroid_hz(warm) < 0.9 * _centroid_hz(plain)
    assert _centroid_hz(plain) < 0.9 * _centroid_hz(bright)


def test_spaces_ring_on_for_so_long_and_no_longer() -> None:
    """After a stroke nothing is left dry, in a room for half a second, in a hall for almost two."""
    tails = {space: loop_from_score([], [Stroke(0, "conga", 1.0)], 8, TRAINING_GRID, space=space) for space in SPACES}
    power = {
        (space, start_s): _power(tail[round(start_s * RATE_HZ) : round((start_s + 0.2) * RATE_HZ)])
        for space, tail in tails.items()
        for start_s in (0.3, 1.0)
    }
    assert _peak(tails["dry"][round(0.29 * RATE_HZ) :]) < 1e-6
    assert power["room", 0.3] > 1e-7
    assert power["hall", 0.3] > 3 * power["room", 0.3]
    assert power["hall", 1.0] > 1e-8 > power["room", 1.0]
    assert _peak(tails["hall"][round(2.2 * RATE_HZ) :]) < 1e-5
    assert set(rooms.SPACES) == set(SPACES)
    assert rooms.TONES == TONES


def test_instruments_draw_clearly_different_pictures() -> None:
    """The same score on two instruments differs by far more than on two grids, which is below two grey levels."""
    pictures = [
        pixels_from_piece(replace(PIECE, instrument=name, drums="no drums", space="dry")).astype(int)
        for name in INSTRUMENT_NAMES
    ]
    assert min(np.abs(one - other).mean() for one, other in combinations(pictures, 2)) > 6


def test_unknown_sounds_are_refused() -> None:
    """There is no silent stand-in for a sound that does not exist."""
    with pytest.raises(KeyError):
        note("kazoo", 60, 100, 20_000)
    with pytest.raises(KeyError):
        stroke("gong", 20_000)
    with pytest.raises(KeyError):
        stroke("kick", 20_000, "paper")
    with pytest.raises(KeyError):
        loop_from_score(PHRASE, [], 8, TRAINING_GRID, space="cave")
    with pytest.raises(ValueError, match="tone must be one of warm, plain, bright, not 'cold'"):
        loop_from_score(PHRASE, [], 8, TRAINING_GRID, tone="cold")
