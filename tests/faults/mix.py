"""What jobs a farm under test is given: short ones of every kind, no two with a frame in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

SEED_IMAGE: Final = Path(__file__).parents[2] / "shared" / "seed_images" / "og_beat.png"
FRAME_S: Final = 5.12
Request = dict[str, Any]


def track(name: str, frames: int, **fields: object) -> Request:
    """A walk between two prompts that no other name has."""
    keyframes = [{"prompt": f"{name} strings", "seed": 1}, {"prompt": f"{name} drums", "seed": 2}]
    return _named(name, {"type": "track", "keyframes": keyframes, "duration_s": round(frames * FRAME_S, 2)} | fields)


def clip(name: str, variations: int, **fields: object) -> Request:
    """Takes of one prompt."""
    return _named(name, {"type": "clip", "prompt": f"{name} organ", "seed": 3, "variations": variations} | fields)


def convert(name: str, upload: str, loudness_lufs: float) -> Request:
    """A picture turned into sound."""
    return _named(name, {"type": "convert", "source": upload, "loudness_lufs": loudness_lufs})


def mixed(count: int, upload: str) -> list[Request]:
    """`count` jobs of every kind in turn, in all three priorities; the first of two chunks."""
    kinds = [
        lambda name: track(name, 14),
        lambda name: clip(name, 2, priority="interactive"),
        lambda name: track(name, 3, joins="repaint"),
        lambda name: convert(name, upload, -16 - int(name[1:]) / 10),
        lambda name: track(name, 2, loop=True, priority="bulk"),
        lambda name: clip(name, 3, priority="bulk"),
        lambda name: track(name, 5, joins="cut"),
    ]
    return [kinds[index % len(kinds)](f"n{index}") for index in range(count)]


def _named(name: str, request: Request) -> Request:
    return request | {"labels": {"name": name}, "formats": ["flac"]}
