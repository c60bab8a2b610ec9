"""What a sheet of the gallery holds, the prompts that most of them use, and the figures under pictures.

Leaves out which sheets there are (`gallery_frames`, `gallery_tracks`) and how they are drawn (`gallery_layout`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.benchmarks.gallery_layout import Row
from tests.benchmarks.gallery_studio import Request

AMBIENT: Final = "slow ambient strings, no drums"
TECHNO: Final = "fast techno synth, four on the floor drums"
JAZZ: Final = "medium tempo jazz piano, swing drums"
QUARTER: Final = 0.5
"""Pixels a column where four pictures stand side by side."""
SIXTH: Final = 0.37
_HIGHS: Final = 128
"""Rows of the upper quarter of a picture, above most notes: what strikes there is drums."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A sheet of the gallery.

    request: one of those it was made of, to be sent as it is; `varied` says what differs in the others.
    rows, scale: what is drawn, and pixels for a column.
    figures: Markdown under the picture.
    """

    title: str
    text: str
    request: Request
    varied: str
    rows: Sequence[Row]
    scale: float = QUARTER
    figures: str = ""


def clip(prompt: str, seed: int = 1, **fields: Any) -> Request:
    """The fields of a clip."""
    return {"type": "clip", "prompt": prompt, "seed": seed} | fields


def grey(picture: Image.Image) -> NDArray[np.float64]:
    """Grey levels (row, column)."""
    return np.asarray(picture.convert("L"), np.float64)


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean difference in grey levels, 0..255."""
    return float(np.abs(grey(one) - grey(other)).mean())


def likeness(one: Image.Image, other: Image.Image) -> float:
    """Correlation of two pictures' grey levels."""
    return float(np.corrcoef(grey(one).ravel(), grey(other).ravel())[0, 1])


def highs(picture: Image.Image) -> float:
    """How dark the highs are, 0..255."""
    return 255.0 - float(grey(picture)[:_HIGHS].mean())
