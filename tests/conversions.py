"""Conversions from file to file, as tests ask for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.catalogue import seed_images
from workers.convert import ConvertError, Wishes, convert

OG_BEAT = seed_images()["og_beat"].path
QUICK = Wishes(quality="fast")


def converted(source: Path, target: Path, wishes: Wishes = QUICK) -> list[str]:
    """Convert; what was warned of."""
    warnings: list[str] = []
    convert(source, target, wishes, warn=warnings.append)
    return warnings


def refusal(source: Path, target: Path, wishes: Wishes = QUICK) -> str:
    """The sentence with which a conversion is refused; nothing is left behind."""
    before = sorted(target.parent.iterdir()) if target.parent.is_dir() else []
    with pytest.raises(ConvertError) as refused:
        convert(source, target, wishes, warn=lambda text: None)
    assert before == (sorted(target.parent.iterdir()) if target.parent.is_dir() else [])
    assert "\n" not in refused.value.message
    return refused.value.message
