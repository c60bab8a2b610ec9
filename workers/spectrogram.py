"""image ⇄ mel amplitudes, and waveform → mel amplitudes.

Owns the mel matrix, the picture's scale (quarter-power, low frequencies at the bottom, loud is dark) and its EXIF.
Leaves out phase: mel amplitudes → waveform is `workers.phase`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray
from PIL import Image

from shared.spectrogram_params import SpectrogramParams

Array = NDArray[np.float32]


@lru_cache(maxsize=4)
def mel_matrix(params: SpectrogramParams) -> torch.Tensor:
    """Triangular HTK mel filters without norm, shape (mel_bins, n_fft // 2 + 1)."""
    filters: torch.Tensor = torchaudio.functional.melscale_fbanks(
        n_freqs=params.n_fft // 2 + 1,
        f_min=params.f_min_hz,
        f_max=params.f_max_hz,
        n_mels=params.mel_bins,
        sample_rate=params.sample_rate_hz,
        norm=None,
        mel_scale="htk",
    )
    return filters.T.contiguous()


def mel_amplitudes_from_waveform(waveform: Array, params: SpectrogramParams) -> Array:
    """Mel amplitudes (channel, frequency, time) of a waveform (channel, sample) in -1..1.

    Column t is centred on sample t * hop_length; there are ceil(samples / hop_length) columns.
    """
    columns = -(-waveform.shape[-1] // params.hop_length)
    if columns == 0:
        raise ValueError("the waveform has no samples")
    padded = columns * params.hop_length + params.n_fft // 2 - waveform.shape[-1]
    signal = torch.nn.functional.pad(torch.from_numpy(waveform), (params.n_fft // 2, padded))
    spectrum = torch.stft(
        signal,
        n_fft=params.n_fft,
        hop_length=params.hop_length,
        win_length=params.win_length,
        window=torch.hann_window(params.win_length),
        center=False,
        return_complex=True,
    ).abs()[..., :columns]
    # Filters end at f_max: rows above it would be multiplied by zeros.
    bins = int(params.f_max_hz / params.sample_rate_hz * params.n_fft) + 2
    mel: Array = (mel_matrix(params)[:, :bins] @ spectrum[..., :bins, :]).numpy()
    return mel


def image_from_mel_amplitudes(
    mel_amplitudes: Array, params: SpectrogramParams, max_value: float | None = None
) -> Image.Image:
    """The picture of mel amplitudes (channel, frequency, time), 8 bit RGB with the grid in its EXIF.

    `max_value` is the amplitude drawn black; by default the largest there is. Mono fills all three channels,
    stereo draws left in green and right in blue, as Riffusion does.
    """
    top = max_value or float(mel_amplitudes.max()) or 1.0
    loudness = np.clip(mel_amplitudes / top, 0.0, 1.0) ** params.power
    pixels = np.rint(255.0 * (1.0 - loudness)).astype(np.uint8)[:, ::-1]
    if params.is_stereo:
        pixels = np.stack([np.zeros_like(pixels[0]), pixels[0], pixels[1]])
    else:
        pixels = np.repeat(pixels[:1], 3, axis=0)
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.getexif().update(params.exif_from_params(top))
    return image


def mel_amplitudes_from_image(image: Image.Image, params: SpectrogramParams, max_value: float = 1.0) -> Array:
    """Mel amplitudes (channel, frequency, time) in 0..max_value drawn in a picture of `mel_bins` rows.

    Raises ValueError when the picture's height is not `mel_bins`.
    """
    if image.height != params.mel_bins:
        raise ValueError(f"the picture is {image.height} rows high; this grid has {params.mel_bins}")
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32).transpose(2, 0, 1)[:, ::-1]
    channels = pixels[1:3] if params.is_stereo else pixels[:1]
    mel: Array = ((1.0 - channels / np.float32(255.0)) ** np.float32(1.0 / params.power)) * np.float32(max_value)
    return np.ascontiguousarray(mel)
