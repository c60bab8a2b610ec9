"""Scores → waveforms → pictures, as exact loops.

Owns mixing and the wrapping of tails around the end, so that a clip repeats without a seam. Leaves out the choice of
notes (`workers.training.score`) and the mel transform (`workers.spectrogram`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.spectrogram_params import FRAME_COLUMNS, SpectrogramParams
from workers.spectrogram import mel_amplitudes_from_waveform
from workers.training.score import Note, Piece, Stroke, notes_from_piece, strokes_from_piece
from workers.training.timbres import note, stroke

Array = NDArray[np.float32]

TRAINING_GRID: Final = SpectrogramParams(sample_rate_hz=20_000, hop_length=200, win_length=2_000, n_fft=8_000)
"""The default grid at the lowest rate that holds 10 kHz: the same 2.5 Hz bins and pictures at half the work."""

LEAD_LEVEL: Final = 1.0
BASS_LEVEL: Final = 0.45
DRUM_LEVEL: Final = 2.2
"""Levels in the mix over the lead's loudness: the instrument must be heard through bass and drums."""


def loop_from_piece(piece: Piece, params: SpectrogramParams) -> Array:
    """One frame of sound, shape (sample,), peak 0.9; its end runs into its start."""
    return loop_from_score(notes_from_piece(piece), strokes_from_piece(piece), piece.beats, params)


def loop_from_score(notes: Iterable[Note], strokes: Iterable[Stroke], beats: int, params: SpectrogramParams) -> Array:
    """Notes and strokes laid on a grid of `beats` beats per frame, tails wrapped, shape (sample,), peak 0.9."""
    samples = params.samples_from_columns(FRAME_COLUMNS)
    beat_ms = FRAME_COLUMNS * 1_000 / params.columns_per_s / beats
    lead, bass, drums = (np.zeros(samples, dtype=np.float32) for _ in range(3))
    for played in notes:
        wave = note(played.voice, played.pitch, round(played.length * beat_ms), params.sample_rate_hz)
        _add_wrapped(bass if played.is_bass else lead, wave * played.level, played.start / beats)
    for hit in strokes:
        _add_wrapped(drums, stroke(hit.drum, params.sample_rate_hz) * hit.level, hit.start / beats)
    mix = LEAD_LEVEL * _even(lead) + BASS_LEVEL * _even(bass) + DRUM_LEVEL * drums
    loop: Array = (0.9 * mix / (np.abs(mix).max() + 1e-9)).astype(np.float32)
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
