"""The grid a spectrogram lies on: sample rate, hop, window, mel bins and the lengths that follow from them.

Owns the numbers, what they may be, and their form in a picture's EXIF. Leaves out all signal processing, so that the
gateway can plan lengths without an audio library.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache
from numbers import Real
from typing import Any, Final

FRAME_COLUMNS: Final = 512
"""Columns of one frame: 512 hops of 10 ms are 5.12 s on the default grid."""
DEFAULT_MAX_VALUE: Final = 30e6
"""Amplitude that black stands for in a picture that does not say so: Riffusion's own."""
_MAX_VALUE_TAG: Final = 11080
MIN_SAMPLE_RATE_HZ: Final = 8_000
MAX_SAMPLE_RATE_HZ: Final = 192_000
"""Of sound that comes in or goes out; above it some encoders do not refuse but crash."""
_MAX_N_FFT: Final = 2**17
# Filters of one mel grid, as numbers; these take 134 MB.
_MAX_FILTER_SIZE: Final = 2**25
_MAX_POWER: Final = 10.0


@dataclass(frozen=True, slots=True)
class SpectrogramParams:
    """A mel grid. The defaults are Riffusion's, so its pictures and ours can be exchanged.

    One column is one hop, exactly: a picture of T columns is T * hop_length samples, and frames laid side by side
    keep the beat. Amplitude and picture relate by ``pixel = 255 * (1 - (amplitude / max_value) ** power)``.
    Raises ValueError for numbers that contradict each other or that no machine could work with.
    """

    sample_rate_hz: int = 44_100
    hop_length: int = 441
    win_length: int = 4_410
    n_fft: int = 17_640
    mel_bins: int = 512
    f_min_hz: float = 0.0
    f_max_hz: float = 10_000.0
    power: float = 0.25
    is_stereo: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.hop_length <= self.win_length <= self.n_fft:
            raise ValueError("0 < hop_length <= win_length <= n_fft must hold")
        if not 0 <= self.f_min_hz < self.f_max_hz <= self.sample_rate_hz / 2:
            raise ValueError("0 <= f_min_hz < f_max_hz <= half the sample rate must hold")
        if not MIN_SAMPLE_RATE_HZ <= self.sample_rate_hz <= MAX_SAMPLE_RATE_HZ:
            raise ValueError(f"sample_rate_hz must be {MIN_SAMPLE_RATE_HZ} to {MAX_SAMPLE_RATE_HZ}")
        if self.mel_bins < 1 or self.n_fft > _MAX_N_FFT or self.mel_bins * self.n_fft > _MAX_FILTER_SIZE:
            raise ValueError(
                f"mel_bins must be positive, n_fft at most {_MAX_N_FFT} and their product at most {_MAX_FILTER_SIZE}"
            )
        if not 1 / _MAX_POWER <= self.power <= _MAX_POWER:
            raise ValueError(f"power must be {1 / _MAX_POWER:g} to {_MAX_POWER:g}")

    @property
    def channels(self) -> int:
        """Channels of sound: 1, or 2 in stereo."""
        return 2 if self.is_stereo else 1

    @property
    def columns_per_s(self) -> float:
        """Columns in one second of sound."""
        return self.sample_rate_hz / self.hop_length

    @property
    def frame_s(self) -> float:
        """Seconds of sound in one frame of FRAME_COLUMNS columns."""
        return FRAME_COLUMNS * self.hop_length / self.sample_rate_hz

    def samples_from_columns(self, columns: int) -> int:
        """Samples that `columns` columns stand for; exact."""
        return columns * self.hop_length

    def samples_from_s(self, duration_s: float) -> int:
        """Samples nearest to `duration_s` seconds, free of binary rounding at the halves."""
        return _samples_from_s(duration_s, self.sample_rate_hz)

    def exif_from_params(self, max_value: float) -> dict[int, int | float | bool]:
        """EXIF tags as Riffusion writes them: whole numbers for times (ms), frequencies and counts.

        Where a time or a frequency is no whole number, the tag holds a float that reads back as exactly these params.
        """
        return {
            11000: self.sample_rate_hz,
            11005: self.is_stereo,
            11010: _ms_from_samples(self.hop_length, self.sample_rate_hz),
            11020: _ms_from_samples(self.win_length, self.sample_rate_hz),
            11030: _ms_from_samples(self.n_fft, self.sample_rate_hz),
            11040: self.mel_bins,
            11050: _whole_if_it_is(self.f_min_hz),
            11060: _whole_if_it_is(self.f_max_hz),
            11070: float(self.power),
            _MAX_VALUE_TAG: float(max_value),
        }

    @classmethod
    def params_from_exif(cls, exif: Mapping[int, Any]) -> SpectrogramParams:
        """The grid named in a picture's EXIF; what a tag does not say is as in the default grid.

        Raises ValueError when a tag is no finite number or the numbers contradict each other.
        """
        fields = asdict(cls())
        for tag, name in _FIELD_OF_TAG.items():
            if tag in exif:
                fields[name] = _number(exif[tag], tag)
        rate = fields["sample_rate_hz"] = int(fields["sample_rate_hz"])
        for tag, name in _TIMES.items():
            fields[name] = _samples_from_ms(_number(exif[tag], tag), rate) if tag in exif else _as_long(name, rate)
        fields["mel_bins"] = int(fields["mel_bins"])
        fields["is_stereo"] = bool(fields["is_stereo"])
        return cls(**fields)


@lru_cache(maxsize=1_024)
def _samples_from_s(duration_s: float, sample_rate_hz: int) -> int:
    return round(Fraction(str(duration_s)) * sample_rate_hz)


_FIELD_OF_TAG: Final = {
    11000: "sample_rate_hz",
    11005: "is_stereo",
    11040: "mel_bins",
    11050: "f_min_hz",
    11060: "f_max_hz",
    11070: "power",
}
_TIMES: Final = {11010: "hop_length", 11020: "win_length", 11030: "n_fft"}


def max_value_from_exif(exif: Mapping[int, Any]) -> float:
    """The amplitude drawn black; DEFAULT_MAX_VALUE when the EXIF does not say.

    Raises ValueError when the tag is no number above 0 that float32 can hold.
    """
    value = _number(exif.get(_MAX_VALUE_TAG, DEFAULT_MAX_VALUE), _MAX_VALUE_TAG)
    if not 1e-20 <= value <= 1e30:
        raise ValueError(f"EXIF tag {_MAX_VALUE_TAG} (max value) is {value:g}, which is no amplitude")
    return value


def _number(value: object, tag: int) -> float:
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"EXIF tag {tag} is {str(value)[:40]!r}, which is no number")
    return float(value)


def _as_long(name: str, sample_rate_hz: int) -> int:
    """The default grid's length of this name in samples of another rate."""
    default = SpectrogramParams()
    return int(getattr(default, name)) * sample_rate_hz // default.sample_rate_hz


def _samples_from_ms(ms: float, sample_rate_hz: int) -> int:
    # Rounded down, as Riffusion does: 10 ms are 220 samples at 22,050 Hz. A millionth makes up for binary fractions.
    return math.floor(ms * sample_rate_hz / 1_000 + 1e-6)


def _ms_from_samples(samples: int, sample_rate_hz: int) -> int | float:
    ms = samples * 1_000 / sample_rate_hz
    if _samples_from_ms(round(ms), sample_rate_hz) == samples:
        return round(ms)
    # Riffusion's reader has no millionth to spare.
    return ms if int(ms / 1_000 * sample_rate_hz) == samples else math.nextafter(ms, math.inf)


def _whole_if_it_is(value: float) -> int | float:
    return int(value) if value == int(value) else value
