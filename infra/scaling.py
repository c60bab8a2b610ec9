"""How many workers a machine should run: the policy of `riffarm up --workers auto`, which only reckons.

Leaves out starting and ending them (`infra.supervisor`) and where the backlog comes from (`shared.farm_state`).
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import Final

from infra.preflight import LocalFarmError

MOST_WORKERS: Final = 64
_TARGET_S: Final = 20.0
_QUIET_S: Final = 60.0


@dataclass(frozen=True)
class Policy:
    """Between `least` and `most` workers: one more for every `target_s` seconds of work, as one worker would need
    them; one fewer each time that fewer would have done for `quiet_s` seconds."""

    least: int
    most: int
    target_s: float = _TARGET_S
    quiet_s: float = _QUIET_S

    def next(self, scale: Scale, items: int, backlog_s: float, now_s: float) -> Scale:
        """The scale from now on, with so many items that wait or run and need `backlog_s` seconds of one worker.

        `now_s` is any clock that never goes back.
        """
        # More workers than there are items would have nothing to do, however long an item takes.
        needed = min(items, math.ceil(backlog_s / self.target_s))
        needed = min(self.most, max(self.least, needed))
        if needed >= scale.workers:
            return Scale(needed)
        if scale.calm_since_s is None:
            return Scale(scale.workers, now_s)
        if now_s - scale.calm_since_s < self.quiet_s:
            return scale
        return Scale(scale.workers - 1, now_s)


@dataclass(frozen=True)
class Scale:
    """How many workers there should be, and since when fewer would have done (None: they would not)."""

    workers: int
    calm_since_s: float | None = None


def policy_from_text(text: str) -> Policy:
    """What `--workers` says: "3", "auto" or "auto:8". Raises LocalFarmError for anything else.

    RIFFARM_SCALE_TARGET_S and RIFFARM_SCALE_QUIET_S, when set, take the place of the usual seconds.
    """
    found = re.fullmatch(r"(auto)(?::(\d+))?|(\d+)", text)
    if found is None:
        raise LocalFarmError(f"--workers {text} is neither a number nor auto nor auto:MAX")
    most = int(found[2] or found[3] or os.cpu_count() or 1)
    if not 1 <= most <= MOST_WORKERS:
        raise LocalFarmError(f"--workers {text}: there can be 1 to {MOST_WORKERS} workers")
    least = 1 if found[1] else most
    return Policy(
        least, most, _seconds("RIFFARM_SCALE_TARGET_S", _TARGET_S), _seconds("RIFFARM_SCALE_QUIET_S", _QUIET_S)
    )


def _seconds(variable: str, usual_s: float) -> float:
    text = os.environ.get(variable, "")
    try:
        seconds = float(text or usual_s)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise LocalFarmError(f"{variable} must be a number of seconds above 0, not {text}")
    return seconds
