"""Two drum kits as waveforms: skins and bars from falling sines, wires and cymbals from fixed noise.

Owns what a stroke sounds like. Leaves out pitched voices (`workers.training.timbres`) and patterns
(`workers.training.score`). The same stroke is the same samples, at any sample rate of 20 kHz and more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from workers.training.voices import clock, shaped_noise

Array = NDArray[np.float32]
_END_S: Final = 0.03
"""The last stretch of a stroke, in which it falls to true silence."""


@dataclass(frozen=True, slots=True)
class Ring:
    """A sine that starts sharp and falls to its pitch."""

    level: float
    hz: float
    decay_per_s: float
    drop: float = 0.0
    """How far above its pitch it starts, in shares of the pitch."""
    drop_s: float = 0.03


@dataclass(frozen=True, slots=True)
class Hiss:
    """A burst of noise, or several one after the other."""

    level: float
    band_hz: tuple[float, float]
    decay_per_s: float
    starts_s: tuple[float, ...] = (0.0,)
    attack_s: float = 0.0005


@dataclass(frozen=True, slots=True)
class Drum:
    """One drum or cymbal of a kit."""

    duration_s: float
    rings: tuple[Ring, ...] = ()
    hisses: tuple[Hiss, ...] = ()
    level: float = 1.0


ACOUSTIC: Final[dict[str, Drum]] = {
    "kick": Drum(0.30, (Ring(1.0, 58.0, 14.0, 1.2, 0.02),), (Hiss(0.2, (1_500.0, 3_500.0), 160.0),)),
    "snare": Drum(
        0.24,
        (Ring(0.5, 190.0, 22.0, 0.4, 0.01), Ring(0.25, 330.0, 30.0)),
        (Hiss(0.4, (1_200.0, 7_000.0), 24.0),),
    ),
    "rim": Drum(0.08, (Ring(0.5, 1_650.0, 75.0), Ring(0.3, 480.0, 60.0)), (Hiss(0.2, (2_000.0, 5_000.0), 120.0),), 0.8),
    "closed hat": Drum(0.09, (), (Hiss(0.5, (6_500.0, 9_000.0), 55.0),), 0.6),
    "open hat": Drum(0.40, (), (Hiss(0.5, (6_000.0, 9_000.0), 8.5),), 0.55),
    "ride": Drum(
        0.60,
        (Ring(0.16, 3_150.0, 7.0), Ring(0.12, 4_730.0, 9.0), Ring(0.08, 5_870.0, 11.0)),
        (Hiss(0.2, (5_500.0, 9_000.0), 12.0),),
        0.75,
    ),
    "clap": Drum(0.22, (), (Hiss(0.5, (900.0, 2_600.0), 26.0, (0.0, 0.012, 0.024)),), 0.9),
    "tom low": Drum(0.34, (Ring(0.9, 98.0, 10.0, 0.35, 0.05),), (Hiss(0.12, (700.0, 2_000.0), 90.0),)),
    "tom high": Drum(0.28, (Ring(0.85, 175.0, 13.0, 0.35, 0.04),), (Hiss(0.12, (900.0, 2_600.0), 90.0),)),
    "shaker": Drum(0.11, (), (Hiss(0.5, (4_500.0, 7_500.0), 35.0, attack_s=0.02),), 0.45),
    "conga": Drum(
        0.28, (Ring(0.8, 225.0, 16.0, 0.12, 0.02), Ring(0.25, 560.0, 30.0)), (Hiss(0.15, (1_200.0, 3_000.0), 120.0),)
    ),
    "clave": Drum(0.12, (Ring(0.8, 2_450.0, 40.0),), (), 0.6),
}

ELECTRONIC: Final[dict[str, Drum]] = {
    "kick": Drum(0.42, (Ring(1.0, 47.0, 8.0, 3.0, 0.025),), ()),
    "snare": Drum(
        0.20,
        (Ring(0.5, 235.0, 28.0, 0.9, 0.012),),
        (Hiss(0.4, (3_000.0, 9_000.0), 20.0),),
    ),
    "rim": Drum(0.06, (Ring(0.8, 820.0, 90.0), Ring(0.4, 2_150.0, 110.0)), (), 0.75),
    "closed hat": Drum(0.06, tuple(Ring(0.2, hz, 80.0) for hz in (7_350.0, 8_080.0, 8_890.0)), (), 0.8),
    "open hat": Drum(0.36, tuple(Ring(0.2, hz, 10.0) for hz in (7_350.0, 8_080.0, 8_890.0)), (), 0.7),
    "ride": Drum(0.50, tuple(Ring(0.2, hz, 9.0) for hz in (3_720.0, 5_280.0, 7_350.0)), (), 0.6),
    "clap": Drum(0.28, (), (Hiss(0.5, (1_000.0, 1_900.0), 18.0, (0.0, 0.016, 0.032)),), 0.9),
    "tom low": Drum(0.36, (Ring(0.9, 85.0, 9.0, 1.3, 0.07),)),
    "tom high": Drum(0.32, (Ring(0.85, 150.0, 11.0, 1.3, 0.06),)),
    "shaker": Drum(0.07, (), (Hiss(0.5, (5_500.0, 9_000.0), 60.0, attack_s=0.008),), 0.5),
    "conga": Drum(0.22, (Ring(0.85, 270.0, 17.0, 0.5, 0.015),)),
    "clave": Drum(0.07, (Ring(0.8, 2_900.0, 70.0),), (), 0.6),
}

KITS: Final = {"acoustic": ACOUSTIC, "electronic": ELECTRONIC}


@lru_cache(maxsize=128)
def stroke(drum: str, rate_hz: int, kit: str = "acoustic") -> Array:
    """One stroke, peak about 1 for the loudest drums, shape (samples,). Raises KeyError for an unknown drum or kit."""
    sound = KITS[kit][drum]
    time_s = clock(sound.duration_s, rate_hz)
    strike = np.zeros_like(time_s)
    for ring in sound.rings:
        turns = ring.hz * (time_s + ring.drop * ring.drop_s * (1 - np.exp(-time_s / ring.drop_s)))
        strike += ring.level * np.sin(2 * np.pi * (turns % 1)) * np.exp(-time_s * ring.decay_per_s)
    for number, hiss in enumerate(sound.hisses):
        noise = shaped_noise(sound.duration_s, hiss.band_hz, rate_hz, seed=len(drum) + 100 * number)
        strike += hiss.level * noise * _bursts(hiss, time_s)
    strike *= sound.level * np.clip((sound.duration_s - time_s) / _END_S, 0, 1)
    return strike.astype(np.float32)


def _bursts(hiss: Hiss, time_s: Array) -> Array:
    """The envelope of a hiss: the latest burst counts."""
    envelope = np.zeros_like(time_s)
    for start_s in hiss.starts_s:
        since_s = np.maximum(time_s - start_s, 0)
        burst = np.minimum(since_s / hiss.attack_s, 1) * np.exp(-since_s * hiss.decay_per_s)
        envelope = np.where(time_s >= start_s, burst, envelope)
    return envelope
