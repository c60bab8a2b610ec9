"""A user's own audio as training material: a folder of recordings with captions, cut into slices of one frame each.

Owns what such a folder may hold, the sentence for everything that is refused, and where slices begin. Leaves out
decoding (`workers.audio_files`), the slices' latents (`workers.training.material`) and what is learnt from them.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from shared.audio_source import open_audio
from shared.errors import RiffarmError
from shared.spectrogram_params import FRAME_COLUMNS, SpectrogramParams
from workers.audio_files import waveforms_from_source
from workers.spectrogram import Array, image_from_mel_amplitudes, mel_amplitudes_from_waveform

SUFFIXES: Final = frozenset({".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au", ".caf", ".w64"})
CAPTION_FILES: Final = ("captions.csv", "metadata.csv", "metadata.jsonl")
"""Lists of captions, in any folder; their file names are relative to it."""
MIN_TEMPO_BPM: Final = 30.0
MAX_TEMPO_BPM: Final = 300.0
BAR_BEATS: Final = 4
SILENCE: Final = 10.0**-3
"""Root mean square, -60 dBFS, below which a slice teaches nothing."""
_NAMED: Final = 5
"""Files that one error names."""


class OwnAudioError(RiffarmError):
    """The folder's audio cannot be learnt from."""


@dataclass(frozen=True, slots=True)
class Recording:
    """An audio file and what is known of it.

    tempo_bpm: beats in a minute if its first sample begins a bar of four beats; None when that is not known.
    sha256: of the file.
    """

    path: Path
    caption: str
    tempo_bpm: float | None
    sha256: str


@dataclass(frozen=True, slots=True)
class _Note:
    """What a list says of a file; None where it says nothing."""

    caption: str | None
    tempo_bpm: float | None


def recordings_from_folder(folder: Path, caption: str | None = None, tempo_bpm: float | None = None) -> list[Recording]:
    """All audio in a folder and the folders in it, in the order of their names.

    The caption of `song.wav` is `song.txt` beside it, else its `text` in a list (CAPTION_FILES: `file_name`, `text` and
    if known `tempo_bpm`), else `caption`; its tempo is the list's, else `tempo_bpm`. Raises OwnAudioError naming the
    files when there is no audio, a caption is missing, a list does not fit the folder or two files are the same.
    """
    if not folder.is_dir():
        raise OwnAudioError(f"{folder} is no folder; it must be one with audio files in it")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    if not paths:
        raise OwnAudioError(f"{folder} holds no audio; files may end in {', '.join(sorted(SUFFIXES))}")
    notes = _notes(folder)
    if strange := sorted(set(notes) - set(paths)):
        raise OwnAudioError(f"a list of captions names what is no audio file in the folder: {_named(strange, folder)}")
    captions = {path: _caption(path, notes, caption) for path in paths}
    if missing := [path for path in paths if not captions[path]]:
        lists = ", ".join(CAPTION_FILES)
        raise OwnAudioError(
            f"no caption for {_named(missing, folder)}; write NAME.txt beside it or a list ({lists}), or give --caption"
        )
    tempos = {path: notes[path].tempo_bpm if path in notes else None for path in paths}
    return _unlike(
        [Recording(path, captions[path], tempos[path] or tempo_bpm, _sha256(path)) for path in paths], folder
    )


def _caption(path: Path, notes: dict[Path, _Note], fallback: str | None) -> str:
    beside = path.with_suffix(".txt")
    if beside.is_file():
        return " ".join(_text(beside).split())
    noted = notes[path].caption if path in notes else None
    return " ".join((noted or fallback or "").split())


def _text(path: Path) -> str:
    try:
        # Some editors begin a file with a mark of its encoding.
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise OwnAudioError(f"{path} cannot be read: it must be text in UTF-8") from error


def _notes(folder: Path) -> dict[Path, _Note]:
    notes: dict[Path, _Note] = {}
    for path in sorted(path for name in CAPTION_FILES for path in folder.rglob(name)):
        for number, row in _rows(path):
            where = f"{path}, line {number}"
            name = row.get("file_name")
            if not isinstance(name, str) or not name:
                raise OwnAudioError(f"{where}: file_name must name an audio file")
            file = path.parent / name
            if file in notes:
                raise OwnAudioError(f"{where}: {name} is listed twice")
            text = row.get("text")
            if text is not None and not isinstance(text, str):
                raise OwnAudioError(f"{where}: text must be the caption, in quotes")
            notes[file] = _Note(text, _tempo(where, row.get("tempo_bpm")))
    return notes


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and what they say by field."""
    lines = _text(path).splitlines()
    if path.suffix == ".csv":
        reader = csv.DictReader(lines)
        if not {"file_name", "text"} <= set(reader.fieldnames or ()):
            raise OwnAudioError(f"{path} must begin with a line that names its columns: file_name,text")
        for row in reader:
            yield reader.line_num, row
        return
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise OwnAudioError(f"{path}, line {number}: this is no JSON") from error
            if not isinstance(row, dict):
                raise OwnAudioError(f'{path}, line {number} must be an object: {{"file_name": …, "text": …}}')
            yield number, row


def _tempo(where: str, value: object) -> float | None:
    if value in (None, ""):
        return None
    try:
        tempo_bpm = float(str(value))
    except ValueError:
        tempo_bpm = 0.0
    if not MIN_TEMPO_BPM <= tempo_bpm <= MAX_TEMPO_BPM:
        right = f"{MIN_TEMPO_BPM:g} to {MAX_TEMPO_BPM:g} beats a minute"
        raise OwnAudioError(f"{where}: tempo_bpm is {value!r}; it must be {right}, or left out")
    return tempo_bpm


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise OwnAudioError(f"{path} cannot be read: {error.strerror}") from error


def _unlike(recordings: list[Recording], folder: Path) -> list[Recording]:
    first: dict[str, Path] = {}
    for recording in recordings:
        twin = first.setdefault(recording.sha256, recording.path)
        if twin != recording.path:
            raise OwnAudioError(f"{_named([twin], folder)} and {_named([recording.path], folder)} are the same audio")
    return recordings


def _named(paths: Iterable[Path], folder: Path) -> str:
    names = [str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path) for path in paths]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def pictures_from_recording(recording: Recording, params: SpectrogramParams) -> Iterator[Image.Image | None]:
    """The picture of each slice, mono and with its loudest amplitude black, as a model's own are; None for silence.

    A slice is FRAME_COLUMNS columns long. Raises OwnAudioError naming the file when it cannot be decoded or is shorter
    than a slice.
    """
    waveform = _waveform(recording.path, params)
    length = params.samples_from_columns(FRAME_COLUMNS)
    starts = slice_starts(waveform.shape[-1], params, recording.tempo_bpm)
    if not starts:
        long_s = waveform.shape[-1] / params.sample_rate_hz
        raise OwnAudioError(f"{recording.path} is {long_s:.2f} s long; it must be {params.frame_s:g} s at least")
    # Columns at the edges hear what comes before and after.
    margin = -(-params.win_length // params.hop_length)
    edge = params.samples_from_columns(margin)
    padded = np.pad(waveform, ((0, 0), (edge, edge + params.hop_length)))
    for start in starts:
        heard = padded[:, start : start + length + 2 * edge]
        if np.sqrt(np.mean(heard[:, edge:-edge] ** 2)) < SILENCE:
            yield None
            continue
        mel = mel_amplitudes_from_waveform(heard, params)[..., margin : margin + FRAME_COLUMNS]
        yield image_from_mel_amplitudes(mel, params)


def slice_starts(samples: int, params: SpectrogramParams, tempo_bpm: float | None) -> list[int]:
    """Samples at which slices begin: at each bar of four beats, or without a tempo every half frame.

    A last slice may lack up to one hop.
    """
    length = params.samples_from_columns(FRAME_COLUMNS)
    step = length / 2 if tempo_bpm is None else BAR_BEATS * 60 / tempo_bpm * params.sample_rate_hz
    count = int((samples + params.hop_length - length) // step) + 1 if samples + params.hop_length >= length else 0
    return [round(index * step) for index in range(count)]


def _waveform(path: Path, params: SpectrogramParams) -> Array:
    """All of a file, shape (1, sample)."""
    try:
        with open_audio(path) as source:
            blocks = waveforms_from_source(source, params.sample_rate_hz, is_stereo=False, warn=lambda text: None)
            return np.concatenate([*blocks], axis=1)
    except ValueError as error:
        raise OwnAudioError(f"{path}: {error}") from error
    except OSError as error:
        raise OwnAudioError(f"{path} cannot be read: {error.strerror}") from error
