"""Notes and drum strokes as waveforms, from sums of sines and shaped noise alone.

Owns what an instrument sounds like. Leaves out what is played: `workers.training.score`. Every sound is drawn in the
frequency range 0..10 kHz from fixed generators, so it is the same signal at any sample rate of 20 kHz and more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
TOP_HZ: Final = 9_800.0


@dataclass(frozen=True, slots=True)
class Timbre:
    """How a pitched voice sounds: partials, envelope, movement and breath."""

    partials: tuple[float, ...]
    ratios: tuple[float, ...] = ()
    """Frequencies of the partials over the fundamental; empty: 1, 2, 3, ..."""
    attack_s: float = 0.004
    attack_growth: float = 0.0
    """Extra attack of each higher partial, in shares of `attack_s`: a brass tone opens."""
    release_s: float = 0.05
    decay_per_s: float = 0.0
    decay_growth_per_s: float = 0.0
    """Extra decay of each higher partial: a struck or filtered tone closes."""
    vibrato_hz: float = 5.5
    vibrato_cents: float = 0.0
    tremolo_hz: float = 6.0
    tremolo_depth: float = 0.0
    detune_cents: float = 0.0
    breath: float = 0.0
    breath_band_hz: tuple[float, float] = (2_500.0, 7_000.0)
    octave: int = 0


def _falling(count: int, power: float) -> tuple[float, ...]:
    return tuple(k**-power for k in range(1, count + 1))


_ODD: Final = tuple(float(k) for k in range(1, 40, 2))

INSTRUMENTS: Final[dict[str, Timbre]] = {
    "piano": Timbre(_falling(14, 1.2), decay_per_s=1.6, decay_growth_per_s=0.5, release_s=0.08),
    "organ": Timbre((1.0, 0.9, 0.7, 0.6, 0.4), ratios=(0.5, 1, 2, 4, 8), attack_s=0.008, release_s=0.02),
    "electric guitar": Timbre(_falling(60, 0.4), decay_per_s=0.3, release_s=0.03, octave=-1),
    "strings": Timbre(_falling(18, 0.9), attack_s=0.16, release_s=0.18, vibrato_cents=16.0, detune_cents=14.0),
    "flute": Timbre((1.0, 0.16, 0.05), attack_s=0.06, release_s=0.07, vibrato_cents=38.0, breath=0.12, octave=1),
    "synth": Timbre(
        _falling(20, 0.7), ratios=_ODD, decay_per_s=0.2, decay_growth_per_s=2.2, release_s=0.04, detune_cents=9.0
    ),
    "vibraphone": Timbre(
        (1.0, 0.5, 0.2),
        ratios=(1, 4, 10),
        decay_per_s=1.2,
        decay_growth_per_s=3.0,
        release_s=0.35,
        tremolo_depth=0.75,
        octave=1,
    ),
    "trumpet": Timbre(
        (0.5, 0.8, 1.0, 1.0, 0.9, 0.75, 0.6, 0.5, 0.4, 0.3, 0.22, 0.16),
        attack_s=0.03,
        attack_growth=0.6,
        release_s=0.05,
        vibrato_cents=24.0,
    ),
}
"""The instruments a caption may name."""

BASSES: Final[dict[str, Timbre]] = {
    "drone bass": Timbre((1.0, 0.3), attack_s=0.2, release_s=0.3),
    "bowed bass": Timbre(_falling(6, 1.3), attack_s=0.05, release_s=0.08),
    "upright bass": Timbre((1.0, 0.6, 0.3, 0.1), decay_per_s=3.0, decay_growth_per_s=1.5),
    "picked bass": Timbre(_falling(8, 1.0), decay_per_s=2.0, decay_growth_per_s=1.0),
    "synth bass": Timbre(_falling(14, 0.9), decay_per_s=2.0, decay_growth_per_s=3.0, release_s=0.03),
    "slapped bass": Timbre(_falling(16, 0.8), decay_per_s=5.0, decay_growth_per_s=2.0, release_s=0.02),
}

PLUCKED: Final[dict[str, Timbre]] = {
    "marimba": Timbre((1.0, 0.35, 0.12), ratios=(1, 4, 10), decay_per_s=7.0, decay_growth_per_s=9.0),
    "pluck": Timbre(_falling(20, 0.8), decay_per_s=5.0, decay_growth_per_s=2.5, release_s=0.03),
}
"""Further voices, for the seed images alone."""

TIMBRES: Final = INSTRUMENTS | BASSES | PLUCKED


def shaped_noise(duration_s: float, band_hz: tuple[float, float], rate_hz: int, seed: int) -> Array:
    """Noise of unit power inside `band_hz`, the same signal at every sample rate."""
    samples = round(duration_s * rate_hz)
    bins = int(TOP_HZ * duration_s)
    rng = np.random.default_rng(seed)
    spectrum = rng.standard_normal(bins) + 1j * rng.standard_normal(bins)
    frequency_hz = np.arange(bins) / duration_s
    below = np.clip(1 - (band_hz[0] - frequency_hz) / (0.3 * band_hz[0]), 0, 1)
    above = np.clip(1 - (frequency_hz - band_hz[1]) / (0.3 * band_hz[1]), 0, 1)
    spectrum *= (below * above) ** 2
    padded = np.zeros(samples // 2 + 1, dtype=np.complex128)
    padded[: min(bins, len(padded))] = spectrum[: len(padded)]
    noise = np.fft.irfft(padded, samples)
    unit: Array = (noise / (noise.std() + 1e-12)).astype(np.float32)
    return unit


@lru_cache(maxsize=1_500)
def note(voice: str, pitch: int, held_ms: int, rate_hz: int) -> Array:
    """One note of about unit power, shape (samples,): `held_ms` of tone and its release.

    `pitch` is a MIDI number; `voice` a key of TIMBRES, else KeyError.
    """
    timbre = TIMBRES[voice]
    held_s = held_ms / 1_000
    time_s = _clock(held_s + timbre.release_s, rate_hz)
    fundamental_hz = 440.0 * 2.0 ** ((pitch + 12 * timbre.octave - 69) / 12)
    tone = np.zeros_like(time_s)
    for cents in (0.0,) if timbre.detune_cents == 0 else (-timbre.detune_cents, 0.0, timbre.detune_cents):
        tone += _partials(timbre, fundamental_hz * 2 ** (cents / 1_200), time_s, seed=round(cents))
    tone /= np.sqrt(np.sum(np.square(timbre.partials)) / 2)
    if timbre.breath:
        breath = shaped_noise(len(time_s) / rate_hz, timbre.breath_band_hz, rate_hz, seed=pitch)
        tone += timbre.breath * breath[: len(tone)]
    envelope = np.clip((held_s + timbre.release_s - time_s) / timbre.release_s, 0.0, 1.0)
    envelope *= 1 - timbre.tremolo_depth * (0.5 - 0.5 * np.cos(2 * np.pi * timbre.tremolo_hz * time_s))
    sound: Array = (tone * envelope).astype(np.float32)
    return sound


def _clock(duration_s: float, rate_hz: int) -> Array:
    """The time of each sample in seconds."""
    time_s: Array = np.arange(round(duration_s * rate_hz), dtype=np.float32) / np.float32(rate_hz)
    return time_s


def _partials(timbre: Timbre, fundamental_hz: float, time_s: Array, seed: int) -> Array:
    """The sum of a voice's partials, each with its own attack and decay, shape (samples,)."""
    rng = np.random.default_rng([seed + 1_000, 7])
    bend = timbre.vibrato_cents / 1_200 * np.log(2) / (2 * np.pi * timbre.vibrato_hz)
    clock = time_s + bend * (1 - np.cos(2 * np.pi * timbre.vibrato_hz * time_s)) * np.minimum(time_s / 0.2, 1)
    tone = np.zeros_like(time_s)
    for k, level in enumerate(timbre.partials):
        ratio = timbre.ratios[k] if timbre.ratios else k + 1
        start = rng.uniform(0, 2 * np.pi)
        if ratio * fundamental_hz >= TOP_HZ:
            continue
        attack_s = timbre.attack_s * (1 + timbre.attack_growth * k)
        decay = np.exp(-(timbre.decay_per_s + timbre.decay_growth_per_s * k) * time_s)
        rise = np.minimum(time_s / attack_s, 1.0)
        tone += level * rise * decay * np.sin(2 * np.pi * ratio * fundamental_hz * clock + start)
    return tone


@lru_cache(maxsize=64)
def stroke(drum: str, rate_hz: int) -> Array:
    """One stroke of a drum or cymbal, peak about 1, shape (samples,). Raises KeyError for an unknown drum."""
    duration_s, band_hz, decay_per_s, tone_hz, tone_share = _DRUMS[drum]
    time_s = _clock(duration_s, rate_hz)
    noise = shaped_noise(duration_s, band_hz, rate_hz, seed=len(drum))[: len(time_s)] / 3
    # A skin starts sharp and falls to its pitch within 30 ms.
    turns = tone_hz * (time_s + 0.03 * (1 - np.exp(-time_s / 0.03)))
    tone = np.sin(2 * np.pi * turns) * np.exp(-time_s * min(decay_per_s, 12.0))
    strike = (1 - tone_share) * noise * np.exp(-time_s * decay_per_s) + tone_share * tone
    sound: Array = (strike * np.minimum((duration_s - time_s) / 0.02, 1)).astype(np.float32)
    return sound


_DRUMS: Final[dict[str, tuple[float, tuple[float, float], float, float, float]]] = {
    # seconds, noise band, decay, pitch, share of the pitch
    "kick": (0.35, (20.0, 3_000.0), 60.0, 50.0, 0.92),
    "snare": (0.30, (300.0, 9_800.0), 16.0, 190.0, 0.25),
    "clap": (0.25, (900.0, 3_500.0), 22.0, 900.0, 0.0),
    "closed hat": (0.10, (6_000.0, 9_800.0), 60.0, 8_000.0, 0.0),
    "open hat": (0.35, (5_000.0, 9_800.0), 9.0, 7_000.0, 0.0),
    "ride": (0.70, (3_500.0, 9_800.0), 6.0, 5_200.0, 0.2),
}
