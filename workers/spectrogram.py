"""image ⇄ mel amplitudes, and waveform → mel amplitudes.

Owns the mel matrix, the picture's scale (quarter-power, low frequencies at the bottom, loud is dark), what pictures
of other kinds and sizes mean, and their EXIF. Leaves out phase: mel amplitudes → waveform is `workers.phase`.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
import scipy.fft
import scipy.signal
import scipy.sparse
from numpy.typing import NDArray
from PIL import Image, ImageChops

from shared.spectrogram_params import DEFAULT_MAX_VALUE, SpectrogramParams, max_value_from_exif

Array = NDArray[np.float32]

_ANALYSIS_COLUMNS: Final = 32
"""Columns analysed together: their transforms stay in the processor's cache."""
_DRAWN_COLUMNS: Final = 4_096
_EXIF_TAGS: Final = range(11_000, 11_081)


@dataclass(frozen=True, slots=True)
class PictureGrid:
    """What a picture's columns, rows and shades stand for, and what a listener should know about how that was found."""

    params: SpectrogramParams
    max_value: float
    warnings: tuple[str, ...] = ()


@lru_cache(maxsize=4)
def mel_matrix(params: SpectrogramParams) -> NDArray[np.float64]:
    """Triangular HTK mel filters without norm, shape (mel_bins, n_fft // 2 + 1); mel = 2595 log10(1 + Hz / 700).

    A filter narrower than the transform's lines is empty: its row stays white.
    """
    lowest, highest = 2595 * np.log10(1 + np.array([params.f_min_hz, params.f_max_hz]) / 700)
    corners_hz = 700 * (10 ** (np.linspace(lowest, highest, params.mel_bins + 2) / 2595) - 1)
    lines_hz = np.linspace(0, params.sample_rate_hz / 2, params.n_fft // 2 + 1)
    up = (lines_hz - corners_hz[:-2, None]) / np.diff(corners_hz)[:-1, None]
    down = (corners_hz[2:, None] - lines_hz) / np.diff(corners_hz)[1:, None]
    return np.maximum(0.0, np.minimum(up, down))


@lru_cache(maxsize=4)
def _sparse_mel_matrix(params: SpectrogramParams) -> Any:
    # Filters end at f_max: rows above it would be multiplied by zeros.
    bins = int(params.f_max_hz / params.sample_rate_hz * params.n_fft) + 2
    return scipy.sparse.csr_array(mel_matrix(params)[:, :bins].astype(np.float32))


def mel_amplitudes_from_waveform(waveform: Array, params: SpectrogramParams) -> Array:
    """Mel amplitudes (channel, frequency, time) of a waveform (channel, sample) in -1..1.

    Column t is centred on sample t * hop_length; there are ceil(samples / hop_length) columns. Beyond the result no
    more memory is taken for a long waveform than for a short one. Raises ValueError when there are no samples, or
    some that are no finite numbers.
    """
    channels, samples = waveform.shape
    mel: Array = np.empty((channels, params.mel_bins, -(-samples // params.hop_length)), np.float32)
    pieces = np.split(waveform, range(2**18, samples, 2**18), axis=1)
    done = 0
    for columns in mel_amplitudes_from_blocks(pieces, params):
        mel[..., done : done + columns.shape[-1]] = columns
        done += columns.shape[-1]
    return mel


def mel_amplitudes_from_blocks(blocks: Iterable[Array], params: SpectrogramParams) -> Iterator[Array]:
    """`mel_amplitudes_from_waveform` as a stream: the waveform comes in blocks, its columns go out in blocks.

    Where the waveform is cut makes no difference to a single bit. Raises ValueError as `mel_amplitudes_from_waveform`.
    """
    hop = params.hop_length
    held: Array | None = None
    samples = done = 0
    for block in blocks:
        if not np.isfinite(block).all():
            raise ValueError("the waveform holds samples that are no finite numbers")
        samples += block.shape[-1]
        before = np.zeros((len(block), params.win_length // 2), np.float32) if held is None else held
        held = np.concatenate([before, block], axis=1)
        while held.shape[-1] >= (_ANALYSIS_COLUMNS - 1) * hop + params.win_length:
            yield _mel_columns(held, _ANALYSIS_COLUMNS, params)
            held = held[:, _ANALYSIS_COLUMNS * hop :]
            done += _ANALYSIS_COLUMNS
    if held is None or samples == 0:
        raise ValueError("the waveform has no samples")
    held = np.pad(held, ((0, 0), (0, params.win_length)))
    for left in range(-(-samples // hop) - done, 0, -_ANALYSIS_COLUMNS):
        yield _mel_columns(held, min(left, _ANALYSIS_COLUMNS), params)
        held = held[:, _ANALYSIS_COLUMNS * hop :]


def _mel_columns(signal: Array, columns: int, params: SpectrogramParams) -> Array:
    """Mel amplitudes of the first `columns` windows in the signal (channel, sample)."""
    matrix = _sparse_mel_matrix(params)
    windows = np.lib.stride_tricks.sliding_window_view(signal, params.win_length, axis=1)
    frames = windows[:, :: params.hop_length][:, :columns] * _hann(params.win_length)
    spectrum = scipy.fft.rfft(frames, n=params.n_fft)[..., : matrix.shape[1]]
    return np.stack([matrix @ np.abs(channel).T for channel in spectrum])


@lru_cache(maxsize=4)
def _hann(length: int) -> Array:
    window: Array = scipy.signal.windows.hann(length, sym=False).astype(np.float32)
    return window


def image_from_mel_amplitudes(
    mel_amplitudes: Array, params: SpectrogramParams, max_value: float | None = None
) -> Image.Image:
    """The picture of mel amplitudes (channel, frequency, time), 8 bit RGB with the grid in its EXIF.

    `max_value` is the amplitude drawn black; by default the largest there is. Mono fills all three channels,
    stereo draws left in green and right in blue, as Riffusion does. Raises ValueError when the shape is not the
    grid's, or an amplitude is no finite number.
    """
    loudest = float(mel_amplitudes.max(initial=0.0))
    columns = mel_amplitudes.shape[-1]
    pieces = np.split(mel_amplitudes, range(_DRAWN_COLUMNS, columns, _DRAWN_COLUMNS), axis=2)
    return image_from_blocks(pieces, columns, params, max_value or loudest or 1.0)


def image_from_blocks(
    blocks: Iterable[Array], columns: int, params: SpectrogramParams, max_value: float
) -> Image.Image:
    """`image_from_mel_amplitudes` as a stream: `columns` columns come in blocks (channel, frequency, time)."""
    image = Image.new("RGB", (columns, params.mel_bins))
    done = 0
    for block in blocks:
        if block.shape[:2] != (params.channels, params.mel_bins):
            right = f"({params.channels}, {params.mel_bins}, columns)"
            raise ValueError(f"mel amplitudes of shape {block.shape} are not on this grid: {right}")
        if not np.isfinite(block).all():
            raise ValueError("the mel amplitudes are not all finite numbers")
        loudness = np.clip(block / np.float32(max_value), 0.0, 1.0) ** np.float32(params.power)
        shades = np.rint(255.0 * (1.0 - loudness)).astype(np.uint8)[:, ::-1]
        red_green_blue = (np.zeros_like(shades[0]), *shades) if params.is_stereo else (shades[0],) * 3
        image.paste(Image.fromarray(np.stack(red_green_blue, axis=-1)), (done, 0))
        done += block.shape[-1]
    if not done or done != columns:
        raise ValueError(f"a picture of {columns} columns cannot be drawn from {done}")
    image.getexif().update(params.exif_from_params(max_value))
    return image


def mel_amplitudes_from_image(image: Image.Image, params: SpectrogramParams, max_value: float = 1.0) -> Array:
    """Mel amplitudes (channel, frequency, time) in 0..max_value drawn in a picture of any mode and height.

    White is silence. Mono is the brightness of a coloured picture; stereo is its green and blue. A picture of another
    height spans the same frequencies: its amplitudes are interpolated, never above the loudest there is. Raises
    ValueError for a picture whose values are not numbers.
    """
    rgb = rgb_from_image(image)
    pixels = np.asarray(rgb)[..., 1:] if params.is_stereo else np.asarray(rgb.convert("L"))[..., None]
    amplitudes = max_value * np.linspace(1.0, 0.0, 256) ** (1.0 / params.power)
    mel: Array = amplitudes.astype(np.float32)[pixels[::-1].transpose(2, 0, 1)]
    return mel if image.height == params.mel_bins else _resampled(mel, params.mel_bins)


def _resampled(mel_amplitudes: Array, mel_bins: int) -> Array:
    """The same mel axis in another number of rows: averaged when fewer, straight lines between when more."""
    size = (mel_amplitudes.shape[-1], mel_bins)
    channels = [Image.fromarray(channel).resize(size, Image.Resampling.BILINEAR) for channel in mel_amplitudes]
    resampled: Array = np.stack([np.asarray(channel) for channel in channels])
    # The weights add up to 1 only to within rounding.
    return np.clip(resampled, 0.0, mel_amplitudes.max())


def grid_from_image(image: Image.Image) -> PictureGrid:
    """What a picture's EXIF says it stands for, and warnings where that had to be guessed.

    Without EXIF it is the default grid, and stereo if red is empty while green and blue are not, as in Riffusion's
    stereo pictures. A grid that cannot be is replaced by the default with a warning: the picture can still be heard.
    Raises ValueError for a picture whose values are not numbers.
    """
    exif = _exif_tags(image)
    notes: list[str] = []
    params, max_value = SpectrogramParams(), DEFAULT_MAX_VALUE
    try:
        params = SpectrogramParams.params_from_exif(exif)
    except ValueError as error:
        notes.append(f"The picture's EXIF names no grid that can be ({error}); it is read on the default grid.")
    try:
        max_value = max_value_from_exif(exif)
    except ValueError as error:
        notes.append(f"{error}; {DEFAULT_MAX_VALUE:g} is assumed.")
    params, stereo_notes = _with_stereo_as_drawn(image, params, has_exif=bool(exif))
    notes += stereo_notes
    if image.height != params.mel_bins:
        span = f"{params.f_min_hz:g} to {params.f_max_hz:g} Hz"
        notes.append(f"The picture is {image.height} rows high and is resampled to {params.mel_bins} rows, {span}.")
    return PictureGrid(params, max_value, tuple(notes))


def _with_stereo_as_drawn(
    image: Image.Image, params: SpectrogramParams, *, has_exif: bool
) -> tuple[SpectrogramParams, list[str]]:
    rgb = rgb_from_image(image)
    (_, red), (_, green), (_, blue) = (channel.getextrema() for channel in rgb.split())
    if not has_exif and not red and (green or blue):
        note = "The picture has no EXIF; as its red is empty it is read as stereo: green is left, blue is right."
        return replace(params, is_stereo=True), [note]
    if params.is_stereo and red and ImageChops.difference(rgb, rgb.convert("L").convert("RGB")).getbbox() is None:
        return params, ["The picture says that it is stereo but is grey: both channels sound the same."]
    return params, []


def _exif_tags(image: Image.Image) -> dict[int, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            exif = image.getexif()
            return {tag: exif[tag] for tag in _EXIF_TAGS if tag in exif}
    except (KeyError, OSError, SyntaxError, TypeError, ValueError, struct.error):
        # A damaged block says as little as none.
        return {}


def rgb_from_image(image: Image.Image) -> Image.Image:
    """Any picture as 8 bit RGB: transparency is laid on white, which is silence.

    Whole numbers of more than 8 bits are taken as 16 bit greys; floats as 0..1, or as 0..255 if any is above 1.
    Raises ValueError when a float is no finite number, or the colours are of a kind that cannot be converted.
    """
    if image.mode.startswith("I"):
        return _grey_from_numbers(np.asarray(image, np.float64) / 257)
    if image.mode == "F":
        values = np.asarray(image, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("the picture holds values that are no finite numbers")
        return _grey_from_numbers(values if values.max() > 1 else 255 * values)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_from_numbers(greys: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(greys), 0, 255).astype(np.uint8)).convert("RGB")
