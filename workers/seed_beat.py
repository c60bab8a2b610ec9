"""Where the beat of a recording is: its tempo, the beats' place, and which of them begins a measure.

Owns onsets and what follows from them. Leaves out cutting (`workers.seed_audio`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shared.spectrogram_params import SpectrogramParams
from workers.spectrogram import Array, mel_amplitudes_from_waveform

_ONSET_GRID: Final = replace(SpectrogramParams(), hop_length=220, win_length=1_024, n_fft=2_048, mel_bins=64)
# Every 5 ms.
_RATE_HZ: Final = _ONSET_GRID.sample_rate_hz / _ONSET_GRID.hop_length
_FLOOR_DB: Final = -60.0
_LOW_BINS: Final = 8
"""Mel bins of kick and bass, which begin measures."""
_SLOWEST_BPM, _FASTEST_BPM = 55.0, 215.0
_USUAL_BPM: Final = 115.0
_USUAL_OCTAVES: Final = 0.9
"""Standard deviation, in octaves, of how fast people take music to be."""
_REPEATS: Final = 4
"""Beats over which a tempo has to hold to count."""


class Tempo(NamedTuple):
    """Beats per minute, and 0..1 how regularly the sound repeats at that pace."""

    bpm: float
    confidence: float


class Onsets(NamedTuple):
    """How much sound begins at each step of `_RATE_HZ`, in all and in the lows, shape (step,) each."""

    all: NDArray[np.float64]
    low: NDArray[np.float64]


def onsets_from_waveform(waveform: Array) -> Onsets:
    """Onsets of a waveform (sample,) at the default grid's rate; all zero where it is silent."""
    mel = mel_amplitudes_from_waveform(waveform[None], _ONSET_GRID)[0].astype(np.float64)
    level_db = np.maximum(20 * np.log10(mel / (mel.max() or 1.0) + 1e-12), _FLOOR_DB)
    rise = np.maximum(np.diff(level_db, axis=1, prepend=level_db[:, :1]), 0)
    return Onsets(rise.mean(axis=0), rise[:_LOW_BINS].mean(axis=0))


def tempo_from_onsets(onsets: Onsets) -> Tempo:
    """The tempo at which onsets repeat most, among those that people tap to; confidence 0 when there are none."""
    centred = onsets.all - onsets.all.mean()
    likeness = _likeness(centred)
    if likeness[0] <= 0:
        return Tempo(_USUAL_BPM, 0.0)
    likeness = likeness / likeness[0] * len(likeness) / np.maximum(len(likeness) - np.arange(len(likeness)), 1)
    tempos = np.geomspace(_SLOWEST_BPM, _FASTEST_BPM, 1_500)
    lags = 60 * _RATE_HZ / tempos
    places = np.arange(len(likeness))
    repeats = [np.interp(count * lags, places, likeness, right=0.0) for count in range(1, _REPEATS + 1)]
    regular = np.mean(repeats, axis=0)
    usual = np.exp(-0.5 * (np.log2(tempos / _USUAL_BPM) / _USUAL_OCTAVES) ** 2)
    best = int(np.argmax(regular * usual))
    return Tempo(float(tempos[best]), float(np.clip(regular[best], 0, 1)))


def _likeness(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """The onsets' correlation with themselves by lag, as a product of spectra."""
    spectrum = np.fft.rfft(centred, 2 * len(centred))
    likeness: NDArray[np.float64] = np.fft.irfft(np.abs(spectrum) ** 2)[: len(centred)]
    return likeness


def first_measure_s(onsets: Onsets, tempo_bpm: float, beats: int) -> float:
    """Seconds to the first of the measures of `beats` beats that onsets agree with best, 0 to a measure."""
    beat = 60 * _RATE_HZ / tempo_bpm
    phase = _best_phase(onsets.all, beat)
    # Which beat is the first is heard from the lows, less clearly.
    strengths = [_strength(onsets.low, phase + number * beat, beats * beat) for number in range(beats)]
    return float((phase + int(np.argmax(strengths)) * beat) / _RATE_HZ)


def _best_phase(onsets: NDArray[np.float64], beat: float) -> float:
    phases = np.arange(0, beat, 1.0)
    return float(phases[int(np.argmax([_strength(onsets, phase, beat) for phase in phases]))])


def _strength(onsets: NDArray[np.float64], phase: float, period: float) -> float:
    """Mean onset at phase, phase + period, ...; a step to either side counts too."""
    places = np.arange(phase, len(onsets), period)
    return float(np.mean([np.interp(places + step, np.arange(len(onsets)), onsets) for step in (-1, 0, 1)]))
