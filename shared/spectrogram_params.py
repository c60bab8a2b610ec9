"""The grid a spectrogram lies on: sample rate, hop, window, mel bins and the lengths that follow from them.

Owns the numbers and their form in a picture's EXIF. Leaves out all signal processing, so that the gateway can plan
lengths without an audio library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

FRAME_COLUMNS: Final = 512
"""Columns of one frame: 512 hops of 10 ms are 5.12 s on the default grid."""


@dataclass(frozen=True, slots=True)
class SpectrogramParams:
    """A mel grid. The defaults are Riffusion's, so its pictures and ours can be exchanged.

    One column is one hop, exactly: a picture of T columns is T * hop_length samples, and frames laid side by side
    keep the beat. Amplitude and picture relate by ``pixel = 255 * (1 - (amplitude / max_value) ** power)``.
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
        if self.mel_bins < 1 or self.power <= 0:
            raise ValueError("mel_bins and power must be positive")

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
        return round(Fraction(str(duration_s)) * self.sample_rate_hz)

    def exif_from_params(self, max_value: float) -> dict[int, int | float | bool]:
        """EXIF tags as Riffusion writes them; times in whole milliseconds."""
        ms = 1_000 / self.sample_rate_hz
        return {
            11000: self.sample_rate_hz,
            11005: self.is_stereo,
            11010: round(self.hop_length * ms),
            11020: round(self.win_length * ms),
            11030: round(self.n_fft * ms),
            11040: self.mel_bins,
            11050: int(self.f_min_hz),
            11060: int(self.f_max_hz),
            11070: self.power,
            11080: float(max_value),
        }

    @classmethod
    def params_from_exif(cls, exif: Mapping[int, float]) -> SpectrogramParams:
        """The grid named in a picture's EXIF.

        Raises KeyError when a tag is missing, ValueError when the numbers contradict each other.
        """
        rate = int(exif[11000])
        return cls(
            sample_rate_hz=rate,
            is_stereo=bool(exif[11005]),
            hop_length=int(exif[11010]) * rate // 1_000,
            win_length=int(exif[11020]) * rate // 1_000,
            n_fft=int(exif[11030]) * rate // 1_000,
            mel_bins=int(exif[11040]),
            f_min_hz=float(exif[11050]),
            f_max_hz=float(exif[11060]),
            power=float(exif[11070]),
        )
