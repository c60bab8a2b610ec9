"""File to file: both ways, any picture, any audio, and one sentence for what cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from shared.audio_source import open_audio
from shared.spectrogram_params import SpectrogramParams
from tests.conversions import OG_BEAT, QUICK, converted
from tests.tiny_audio import tone, write_tone
from workers import convert as convert_module
from workers.cli import commands
from workers.convert import (
    Wishes,
    convert,
    image_from_audio,
    picture_from_file,
    waveforms_from_image,
)
from workers.spectrogram import grid_from_image

RATE_HZ = 44_100


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More threads than cores only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_picture_becomes_audio_of_its_exact_length_and_back(tmp_path: Path) -> None:
    """512 columns are 5.12 s; the way back gives a picture close to the first."""
    assert converted(OG_BEAT, tmp_path / "beat.flac", Wishes()) == []
    samples, rate = soundfile.read(tmp_path / "beat.flac")
    assert (len(samples), rate) == (512 * 441, RATE_HZ)
    assert 0.3 < np.abs(samples).max() < 0.95
    assert converted(tmp_path / "beat.flac", tmp_path / "again.png") == []
    first, again = (np.asarray(Image.open(path).convert("L"), float) for path in (OG_BEAT, tmp_path / "again.png"))
    assert again.shape == first.shape
    assert np.abs(again - first).mean() < 5


def test_the_same_picture_gives_the_same_bytes(tmp_path: Path) -> None:
    """File by file, in a format with tags and a cover."""
    for name in ("a.mp3", "b.mp3"):
        converted(OG_BEAT, tmp_path / name)
    assert (tmp_path / "a.mp3").read_bytes() == (tmp_path / "b.mp3").read_bytes()


def test_louder_is_louder(tmp_path: Path) -> None:
    """By as many dB as are asked for."""
    converted(OG_BEAT, tmp_path / "loud.wav", Wishes("fast", loudness_lufs=-20))
    converted(OG_BEAT, tmp_path / "soft.wav", Wishes("fast", loudness_lufs=-30))
    loud, soft = (np.std(soundfile.read(tmp_path / name)[0]) for name in ("loud.wav", "soft.wav"))
    assert 20 * np.log10(loud / soft) == pytest.approx(10, abs=0.05)


def test_audio_is_drawn_on_the_grid_that_is_asked_for(tmp_path: Path) -> None:
    """Stereo in green and blue, 20 to 20,000 Hz, in every format of picture, with its scale in the EXIF."""
    left, right = tone(1.0, RATE_HZ)[:, 0], np.zeros(RATE_HZ)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), RATE_HZ)
    for suffix in (".png", ".jpg", ".webp"):
        target = tmp_path / f"a{suffix}"
        assert converted(tmp_path / "a.wav", target, Wishes(is_stereo=True, f_min_hz=20, f_max_hz=20_000)) == []
        image, grid = picture_from_file(target)
        assert grid.params == SpectrogramParams(is_stereo=True, f_min_hz=20.0, f_max_hz=20_000.0)
        assert grid.max_value > 100
        pixels = np.asarray(image)
        assert pixels[..., 1].min() < 10
        assert pixels[..., 0].max() < 10
        assert pixels[..., 2].min() > 245


def test_a_stereo_picture_sounds_on_its_sides(tmp_path: Path) -> None:
    """What only green holds is heard on the left alone."""
    image, grid = picture_from_file(OG_BEAT)
    white = Image.new("L", image.size, "white")
    Image.merge("RGB", [Image.new("L", image.size), image.getchannel("G"), white]).save(tmp_path / "a.png")
    (warning,) = converted(tmp_path / "a.png", tmp_path / "a.flac")
    assert "read as stereo" in warning
    left, right = soundfile.read(tmp_path / "a.flac")[0].T
    assert np.abs(left).max() > 0.3
    assert np.abs(right).max() < 1e-3
    assert not grid.params.is_stereo


def test_options_come_before_the_pictures_own_grid(tmp_path: Path) -> None:
    """The highest line of a hand-drawn picture is as high as is asked for."""
    pixels = np.full((512, 128), 255, np.uint8)
    pixels[1] = 0
    Image.fromarray(pixels).save(tmp_path / "line.png")
    for f_max_hz in (2_000.0, 16_000.0):
        converted(tmp_path / "line.png", tmp_path / "line.wav", Wishes("fast", f_max_hz=f_max_hz))
        samples, _ = soundfile.read(tmp_path / "line.wav")
        spectrum = np.abs(np.fft.rfft(samples))
        assert spectrum.argmax() * RATE_HZ / len(samples) == pytest.approx(f_max_hz, rel=0.03)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(notes=st.lists(st.tuples(st.floats(110.0, 2_000.0), st.floats(0.0, 0.1)), min_size=2, max_size=4))
def test_notes_keep_their_pitch_and_their_time(
    tmp_path_factory: pytest.TempPathFactory, notes: list[tuple[float, float]]
) -> None:
    """audio → picture → audio: within 5 cents, and within one hop of 10 ms."""
    folder = tmp_path_factory.mktemp("notes")
    starts_s = [0.3 + 0.6 * index + late for index, (_, late) in enumerate(notes)]
    time_s = np.arange(round((starts_s[-1] + 0.8) * RATE_HZ)) / RATE_HZ
    before = sum(plucked(time_s - start_s, hz) for start_s, (hz, _) in zip(starts_s, notes, strict=True))
    soundfile.write(folder / "a.wav", before, RATE_HZ)
    converted(folder / "a.wav", folder / "a.png")
    converted(folder / "a.png", folder / "b.wav", Wishes(quality="standard"))
    after, _ = soundfile.read(folder / "b.wav")
    for start_s, (hz, _) in zip(starts_s, notes, strict=True):
        assert 1_200 * abs(np.log2(pitch_hz(after, start_s, hz) / pitch_hz(before, start_s, hz))) < 5
        assert abs(onset_s(after, start_s) - onset_s(before, start_s)) < 0.01


def plucked(time_s: np.ndarray, hz: float) -> np.ndarray:
    """A note of three partials that starts at 0 within 3 ms and dies away."""
    envelope = np.exp(-6 * np.maximum(time_s, 0)) * np.clip(time_s / 0.003, 0, 1)
    return 0.15 * envelope * sum(np.sin(2 * np.pi * hz * part * time_s) / part for part in (1, 2, 3))


def pitch_hz(samples: np.ndarray, start_s: float, near_hz: float) -> float:
    """The strongest frequency near the expected one, in 0.4 s after a note's start."""
    heard = samples[round((start_s + 0.03) * RATE_HZ) : round((start_s + 0.43) * RATE_HZ)]
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard)), 2**19))
    low, high = (round(near_hz * factor * 2**19 / RATE_HZ) for factor in (0.94, 1.06))
    return float((low + spectrum[low:high].argmax()) * RATE_HZ / 2**19)


def onset_s(samples: np.ndarray, near_s: float) -> float:
    """Where the power of 10 ms rises fastest, within 60 ms of the expected time."""
    window = np.hanning(442)
    power = np.convolve(samples**2, window, "same")
    first = round((near_s - 0.06) * RATE_HZ)
    return float(first + np.diff(power[first : first + round(0.12 * RATE_HZ)]).argmax()) / RATE_HZ


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_any_kind_of_picture_is_taken(tmp_path: Path, mode: str) -> None:
    """Palette, grey, transparent or odd-sized pictures are put on the grid, with a word about their height."""
    noise = Image.effect_noise((40, 300), 80)
    if mode in ("I;16", "F"):
        picture = Image.fromarray(np.asarray(noise).astype({"F": np.float32}.get(mode, np.uint16)))
    else:
        picture = noise.convert("RGB").convert(mode)
    path = tmp_path / f"odd{({'CMYK': '.jpg', 'F': '.tiff'}).get(mode, '.png')}"
    picture.save(path)
    (warning,) = converted(path, tmp_path / "odd.wav")
    assert "300 rows" in warning
    assert soundfile.info(tmp_path / "odd.wav").frames == 40 * 441


@pytest.mark.parametrize("columns", [6_144, 6_145, 6_159, 6_160, 6_161, 12_300, 40_000])
def test_a_wide_picture_is_cut_into_chunks_that_fit(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Every column sounds once, no chunk is shorter than the look-ahead before it, and progress only grows."""
    seen: list[tuple[int, bool]] = []

    def counted(mel, params, *, quality, state, is_last, on_block):  # type: ignore[no-untyped-def]
        own = mel.shape[-1] - (0 if is_last else 16)
        seen.append((own, is_last))
        on_block(1.0)
        return np.zeros((1, own), np.float32), None

    monkeypatch.setattr(convert_module, "waveform_from_mel_amplitudes", counted)
    image = Image.new("L", (columns, 8), "white")
    fractions: list[float] = []
    lengths = [w.shape[1] for w in waveforms_from_image(image, grid_from_image(image), on_block=fractions.append)]
    assert sum(lengths) == columns
    assert min(lengths) >= 16
    assert max(lengths) <= 6_160
    assert [is_last for _, is_last in seen] == [False] * (len(seen) - 1) + [True]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_a_chunked_picture_sounds_as_one(tmp_path: Path) -> None:
    """A picture of more than one chunk gives the sound it would give at once."""
    wide = Image.new("RGB", (512 * 13, 512))
    for index in range(13):
        wide.paste(Image.open(OG_BEAT).convert("RGB"), (512 * index, 0))
    grid = grid_from_image(wide)
    chunks = list(waveforms_from_image(wide, grid, quality="fast"))
    assert len(chunks) == 2
    waveform = np.concatenate(chunks, axis=1)
    assert waveform.shape == (1, 512 * 13 * 441)
    # The last joint lies where two chunks meet; the one before it does not.
    last, before = (waveform[0, 512 * 441 * index - 4_410 :][:8_820] for index in (12, 11))
    assert np.std(last) == pytest.approx(np.std(before), rel=0.02)


def test_an_exception_from_a_listener_ends_the_work_and_leaves_nothing(tmp_path: Path) -> None:
    """As when a job is cancelled."""

    class StopError(Exception):
        pass

    def stop(fraction: float) -> None:
        raise StopError

    write_tone(tmp_path / "a.wav")
    before = sorted(tmp_path.iterdir())
    for source, target in ((OG_BEAT, "b.flac"), (tmp_path / "a.wav", "b.png")):
        with pytest.raises(StopError):
            convert(source, tmp_path / target, QUICK, warn=lambda text: None, on_block=stop)
    assert sorted(tmp_path.iterdir()) == before


def test_progress_of_audio_is_told_by_its_length(tmp_path: Path) -> None:
    """From the first block to 1."""
    fractions: list[float] = []
    with open_audio(write_tone(tmp_path / "a.flac", 6.0)) as source:
        image_from_audio(source, SpectrogramParams(), warn=lambda text: None, on_block=fractions.append)
    assert len(fractions) > 3
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)


def test_the_command_prints_the_file_and_warns_apart(tmp_path: Path) -> None:
    """The result alone on standard output; a wrong option is a usage error."""
    Image.new("L", (20, 300), "white").save(tmp_path / "a.png")
    done = CliRunner().invoke(
        commands, ["convert", str(tmp_path / "a.png"), str(tmp_path / "a.wav"), "--quality", "fast"]
    )
    assert (done.exit_code, done.stdout) == (0, f"{tmp_path / 'a.wav'}\n")
    assert "Warning: The picture is 300 rows high" in done.stderr
    wrong = CliRunner().invoke(commands, ["convert", "a.png", "a.wav", "--quality", "best"])
    assert wrong.exit_code == 2
