"""Lengths of time as people write them on the command line."""

from __future__ import annotations

import re
from typing import Final

import typer

_UNIT_S: Final = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_NUMBER: Final = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
_DURATION: Final = re.compile("".join(f"(?:{_NUMBER}{unit})?" for unit in _UNIT_S))


def duration_s_from_text(text: str, option: str) -> float:
    """Seconds from '90s', '1h30m', '30d', '2w', or '90', which are seconds too.

    Raises typer.BadParameter, which names the option that has the text.
    """
    shown = text.strip()
    match = _DURATION.fullmatch(f"{shown}s" if re.fullmatch(_NUMBER, shown) else shown)
    if not match or not any(match.groups()):
        raise typer.BadParameter(f"{text!r} is no length of time; write 90s, 2m, 1h30m, 30d or 2w", param_hint=option)
    return sum(float(part or 0) * unit_s for part, unit_s in zip(match.groups(), _UNIT_S.values(), strict=True))
