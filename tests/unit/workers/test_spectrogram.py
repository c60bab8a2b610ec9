"""image ⇄ mel amplitudes keep what they can, and a waveform has exactly the columns its length asks for."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.spectrogram_params import SpectrogramParams
from workers.spectrogram import (
    Array,
    image_from_mel_amplitudes,
    mel_amplitudes_from_image,
    mel_amplitudes_from_waveform,
    mel_matrix,
)

MONO = SpectrogramParams()
STEREO = SpectrogramParams(is_stereo=True)
SMALL = SpectrogramParams(sample_rate_hz=8_000, hop_length=80, win_length=400, n_fft=800, mel_bins=32, f_max_hz=4_000.0)


def tone(frequency_hz: float, seconds: float, params: SpectrogramParams = MONO) -> Array:
    """A sine of amplitude 0.5, (1, sample)."""
    time_s = np.arange(round(seconds * params.sample_rate_hz)) / params.sample_rate_hz
    return (0.5 * np.sin(2 * np.pi * frequency_hz * time_s))[None].astype(np.float32)


def picture(columns: int, params: SpectrogramParams, seed: int) -> Image.Image:
    """Random pixels that a picture of these params can hold."""
    pixels = np.random.default_rng(seed).integers(0, 256, (params.mel_bins, columns, 3), dtype=np.uint8)
    if params.is_stereo:
        pixels[..., 0] = 0
    else:
        pixels[..., 1:] = pixels[..., :1]
    return Image.fromarray(pixels)


@pytest.mark.parametrize("params", [MONO, STEREO])
@pytest.mark.parametrize("max_value", [1.0, 3e7])
def test_a_picture_survives_the_way_to_mel_amplitudes_and_back(params: SpectrogramParams, max_value: float) -> None:
    """Every one of the 256 shades comes back as itself."""
    image = picture(64, params, seed=5)
    mel = mel_amplitudes_from_image(image, params, max_value)
    assert mel.shape == (2 if params.is_stereo else 1, 512, 64)
    assert mel.min() >= 0.0
    assert mel.max() <= max_value * (1 + 1e-6)
    again = image_from_mel_amplitudes(mel, params, max_value)
    assert (np.asarray(again) == np.asarray(image)).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), loudest=st.floats(1e-6, 1e8))
def test_mel_amplitudes_come_back_within_half_a_shade(seed: int, loudest: float) -> None:
    """The picture's scale loses its 8 bit step and nothing else, at any level."""
    mel = np.random.default_rng(seed).random((1, 32, 9), dtype=np.float32) * np.float32(loudest)
    image = image_from_mel_amplitudes(mel, SMALL)
    back = mel_amplitudes_from_image(image, SMALL, float(mel.max()))
    shades = 255 * np.abs((mel / mel.max()) ** 0.25 - (back / mel.max()) ** 0.25)
    assert shades.max() <= 0.5 + 1e-3


def test_a_picture_carries_its_grid() -> None:
    """After a PNG file, the EXIF gives the params and the amplitude drawn black."""
    mel = mel_amplitudes_from_waveform(tone(440, 0.2), MONO)
    file = io.BytesIO()
    image = image_from_mel_amplitudes(mel, MONO)
    image.save(file, "PNG", exif=image.getexif())
    exif = dict(Image.open(file).getexif())
    assert SpectrogramParams.params_from_exif(exif) == MONO
    assert exif[11080] == pytest.approx(float(mel.max()))


def test_low_is_at_the_bottom_and_loud_is_dark() -> None:
    """A low tone draws its darkest row in the lower part of the picture."""
    pixels = np.asarray(image_from_mel_amplitudes(mel_amplitudes_from_waveform(tone(200, 1), MONO), MONO))
    darkest = int(pixels[:, 50, 0].argmin())
    assert darkest > 450
    assert pixels[darkest, 50, 0] < 5
    assert pixels[0, 50, 0] > 200


def test_stereo_draws_left_in_green_and_right_in_blue() -> None:
    """Sound in the left channel alone leaves blue white."""
    left = tone(440, 0.5)
    image = image_from_mel_amplitudes(mel_amplitudes_from_waveform(np.concatenate([left, left * 0]), STEREO), STEREO)
    pixels = np.asarray(image)
    assert pixels[..., 0].max() == 0
    assert pixels[..., 1].min() == 0
    assert pixels[..., 2].min() == 255


@settings(max_examples=40, deadline=None)
@given(samples=st.integers(1, 4_000))
def test_a_waveform_has_a_column_for_every_hop_begun(samples: int) -> None:
    """ceil(samples / hop) columns, finite, for any length down to one sample."""
    mel = mel_amplitudes_from_waveform(np.ones((1, samples), np.float32), SMALL)
    assert mel.shape == (1, 32, -(-samples // 80))
    assert np.isfinite(mel).all()


def test_a_frame_of_samples_is_a_frame_of_columns() -> None:
    """512 * 441 samples are 512 columns on the default grid, not 511 and not 513."""
    assert mel_amplitudes_from_waveform(np.zeros((1, 512 * 441), np.float32), MONO).shape == (1, 512, 512)


def test_a_column_is_centred_on_its_sample() -> None:
    """A click at sample t * hop is loudest in column t."""
    waveform = np.zeros((1, 200 * 441), np.float32)
    waveform[0, 77 * 441] = 1.0
    assert mel_amplitudes_from_waveform(waveform, MONO).sum(axis=1).argmax() == 77


def test_a_tone_is_loudest_in_the_filter_around_it() -> None:
    """The mel axis is HTK's: 2595 * log10(1 + f / 700)."""
    mel = mel_amplitudes_from_waveform(tone(1_000, 1), MONO)[0, :, 50]
    steps = np.linspace(0, 2595 * np.log10(1 + 10_000 / 700), 514)[1:-1]
    assert mel.argmax() == pytest.approx(np.abs(steps - 2595 * np.log10(1 + 1_000 / 700)).argmin(), abs=1)


def test_no_filter_of_the_default_grid_is_empty() -> None:
    """The fine transform gives each of the 512 mel bins at least one line."""
    assert (mel_matrix(MONO).sum(dim=1) > 0).all()


def test_wrong_shapes_are_refused() -> None:
    """A picture of another height, or no sound at all."""
    with pytest.raises(ValueError, match="256 rows high; this grid has 512"):
        mel_amplitudes_from_image(Image.new("RGB", (10, 256)), MONO)
    with pytest.raises(ValueError, match="no samples"):
        mel_amplitudes_from_waveform(np.zeros((1, 0), np.float32), MONO)


def test_silence_is_white() -> None:
    """No sound, no ink, no warning."""
    image = image_from_mel_amplitudes(np.zeros((1, 512, 3), np.float32), MONO)
    assert np.asarray(image).min() == 255
