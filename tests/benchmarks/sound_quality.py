"""How good and how quick every way from mel amplitudes to sound is, on the same pictures in the same run.

Owns the baseline, the timing and the averages. The baseline is torchaudio's InverseMelScale (least squares, "gels")
and GriffinLim (32 iterations, momentum 0.99, random first phase) on the grid's own 17,640-point transform, each made
before the clock starts. Times are CPU seconds of this process. Leaves out joints and long tracks (`sound_stream`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
import torchaudio

from shared.contracts import Quality as Level
from shared.spectrogram_params import SpectrogramParams
from tests.benchmarks.sound_metrics import Quality, quality
from tests.benchmarks.sound_set import Kind, Picture
from workers.phase import waveform_from_mel_amplitudes
from workers.spectrogram import Array

BASELINE: Final = "baseline"
LEVELS: Final[tuple[Level, ...]] = ("fast", "standard", "high")
EVERYTHING: Final = "all"
REPEATS: Final = 3
Method = Callable[[Array], Array]


class Row(NamedTuple):
    """What one method made of one picture."""

    method: str
    kind: Kind
    picture: str
    quality: Quality
    cpu_s: float


class Mean(NamedTuple):
    """The means over pictures of one kind; speed_ratio is the baseline's CPU time over this method's."""

    quality: Quality
    cpu_s: float
    speed_ratio: float


def baseline(params: SpectrogramParams) -> Method:
    """The method that everything is compared with. A hop short of its picture, as it has always been."""
    linear_from_mel = torchaudio.transforms.InverseMelScale(
        n_stft=params.n_fft // 2 + 1,
        n_mels=params.mel_bins,
        sample_rate=params.sample_rate_hz,
        f_min=params.f_min_hz,
        f_max=params.f_max_hz,
        norm=None,
        mel_scale="htk",
        driver="gels",
    )
    griffin_lim = torchaudio.transforms.GriffinLim(
        n_fft=params.n_fft,
        n_iter=32,
        win_length=params.win_length,
        hop_length=params.hop_length,
        power=1.0,
        momentum=0.99,
        rand_init=True,
    )

    def method(mel_amplitudes: Array) -> Array:
        torch.manual_seed(0)
        waveform: Array = griffin_lim(linear_from_mel(torch.from_numpy(mel_amplitudes))).numpy()
        return waveform

    return method


def ours(params: SpectrogramParams, level: Level) -> Method:
    """One quality level of `workers.phase`, a picture at a time."""
    return lambda mel_amplitudes: waveform_from_mel_amplitudes(mel_amplitudes, params, quality=level)[0]


def measured(
    pictures: Sequence[Picture], params: SpectrogramParams, on_row: Callable[[Row], None] = lambda row: None
) -> list[Row]:
    """Every method on every picture, taking turns, so that a slow moment of the machine hits all of them.

    Ours are run REPEATS times on each picture, the middle time counts; the baseline runs once, being a hundred times
    as long.
    """
    methods = {BASELINE: baseline(params)} | {level: ours(params, level) for level in LEVELS}
    for level in LEVELS:
        # Compiled code and tables are there before the clock starts; torch's are after the first picture's stft.
        methods[level](pictures[0].mel_amplitudes)
    rows = []
    for picture in pictures:
        for name, method in methods.items():
            row = _row(name, method, picture, params)
            on_row(row)
            rows.append(row)
    return rows


def _row(name: str, method: Method, picture: Picture, params: SpectrogramParams) -> Row:
    times_s = []
    for _ in range(1 if name == BASELINE else REPEATS):
        started_s = time.process_time()
        waveform = method(picture.mel_amplitudes)
        times_s.append(time.process_time() - started_s)
    figures = quality(waveform, picture.mel_amplitudes, picture.true_waveform, params)
    return Row(name, picture.kind, picture.name, figures, statistics.median(times_s))


def means(rows: Sequence[Row]) -> dict[tuple[str, str], Mean]:
    """(kind or EVERYTHING, method) → means over its pictures; `mr` and `lsd` over those with a true sound."""
    found = {}
    for kind in (*dict.fromkeys(row.kind for row in rows), EVERYTHING):
        ones = [row for row in rows if kind in (row.kind, EVERYTHING)]
        base_s = _mean(row.cpu_s for row in ones if row.method == BASELINE)
        for method in dict.fromkeys(row.method for row in ones):
            mine = [row for row in ones if row.method == method]
            figures = Quality(*(_mean(values) for values in zip(*(row.quality for row in mine), strict=True)))
            cpu_s = _mean(row.cpu_s for row in mine)
            found[kind, method] = Mean(figures, cpu_s, base_s / cpu_s)
    return found


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return statistics.fmean(known) if known else float("nan")


def figures_of(mean: Mean, base: Mean) -> dict[str, float]:
    """One method against the baseline: a difference in dB for sc (below 0 is better), ratios for pix, mr and lsd
    (below 1 is better), and how many times less CPU time it took."""
    return {
        "speed_ratio": round(mean.speed_ratio, 1),
        "sc_delta_db": round(mean.quality.sc - base.quality.sc, 2),
        "pix_ratio": round(mean.quality.pix / base.quality.pix, 3),
        "mr_ratio": round(mean.quality.mr / base.quality.mr, 3),
        "lsd_ratio": round(mean.quality.lsd / base.quality.lsd, 3),
    }
