"""What is taken as audio, and the sentence for everything that is not."""

from __future__ import annotations

import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from shared.audio_source import NotAudioError, open_audio
from tests.tiny_audio import FORMATS, OTHER_FORMATS, RATE_HZ, cut, mp3_without_length, tone, write_tone


def samples_of(path: Path, max_s: float = 60.0) -> np.ndarray:
    """All samples of a file (sample, channel)."""
    with open_audio(path, max_s) as source:
        return np.concatenate(list(source.blocks()))


@pytest.mark.parametrize("suffix", [*FORMATS, *OTHER_FORMATS])
def test_every_format_is_read_to_its_last_sample(tmp_path: Path, suffix: str) -> None:
    """Two seconds are two seconds, and loud."""
    path = write_tone(tmp_path / f"a.{suffix}")
    with open_audio(path) as source:
        assert (source.sample_rate_hz, source.channels, source.duration_s) == (RATE_HZ, 1, 2.0)
        samples = np.concatenate(list(source.blocks()))
    assert samples.shape == (2 * RATE_HZ, 1)
    assert samples.dtype == np.float32
    assert 0.4 < np.abs(samples).max() < 0.7


@pytest.mark.parametrize("kept", [-1, 0.9, 0.5, 300, 60])
@pytest.mark.parametrize("suffix", [*FORMATS, *OTHER_FORMATS])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    """Wherever it was cut, down to its last byte."""
    path = write_tone(tmp_path / f"a.{suffix}")
    cut(path, int(kept * path.stat().st_size) if 0 < kept < 1 else int(kept))
    with pytest.raises(ValueError, match="cut off"):
        samples_of(path)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"just text\n" * 1_000, b"\0" * 5_000])
def test_what_is_no_audio_is_told_from_what_is_damaged(tmp_path: Path, content: bytes) -> None:
    """Content decides: a text file named .wav is no audio, nor is a picture."""
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(NotAudioError, match="no audio file"):
        samples_of(path)
    Image.new("L", (9, 9)).save(path, "PNG")
    with pytest.raises(NotAudioError, match="no audio file"):
        samples_of(path)


def test_a_name_that_lies_does_not_matter(tmp_path: Path) -> None:
    """FLAC named .png is FLAC."""
    path = write_tone(tmp_path / "a.flac").rename(tmp_path / "a.png")
    assert len(samples_of(path)) == 2 * RATE_HZ


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF024, 0x80000000])
def test_a_wav_of_open_length_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    """As programs write it into a pipe."""
    path = write_tone(tmp_path / "a.wav")
    data = path.read_bytes()
    at = data.index(b"data") + 4
    path.write_bytes(data[:at] + struct.pack("<I", size) + data[at + 4 :])
    assert len(samples_of(path)) == 2 * RATE_HZ


def test_an_mp3_without_a_stated_length_is_read_to_its_end(tmp_path: Path) -> None:
    """Its length is found by decoding, not by guessing; no thread is left behind, even when stopped early."""
    path = mp3_without_length(tmp_path / "a.mp3")
    before = {*threading.enumerate()}
    with open_audio(path) as source:
        assert source.duration_s is None
        assert sum(map(len, source.blocks())) >= 2 * 44_100
    with pytest.raises(ValueError, match="longer than"):
        samples_of(path, max_s=1.0)
    assert not {*threading.enumerate()} - before


def test_no_samples_are_refused(tmp_path: Path) -> None:
    """Zero seconds are no sound."""
    soundfile.write(tmp_path / "a.wav", np.zeros(0), RATE_HZ)
    with pytest.raises(ValueError, match="has no samples"):
        samples_of(tmp_path / "a.wav")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    """One is enough, wherever it is."""
    samples = tone(2.0)
    samples[-5] = bad
    soundfile.write(tmp_path / "a.wav", samples, RATE_HZ, subtype="FLOAT")
    with pytest.raises(ValueError, match="no finite numbers"):
        samples_of(tmp_path / "a.wav")


def test_the_limits_are_read_from_the_header(tmp_path: Path) -> None:
    """Length, channels and rate, before anything is decoded."""
    for rate_hz, channels, max_s, sentence in (
        (RATE_HZ, 1, 1.9, "longer than"),
        (RATE_HZ, 9, 60.0, "9 channels; 8 are taken"),
        (7_999, 1, 60.0, "7999 samples a second"),
        (192_001, 1, 60.0, "192001 samples a second"),
    ):
        soundfile.write(tmp_path / "a.wav", tone(2.0, rate_hz, channels), rate_hz)
        with pytest.raises(ValueError, match=sentence), open_audio(tmp_path / "a.wav", max_s):
            pass


def test_files_that_cannot_be_read_are_not_called_damaged(tmp_path: Path) -> None:
    """Absent, or a folder."""
    with pytest.raises(FileNotFoundError), open_audio(tmp_path / "nothing.wav"):
        pass
    with pytest.raises(IsADirectoryError), open_audio(tmp_path):
        pass
