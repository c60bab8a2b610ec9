"""Single notes drawn from a timbre: any voice, pitch, length and touch as a waveform.

Owns how partials, envelopes and attack noise become samples. Leaves out which timbres there are
(`workers.training.timbres`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from workers.training.timbres import TIMBRES, Strike, Timbre

Array = NDArray[np.float32]
TOP_HZ: Final = 9_800.0
_ROLL_OFF_HZ: Final = 4_500.0
"""Above this partials fade: thin lines in the highs cost a picture much and give the ear little."""
_TOUCHES: Final = 4
"""Steps of touch from softest to hardest: a soft note is duller, not only quieter."""
_SOFT_DULL: Final = 0.3
_SHORTEST_BODY_S: Final = 0.25


def note(voice: str, pitch: int, held_ms: int, rate_hz: int, level: float = 1.0) -> Array:
    """One note, shape (samples,): `held_ms` of tone and its release, `level` (0..1) loud where 1 is unit power.

    `pitch` is a MIDI number; `voice` a key of TIMBRES, else KeyError.
    """
    timbre = TIMBRES[voice]
    samples = round((held_ms / 1_000 + timbre.release_s) * rate_hz)
    steps = max(0, int(np.ceil(np.log2(samples / rate_hz / _SHORTEST_BODY_S))))
    touch = min(_TOUCHES, max(1, round(level * _TOUCHES)))
    sound: Array = _body(voice, pitch, touch, steps, rate_hz)[:samples] * np.float32(level)
    release = _release(round(timbre.release_s * rate_hz))
    sound[len(sound) - len(release) :] *= release
    return sound


@lru_cache(maxsize=64)
def _release(samples: int) -> Array:
    """A smooth fall to true silence, shape (samples,)."""
    return (np.cos(np.linspace(0, np.pi / 2, samples, dtype=np.float32)) ** 2).astype(np.float32)


@lru_cache(maxsize=1_200)
def _body(voice: str, pitch: int, touch: int, steps: int, rate_hz: int) -> Array:
    """A note before its release, `_SHORTEST_BODY_S * 2**steps` seconds: notes of other lengths are cut from it."""
    timbre = TIMBRES[voice]
    time_s = clock(_SHORTEST_BODY_S * 2**steps, rate_hz)
    fundamental_hz = 440.0 * 2.0 ** ((pitch + 12 * timbre.octave - 69) / 12)
    dull = timbre.dull_end + (timbre.dull_start - timbre.dull_end) * np.exp(-time_s / np.float32(timbre.dull_s))
    dull += np.float32(_SOFT_DULL * (1 - touch / _TOUCHES)) + np.float32(timbre.decay_growth_per_s) * time_s
    draw = _inharmonic if timbre.ratios else _harmonic
    tone = np.zeros_like(time_s)
    for player, cents in enumerate(timbre.detune_cents):
        turns = _turns(timbre, fundamental_hz * 2 ** (cents / 1_200), player, rate_hz, len(time_s))
        tone += draw(timbre, fundamental_hz, turns, dull, player)
    tone *= _envelope(timbre, time_s)
    if timbre.strike:
        tone += _strike(timbre.strike, rate_hz, len(time_s))
    return tone


def clock(duration_s: float, rate_hz: int) -> Array:
    """The time of each sample in seconds, shape (samples,)."""
    return (np.arange(round(duration_s * rate_hz)) / rate_hz).astype(np.float32)


def _turns(timbre: Timbre, fundamental_hz: float, player: int, rate_hz: int, samples: int) -> NDArray[np.float64]:
    """The phase of the fundamental in turns; vibrato sets in late, each player's at another moment."""
    time_s = np.arange(samples) / rate_hz
    if timbre.vibrato_cents:
        swing = timbre.vibrato_cents / 1_200 * np.log(2) / (2 * np.pi * timbre.vibrato_hz)
        depth = np.clip((time_s - timbre.vibrato_after_s) / 0.25, 0, 1) * swing
        time_s = time_s + depth * np.sin(2 * np.pi * timbre.vibrato_hz * time_s + 2.0 * player)
    return fundamental_hz * time_s


def _levels(timbre: Timbre, fundamental_hz: float) -> NDArray[np.float64]:
    """Levels of the partials at this pitch, at unit power together."""
    ratios = np.array(timbre.ratios or range(1, len(timbre.partials) + 1), dtype=np.float64)
    partial_hz = ratios * fundamental_hz
    levels = np.array(timbre.partials) / (1 + (partial_hz / _ROLL_OFF_HZ) ** 4) * (partial_hz < TOP_HZ)
    lift = np.ones_like(levels)
    for centre_hz, octaves, gain in timbre.formants:
        lift += gain * np.exp(-0.5 * (np.log2(partial_hz / centre_hz) / octaves) ** 2)
    levels = levels * lift
    unit: NDArray[np.float64] = levels / np.sqrt(np.sum(levels**2) * len(timbre.detune_cents) / 2)
    return unit


def _phases(count: int, player: int) -> NDArray[np.float64]:
    """Fixed starting phases in turns, so that partials do not all peak together."""
    return np.random.default_rng([player + 1_000, 7]).uniform(0, 1, count)


def _harmonic(timbre: Timbre, fundamental_hz: float, turns: NDArray[np.float64], dull: Array, player: int) -> Array:
    """Partials 1, 2, 3, ... as a polynomial in one turning number, which costs one product a partial."""
    angle = (2 * np.pi * (turns % 1)).astype(np.float32)
    unit = np.empty(len(angle), dtype=np.complex64)
    unit.real, unit.imag = np.cos(angle), np.sin(angle)
    factor = unit * np.exp(-dull)
    levels = _levels(timbre, fundamental_hz)
    weights = (levels * np.exp(2j * np.pi * _phases(len(levels), player))).astype(np.complex64)
    weights = np.trim_zeros(weights, "b")
    total = np.full(len(angle), weights[-1], dtype=np.complex64)
    for weight in weights[-2::-1]:
        total *= factor
        total += weight
    total *= unit
    return total.real.astype(np.float32)


def _inharmonic(timbre: Timbre, fundamental_hz: float, turns: NDArray[np.float64], dull: Array, player: int) -> Array:
    """Partials at ratios of their own, one sine each."""
    levels = _levels(timbre, fundamental_hz)
    fade = np.exp(-dull)
    closing = np.ones_like(dull)
    tone = np.zeros_like(dull)
    for level, ratio, phase in zip(levels, timbre.ratios, _phases(len(levels), player), strict=True):
        if level:
            angle = (2 * np.pi * ((ratio * turns + phase) % 1)).astype(np.float32)
            tone += np.float32(level) * closing * np.sin(angle)
        closing = closing * fade
    return tone


def _envelope(timbre: Timbre, time_s: Array) -> Array:
    """Attack, decay and tremolo, at most 1."""
    rise = np.sin(np.pi / 2 * np.minimum(time_s / np.float32(timbre.attack_s), 1)) ** 2
    envelope: Array = rise * np.exp(np.float32(-timbre.decay_per_s) * time_s)
    if timbre.tremolo_depth:
        swing = 0.5 - 0.5 * np.cos(np.float32(2 * np.pi * timbre.tremolo_hz) * time_s)
        envelope *= 1 - np.float32(timbre.tremolo_depth) * swing
    return envelope


@lru_cache(maxsize=128)
def _strike(strike: Strike, rate_hz: int, samples: int) -> Array:
    """The attack noise, shape (samples,); it ends in true silence after seven falls."""
    duration_s = 7 * strike.fall_s
    time_s = clock(duration_s, rate_hz)
    noise = shaped_noise(duration_s, strike.band_hz, rate_hz, seed=round(strike.band_hz[0]))
    fade = np.exp(-time_s / strike.fall_s) * np.clip((duration_s - time_s) / strike.fall_s, 0, 1)
    whole = np.zeros(max(samples, len(time_s)), dtype=np.float32)
    whole[: len(time_s)] = strike.level * noise * fade
    return whole[:samples]


def shaped_noise(duration_s: float, band_hz: tuple[float, float], rate_hz: int, seed: int) -> Array:
    """Noise of unit power inside `band_hz`, shape (samples,), the same signal at every sample rate."""
    samples = round(duration_s * rate_hz)
    duration_s = samples / rate_hz
    bins = int(TOP_HZ * duration_s)
    rng = np.random.default_rng(seed)
    parts = rng.standard_normal((bins, 2))
    spectrum = parts[:, 0] + 1j * parts[:, 1]
    frequency_hz = np.arange(bins) / duration_s
    below = np.clip(1 - (band_hz[0] - frequency_hz) / (0.3 * band_hz[0]), 0, 1)
    above = np.clip(1 - (frequency_hz - band_hz[1]) / (0.3 * band_hz[1]), 0, 1)
    spectrum *= (below * above) ** 2
    padded = np.zeros(samples // 2 + 1, dtype=np.complex128)
    padded[: min(bins, len(padded))] = spectrum[: len(padded)]
    noise = np.fft.irfft(padded, samples)
    unit: Array = (noise / (noise.std() + 1e-12)).astype(np.float32)
    return unit
