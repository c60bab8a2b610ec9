"""Seed images: scores and loops as pictures of one frame that know their tempo and meter; the built-in ones.

Owns the built-in pictures, their index and what a picture says of itself. Leaves out what is played
(`workers.seed_patterns`, `workers.seed_notation`), slices of audio (`workers.seed_audio`) and how a seed image sounds
together with a prompt (`workers.diffusion`). Every picture is one frame of whole measures that closes as a loop.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from shared.spectrogram_params import FRAME_COLUMNS, SpectrogramParams
from workers.seed_grid import BeatGrid
from workers.seed_notation import score_from_notation
from workers.seed_patterns import PATTERNS, Pattern
from workers.spectrogram import Array, image_from_mel_amplitudes
from workers.training.synthesise import loop_from_score, loop_mel_amplitudes

GRID: Final = SpectrogramParams()
FOLDER: Final = Path(__file__).parents[1] / "shared" / "seed_images"
_DESCRIPTION_TAG: Final = 0x010E
"""EXIF's ImageDescription, which viewers show."""


def write_seed_images(folder: Path, names: Iterable[str] = tuple(PATTERNS)) -> list[Path]:
    """Draw the named seed images into `folder` and return their files; with all of them, the index too.

    Raises KeyError for a name that is not in PATTERNS.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [_write(PATTERNS[name], folder / f"{name}.png") for name in names]
    if len(files) == len(PATTERNS):
        entries = [_entry(name, PATTERNS[name], folder) for name in PATTERNS]
        (folder / "index.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    return files


def image_from_notation(text: str, grid: BeatGrid) -> Image.Image:
    """The picture of a pattern in the notation. Raises SeedImageError with the place of what is wrong."""
    notes, strokes = score_from_notation(text, grid)
    return image_from_loop(loop_from_score(notes, strokes, grid.beats, GRID), GRID)


def save_seed_image(image: Image.Image, path: Path, grid: BeatGrid, title: str, description: str) -> None:
    """Write a picture as PNG with its grid, tempo and meter in its EXIF and its text; it appears whole or not at all.

    Raises OSError when it cannot be written.
    """
    words = PngInfo()
    for name, value in {
        "Title": title,
        "Description": description,
        "tempo_bpm": f"{grid.tempo_bpm:.4f}",
        "meter": str(grid.meter),
        "beats": str(grid.beats),
        "measures": str(grid.measures),
    }.items():
        # Latin-1 is what a plain text chunk can hold.
        words.add_itxt(name, value) if not value.isascii() else words.add_text(name, value)
    exif = image.getexif()
    exif[_DESCRIPTION_TAG] = _ascii(f"{title}: {grid}")
    partial = path.with_name(f".{path.name}.part.png")
    try:
        image.save(partial, exif=exif, pnginfo=words, optimize=True)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _ascii(text: str) -> str:
    # EXIF's own texts are ASCII.
    return text.encode("ascii", "replace").decode("ascii")


def image_from_loop(loop: Array, params: SpectrogramParams) -> Image.Image:
    """The picture of one frame of sound (sample,) analysed on a grid; it says that it lies on the default one."""
    return image_from_mel_amplitudes(loop_mel_amplitudes(loop, params), GRID)


def _write(pattern: Pattern, path: Path) -> Path:
    """Draw one of the built-in pictures."""
    save_seed_image(image_from_loop(pattern.loop(GRID), GRID), path, pattern.grid, pattern.title, pattern.description)
    return path


def _entry(name: str, pattern: Pattern, folder: Path) -> dict[str, Any]:
    """One line of the index."""
    return {
        "id": name,
        "title": pattern.title,
        "description": pattern.description,
        "tempo_bpm": round(pattern.grid.tempo_bpm, 4),
        "beats": pattern.grid.beats,
        "meter": pattern.meter,
        "columns": FRAME_COLUMNS,
        "duration_s": GRID.frame_s,
        "sha256": hashlib.sha256((folder / f"{name}.png").read_bytes()).hexdigest(),
    }
