"""File to file without a farm: a spectrogram picture to audio, and audio to a spectrogram picture.

Owns which way a pair of file names asks for, and errors that name the file. Leaves out the signal path
(`workers.spectrogram`, `workers.phase`) and encoding (`workers.mastering`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import soundfile
import soxr
from PIL import Image

from shared.errors import RiffarmError
from shared.spectrogram_params import SpectrogramParams
from workers import mastering
from workers.phase import waveform_from_mel_amplitudes
from workers.spectrogram import image_from_mel_amplitudes, mel_amplitudes_from_image, mel_amplitudes_from_waveform

PICTURES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_MAX_AUDIO_S: Final = 1_800.0


class ConvertError(RiffarmError):
    """The file cannot be converted."""


def convert(source: Path, target: Path) -> None:
    """Convert picture → audio or audio → picture, as the suffixes say. Raises ConvertError with one sentence."""
    if not source.is_file():
        raise ConvertError(f"there is no file {source}")
    is_picture = source.suffix.lower() in PICTURES
    if not is_picture and target.suffix.lower() not in PICTURES:
        raise ConvertError(f"{source.name} is audio, so {target.name} must be a picture: {_listed(PICTURES)}")
    if not target.parent.is_dir():
        raise ConvertError(f"there is no folder {target.parent} to write to")
    try:
        (_audio_from_picture if is_picture else _picture_from_audio)(source, target)
    except OSError as error:
        raise ConvertError(f"{target} cannot be written: {error}") from error


def _audio_from_picture(source: Path, target: Path) -> None:
    by_suffix = {audio.suffix: name for name, audio in mastering.FORMATS.items()}
    name = by_suffix.get(target.suffix.lower())
    if name is None:
        raise ConvertError(f"{source.name} is a picture, so {target.name} must be audio: {_listed(by_suffix)}")
    try:
        with Image.open(source) as image:
            params = _params_of(image)
            on_grid = image.convert("RGB").resize((image.width, params.mel_bins), Image.Resampling.LANCZOS)
            mel = mel_amplitudes_from_image(on_grid, params)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConvertError(f"{source.name} cannot be read as a picture: {error}") from error
    waveform, _ = waveform_from_mel_amplitudes(mel, params)
    gain = mastering.gain_from_peaks([mastering.peak_of(waveform)])
    mastering.encode(
        [waveform],
        {name: target},
        sample_rate_hz=params.sample_rate_hz,
        gain=gain,
        total_samples=waveform.shape[-1],
    )


def _params_of(image: Image.Image) -> SpectrogramParams:
    """The grid a picture names in its EXIF, else the default."""
    try:
        return SpectrogramParams.params_from_exif(dict(image.getexif()))
    except (KeyError, TypeError, ValueError):
        return SpectrogramParams()


def _picture_from_audio(source: Path, target: Path) -> None:
    params = SpectrogramParams()
    try:
        with soundfile.SoundFile(source) as file:
            if file.frames / file.samplerate > _MAX_AUDIO_S:
                raise ConvertError(f"{source.name} is longer than {_MAX_AUDIO_S / 60:g} minutes; cut it first")
            samples = file.read(dtype="float32", always_2d=True)
            rate_hz = file.samplerate
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise ConvertError(f"{source.name} cannot be read as audio: {error}") from error
    mono = soxr.resample(samples.mean(axis=1), rate_hz, params.sample_rate_hz)
    if not len(mono):
        raise ConvertError(f"{source.name} holds no sound")
    mel = mel_amplitudes_from_waveform(np.nan_to_num(mono)[np.newaxis], params)
    image = image_from_mel_amplitudes(mel, params)
    # It gets its name when it is whole.
    partial = target.with_name(f".{target.stem}.part{target.suffix}")
    try:
        image.save(partial, exif=image.getexif())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _listed(suffixes: frozenset[str] | dict[str, str]) -> str:
    return ", ".join(sorted(suffixes))
