"""A folder of one's own audio: captions, slices, and one sentence for everything that cannot be learnt from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shared.spectrogram_params import SpectrogramParams
from tests.tiny_audio import FORMATS, write_tone
from workers.spectrogram import mel_amplitudes_from_image
from workers.training.own_audio import OwnAudioError, pictures_from_recording, recordings_from_folder, slice_starts

PARAMS = SpectrogramParams()
RATE_HZ = PARAMS.sample_rate_hz
SLICE = 512 * PARAMS.hop_length


def write_clicks(path: Path, seconds: float, every_s: float) -> Path:
    """A click at the start and then at equal distances."""
    samples = np.zeros(round(seconds * RATE_HZ))
    for start in np.arange(0, seconds, every_s):
        samples[round(start * RATE_HZ) :][:40] = 0.9
    soundfile.write(path, samples, RATE_HZ)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_usual_format_is_found_in_nested_folders(tmp_path: Path, suffix: str) -> None:
    """With the caption in the text file beside it, its white space made single."""
    (tmp_path / "live" / "1999").mkdir(parents=True)
    write_tone(tmp_path / "live" / "1999" / f"song.{suffix}", 6.0)
    (tmp_path / "live" / "1999" / "song.txt").write_text("\ufeffslow  tone\n", encoding="utf-8")
    (recording,) = recordings_from_folder(tmp_path)
    assert recording.caption == "slow tone"
    pictures = [*pictures_from_recording(recording, PARAMS)]
    assert [picture.size for picture in pictures if picture] == [(512, 512)]


def test_captions_come_from_beside_then_from_a_list_then_from_the_command(tmp_path: Path) -> None:
    """Lists name files relative to where they are, and may know tempos."""
    (tmp_path / "more").mkdir()
    for number, name in enumerate(("a.wav", "b.wav", "c.wav", "more/d.wav", "more/.e.wav")):
        write_tone(tmp_path / name, 5.2 + number / 10)
    (tmp_path / "a.txt").write_text("of a")
    (tmp_path / "captions.csv").write_text('file_name,text,tempo_bpm\na.wav,not this,90\nb.wav,"of b, loud",\n')
    line = {"file_name": "d.wav", "text": "of d", "tempo_bpm": 140}
    (tmp_path / "more" / "metadata.jsonl").write_text(json.dumps(line) + "\n\n")
    found = recordings_from_folder(tmp_path, "of all", 120.0)
    assert [(one.caption, one.tempo_bpm) for one in found] == [
        ("of a", 90.0),
        ("of b, loud", 120.0),
        ("of all", 120.0),
        ("of d", 140.0),
    ]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("captions.csv", "name,text\na.wav,x", "file_name,text"),
        ("captions.csv", "file_name,text\nz.wav,x", "no audio file in the folder: z.wav"),
        ("captions.csv", "file_name,text\na.wav,x\na.wav,y", "line 3: a.wav is listed twice"),
        ("captions.csv", "file_name,text,tempo_bpm\na.wav,x,fast", "30 to 300 beats a minute"),
        ("captions.csv", "file_name,text,tempo_bpm\na.wav,x,nan", "30 to 300 beats a minute"),
        ("metadata.csv", "file_name,text\n,x", "file_name must name an audio file"),
        ("metadata.jsonl", '{"file_name": "a.wav", "text": 3}', "text must be the caption"),
        ("metadata.jsonl", "{", "line 1: this is no JSON"),
        ("metadata.jsonl", '["a.wav"]', "must be an object"),
        ("a.txt", "  \n", "no caption for a.wav"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(tmp_path: Path, file: str, content: str, words: str) -> None:
    """Naming the file and what would be right."""
    write_tone(tmp_path / "a.wav", 5.2)
    (tmp_path / file).write_text(content)
    with pytest.raises(OwnAudioError) as error:
        recordings_from_folder(tmp_path)
    assert words in error.value.message


def test_a_caption_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """It might be anything."""
    write_tone(tmp_path / "a.wav", 5.2)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OwnAudioError, match=r"a\.txt cannot be read"):
        recordings_from_folder(tmp_path)


def test_files_without_a_caption_are_named_up_to_five(tmp_path: Path) -> None:
    """The rest is counted."""
    for number in range(7):
        (tmp_path / f"{number}.wav").write_bytes(b"%d" % number)
    with pytest.raises(OwnAudioError, match=r"no caption for 0\.wav, 1\.wav, 2\.wav, 3\.wav, 4\.wav and 2 more"):
        recordings_from_folder(tmp_path)


def test_a_folder_without_audio_or_with_the_same_twice_is_refused(tmp_path: Path) -> None:
    """And so is one that is not there."""
    with pytest.raises(OwnAudioError, match="is no folder"):
        recordings_from_folder(tmp_path / "nowhere", "x")
    with pytest.raises(OwnAudioError, match="holds no audio"):
        recordings_from_folder(tmp_path, "x")
    shutil.copyfile(write_tone(tmp_path / "a.wav", 1.0), tmp_path / "b.wav")
    with pytest.raises(OwnAudioError, match=r"a\.wav and b\.wav are the same audio"):
        recordings_from_folder(tmp_path, "x")


@pytest.mark.parametrize("content", [b"", b"no audio at all", None])
def test_a_file_that_cannot_be_decoded_is_named(tmp_path: Path, content: bytes | None) -> None:
    """Empty, another kind of file, or cut off."""
    path = write_tone(tmp_path / "a.wav", 6.0)
    path.write_bytes(path.read_bytes()[:9_000] if content is None else content)
    (recording,) = recordings_from_folder(tmp_path, "x")
    with pytest.raises(OwnAudioError, match=r"a\.wav: "):
        [*pictures_from_recording(recording, PARAMS)]


def test_a_file_shorter_than_a_slice_is_named_with_its_length(tmp_path: Path) -> None:
    """There is nothing to pad it with."""
    write_tone(tmp_path / "a.wav", 3.0)
    (recording,) = recordings_from_folder(tmp_path, "x")
    with pytest.raises(OwnAudioError, match=r"a\.wav is 3\.00 s long; it must be 5\.12 s at least"):
        [*pictures_from_recording(recording, PARAMS)]


def test_slices_begin_on_bars_or_every_half_frame() -> None:
    """None reaches past the end by more than a hop."""
    assert slice_starts(20 * RATE_HZ, PARAMS, None) == [round(k * 2.56 * RATE_HZ) for k in range(6)]
    assert slice_starts(12 * RATE_HZ, PARAMS, 120.0) == [0, 2 * RATE_HZ, 4 * RATE_HZ, 6 * RATE_HZ]
    assert slice_starts(SLICE, PARAMS, None) == slice_starts(SLICE - 400, PARAMS, 93.75) == [0]
    assert slice_starts(SLICE - 500, PARAMS, 93.75) == []
    assert all(start + SLICE <= 9 * RATE_HZ + 441 for start in slice_starts(9 * RATE_HZ, PARAMS, 171.3))


def test_a_slice_on_the_bar_begins_with_its_first_beat(tmp_path: Path) -> None:
    """Loud columns stand where clicks are, in every slice alike; the loudest amplitude is black."""
    write_clicks(tmp_path / "a.wav", 12.0, every_s=60 / 100)
    (recording,) = recordings_from_folder(tmp_path, "x", 100.0)
    pictures = [picture for picture in pictures_from_recording(recording, PARAMS) if picture]
    assert len(pictures) == 3
    for picture in pictures:
        assert picture.getextrema()[0][0] == 0
        loudness = mel_amplitudes_from_image(picture, PARAMS)[0].sum(axis=0)
        loud = np.flatnonzero(loudness > loudness.max() / 2)
        # A click is heard for the length of a window around it.
        assert {round(column / 60) for column in loud} == set(range(9))
        assert max(abs(column - 60 * round(column / 60)) for column in loud) <= 5


def test_silent_slices_give_no_picture(tmp_path: Path) -> None:
    """They are counted by who asks."""
    samples = 0.3 * np.sin(np.arange(16 * RATE_HZ) / 20)
    samples[: 6 * RATE_HZ] = 0
    soundfile.write(tmp_path / "a.wav", samples, RATE_HZ)
    (recording,) = recordings_from_folder(tmp_path, "x")
    assert [picture is None for picture in pictures_from_recording(recording, PARAMS)] == [True, *[False] * 4]
