"""Seed images of one's own: tempos that fit, the notation, slices of recordings, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from shared.spectrogram_params import FRAME_COLUMNS
from workers.seed_audio import SliceWishes, slice_from_audio
from workers.seed_beat import onsets_from_waveform, tempo_from_onsets
from workers.seed_grid import BeatGrid, Meter, SeedImageError, fitting_grid
from workers.seed_images import GRID
from workers.seed_notation import score_from_notation
from workers.spectrogram import mel_amplitudes_from_image

COMMON = Meter(4, 4)
TWO = BeatGrid(COMMON, 2)
RATE_HZ = GRID.sample_rate_hz


@pytest.mark.parametrize(
    ("meter", "tempo_bpm", "beats", "made_bpm"),
    [("4/4", 94, 8, 93.75), ("3/4", 100, 9, 105.47), ("5/4", 120, 10, 117.19), ("7/8", 250, 21, 246.09)],
)
def test_the_tempo_becomes_the_nearest_of_whole_measures(
    meter: str, tempo_bpm: float, beats: int, made_bpm: float
) -> None:
    """And says so."""
    grid = fitting_grid(Meter.from_text(meter), tempo_bpm, None)
    assert (grid.beats, round(grid.tempo_bpm, 2)) == (beats, made_bpm)
    assert grid.told(tempo_bpm).startswith(f"{tempo_bpm} bpm asked, {made_bpm} bpm made: {beats} beats")


@pytest.mark.parametrize(
    ("meter", "tempo_bpm", "measures", "words"),
    [
        ("4/4", 120.0, None, r"--tempo 120 .* 93\.75 \(--measures 2\) and 140\.62 \(--measures 3\), or 117\.19 in"),
        ("4/4", float("nan"), None, "--tempo nan is no tempo; it must be a number of 20 to 400"),
        ("4/4", 0.0, None, "--tempo 0 is no tempo"),
        ("4/4", None, None, "neither --tempo nor --measures"),
        ("4/4", None, 0, "--measures 0 of 4/4 do not fit"),
        ("4/4", 94.0, 8, "--measures 8 makes 375.00 bpm of --tempo 94, .* nearest is 2"),
        ("4/5", 94.0, None, "--meter '4/5' is no meter"),
        ("0/4", 94.0, None, "--meter '0/4' is no meter"),
    ],
)
def test_what_fits_no_frame_is_refused(meter: str, tempo_bpm: float | None, measures: int | None, words: str) -> None:
    """With the option and what would be right."""
    with pytest.raises(SeedImageError, match=words):
        fitting_grid(Meter.from_text(meter), tempo_bpm, measures)


def test_each_measure_is_divided_evenly_and_repeated() -> None:
    """Sixteen steps are sixteenths, three are triplets of the measure; one measure fills two."""
    _, strokes = score_from_notation("kick:X...x...x...x... snare:.xo", TWO)
    kicks = [(one.start, one.level) for one in strokes if one.drum == "kick"]
    assert kicks == [(beat, 0.8 if beat % 4 else 1.0) for beat in range(8)]
    snares = [one.start for one in strokes if one.drum == "snare"]
    assert snares == pytest.approx([4 / 3, 8 / 3, 4 + 4 / 3, 4 + 8 / 3])


def test_notes_hold_and_chords_spell_their_tones() -> None:
    """A hold makes the note before it longer; a voice follows the slash."""
    notes, _ = score_from_notation("bass/sub-bass:C2 - . G1 | F#1 chords/organ:Am7 | Bb", TWO)
    bass = [(one.start, one.pitch, one.voice) for one in notes if one.is_bass]
    assert bass == [(0, 36, "sub bass"), (3, 31, "sub bass"), (4, 30, "sub bass")]
    assert [round(one.length, 2) for one in notes if one.is_bass] == [1.95, 0.95, 3.8]
    chords = [sorted(one.pitch % 12 for one in notes if one.voice == "organ" and one.start == at) for at in (0, 4)]
    assert chords == [[0, 4, 7, 9], [2, 5, 10]]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("kick:x..y", "kick has 'y' at character 9"),
        ("kick:x... snair:x", "'snair' at character 11 is no part; there are bass, lead, chords, kick"),
        ("x...", "'x...' at character 1 belongs to no part"),
        ("", "it is empty"),
        ("kick:", "kick at character 1 has no steps"),
        ("kick:....", "it is silent"),
        ("kick:x|x|x", "kick has 3 measures, and only 2 fit"),
        ("kick:x||x", "kick has an empty measure at character 8"),
        ("bass:H2", "bass has 'H2' at character 6"),
        ("bass:C9", "bass has 'C9' at character 6"),
        ("chords:Am Fx", "chords has 'Fx' at character 11"),
        ("lead/kazoo:C4", "lead/kazoo at character 1 names no voice"),
        ("hat:" + 65 * "x", "hat has a measure of 65 steps"),
    ],
)
def test_a_wrong_pattern_is_refused_with_the_place(pattern: str, words: str) -> None:
    """Counted from 1."""
    with pytest.raises(SeedImageError) as raised:
        score_from_notation(pattern, TWO)
    assert words in raised.value.message
    assert raised.value.message.startswith("--pattern: ")


def clicks(tempo_bpm: float, seconds: float, first_s: float) -> NDArray[np.float32]:
    """A low thump at the start of each measure of four, a tick on the other beats, over faint noise."""
    rng = np.random.default_rng(3)
    sound = 1e-4 * rng.standard_normal(round(seconds * RATE_HZ))
    time_s = np.arange(round(0.08 * RATE_HZ)) / RATE_HZ
    thump = 0.8 * np.sin(2 * np.pi * 60 * time_s) * np.exp(-40 * time_s)
    tick = 0.3 * rng.standard_normal(len(time_s)) * np.exp(-90 * time_s)
    for beat in range(int((seconds - first_s - 0.1) * tempo_bpm / 60)):
        at = round((first_s + beat * 60 / tempo_bpm) * RATE_HZ)
        sound[at : at + len(time_s)] += tick + (0 if beat % 4 else thump)
    return sound.astype(np.float32)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds at 98 beats per minute, the first measure at 0.5 s."""
    path = tmp_path_factory.mktemp("recording") / "song.wav"
    soundfile.write(path, clicks(98, 10, 0.5), RATE_HZ)
    return path


def test_the_beat_is_found_and_the_slice_lies_on_the_grid(recording: Path) -> None:
    """Tempo to half a per cent; beats within 20 ms of theirs in the picture; the end runs into the start."""
    cut = slice_from_audio(recording, SliceWishes())
    assert cut.tempo.bpm == pytest.approx(98, rel=5e-3)
    assert cut.tempo.confidence > 0.5
    assert cut.start_s == pytest.approx(0.5, abs=0.02)
    assert (cut.grid.beats, cut.image.size) == (8, (FRAME_COLUMNS, GRID.mel_bins))
    mel = mel_amplitudes_from_image(cut.image, GRID)[0]
    loudness = mel.sum(axis=0)
    # A column's window is centred on it: a click is loudest in the columns around its start.
    for beat in range(8):
        nearby = (np.arange(-12, 13) + round(beat * FRAME_COLUMNS / 8)) % FRAME_COLUMNS
        middle = np.sum(np.arange(-12, 13) * loudness[nearby]) / loudness[nearby].sum()
        assert abs(middle) <= 2.5
    inside = np.abs(np.diff(mel**GRID.power, axis=1)).mean(axis=0)
    assert np.abs(mel[:, 0] ** GRID.power - mel[:, -1] ** GRID.power).mean() <= 1.05 * inside.max()


def test_a_downbeat_is_taken_as_it_is(recording: Path) -> None:
    """Exactly there, and nothing is looked for."""
    cut = slice_from_audio(recording, SliceWishes(tempo_bpm=98, downbeat_s=1.111))
    assert cut.start_s == 1.111


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        (SliceWishes(tempo_bpm=98, start_s=99), "--start 99 lies beyond the end of .*, which lasts 10.00 s"),
        (SliceWishes(tempo_bpm=98, downbeat_s=-1), "--downbeat -1 is no place"),
        (SliceWishes(tempo_bpm=98, start_s=float("nan")), "--start nan is no place"),
        (SliceWishes(tempo_bpm=98, start_s=7), "is too short: the measures take 4.90 s"),
        (SliceWishes(tempo_bpm=120), "--tempo 120 does not fill"),
    ],
)
def test_a_slice_that_is_not_there_is_refused(recording: Path, wishes: SliceWishes, words: str) -> None:
    """With the option and what would be right."""
    with pytest.raises(SeedImageError, match=words):
        slice_from_audio(recording, wishes)


def test_sound_without_a_beat_is_refused(tmp_path: Path) -> None:
    """Silence, noise and what is no sound at all."""
    files = {name: tmp_path / f"{name}.wav" for name in ("silence", "noise", "words")}
    soundfile.write(files["silence"], np.zeros(8 * RATE_HZ), RATE_HZ)
    soundfile.write(files["noise"], 0.1 * np.random.default_rng(1).standard_normal(8 * RATE_HZ), RATE_HZ)
    files["words"].write_text("no sound")
    for name, sentence in (("silence", "is silent"), ("noise", "has no steady beat"), ("words", "no audio file")):
        with pytest.raises(SeedImageError, match=sentence):
            slice_from_audio(files[name], SliceWishes())
    assert tempo_from_onsets(onsets_from_waveform(np.zeros(RATE_HZ, np.float32))).confidence == 0
