"""File to file: both ways, and one sentence for what cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from shared.catalogue import seed_images
from workers.convert import ConvertError, convert

OG_BEAT = seed_images()["og_beat"].path


def test_a_picture_becomes_audio_of_its_exact_length_and_back(tmp_path: Path) -> None:
    """512 columns are 5.12 s; the way back gives a picture close to the first."""
    convert(OG_BEAT, tmp_path / "beat.flac")
    samples, rate = soundfile.read(tmp_path / "beat.flac")
    assert (len(samples), rate) == (512 * 441, 44_100)
    assert 0.5 < np.abs(samples).max() < 0.95
    convert(tmp_path / "beat.flac", tmp_path / "again.png")
    first, again = (np.asarray(Image.open(path).convert("L"), float) for path in (OG_BEAT, tmp_path / "again.png"))
    assert again.shape == first.shape
    assert np.abs(again - first).mean() < 8


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
def test_any_kind_of_picture_is_taken(tmp_path: Path, mode: str) -> None:
    """Palette, grey, transparent or odd-sized pictures are put on the grid."""
    suffix = ".jpg" if mode == "CMYK" else ".png"
    picture = tmp_path / f"odd{suffix}"
    Image.effect_noise((96, 300), 80).convert("RGB").convert(mode).save(picture)
    convert(picture, tmp_path / "odd.wav")
    assert soundfile.info(tmp_path / "odd.wav").frames == 96 * 441


def test_what_cannot_be_converted_is_said_in_a_sentence(tmp_path: Path) -> None:
    """Missing, wrong, empty and truncated files name themselves; nothing is written."""
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "half.png").write_bytes(OG_BEAT.read_bytes()[:3_000])
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 44_100)
    cases = [
        ("nothing.png", "a.wav", "there is no file"),
        ("text.wav", "a.png", "cannot be read as audio"),
        ("half.png", "a.wav", "cannot be read as a picture"),
        ("empty.wav", "a.png", "holds no sound"),
        ("text.wav", "a.flac", "must be a picture"),
    ]
    for source, target, sentence in cases:
        with pytest.raises(ConvertError, match=sentence):
            convert(tmp_path / source, tmp_path / target)
        assert not (tmp_path / target).exists()
    with pytest.raises(ConvertError, match="must be audio"):
        convert(OG_BEAT, tmp_path / "a.txt")
