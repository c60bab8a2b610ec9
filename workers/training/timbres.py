"""The pitched voices: partials, envelope, movement and attack noise of each instrument and bass.

Owns what makes a voice sound as it does. Leaves out how it becomes samples (`workers.training.voices`) and drums
(`workers.training.drum_sounds`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np


@dataclass(frozen=True, slots=True)
class Strike:
    """Noise at the start of a note: a hammer, a pick, a bow's bite, a breath."""

    level: float
    """Loudness at the first instant, over the tone's."""
    band_hz: tuple[float, float]
    fall_s: float
    """Time in which it falls to 37 %."""


@dataclass(frozen=True, slots=True)
class Timbre:
    """How a pitched voice sounds: partials, envelope, movement and attack noise."""

    partials: tuple[float, ...]
    ratios: tuple[float, ...] = ()
    """Frequencies of the partials over the fundamental; empty: 1, 2, 3, ..."""
    formants: tuple[tuple[float, float, float], ...] = ()
    """Resonances (Hz, width in octaves, gain) that lift partials where they fall on them."""
    attack_s: float = 0.004
    release_s: float = 0.05
    decay_per_s: float = 0.0
    decay_growth_per_s: float = 0.0
    """Extra decay of each higher partial: a struck or plucked tone closes."""
    dull_start: float = 0.0
    dull_end: float = 0.0
    dull_s: float = 0.1
    """Each higher partial is softer by exp(-dull), which moves from start to end within about `dull_s`."""
    vibrato_hz: float = 5.5
    vibrato_cents: float = 0.0
    vibrato_after_s: float = 0.15
    tremolo_hz: float = 6.0
    tremolo_depth: float = 0.0
    detune_cents: tuple[float, ...] = (0.0,)
    """One player for each entry."""
    strike: Strike | None = None
    octave: int = 0


def _falling(count: int, power: float) -> tuple[float, ...]:
    return tuple(k**-power for k in range(1, count + 1))


def _plucked_at(share: float, count: int, power: float) -> tuple[float, ...]:
    """Partials of a string plucked at a share of its length: those with a node there are missing."""
    return tuple(abs(float(np.sin(np.pi * k * share))) * k**-power for k in range(1, count + 1))


INSTRUMENTS: Final[dict[str, Timbre]] = {
    "piano": Timbre(
        _falling(12, 1.25),
        decay_per_s=1.5,
        decay_growth_per_s=0.55,
        release_s=0.09,
        strike=Strike(0.5, (150.0, 700.0), 0.018),
    ),
    "electric piano": Timbre(
        (1.0, 0.1, 0.04, 0.22),
        ratios=(1, 2, 3, 7.03),
        attack_s=0.003,
        decay_per_s=0.9,
        decay_growth_per_s=2.6,
        release_s=0.12,
        tremolo_hz=3.9,
        tremolo_depth=0.55,
    ),
    "organ": Timbre(
        (0.8, 1.0, 0.55, 0.7, 0.4, 0.35, 0.3),
        ratios=(0.5, 1, 1.5, 2, 3, 4, 8),
        attack_s=0.006,
        release_s=0.02,
        strike=Strike(0.25, (2_000.0, 3_500.0), 0.006),
    ),
    "acoustic guitar": Timbre(
        _plucked_at(0.21, 12, 0.9),
        formants=((210.0, 0.5, 1.2), (2_600.0, 0.7, 1.0)),
        attack_s=0.002,
        decay_per_s=3.4,
        decay_growth_per_s=0.35,
        release_s=0.06,
        strike=Strike(0.8, (2_600.0, 6_000.0), 0.007),
    ),
    "electric guitar": Timbre(
        _falling(14, 0.35),
        formants=((700.0, 0.8, 1.0), (1_500.0, 0.5, 1.2)),
        attack_s=0.005,
        decay_per_s=0.25,
        release_s=0.03,
        vibrato_cents=14.0,
        vibrato_after_s=0.35,
        strike=Strike(0.4, (900.0, 2_200.0), 0.01),
        octave=-1,
    ),
    "harp": Timbre(
        (1.0, 0.55, 0.2, 0.06),
        attack_s=0.003,
        decay_per_s=1.9,
        decay_growth_per_s=3.0,
        release_s=0.7,
        octave=1,
        strike=Strike(0.3, (500.0, 1_200.0), 0.01),
    ),
    "strings": Timbre(
        _falling(10, 0.8),
        formants=((1_000.0, 1.2, 0.8),),
        attack_s=0.16,
        release_s=0.2,
        vibrato_cents=12.0,
        detune_cents=(-7.0, 1.0, 8.0),
    ),
    "cello": Timbre(
        _falling(12, 0.9),
        formants=((250.0, 0.5, 1.2), (620.0, 0.3, 1.5)),
        attack_s=0.05,
        release_s=0.08,
        vibrato_hz=5.1,
        vibrato_cents=42.0,
        vibrato_after_s=0.12,
        strike=Strike(0.25, (900.0, 2_000.0), 0.05),
        octave=-1,
    ),
    "choir": Timbre(
        _falling(14, 1.4),
        formants=((720.0, 0.28, 7.0), (1_150.0, 0.22, 6.0), (2_750.0, 0.16, 9.0)),
        attack_s=0.1,
        release_s=0.16,
        vibrato_hz=4.6,
        vibrato_cents=22.0,
        detune_cents=(-6.0, 5.0),
    ),
    "flute": Timbre(
        (1.0, 0.14, 0.05),
        attack_s=0.05,
        release_s=0.06,
        vibrato_hz=5.0,
        vibrato_cents=30.0,
        tremolo_hz=5.0,
        tremolo_depth=0.25,
        strike=Strike(0.22, (3_000.0, 5_500.0), 0.06),
        octave=1,
    ),
    "clarinet": Timbre((1.0, 0.02, 0.6, 0.03, 0.35, 0.04, 0.2, 0.03, 0.08), attack_s=0.03, release_s=0.05),
    "trumpet": Timbre(
        (0.5, 0.8, 1.0, 1.0, 0.9, 0.75, 0.6, 0.45, 0.3, 0.2),
        formants=((1_400.0, 0.8, 1.2),),
        attack_s=0.025,
        release_s=0.05,
        dull_start=0.9,
        dull_s=0.06,
        vibrato_hz=5.8,
        vibrato_cents=24.0,
        vibrato_after_s=0.3,
    ),
    "synth": Timbre(
        _falling(14, 0.55),
        attack_s=0.003,
        decay_per_s=0.2,
        dull_end=0.85,
        dull_s=0.16,
        release_s=0.03,
        detune_cents=(-5.0, 5.0),
    ),
    "pad": Timbre(
        (1.0, 0.6, 0.3, 0.2, 0.1),
        ratios=(0.5, 1, 2, 3, 4),
        attack_s=0.35,
        release_s=0.5,
        dull_start=1.5,
        dull_s=0.6,
        detune_cents=(-9.0, 9.0),
    ),
    "vibraphone": Timbre(
        (1.0, 0.45, 0.12),
        ratios=(1, 4, 10),
        decay_per_s=1.1,
        decay_growth_per_s=3.0,
        release_s=0.35,
        tremolo_depth=0.75,
        octave=1,
    ),
    "marimba": Timbre(
        (1.0, 0.4, 0.12),
        ratios=(1, 3.93, 9.2),
        attack_s=0.002,
        decay_per_s=6.5,
        decay_growth_per_s=9.0,
        release_s=0.12,
        strike=Strike(0.5, (300.0, 900.0), 0.012),
    ),
    "bells": Timbre(
        (0.35, 1.0, 0.5, 0.3, 0.6, 0.35, 0.25),
        ratios=(0.5, 1, 1.19, 1.5, 2, 2.74, 4.07),
        attack_s=0.002,
        decay_per_s=1.4,
        decay_growth_per_s=0.5,
        release_s=0.6,
        octave=1,
        strike=Strike(0.4, (4_000.0, 7_000.0), 0.01),
    ),
    "accordion": Timbre(
        (0.7, 1.0, 0.8, 0.7, 0.8, 0.6, 0.5, 0.4, 0.35, 0.25),
        formants=((2_200.0, 0.5, 1.5),),
        attack_s=0.035,
        release_s=0.04,
        detune_cents=(-9.0, 9.0),
    ),
}
"""The instruments a caption may name."""

RANGES: Final[dict[str, tuple[int, int]]] = {
    "piano": (28, 100),
    "electric piano": (28, 96),
    "organ": (36, 96),
    "acoustic guitar": (40, 84),
    "electric guitar": (40, 86),
    "harp": (36, 98),
    "strings": (43, 96),
    "cello": (36, 74),
    "choir": (45, 84),
    "flute": (60, 97),
    "clarinet": (50, 91),
    "trumpet": (53, 86),
    "synth": (36, 96),
    "pad": (36, 91),
    "vibraphone": (53, 89),
    "marimba": (45, 96),
    "bells": (67, 108),
    "accordion": (41, 93),
}
"""The lowest and highest sounding MIDI pitch of each instrument; what is written beyond is played an octave nearer."""

BASSES: Final[dict[str, Timbre]] = {
    "drone bass": Timbre((1.0, 0.3, 0.1), attack_s=0.2, release_s=0.3),
    "bowed bass": Timbre(_falling(6, 1.2), attack_s=0.06, release_s=0.1, vibrato_cents=10.0),
    "upright bass": Timbre(
        (1.0, 0.6, 0.3, 0.1),
        decay_per_s=2.6,
        decay_growth_per_s=1.5,
        strike=Strike(0.4, (300.0, 1_000.0), 0.012),
    ),
    "picked bass": Timbre(
        _falling(8, 1.0), decay_per_s=1.6, decay_growth_per_s=0.9, strike=Strike(0.35, (1_200.0, 2_500.0), 0.006)
    ),
    "synth bass": Timbre(_falling(10, 0.9), decay_per_s=1.0, dull_end=0.9, dull_s=0.12, release_s=0.03),
    "slapped bass": Timbre(
        _falling(10, 0.75),
        decay_per_s=4.0,
        decay_growth_per_s=1.2,
        release_s=0.02,
        strike=Strike(0.8, (1_500.0, 4_000.0), 0.008),
    ),
    "sub bass": Timbre((1.0, 0.12), attack_s=0.012, decay_per_s=0.5, release_s=0.06, octave=1),
    "round bass": Timbre((1.0, 0.35, 0.1), attack_s=0.008, decay_per_s=1.2, decay_growth_per_s=1.0, release_s=0.05),
}

PLUCKED: Final[dict[str, Timbre]] = {
    "pluck": Timbre(_falling(12, 0.9), decay_per_s=5.0, decay_growth_per_s=2.0, release_s=0.03),
}
"""A further voice, for the seed images alone."""

TIMBRES: Final = INSTRUMENTS | BASSES | PLUCKED
