"""mel amplitudes → waveform the classical way, for comparison.

Owns torchaudio's InverseMelScale and GriffinLim with the settings the pictures were first played with. Clip by clip, as
it was done: it knows no past, so joints are heard. Leaves out the stream (`workers.phase`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray

from shared.spectrogram_params import FRAME_COLUMNS, SpectrogramParams

ITERATIONS: Final = 32
MOMENTUM: Final = 0.99
_SEED: Final = 0

Array = NDArray[np.float32]


def waveform_from_mel_amplitudes(
    mel_amplitudes: Array, params: SpectrogramParams, on_block: Callable[[float], None] | None = None
) -> Array:
    """The waveform (channel, sample) of mel amplitudes (channel, frequency, time), columns * hop_length samples.

    A frame's columns at a time, each from the same random phase. `on_block` is told the finished fraction.
    """
    columns = mel_amplitudes.shape[-1]
    linear_from_mel = torchaudio.transforms.InverseMelScale(
        n_stft=params.n_fft // 2 + 1,
        n_mels=params.mel_bins,
        sample_rate=params.sample_rate_hz,
        f_min=params.f_min_hz,
        f_max=params.f_max_hz,
        driver="gels",
    )
    clips = []
    for start in range(0, columns, FRAME_COLUMNS):
        clip = torch.from_numpy(np.ascontiguousarray(mel_amplitudes[..., start : start + FRAME_COLUMNS], np.float32))
        clips.append(_waveform_from_linear(linear_from_mel(clip), params))
        if on_block:
            on_block(min(start + FRAME_COLUMNS, columns) / columns)
    return np.concatenate(clips, axis=-1)


def _waveform_from_linear(amplitudes: torch.Tensor, params: SpectrogramParams) -> Array:
    columns = amplitudes.shape[-1]
    # A clip shorter than the transform's reach would be refused: silence makes up for what it lacks.
    lacking = max(0, params.n_fft // (2 * params.hop_length) + 2 - columns)
    amplitudes = torch.nn.functional.pad(amplitudes, (0, lacking))
    griffin_lim = torchaudio.transforms.GriffinLim(
        n_fft=params.n_fft,
        n_iter=ITERATIONS,
        win_length=params.win_length,
        hop_length=params.hop_length,
        power=1.0,
        momentum=MOMENTUM,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        waveform = griffin_lim(amplitudes)
    samples = columns * params.hop_length
    made: Array = torch.nn.functional.pad(waveform, (0, max(0, samples - waveform.shape[-1])))[:, :samples].numpy()
    return made
