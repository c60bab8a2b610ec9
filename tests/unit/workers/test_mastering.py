"""Files of the right length, loudness and bytes, whatever the format; nothing half-written; the picture of a track."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyloudnorm
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.contracts import LOUDNESS_LUFS
from workers import encoding
from workers.limiter import CEILING_DBTP, MARGIN_DB
from workers.mastering import (
    FORMATS,
    Array,
    Levels,
    cut_to_length,
    encode,
    gain_from_levels,
    levels_from_chunks,
    overview_image,
)
from workers.tags import Tags

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


def write_all(
    folder: Path, waveform: Array, total_samples: int, gain: float = 1.0, loop_tail: Array | None = None
) -> dict[str, Path]:
    """The waveform in every format there is."""
    paths = {name: folder / f"track{form.suffix}" for name, form in FORMATS.items()}
    encode(
        pieces(waveform, 70_000),
        paths,
        sample_rate_hz=RATE_HZ,
        gain=gain,
        total_samples=total_samples,
        loop_tail=loop_tail,
    )
    return paths


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("total_samples", [1, 882, 44_100, 150_001])
def test_every_format_decodes_to_the_exact_length(tmp_path: Path, total_samples: int, channels: int) -> None:
    """A track's samples, or as much time at the rate the format takes, come back from every file."""
    paths = write_all(tmp_path, music(160_000, channels), total_samples)
    for name, path in paths.items():
        found, rate_hz = soundfile.read(path, always_2d=True)
        assert rate_hz == FORMATS[name].rate_hz(RATE_HZ)
        assert found.shape == (round(total_samples * rate_hz / RATE_HZ), channels), name


def test_every_format_keeps_the_sound(tmp_path: Path) -> None:
    """What is found is the track itself, in time and level; exact to dither where nothing is lost."""
    waveform = music(120_000, channels=2)
    paths = write_all(tmp_path, waveform, 120_000)
    for name in ("wav", "flac"):
        found, _ = soundfile.read(paths[name], dtype="float32")
        assert np.abs(found.T - waveform).max() <= 1.5 / 32_768
    for name in ("mp3", "ogg"):
        found, _ = soundfile.read(paths[name], dtype="float32")
        assert np.corrcoef(found.T.ravel(), waveform.ravel())[0, 1] > 0.97, name
    found, rate_hz = soundfile.read(paths["opus"], dtype="float32")
    tone = np.abs(np.fft.rfft(found[:, 0]))
    assert tone.argmax() * rate_hz / len(found) == pytest.approx(440, abs=0.5)


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


def drums(samples: int, seed: int = 0) -> Array:
    """A bass under short beats, (1, sample): a crest that asks for limiting at -14 LUFS."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(samples) / RATE_HZ
    beat = soxr.resample(rng.standard_normal(samples // 2), RATE_HZ // 2, RATE_HZ)
    beat = np.pad(beat, (0, samples - len(beat))) * np.exp(-(time_s % 0.32) * 60)
    return (beat + 0.25 * np.sin(2 * np.pi * 110 * time_s))[None].astype(np.float32)


def finished(folder: Path, waveform: Array, loudness_lufs: float) -> dict[str, Array]:
    """The waveform at this loudness in every format, decoded, (channel, sample)."""
    gain = gain_from_levels(levels_from_chunks(pieces(waveform, 50_000), RATE_HZ), loudness_lufs)
    return decoded(write_all(folder, waveform, waveform.shape[1], gain))


def decoded(paths: dict[str, Path]) -> dict[str, Array]:
    """What is in the files, (channel, sample)."""
    return {name: soundfile.read(path, dtype="float32", always_2d=True)[0].T for name, path in paths.items()}


def true_peak_dbtp(waveform: Array) -> float:
    """The peak at 8 times the rate."""
    return float(20 * np.log10(np.abs(soxr.resample(waveform.T, 1, 8, "VHQ")).max()))


def loudness_of(waveform: Array, rate_hz: int) -> float:
    """What the reference implementation says."""
    meter = pyloudnorm.Meter(rate_hz, filter_class="DeMan")
    return float(meter.integrated_loudness(waveform.T.astype(np.float64)))


@pytest.mark.parametrize("scale", [1.0, 1e-4, 3e5])
def test_every_format_has_the_loudness_that_was_asked_for(tmp_path: Path, scale: float) -> None:
    """Within 0.1 LU where next to nothing is limited, whatever the scale the sound comes in."""
    for name, sound in finished(tmp_path, music(220_000, 2) * np.float32(scale), LOUDNESS_LUFS).items():
        rate_hz = FORMATS[name].rate_hz(RATE_HZ)
        assert loudness_of(sound, rate_hz) == pytest.approx(LOUDNESS_LUFS, abs=0.1), name


def test_no_format_clips_a_track_that_is_much_too_loud(tmp_path: Path) -> None:
    """6 dB into the limiter: -1 dBTP where nothing is lost, under 0 where it is, no sample at the rail."""
    for name, sound in finished(tmp_path, drums(200_000), -9.0).items():
        is_exact = FORMATS[name].subtype == "PCM_16"
        assert true_peak_dbtp(sound) <= (CEILING_DBTP if is_exact else -0.1), name
        assert np.abs(sound).max() < 32_767 / 32_768


def test_one_gain_keeps_the_balance_of_a_track(tmp_path: Path) -> None:
    """Parts of a track keep their levels against each other to 0.1 LU where nothing is limited."""
    parts = [music(90_000, seed=seed) * np.float32(level) for seed, level in enumerate((0.5, 1, 0.2))]
    whole = finished(tmp_path, np.concatenate(parts, axis=1), -20.0)["wav"]
    shifts = [
        loudness_of(after, RATE_HZ) - loudness_of(before, RATE_HZ)
        for before, after in zip(parts, np.split(whole, 3, axis=1), strict=True)
    ]
    assert max(shifts) - min(shifts) < 0.1


def test_a_loop_runs_from_its_end_into_its_start(tmp_path: Path) -> None:
    """A beat just before the end holds the start down: the file is a turn in the middle of many, in every format."""
    waveform = np.roll(drums(2 * RATE_HZ) * 2, -1_100, axis=1)
    samples = waveform.shape[1]
    loop, track, many = (
        decoded(write_all(tmp_path, sound, sound.shape[1], loop_tail=tail))
        for sound, tail in (
            (waveform, levels_from_chunks([waveform], RATE_HZ).tail),
            (waveform, None),
            (np.tile(waveform, 3), None),
        )
    )
    for name in FORMATS:
        length = round(samples * FORMATS[name].rate_hz(RATE_HZ) / RATE_HZ)
        turn = many[name][:, length : 2 * length]
        assert loop[name].shape == turn.shape
        start = slice(length // 400)  # 5 ms
        share = {
            kind: np.vdot(sound[name][:, start], turn[:, start]) / np.vdot(turn[:, start], turn[:, start])
            for kind, sound in (("loop", loop), ("track", track))
        }
        assert share["track"] > 1.2, name
        assert share["loop"] == pytest.approx(1, abs=0.05), name
    assert np.abs(loop["wav"] - many["wav"][:, samples : 2 * samples]).max() < 3 / 32_768


def test_a_loop_is_neither_cut_nor_faded(tmp_path: Path) -> None:
    """It comes out whole; one sample too many or too few is an error, and no file appears."""
    waveform = music(44_100)
    levels = levels_from_chunks([waveform], RATE_HZ)
    paths = {"wav": tmp_path / "loop.wav"}
    for total_samples in (44_099, 44_101):
        with pytest.raises(ValueError, match="44100 samples, not 4"):
            encode(
                [waveform],
                paths,
                sample_rate_hz=RATE_HZ,
                gain=1.0,
                total_samples=total_samples,
                loop_tail=levels.tail,
            )
    assert list(tmp_path.iterdir()) == []
    encode([waveform], paths, sample_rate_hz=RATE_HZ, gain=1.0, total_samples=44_100, loop_tail=levels.tail)
    assert np.abs(soundfile.read(paths["wav"])[0] - waveform[0]).max() < 1.5 / 32_768


def test_levels_do_not_depend_on_the_chunks_and_can_leave_out_what_is_cut() -> None:
    """Equal to the last bit; the loud end that is cut off is not heard; the tail is the end that is left."""
    waveform = np.concatenate([music(100_000, 2), music(50_000, 2) * 5], axis=1)
    whole = levels_from_chunks([waveform], RATE_HZ)
    for length in (441, 33_333):
        cut = levels_from_chunks(pieces(waveform, length), RATE_HZ)
        assert (cut.loudness_lufs, cut.true_peak_dbtp) == (whole.loudness_lufs, whole.true_peak_dbtp)
    start = levels_from_chunks([waveform], RATE_HZ, 97_020)
    assert start.loudness_lufs is not None
    assert whole.loudness_lufs is not None
    assert start.loudness_lufs < whole.loudness_lufs - 5
    assert start.loudness_lufs == pytest.approx(loudness_of(waveform[:, :97_020], RATE_HZ), abs=0.01)
    assert (start.tail == waveform[:, 97_020 - start.tail.shape[1] : 97_020]).all()


def test_silence_keeps_its_gain_and_what_has_no_loudness_is_levelled_by_its_peak() -> None:
    """Gain 1 for silence and for nothing at all; DC and a short click come to where the limiter would begin."""
    for chunks in ([], [np.zeros((2, 0), np.float32)], [np.zeros((2, 100_000), np.float32)]):
        levels = levels_from_chunks(chunks, RATE_HZ)
        assert (levels.loudness_lufs, levels.true_peak_dbtp) == (None, -math.inf)
        assert gain_from_levels(levels, -16.0) == 1.0
    for waveform in (np.full((1, 50_000), 0.02, np.float32), music(10_000)):
        levels = levels_from_chunks([waveform], RATE_HZ)
        assert levels.loudness_lufs is None
        reached = levels_from_chunks([waveform * np.float32(gain_from_levels(levels, -16.0))], RATE_HZ)
        assert reached.true_peak_dbtp == pytest.approx(CEILING_DBTP - MARGIN_DB, abs=1e-4)


def test_a_gain_is_the_distance_to_the_loudness_asked_for() -> None:
    """6.02 LU more is twice the amplitude."""
    levels = Levels(-22.0206, -10.0, np.zeros((1, 1), np.float32))
    assert gain_from_levels(levels, -16.0) == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_no_number_is_refused(tmp_path: Path, value: float) -> None:
    """A broken waveform is an error in both passes, not a broken file."""
    broken = music(200_000)
    broken[0, 150_000] = value
    with pytest.raises(ValueError, match="finite"):
        levels_from_chunks(pieces(broken, 60_000), RATE_HZ)
    with pytest.raises(ValueError, match="finite"):
        write_all(tmp_path, broken, 200_000)
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_track(tmp_path: Path) -> None:
    """Both passes over eight times as much sound take the same memory, to a tenth."""
    chunk = drums(5 * RATE_HZ)

    def peak_bytes(count: int) -> int:
        tracemalloc.start()
        levels = levels_from_chunks((chunk * 1 for _ in range(count)), RATE_HZ)
        encode(
            (chunk * 1 for _ in range(count)),
            {"wav": tmp_path / "track.wav", "opus": tmp_path / "track.opus"},
            sample_rate_hz=RATE_HZ,
            gain=gain_from_levels(levels, -12.0),
            total_samples=count * chunk.shape[1],
        )
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(1)
    assert peak_bytes(24) < 1.1 * peak_bytes(3)


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
    """Where RIFF cannot count the bytes, the file says so in RF64, and goes without tags."""
    monkeypatch.setattr(encoding, "_MAX_WAV_BYTES", 10_000)
    path = tmp_path / "track.wav"
    encode([music(6_000)], {"wav": path}, sample_rate_hz=RATE_HZ, gain=1.0, total_samples=6_000, tags=Tags("long"))
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
