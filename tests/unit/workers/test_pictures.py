"""Pictures as people draw and save them: every kind is read, and what had to be guessed is said."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.spectrogram_params import DEFAULT_MAX_VALUE, SpectrogramParams
from workers.spectrogram import (
    grid_from_image,
    image_from_mel_amplitudes,
    mel_amplitudes_from_image,
    rgb_from_image,
)

GRID = SpectrogramParams()
STEREO = SpectrogramParams(is_stereo=True)


def with_exif(tags: dict[int, Any], mode: str = "RGB", size: tuple[int, int] = (4, 512)) -> Image.Image:
    """A white picture from a PNG file with these EXIF tags."""
    image = Image.new(mode, size, "white")
    image.getexif().update(tags)
    file = io.BytesIO()
    image.save(file, "PNG", exif=image.getexif())
    return Image.open(file)


def exif_of(params: SpectrogramParams, max_value: float = 1.0) -> dict[int, Any]:
    """The EXIF tags of a grid."""
    return dict(params.exif_from_params(max_value))


def line_drawing() -> Image.Image:
    """Black lines on white, 16 columns on the default grid's height."""
    pixels = np.full((512, 16), 255, np.uint8)
    pixels[300:302] = 0
    pixels[100, 8] = 0
    return Image.fromarray(pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"])
def test_every_mode_reads_as_the_same_picture(mode: str) -> None:
    """Black stays black and white stays white, however they are stored."""
    plain = line_drawing()
    if mode in ("I", "I;16"):
        image = Image.fromarray(
            (np.asarray(plain).astype(np.uint16) * 257).astype({"I": np.int32}.get(mode, np.uint16))
        )
    elif mode == "F":
        image = Image.fromarray(np.asarray(plain, np.float32) / 255)
    elif mode == "PA":
        image = plain.convert("RGBA").convert("PA")
    else:
        image = plain.convert("RGB").convert(mode)
    assert image.mode == mode
    assert (np.asarray(rgb_from_image(image).convert("L")) == np.asarray(plain)).all()
    assert (mel_amplitudes_from_image(image, GRID) == mel_amplitudes_from_image(plain, GRID)).all()


def test_what_is_transparent_is_silent() -> None:
    """Black that nobody sees is not heard."""
    image = Image.new("RGBA", (4, 512), (0, 0, 0, 0))
    assert mel_amplitudes_from_image(image, GRID).max() == 0


def test_a_coloured_drawing_sounds_by_its_brightness() -> None:
    """Pure red is heard, less than black; so are green and blue."""
    levels = [
        float(mel_amplitudes_from_image(Image.new("RGB", (2, 512), colour), GRID).max())
        for colour in ("black", "blue", "red", "lime", "white")
    ]
    assert levels == sorted(levels, reverse=True)
    assert (levels[0], levels[-1]) == (1.0, 0.0)
    assert levels[3] > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_float_picture_with_values_that_are_no_numbers_is_refused(bad: float) -> None:
    """In a sentence, and not as noise."""
    pixels = np.zeros((512, 4), np.float32)
    pixels[5, 2] = bad
    for read in (rgb_from_image, grid_from_image, lambda image: mel_amplitudes_from_image(image, GRID)):
        with pytest.raises(ValueError, match="values that are no finite numbers"):
            read(Image.fromarray(pixels))


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 1_500), seed=st.integers(0, 99))
def test_another_height_invents_no_energy(rows: int, seed: int) -> None:
    """Resampled amplitudes lie within those drawn, and their mean over the mel axis is kept."""
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, 6), dtype=np.uint8)
    drawn = mel_amplitudes_from_image(Image.fromarray(pixels), replace(GRID, mel_bins=rows))
    resampled = mel_amplitudes_from_image(Image.fromarray(pixels), GRID)
    assert resampled.shape == (1, 512, 6)
    assert resampled.min() >= 0
    assert (resampled.max(axis=1) <= drawn.max(axis=1) * (1 + 1e-6)).all()
    if rows >= 64:
        assert resampled.mean() == pytest.approx(drawn.mean(), rel=0.1)


def test_a_line_keeps_its_frequency_at_another_height() -> None:
    """A line at 3/4 of the picture lies at 3/4 of the grid, and all of its energy with it."""
    for rows in (128, 300, 1_024):
        pixels = np.full((rows, 2), 255, np.uint8)
        pixels[rows // 4 - 2 : rows // 4 + 2] = 0
        column = mel_amplitudes_from_image(Image.fromarray(pixels), GRID)[0, :, 0]
        centre = (column * (np.arange(512) + 0.5)).sum() / column.sum()
        assert centre == pytest.approx(384, abs=0.6)
        assert column.sum() == pytest.approx(4 * 512 / rows, rel=0.02)


def test_a_picture_without_exif_is_read_on_the_default_grid_without_a_word() -> None:
    """Nothing was guessed that anybody could know better."""
    grid = grid_from_image(line_drawing())
    assert (grid.params, grid.max_value, grid.warnings) == (GRID, DEFAULT_MAX_VALUE, ())


def test_another_height_is_said() -> None:
    """The warning names both heights and the frequencies they span."""
    (warning,) = grid_from_image(Image.new("L", (4, 300), "white")).warnings
    assert "300 rows" in warning
    assert "512 rows, 0 to 10000 Hz" in warning


def test_riffusions_own_exif_gives_its_grid() -> None:
    """Whole milliseconds and hertz, a stereo flag that is a number, and the amplitude drawn black."""
    tags = {11000: 44100, 11005: 1, 11010: 10, 11020: 100, 11030: 400, 11040: 512, 11050: 0, 11060: 10000}
    grid = grid_from_image(with_exif({**tags, 11070: 0.25, 11080: 29_123_456.0}))
    assert (grid.params, grid.max_value) == (STEREO, 29_123_456.0)


def test_absent_tags_are_as_in_the_default_grid() -> None:
    """A picture that names its rate alone has columns of 10 ms at that rate."""
    params = grid_from_image(with_exif({11000: 22_050})).params
    assert (params.sample_rate_hz, params.hop_length, params.win_length, params.n_fft) == (22_050, 220, 2_205, 8_820)


CONTRADICTIONS: dict[str, dict[int, Any]] = {
    "hop 0": {11010: 0},
    "negative hop": {11010: -10},
    "hop longer than the window": {11010: 200},
    "f_max above Nyquist": {11060: 30_000},
    "f_min above f_max": {11050: 12_000},
    "no rows": {11040: 0},
    "rows without end": {11040: 2**31 - 1},
    "absurd rate": {11000: 2**31 - 1},
    "no rate": {11000: 0},
    "a rate that encoders crash at": {11000: 384_000},
    "absurd window": {11030: 10**9},
    "NaN": {11010: float("nan")},
    "infinite": {11060: float("inf")},
    "text": {11000: "44100 Hz"},
    "two numbers": {11010: (10, 20)},
    "power 0": {11070: 0.0},
    "power of NaN": {11070: float("nan")},
}


@pytest.mark.parametrize("wrong", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_grid_that_cannot_be_gives_the_default_and_a_warning(wrong: dict[int, Any]) -> None:
    """The picture can still be heard, and the listener is told."""
    grid = grid_from_image(with_exif(exif_of(GRID) | wrong))
    assert grid.params == GRID
    assert grid.max_value == 1.0
    assert "EXIF names no grid that can be" in grid.warnings[0]


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e300, "loud"])
def test_a_max_value_that_is_none_is_replaced_with_a_warning(value: Any) -> None:
    """The grid itself is kept."""
    params = replace(GRID, f_max_hz=8_000.0)
    grid = grid_from_image(with_exif(exif_of(params) | {11080: value}))
    assert (grid.params, grid.max_value) == (params, DEFAULT_MAX_VALUE)
    assert "11080" in grid.warnings[0]


def test_a_damaged_exif_block_counts_as_none() -> None:
    """Garbage where the tags should be does not stop the picture."""
    file = io.BytesIO()
    Image.new("RGB", (4, 512), "white").save(file, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x2a\xf8")
    assert grid_from_image(Image.open(file)).params == GRID


def test_stereo_on_a_grey_picture_is_the_same_sound_twice() -> None:
    """The flag is honoured, and the listener is told."""
    image = with_exif(exif_of(STEREO), mode="L")
    grid = grid_from_image(image)
    mel = mel_amplitudes_from_image(line_drawing(), grid.params)
    assert "is grey" in grid.warnings[0]
    assert (mel[0] == mel[1]).all()


def test_a_stereo_picture_that_lost_its_exif_is_known_by_its_empty_red() -> None:
    """Left and right come out where they were drawn; a black picture stays mono."""
    mel = np.random.default_rng(3).random((2, 512, 8), np.float32)
    drawn = image_from_mel_amplitudes(mel, STEREO)
    bare = Image.frombytes("RGB", drawn.size, drawn.tobytes())
    grid = grid_from_image(bare)
    assert grid.params == STEREO
    assert "read as stereo" in grid.warnings[0]
    assert grid_from_image(Image.new("RGB", (4, 512), "black")).params == GRID


def test_all_black_is_the_loudest_and_all_white_is_silence() -> None:
    """The ends of the scale."""
    assert (mel_amplitudes_from_image(Image.new("L", (3, 512), 0), GRID, 7.0) == 7.0).all()
    assert (mel_amplitudes_from_image(Image.new("L", (3, 512), 255), GRID, 7.0) == 0.0).all()


def test_one_row_and_one_column_are_pictures_too() -> None:
    """One row spreads over all frequencies; one column is one hop."""
    assert (mel_amplitudes_from_image(Image.new("L", (5, 1), 0), GRID) == 1.0).all()
    assert mel_amplitudes_from_image(Image.new("L", (1, 512), 0), GRID).shape == (1, 512, 1)
