"""Scores → waveforms → pictures, as exact loops.

Owns mixing and the wrapping of tails around the end, so that a clip repeats without a seam. Leaves out the choice of
notes (`workers.training.score`), the sounds (`voices`, `drum_sounds`, `rooms` beside it) and the mel transform
(`workers.spectrogram`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.spectrogram_params import FRAME_COLUMNS, SpectrogramParams
from workers.spectrogram import mel_amplitudes_from_waveform
from workers.training.drum_sounds import stroke
from workers.training.rooms import placed
from workers.training.score import Note, Piece, Stroke, notes_from_piece, strokes_from_piece
from workers.training.voices import note

Array = NDArray[np.float32]

TRAINING_GRID: Final = SpectrogramParams(sample_rate_hz=20_000, hop_length=200, win_length=2_000, n_fft=8_000)
"""The default grid at the lowest rate that holds 10 kHz: the same 2.5 Hz bins and pictures at half the work."""


class Levels(NamedTuple):
    """Loudness of the parts in the mix; the instrument must be heard through bass and drums."""

    lead: float = 1.0
    bass: float = 0.45
    drums: float = 2.2


GENRE_LEVELS: Final = {
    "ambient": Levels(bass=0.40, drums=1.8),
    "classical": Levels(bass=0.35, drums=2.0),
    "jazz": Levels(bass=0.50, drums=2.0),
    "folk": Levels(bass=0.40, drums=2.0),
    "bossa nova": Levels(bass=0.45, drums=2.0),
    "techno": Levels(bass=0.50, drums=2.5),
    "funk": Levels(bass=0.55, drums=2.3),
    "reggae": Levels(bass=0.70, drums=2.0),
    "hip hop": Levels(bass=0.75, drums=2.5),
}
"""Mixes that differ from the usual one, by genre."""
SOFT_PATTERNS: Final = {"swing drums": 1.7, "latin drums": 1.7}
"""How much louder patterns are mixed that have no strong drum: ride and shaker must be heard as a kick is."""


def loop_from_piece(piece: Piece, params: SpectrogramParams) -> Array:
    """One frame of sound, shape (sample,), peak 0.9; its end runs into its start."""
    levels = GENRE_LEVELS.get(piece.genre, Levels())
    return loop_from_score(
        notes_from_piece(piece),
        strokes_from_piece(piece),
        piece.beats,
        params,
        kit=piece.kit,
        tone=piece.tone,
        space=piece.space,
        levels=levels._replace(drums=levels.drums * SOFT_PATTERNS.get(piece.drums, 1.0)),
    )


def loop_from_score(
    notes: Iterable[Note],
    strokes: Iterable[Stroke],
    beats: int,
    params: SpectrogramParams,
    *,
    kit: str = "acoustic",
    tone: str = "plain",
    space: str = "dry",
    levels: Levels | None = None,
) -> Array:
    """Notes and strokes laid on a grid of `beats` beats per frame, tails wrapped, shape (sample,), peak 0.9.

    Raises KeyError for a voice, drum, kit or space that there is not, ValueError for a tone.
    """
    levels = levels or Levels()
    samples = params.samples_from_columns(FRAME_COLUMNS)
    beat_ms = FRAME_COLUMNS * 1_000 / params.columns_per_s / beats
    lead, bass, drums = (np.zeros(samples, dtype=np.float32) for _ in range(3))
    for played in notes:
        held_ms = max(1, round(played.length * beat_ms))
        wave = note(played.voice, played.pitch, held_ms, params.sample_rate_hz, played.level)
        _add_wrapped(bass if played.is_bass else lead, wave, played.start / beats)
    for hit in strokes:
        _add_wrapped(drums, stroke(hit.drum, params.sample_rate_hz, kit) * np.float32(hit.level), hit.start / beats)
    mix = levels.lead * _even(lead) + levels.bass * _even(bass) + levels.drums * drums
    heard = placed(mix.astype(np.float32), params.sample_rate_hz, tone, space)
    loop: Array = (0.9 * heard / (np.abs(heard).max() + 1e-9)).astype(np.float32)
    return loop


def _even(part: Array) -> Array:
    """A part at unit power, so that no instrument is louder than another."""
    even: Array = (part / (np.sqrt(np.mean(part**2)) + 1e-9)).astype(np.float32)
    return even


def _add_wrapped(loop: Array, wave: Array, share: float) -> None:
    """Add `wave` at `share` of the loop's length; what goes past the end comes in at the start."""
    start = round(share * len(loop))
    while len(wave):
        start %= len(loop)
        fits = min(len(wave), len(loop) - start)
        loop[start : start + fits] += wave[:fits]
        wave, start = wave[fits:], start + fits


def loop_mel_amplitudes(loop: Array, params: SpectrogramParams) -> Array:
    """Mel amplitudes (1, mel_bins, FRAME_COLUMNS) of a loop (sample,) heard in the middle of its repetitions."""
    margin = -(-params.n_fft // 2 // params.hop_length)
    edge = margin * params.hop_length
    repeated = np.concatenate([loop[-edge:], loop, loop[:edge]])[None]
    return mel_amplitudes_from_waveform(repeated, params)[..., margin : margin + FRAME_COLUMNS]


def pixels_from_piece(piece: Piece, params: SpectrogramParams = TRAINING_GRID) -> NDArray[np.uint8]:
    """The picture of a piece, shape (mel_bins, FRAME_COLUMNS), grey; low frequencies at the bottom, loud is dark."""
    mel = loop_mel_amplitudes(loop_from_piece(piece, params), params)[0]
    loudness = (mel / mel.max()) ** np.float32(params.power)
    pixels: NDArray[np.uint8] = np.rint(255.0 * (1.0 - loudness)).astype(np.uint8)[::-1]
    return pixels
