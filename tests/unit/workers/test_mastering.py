"""Files of the right length, level and bytes, whatever the format; nothing half-written; the picture of a track."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from workers import encoding, mastering
from workers.mastering import FORMATS, Array, cut_to_length, encode, gain_from_peaks, overview_image, peak_of

RATE_HZ = 44_100


def music(samples: int, channels: int = 1, seed: int = 0) -> Array:
    """A tone with a beat of noise in it, (channel, sample)."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(samples) / RATE_HZ
    beat = rng.standard_normal((channels, samples)) * np.exp(-(time_s % 0.25) * 30)
    return (0.4 * np.sin(2 * np.pi * 440 * time_s) + 0.1 * beat).astype(np.float32)


def pieces(waveform: Array, length: int) -> Iterator[Array]:
    """The waveform in chunks of `length` samples."""
    for start in range(0, waveform.shape[-1], length):
        yield waveform[:, start : start + length]


def write_all(folder: Path, waveform: Array, total_samples: int, gain: float = 1.0) -> dict[str, Path]:
    """The waveform in every format there is."""
    paths = {name: folder / f"track{form.suffix}" for name, form in FORMATS.items()}
    encode(pieces(waveform, 70_000), paths, sample_rate_hz=RATE_HZ, gain=gain, total_samples=total_samples)
    return paths


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("total_samples", [1, 882, 44_100, 150_001])
def test_every_format_decodes_to_the_exact_length(tmp_path: Path, total_samples: int, channels: int) -> None:
    """A track's samples, or as much time at the rate the format takes, come back from every file."""
    paths = write_all(tmp_path, music(160_000, channels), total_samples)
    for name, path in paths.items():
        decoded, rate_hz = soundfile.read(path, always_2d=True)
        assert rate_hz == FORMATS[name].rate_hz(RATE_HZ)
        assert decoded.shape == (round(total_samples * rate_hz / RATE_HZ), channels), name


def test_every_format_keeps_the_sound(tmp_path: Path) -> None:
    """What is decoded is the track itself, in time and level; exact to rounding and its dither where nothing is lost."""
    waveform = music(120_000, channels=2)
    paths = write_all(tmp_path, waveform, 120_000)
    for name in ("wav", "flac"):
        decoded, _ = soundfile.read(paths[name], dtype="float32")
        assert np.abs(decoded.T - waveform).max() <= 1.5 / 32_768
    for name in ("mp3", "ogg"):
        decoded, _ = soundfile.read(paths[name], dtype="float32")
        assert np.corrcoef(decoded.T.ravel(), waveform.ravel())[0, 1] > 0.97, name
    decoded, rate_hz = soundfile.read(paths["opus"], dtype="float32")
    tone = np.abs(np.fft.rfft(decoded[:, 0]))
    assert tone.argmax() * rate_hz / len(decoded) == pytest.approx(440, abs=0.5)


def test_equal_sound_gives_equal_bytes(tmp_path: Path) -> None:
    """Two encodings of one track differ in no byte, Ogg's random serial numbers included."""
    waveform = music(200_000)
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    first, second = (write_all(folder, waveform, 190_000) for folder in folders)
    assert {name: path.read_bytes() for name, path in first.items()} == {
        name: path.read_bytes() for name, path in second.items()
    }


def test_chunk_boundaries_leave_no_trace(tmp_path: Path) -> None:
    """The files are the same, byte for byte, however the track was cut into chunks."""
    waveform = music(100_000)
    written = []
    for length in (100_000, 33_333, 441):
        paths = {name: tmp_path / f"{length}{form.suffix}" for name, form in FORMATS.items()}
        encode(pieces(waveform, length), paths, sample_rate_hz=RATE_HZ, gain=0.5, total_samples=99_000)
        written.append({name: path.read_bytes() for name, path in paths.items()})
    for name in FORMATS:
        assert written[0][name] == written[1][name] == written[2][name], name


def test_silence_keeps_gain_one() -> None:
    """A silent or empty track is not blown up."""
    assert gain_from_peaks([0.0, 0.0]) == 1.0
    assert gain_from_peaks([]) == 1.0
    assert peak_of(np.zeros((1, 0), np.float32)) == 0.0


@pytest.mark.parametrize("peak", [float("nan"), float("inf")])
def test_a_peak_that_is_no_number_is_refused(peak: float) -> None:
    """A broken waveform is an error, not a broken file."""
    with pytest.raises(ValueError, match="finite"):
        gain_from_peaks([0.5, peak, 0.2])


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 300), min_size=1, max_size=8),
    fade=st.integers(1, 120),
    share=st.floats(0, 1),
)
def test_a_cut_is_exact_and_fades_only_inside_the_material(lengths: list[int], fade: int, share: float) -> None:
    """Any chunk lengths: the exact total, the same samples up to the fade, silence at its end; no cut, no fade."""
    material = np.ones((2, sum(lengths)), np.float32)
    total = round(share * sum(lengths))
    edges = np.cumsum(lengths)[:-1]
    cut = np.concatenate(list(cut_to_length(np.split(material, edges, axis=1), total, fade)), axis=1)
    assert cut.shape == (2, total)
    assert (cut[:, : max(0, total - fade)] == 1).all()
    if total == sum(lengths):
        assert (cut == 1).all()
    elif total:
        assert (np.abs(cut[:, -1]) < 1e-6).all()
        assert (np.diff(cut, axis=1) <= 0).all()


def test_too_little_material_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    """A track shorter than promised is an error, and no file of the wrong length appears."""
    with pytest.raises(ValueError, match="has 50000 of 50001"):
        write_all(tmp_path, music(50_000), 50_001)
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_older_file_alone(tmp_path: Path) -> None:
    """A job canceled while it is encoded leaves no half file and does not touch what was there."""
    path = tmp_path / "track.flac"
    path.write_bytes(b"older")

    def canceled() -> Iterator[Array]:
        yield music(300_000)
        raise RuntimeError("canceled")

    with pytest.raises(RuntimeError, match="canceled"):
        encode(canceled(), {"flac": path}, sample_rate_hz=RATE_HZ, gain=1.0, total_samples=400_000)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("track.flac", b"older")]


def test_a_wav_beyond_four_gigabytes_is_written_as_rf64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where RIFF cannot count the bytes, the file says so in RF64."""
    monkeypatch.setattr(encoding, "_MAX_WAV_BYTES", 10_000)
    path = tmp_path / "track.wav"
    encode([music(6_000)], {"wav": path}, sample_rate_hz=RATE_HZ, gain=1.0, total_samples=6_000)
    assert path.read_bytes()[:4] == b"RF64"
    assert soundfile.info(path).frames == 6_000


def test_the_overview_of_a_short_track_is_its_frames_side_by_side() -> None:
    """Eight frames of 512 columns are 4096 columns, pixel for pixel."""
    rng = np.random.default_rng(1)
    pixels = [rng.integers(0, 256, (512, 512, 3), dtype=np.uint8) for _ in range(8)]
    overview = overview_image(map(Image.fromarray, pixels), 8)
    assert overview.size == (4096, 512)
    assert (np.asarray(overview) == np.concatenate(pixels, axis=1)).all()


@settings(max_examples=20, deadline=None)
@given(frame_count=st.integers(1, 100), max_columns=st.integers(100, 200))
def test_the_overview_of_a_long_track_keeps_the_averages(frame_count: int, max_columns: int) -> None:
    """However narrow, each frame keeps its place and its mean, and the picture its width."""
    shades = np.linspace(0, 255, frame_count).round().astype(np.uint8)
    frames = (Image.fromarray(np.full((4, 16, 3), shade, np.uint8)) for shade in shades)
    overview = overview_image(frames, frame_count, max_columns)
    assert overview.size == (min(16 * frame_count, max_columns), 4)
    row = np.asarray(overview)[0, :, 0]
    assert (np.diff(row.astype(int)) >= 0).all()
    assert set(shades) == set(row)


@pytest.mark.parametrize(("given_frames", "frame_count"), [(2, 3), (3, 2), (0, 1), (1, 9_000)])
def test_an_overview_of_the_wrong_number_of_frames_is_refused(given_frames: int, frame_count: int) -> None:
    """Too few, too many, or more frames than columns."""
    frames = [Image.new("RGB", (8, 8))] * given_frames
    with pytest.raises(ValueError, match="frames"):
        overview_image(frames, frame_count)
