"""Tags and covers come back from every format, and change neither the sound, its length nor the bytes' constancy."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutagen.flac import FLAC, Picture
from mutagen.id3 import ID3
from PIL import Image

from workers.encoding import FORMATS
from workers.mastering import encode
from workers.tags import COVER_SIZE, SOFTWARE, Tags, write_tags

RATE_HZ = 44_100
TAGS = Tags("Slow strings → “techno”", "a prompt in two\nlines, seed 42; ünïcode 🎹", album="Variations")


def sound(samples: int = 60_000) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A second or so of chord, in stereo."""
    time_s = np.arange(samples) / RATE_HZ
    return np.stack([0.3 * np.sin(2 * np.pi * tone_hz * time_s) for tone_hz in (220, 331)]).astype(np.float32)


def cover(width: int = 3_000, height: int = 512) -> Image.Image:
    """A picture with a gradient in time and stripes in frequency."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y % 64 * 3, np.full_like(x, 90)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def written(folder: Path, tags: Tags | None, picture: Image.Image | None = None) -> dict[str, Path]:
    """The sound in every format."""
    paths = {name: folder / f"track{form.suffix}" for name, form in FORMATS.items()}
    encode([sound()], paths, sample_rate_hz=RATE_HZ, gain=1.0, total_samples=60_000, tags=tags, cover=picture)
    return paths


def read_back(name: str, path: Path) -> tuple[dict[str, str], Picture | None]:
    """The words in a file, and its cover."""
    file = FORMATS[name].tag_container(path)
    if isinstance(file.tags, ID3):
        keys = {"title": "TIT2", "artist": "TPE1", "album": "TALB", "comment": "COMM::eng", "encoder": "TSSE"}
        frame = file.tags.get("APIC:")
        picture = Picture()
        if frame:
            picture.data, picture.mime, picture.type = frame.data, frame.mime, int(frame.type)
        words = {word: str(file.tags[key].text[0]) for word, key in keys.items() if key in file.tags}
        return words, picture if frame else None
    words = {key: file.tags[key][0] for key in ("title", "artist", "album", "comment", "encoder") if key in file.tags}
    pictures = file.pictures if isinstance(file, FLAC) else []
    pictures += [Picture(base64.b64decode(text)) for text in file.tags.get("metadata_block_picture", [])]
    return words, pictures[0] if pictures else None


def test_words_and_cover_come_back_from_every_format(tmp_path: Path) -> None:
    """Title, artist, album, comment, software and a JPEG of the size a cover has."""
    for name, path in written(tmp_path, TAGS, cover()).items():
        words, picture = read_back(name, path)
        assert words == {
            "title": TAGS.title,
            "artist": "riffarm",
            "album": "Variations",
            "comment": TAGS.comment,
            "encoder": SOFTWARE,
        }, name
        assert picture is not None
        assert (picture.mime, picture.type) == ("image/jpeg", 3)
        image = Image.open(io.BytesIO(picture.data))
        assert (image.format, image.size) == ("JPEG", COVER_SIZE)
        left, right = (np.asarray(image)[:, columns, 0].mean() for columns in (slice(0, 50), slice(-50, None)))
        assert right - left > 200


def test_tags_change_no_sample(tmp_path: Path) -> None:
    """Tagged or not, the same sound of the same length is decoded."""
    folders = [tmp_path / "plain", tmp_path / "tagged"]
    for folder in folders:
        folder.mkdir()
    plain, tagged = written(folders[0], None), written(folders[1], TAGS, cover())
    for name in FORMATS:
        sounds = [soundfile.read(paths[name], dtype="float32")[0] for paths in (plain, tagged)]
        assert sounds[0].shape == sounds[1].shape
        assert (sounds[0] == sounds[1]).all(), name
        assert tagged[name].stat().st_size > plain[name].stat().st_size


def test_equal_tags_give_equal_bytes(tmp_path: Path) -> None:
    """Written twice, the files are the same to the last byte."""
    first, second = (
        {name: path.read_bytes() for name, path in written(tmp_path, TAGS, cover()).items()} for _ in range(2)
    )
    assert first == second


def test_empty_words_and_no_cover_are_left_out(tmp_path: Path) -> None:
    """What there is nothing to say about is not there at all."""
    for name, path in written(tmp_path, Tags("only a title", artist="")).items():
        words, picture = read_back(name, path)
        assert words == {"title": "only a title", "encoder": SOFTWARE}
        assert picture is None


@pytest.mark.parametrize(("width", "expected"), [(512, (512, 512)), (1_024, (1_024, 512)), (8_192, (1_024, 512))])
def test_a_cover_is_never_enlarged(tmp_path: Path, width: int, expected: tuple[int, int]) -> None:
    """One frame stays as it is, a long track is made narrow, whatever the picture's mode."""
    for mode in ("RGB", "L", "RGBA"):
        path = written(tmp_path, TAGS, cover(width).convert(mode))["flac"]
        _, picture = read_back("flac", path)
        assert picture is not None
        assert Image.open(io.BytesIO(picture.data)).size == expected


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(title=st.text(min_size=1, max_size=80), comment=st.text(max_size=5_000))
def test_any_words_survive(tmp_path: Path, title: str, comment: str) -> None:
    """Whatever a prompt holds, and written over what was there; zero bytes become spaces."""
    for name in ("wav", "mp3", "opus"):
        path = tmp_path / f"words{FORMATS[name].suffix}"
        if not path.exists():
            encode([sound(3_000)], {name: path}, sample_rate_hz=RATE_HZ, gain=1.0, total_samples=3_000)
        write_tags(path, FORMATS[name].tag_container, Tags(title, comment), None)
        words, _ = read_back(name, path)
        assert words["title"] == title.replace("\0", " ")
        assert words.get("comment", "") == comment.replace("\0", " ")
        assert soundfile.info(path).frames == round(3_000 * FORMATS[name].rate_hz(RATE_HZ) / RATE_HZ)
