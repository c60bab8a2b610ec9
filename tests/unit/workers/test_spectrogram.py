"""image ⇄ mel amplitudes keep what they can, and a waveform has exactly the columns its length asks for."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.spectrogram_params import SpectrogramParams
from workers.spectrogram import (
    Array,
    grid_from_image,
    image_from_mel_amplitudes,
    mel_amplitudes_from_blocks,
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


@st.composite
def grids(draw: st.DrawFn) -> SpectrogramParams:
    """Any grid of a size that tests can draw."""
    rate = draw(st.sampled_from([8_000, 11_025, 22_050, 44_100, 48_000, 96_000]))
    hop = draw(st.integers(1, rate // 50))
    win = draw(st.integers(hop, 8 * hop))
    f_min = draw(st.floats(0, rate / 4))
    return SpectrogramParams(
        sample_rate_hz=rate,
        hop_length=hop,
        win_length=win,
        n_fft=draw(st.integers(win, 4 * win)),
        mel_bins=draw(st.integers(1, 700)),
        f_min_hz=f_min,
        f_max_hz=draw(st.floats(f_min + 1, rate / 2)),
        power=draw(st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 1.0, 2.0, 10.0])),
        is_stereo=draw(st.booleans()),
    )


@settings(max_examples=60, deadline=None)
@given(params=grids(), columns=st.integers(1, 40), max_value=st.floats(1e-6, 1e9), seed=st.integers(0, 999))
def test_a_saved_picture_comes_back_on_its_grid_shade_for_shade(
    params: SpectrogramParams, columns: int, max_value: float, seed: int
) -> None:
    """picture → file → grid and mel amplitudes → picture is the identity, whatever the grid."""
    first = picture(columns, params, seed)
    drawn = image_from_mel_amplitudes(mel_amplitudes_from_image(first, params, max_value), params, max_value)
    file = io.BytesIO()
    drawn.save(file, "PNG", exif=drawn.getexif())
    opened = Image.open(file)
    grid = grid_from_image(opened)
    assert (grid.params, grid.max_value) == (params, max_value)
    again = image_from_mel_amplitudes(mel_amplitudes_from_image(opened, params, max_value), params, max_value)
    assert (np.asarray(again) == np.asarray(first)).all()


def test_a_picture_carries_its_grid() -> None:
    """After a PNG file, the EXIF gives the params and the amplitude drawn black."""
    mel = mel_amplitudes_from_waveform(tone(440, 0.2), MONO)
    file = io.BytesIO()
    image = image_from_mel_amplitudes(mel, MONO)
    image.save(file, "PNG", exif=image.getexif())
    exif = dict(Image.open(file).getexif())
    assert SpectrogramParams.params_from_exif(exif) == MONO
    assert exif[11080] == pytest.approx(float(mel.max()))
    whole = {11000: 44_100, 11005: 0, 11010: 10, 11020: 100, 11030: 400, 11040: 512, 11050: 0, 11060: 10_000}
    assert {tag: exif[tag] for tag in whole} == whole
    assert all(type(exif[tag]) is int for tag in whole)
    assert type(exif[11070]) is type(exif[11080]) is float


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


@pytest.mark.parametrize("params", [MONO, SpectrogramParams(f_min_hz=20.0, f_max_hz=20_000.0), SMALL])
def test_the_filters_are_those_riffusion_uses(params: SpectrogramParams) -> None:
    """torchaudio's HTK filters without norm, within the rounding of its float32."""
    theirs = torchaudio.functional.melscale_fbanks(
        params.n_fft // 2 + 1, params.f_min_hz, params.f_max_hz, params.mel_bins, params.sample_rate_hz
    )
    assert np.abs(mel_matrix(params).T - theirs.numpy()).max() < 1e-3


def test_no_filter_of_the_default_grid_is_empty() -> None:
    """The fine transform gives each of the 512 mel bins at least one line."""
    assert (mel_matrix(MONO).sum(axis=1) > 0).all()


def test_what_is_not_on_the_grid_is_refused() -> None:
    """Another number of rows or channels, no column, no sound at all, and numbers that are none."""
    for shape, sentence in (
        ((1, 256, 3), "not on this grid"),
        ((2, 512, 3), "not on this grid"),
        ((1, 512, 0), "cannot be drawn"),
    ):
        with pytest.raises(ValueError, match=sentence):
            image_from_mel_amplitudes(np.zeros(shape, np.float32), MONO)
    with pytest.raises(ValueError, match="no samples"):
        mel_amplitudes_from_waveform(np.zeros((1, 0), np.float32), MONO)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="no finite numbers"):
            mel_amplitudes_from_waveform(np.array([[0.0, bad]], np.float32), MONO)
        with pytest.raises(ValueError, match="not all finite"):
            image_from_mel_amplitudes(np.full((1, 512, 2), bad, np.float32), MONO)


@settings(max_examples=30, deadline=None)
@given(samples=st.integers(1, 9_000), cuts=st.lists(st.integers(1, 8_999), max_size=6), seed=st.integers(0, 99))
def test_where_a_waveform_is_cut_makes_no_difference(samples: int, cuts: list[int], seed: int) -> None:
    """The stream of blocks gives the same bits as the whole at once."""
    waveform = np.random.default_rng(seed).standard_normal((2, samples)).astype(np.float32)
    blocks = np.split(waveform, sorted({cut for cut in cuts if cut < samples}), axis=1)
    streamed = np.concatenate(list(mel_amplitudes_from_blocks(blocks, SMALL)), axis=-1)
    assert (streamed == mel_amplitudes_from_waveform(waveform, SMALL)).all()


@pytest.mark.parametrize("params", [MONO, SpectrogramParams(f_min_hz=20.0, f_max_hz=20_000.0), SMALL])
def test_the_stream_agrees_with_one_transform_of_the_whole(params: SpectrogramParams) -> None:
    """Against the definition in double precision, within float32's rounding."""
    waveform = np.random.default_rng(1).standard_normal((1, 100 * params.hop_length)).astype(np.float32)
    padded = np.pad(waveform[0].astype(float), (params.win_length // 2, params.win_length))
    frames = np.lib.stride_tricks.sliding_window_view(padded, params.win_length)[:: params.hop_length][:100]
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(params.win_length + 1)[:-1], params.n_fft))
    expected = mel_matrix(params) @ spectrum.T
    found = mel_amplitudes_from_waveform(waveform, params)[0]
    assert np.abs(found - expected).max() < 1e-6 * expected.max()


def test_a_long_waveform_takes_no_more_memory_than_its_result() -> None:
    """Ten minutes at 8 kHz: beyond input and result, a few MB."""
    waveform = np.zeros((1, 600 * 8_000), np.float32)
    mel_amplitudes_from_waveform(waveform[:, :8_000], SMALL)
    tracemalloc.start()
    mel = mel_amplitudes_from_waveform(waveform, SMALL)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < mel.nbytes + 6e6


def test_silence_is_white() -> None:
    """No sound, no ink, no warning."""
    image = image_from_mel_amplitudes(np.zeros((1, 512, 3), np.float32), MONO)
    assert np.asarray(image).min() == 255
