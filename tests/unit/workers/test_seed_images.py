"""The built-in seed images: their grid, their index, and that the code draws the committed pictures."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from shared.catalogue import seed_images
from shared.spectrogram_params import SpectrogramParams
from workers.seed_images import FOLDER, GRID, PATTERNS, write_seed_images
from workers.spectrogram import mel_amplitudes_from_image


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.parametrize("name", PATTERNS)
def test_drawing_anew_gives_the_committed_picture(name: str, tmp_path: Path) -> None:
    """Pixels agree; one grey level in a few of them is left to rounding, which alone draws the palest greys."""
    drawn = _pixels(write_seed_images(tmp_path, [name])[0])
    error = np.abs(drawn - _pixels(FOLDER / f"{name}.png"))
    assert error.max() <= 1
    assert np.mean(error > 0) < 5e-3
    assert not (tmp_path / "index.json").exists()


def test_the_index_tells_the_truth() -> None:
    """Hashes, sizes, tempo and metre in the index are those of the files, whole bars each."""
    entries = seed_images()
    assert list(entries) == list(PATTERNS)
    assert list(entries)[:5] == ["og_beat", "agile", "marim", "motorway", "vibes"]
    assert {"3/4", "4/4", "5/4", "6/8", "7/8"} == {entry.meter for entry in entries.values()}
    for entry in entries.values():
        assert hashlib.sha256(entry.path.read_bytes()).hexdigest() == entry.sha256
        with Image.open(entry.path) as image:
            assert image.size == (entry.columns, GRID.mel_bins)
            image.load()
            assert isinstance(image, PngImageFile)
            said = image.text
            assert image.getexif()[0x010E].startswith(f"{entry.title}: {entry.tempo_bpm:.2f} bpm, {entry.beats} beats")
        assert (said["meter"], said["beats"], said["Title"]) == (entry.meter, str(entry.beats), entry.title)
        assert entry.duration_s == entry.columns / GRID.columns_per_s
        assert float(said["tempo_bpm"]) == entry.tempo_bpm
        assert entry.tempo_bpm == pytest.approx(entry.beats * 60 / entry.duration_s, abs=1e-4)
        assert entry.beats % int(entry.meter.partition("/")[0]) == 0


@pytest.mark.parametrize("name", PATTERNS)
def test_pictures_carry_their_grid_and_close_as_loops(name: str) -> None:
    """The EXIF names the default grid, and the step over the seam is no larger than steps inside."""
    image = Image.open(FOLDER / f"{name}.png")
    assert SpectrogramParams.params_from_exif(image.getexif()) == GRID
    mel = mel_amplitudes_from_image(image, GRID)[0] ** GRID.power
    inside = np.abs(np.diff(mel, axis=1)).mean(axis=0)
    assert np.abs(mel[:, 0] - mel[:, -1]).mean() <= inside.max() * 1.05


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    """There is no picture for a name that is not in the list."""
    with pytest.raises(KeyError):
        write_seed_images(tmp_path, ["polka"])
