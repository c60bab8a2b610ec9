"""Odd pictures and sounds are converted, and what cannot be is refused in a sentence that leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from shared.spectrogram_params import SpectrogramParams
from tests.conversions import OG_BEAT, converted, refusal
from tests.tiny_audio import FORMATS, OTHER_FORMATS, cut, tone, write_tone
from workers.convert import Wishes, picture_from_file, save_picture

RATE_HZ = 44_100


@pytest.mark.parametrize("shade", ["black", "white"])
@pytest.mark.parametrize("size", [(1, 512), (5, 1), (20, 512)])
def test_pictures_of_one_shade_and_of_one_line_are_taken(tmp_path: Path, size: tuple[int, int], shade: str) -> None:
    """White is silence, black is all there can be; both are finite and unclipped."""
    Image.new("L", size, shade).save(tmp_path / "a.png")
    converted(tmp_path / "a.png", tmp_path / "a.wav")
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert len(samples) == size[0] * 441
    loudest = int(np.abs(samples.astype(int)).max())
    assert loudest <= 1 if shade == "white" else 100 < loudest < 32_767


@pytest.mark.parametrize(
    ("samples", "rate_hz", "subtype"),
    [
        (np.zeros(9_000), 44_100, "PCM_16"),
        (np.full(9_000, 0.5), 44_100, "PCM_24"),
        (tone(0.2, 8_000), 8_000, "PCM_U8"),
        (tone(0.2, 192_000), 192_000, "PCM_32"),
        (tone(0.2, level=40.0), 48_000, "FLOAT"),
        (np.ones(1), 44_100, "PCM_16"),
    ],
    ids=["silent", "constant", "8 kHz", "192 kHz", "loud floats", "one sample"],
)
def test_odd_audio_is_drawn(tmp_path: Path, samples: np.ndarray, rate_hz: int, subtype: str) -> None:
    """A picture with a column for every hop begun, and silence is white."""
    soundfile.write(tmp_path / "a.wav", samples, rate_hz, subtype)
    converted(tmp_path / "a.wav", tmp_path / "a.png")
    image, grid = picture_from_file(tmp_path / "a.png")
    assert image.size == (-(-len(samples) * 100 // rate_hz), 512)
    assert grid.max_value > 0
    assert (np.asarray(image).min() == 255) == (not samples.any())


def test_clipped_audio_and_eight_channels_are_drawn_with_a_warning(tmp_path: Path) -> None:
    """Said once, on the way."""
    soundfile.write(tmp_path / "a.wav", np.clip(tone(0.5, level=3.0), -1, 1), 48_000)
    (warning,) = converted(tmp_path / "a.wav", tmp_path / "a.png")
    assert "clipped" in warning
    soundfile.write(tmp_path / "a.wav", tone(0.5, channels=8), 48_000)
    (warning,) = converted(tmp_path / "a.wav", tmp_path / "a.png")
    assert "8 channels are mixed down to mono" in warning


@pytest.mark.parametrize("suffix", [*FORMATS, *OTHER_FORMATS])
def test_a_file_cut_off_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    """In every format, before a picture is written."""
    path = cut(write_tone(tmp_path / f"song.{suffix}"), -100)
    sentence = refusal(path, tmp_path / "a.png")
    assert sentence.startswith(f"song.{suffix}: the audio ")
    assert "cut off" in sentence


def test_what_cannot_be_converted_is_said_in_a_sentence(tmp_path: Path) -> None:
    """Missing, wrong, empty and truncated files name themselves; a file's content counts, not its name."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "half.png").write_bytes(OG_BEAT.read_bytes()[:3_000])
    (tmp_path / "picture.wav").write_bytes(OG_BEAT.read_bytes())
    write_tone(tmp_path / "sound.wav").rename(tmp_path / "sound.png")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE_HZ)
    soundfile.write(tmp_path / "nan.wav", np.full(900, np.nan), RATE_HZ, "FLOAT")
    pixels = np.zeros((512, 4), np.float32)
    pixels[3, 3] = np.nan
    Image.fromarray(pixels).save(tmp_path / "nan.tiff")
    cases = [
        ("nothing.png", "a.wav", "nothing.png cannot be read: No such file"),
        ("text.wav", "a.png", "text.wav: this is no audio file"),
        ("text.wav", "a.flac", "text.wav: this is no picture"),
        ("half.png", "a.wav", "half.png: the picture cannot be decoded"),
        ("picture.wav", "a.png", "picture.wav: this is no audio file"),
        ("sound.png", "a.flac", "sound.png: this is no picture"),
        ("empty.wav", "a.png", "empty.wav: the audio has no samples"),
        ("nan.wav", "a.png", "nan.wav: the audio holds samples that are no finite numbers"),
        ("nan.tiff", "a.wav", "nan.tiff: the picture holds values that are no finite numbers"),
        ("folder", "a.wav", "folder cannot be read: Is a directory"),
        ("picture.wav", "a.txt", "a.txt must end in"),
        ("picture.wav", "nowhere/a.wav", "there is no folder"),
    ]
    for source, target, sentence in cases:
        assert sentence in refusal(tmp_path / source, tmp_path / target)


@pytest.mark.parametrize(
    ("f_min_hz", "f_max_hz"), [(500, 400), (-1, None), (None, 22_051), (10_000, None), (np.nan, 9)]
)
def test_frequencies_that_cannot_be_are_refused(tmp_path: Path, f_min_hz: float | None, f_max_hz: float | None) -> None:
    """Both ways, with the range that can."""
    wishes = Wishes(f_min_hz=f_min_hz, f_max_hz=f_max_hz)
    for source, target in ((write_tone(tmp_path / "a.wav"), "b.png"), (OG_BEAT, "b.wav")):
        assert "0 <= lowest < highest <= 22050 must hold" in refusal(source, tmp_path / target, wishes)


def test_pictures_too_wide_for_their_format_or_too_large_are_refused(tmp_path: Path) -> None:
    """Before the sound is analysed, and before the pixels are decoded."""
    write_tone(tmp_path / "a.flac", seconds=170.0, rate_hz=8_000)
    assert "17000 columns is too wide for .webp, which takes 16383" in refusal(tmp_path / "a.flac", tmp_path / "a.webp")
    with pytest.raises(ValueError, match=r"too wide for \.jpg"):
        save_picture(Image.new("L", (65_501, 1)), tmp_path / "a.jpg")
    Image.new("1", (20_001, 5_000)).save(tmp_path / "bomb.png")
    assert "bomb.png: the picture has 20001×5000 pixels" in refusal(tmp_path / "bomb.png", tmp_path / "b.wav")
    Image.new("1", (180_001, 1)).save(tmp_path / "endless.png")
    assert "180001 columns are longer than 30 minutes" in refusal(tmp_path / "endless.png", tmp_path / "b.wav")


def test_a_grid_the_phase_cannot_handle_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """A window of 200 columns."""
    image = Image.new("RGB", (64, 512), "white")
    params = SpectrogramParams(hop_length=22)
    image.save(tmp_path / "a.png", exif=_exif(image, params))
    assert "a.png: the window must be shorter than" in refusal(tmp_path / "a.png", tmp_path / "a.wav")


def _exif(image: Image.Image, params: SpectrogramParams) -> Image.Exif:
    exif = image.getexif()
    exif.update(params.exif_from_params(1.0))
    return exif


def test_a_target_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """A folder where the file should be; what was there stays."""
    for target in ("a.wav", "a.png"):
        (tmp_path / target).mkdir()
    assert "a.wav cannot be written" in refusal(OG_BEAT, tmp_path / "a.wav")
    source = write_tone(tmp_path / "b.wav")
    assert "a.png cannot be written" in refusal(source, tmp_path / "a.png")
