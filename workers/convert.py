"""File to file without a farm: a spectrogram picture to audio, and audio to a spectrogram picture.

Owns both ways as streams from an open source, which way a target's name asks for, and errors that name the file.
Leaves out the signal path (`workers.spectrogram`, `workers.phase`), what audio is taken (`shared.audio_source`) and
encoding (`workers.mastering`). Memory does not grow with the sound, but for the picture itself.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import soundfile
from PIL import Image, UnidentifiedImageError

from shared.audio_source import MAX_AUDIO_S, AudioSource, NotAudioError, open_audio
from shared.contracts import LOUDNESS_LUFS, Quality
from shared.errors import RiffarmError
from shared.spectrogram_params import FRAME_COLUMNS, SpectrogramParams
from workers import mastering
from workers.audio_files import waveforms_from_source
from workers.phase import LOOK_AHEAD_COLUMNS, waveform_from_mel_amplitudes
from workers.spectrogram import (
    Array,
    PictureGrid,
    grid_from_image,
    image_from_blocks,
    mel_amplitudes_from_blocks,
    mel_amplitudes_from_image,
    rgb_from_image,
)
from workers.tags import Tags

PICTURES: Final = frozenset({".png", ".jpg", ".jpeg", ".webp"})
"""Suffixes of pictures that are written; more kinds are read."""
_READ: Final = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
MAX_PIXELS: Final = 100_000_000
"""Of a picture that is read: half an hour on the default grid."""
_MAX_COLUMNS: Final = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}
# Both ways without loss in colour: stereo is drawn in it.
_SAVING: Final[dict[str, dict[str, Any]]] = {
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".webp": {"lossless": True},
}
_CHUNK_COLUMNS: Final = 12 * FRAME_COLUMNS

Warn = Callable[[str], None]
OnBlock = Callable[[float], None]
"""Told the finished fraction 0..1 again and again; what it raises ends the work."""


class ConvertError(RiffarmError):
    """The file cannot be converted."""


class NotAPictureError(ValueError):
    """The file is no picture of a known kind."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is asked of a conversion; None leaves it to the picture's EXIF, else to the default grid.

    Quality and loudness are those of audio that is written.
    """

    quality: Quality = "standard"
    loudness_lufs: float = LOUDNESS_LUFS
    is_stereo: bool | None = None
    f_min_hz: float | None = None
    f_max_hz: float | None = None

    def params(self, given: SpectrogramParams) -> SpectrogramParams:
        """The given grid with what is asked for in its place. Raises ValueError when that cannot be."""
        f_min = given.f_min_hz if self.f_min_hz is None else self.f_min_hz
        f_max = given.f_max_hz if self.f_max_hz is None else self.f_max_hz
        if not 0 <= f_min < f_max <= given.sample_rate_hz / 2:
            right = f"0 <= lowest < highest <= {given.sample_rate_hz / 2:g}"
            raise ValueError(f"frequencies from {f_min:g} to {f_max:g} Hz cannot be; {right} must hold")
        is_stereo = given.is_stereo if self.is_stereo is None else self.is_stereo
        return replace(given, is_stereo=is_stereo, f_min_hz=f_min, f_max_hz=f_max)


def waveforms_from_image(
    image: Image.Image, grid: PictureGrid, *, quality: Quality = "standard", on_block: OnBlock | None = None
) -> Iterator[Array]:
    """The sound of a spectrogram picture as waveforms (channel, sample), about a minute each; see `grid_from_image`.

    Raises ValueError for a picture whose values are not numbers, or a grid whose window the phase cannot handle.
    """
    rgb = rgb_from_image(image)
    state = None
    for start, stop in _chunks(rgb.width):
        is_last = stop == rgb.width
        seen = rgb.crop((start, 0, stop if is_last else stop + LOOK_AHEAD_COLUMNS, rgb.height))
        mel = mel_amplitudes_from_image(seen, grid.params, grid.max_value)

        def report(fraction: float, start: int = start, stop: int = stop) -> None:
            if on_block:
                on_block((start + fraction * (stop - start)) / rgb.width)

        waveform, state = waveform_from_mel_amplitudes(
            mel, grid.params, quality=quality, state=state, is_last=is_last, on_block=report
        )
        yield waveform


def _chunks(columns: int) -> Iterator[tuple[int, int]]:
    start = 0
    # What is left over is never less than the chunk before has looked ahead to.
    while columns - start > _CHUNK_COLUMNS + LOOK_AHEAD_COLUMNS:
        yield start, start + _CHUNK_COLUMNS
        start += _CHUNK_COLUMNS
    yield start, columns


def image_from_audio(
    source: AudioSource, params: SpectrogramParams, *, warn: Warn, on_block: OnBlock | None = None
) -> Image.Image:
    """The spectrogram picture of an open audio file, with its grid in the EXIF.

    `warn` is told what a listener should know. Raises ValueError as `AudioSource.blocks`.
    """
    waveforms = waveforms_from_source(source, params.sample_rate_hz, is_stereo=params.is_stereo, warn=warn)
    total_s = source.duration_s

    def reported() -> Iterator[Array]:
        done = 0
        for waveform in waveforms:
            done += waveform.shape[-1]
            if on_block:
                on_block(min(done / params.sample_rate_hz / total_s, 1.0) if total_s else 0.0)
            yield waveform

    return image_from_waveforms(reported(), params)


def image_from_waveforms(waveforms: Iterator[Array], params: SpectrogramParams) -> Image.Image:
    """The spectrogram picture of a waveform (channel, sample) that comes in blocks, its loudest amplitude black.

    Raises ValueError as `workers.spectrogram.mel_amplitudes_from_blocks`.
    """
    # How dark a column is drawn depends on the loudest, which may be the last.
    with tempfile.TemporaryFile(prefix="riffarm-") as file:
        columns, loudest = 0, 0.0
        for mel in _kept(mel_amplitudes_from_blocks(waveforms, params), file):
            columns += mel.shape[-1]
            loudest = max(loudest, float(mel.max()))
        return image_from_blocks(_kept_before(file), columns, params, loudest or 1.0)


def save_picture(image: Image.Image, path: Path) -> None:
    """Write a picture with its EXIF; it appears whole or not at all.

    Raises ValueError when it is wider than its format can be, OSError when it cannot be written.
    """
    suffix = path.suffix.lower()
    _check_width(image.width, suffix)
    partial = path.with_name(f".{path.name}.part{suffix}")
    try:
        image.save(partial, exif=image.getexif(), **_SAVING.get(suffix, {}))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _check_width(columns: int, suffix: str) -> None:
    most = _MAX_COLUMNS.get(suffix, columns)
    if columns > most:
        raise ValueError(f"a picture of {columns} columns is too wide for {suffix}, which takes {most}: use .png")


def picture_from_file(file: Path | IO[bytes]) -> tuple[Image.Image, PictureGrid]:
    """A picture as RGB, and what its EXIF says it stands for.

    Raises NotAPictureError when there is none, ValueError when it is damaged, above MAX_PIXELS or longer than
    MAX_AUDIO_S.
    """
    try:
        with warnings.catch_warnings():
            # What Pillow has to say of size and damaged EXIF is said here in our own words.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=_READ) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"the picture has {image.width}×{image.height} pixels; {MAX_PIXELS} are taken")
                image.load()
                grid = grid_from_image(image)
                if image.width > MAX_AUDIO_S * grid.params.columns_per_s:
                    raise ValueError(
                        f"the picture's {image.width} columns are longer than {MAX_AUDIO_S / 60:g} minutes"
                    )
                return rgb_from_image(image), grid
    except UnidentifiedImageError as error:
        raise NotAPictureError("this is no picture of a known kind") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"the picture cannot be decoded: {error}") from error


def convert(
    source: Path, target: Path, wishes: Wishes = Wishes(), *, warn: Warn, on_block: OnBlock | None = None
) -> None:
    """Convert picture → audio or audio → picture, as the target's suffix says; `target` appears whole or not at all.

    Raises ConvertError with one sentence.
    """
    formats = {audio.suffix: name for name, audio in mastering.FORMATS.items()}
    suffix = target.suffix.lower()
    if suffix not in PICTURES and suffix not in formats:
        raise ConvertError(f"{target.name} must end in {_listed(formats)} for audio, or {_listed(PICTURES)}")
    if not target.parent.is_dir():
        raise ConvertError(f"there is no folder {target.parent} to write to")
    try:
        with source.open("rb"):
            pass
    except OSError as error:
        raise ConvertError(f"{source} cannot be read: {error.strerror}") from error
    try:
        if suffix in formats:
            _audio_from_picture(source, target, formats[suffix], wishes, warn, on_block)
        else:
            _picture_from_audio(source, target, wishes, warn, on_block)
    except ValueError as error:
        raise ConvertError(f"{source.name}: {error}") from error
    except (OSError, soundfile.LibsndfileError) as error:
        raise ConvertError(f"{target} cannot be written: {error}") from error


def _audio_from_picture(
    source: Path, target: Path, form: str, wishes: Wishes, warn: Warn, on_block: OnBlock | None
) -> None:
    try:
        image, grid = picture_from_file(source)
    except NotAPictureError as error:
        raise ValueError(f"{error}, so {target.name} cannot be its sound") from error
    for warning in grid.warnings:
        warn(warning)
    grid = replace(grid, params=wishes.params(grid.params))
    audio_from_picture(image, grid, {form: target}, wishes, Tags(title=source.stem), on_block=on_block)


def audio_from_picture(
    image: Image.Image,
    grid: PictureGrid,
    paths: Mapping[str, Path],
    wishes: Wishes,
    tags: Tags,
    *,
    on_block: OnBlock | None = None,
) -> None:
    """Write a picture's sound to `paths` (format name → file), each whole or not at all, with itself as the cover.

    Raises ValueError as `waveforms_from_image`, OSError when a file cannot be written.
    """
    with tempfile.TemporaryFile(prefix="riffarm-") as file:
        waveforms = _kept(waveforms_from_image(image, grid, quality=wishes.quality, on_block=on_block), file)
        levels = mastering.levels_from_chunks(waveforms, grid.params.sample_rate_hz)
        mastering.encode(
            _kept_before(file),
            paths,
            sample_rate_hz=grid.params.sample_rate_hz,
            gain=mastering.gain_from_levels(levels, wishes.loudness_lufs),
            total_samples=grid.params.samples_from_columns(image.width),
            tags=tags,
            cover=image,
        )


def _picture_from_audio(source: Path, target: Path, wishes: Wishes, warn: Warn, on_block: OnBlock | None) -> None:
    params = wishes.params(SpectrogramParams())
    try:
        with open_audio(source) as audio:
            _check_width(round((audio.duration_s or 0) * params.columns_per_s), target.suffix.lower())
            image = image_from_audio(audio, params, warn=warn, on_block=on_block)
    except NotAudioError as error:
        raise ValueError(f"{error}, so {target.name} cannot be its picture") from error
    save_picture(image, target)


def _kept(arrays: Iterable[Array], file: IO[bytes]) -> Iterator[Array]:
    """The same arrays, each written to the file as it passes."""
    for array in arrays:
        np.save(file, array)
        yield array


def _kept_before(file: IO[bytes]) -> Iterator[Array]:
    end = file.tell()
    file.seek(0)
    while file.tell() < end:
        yield np.load(file)


def _listed(suffixes: Iterable[str]) -> str:
    return ", ".join(sorted(suffixes))
