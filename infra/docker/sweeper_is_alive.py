"""The sweeper container's health check: did a sweeper of this farm sweep within the last minute?

Its exit code is the answer. Of several sweepers one sweeps at a time, and any of them will do.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from shared.errors import QueueUnavailableError
from shared.farm_state import FarmState
from shared.redis_connection import redis_from_url

_LONGEST_PAUSE_S: Final = 60.0


def main() -> None:
    """Exit with 0, or with 1 and the reason."""
    farm = FarmState(redis_from_url(os.environ["RIFFARM_REDIS_URL"]))
    try:
        pause_s = farm.now_ms() / 1_000 - farm.sweep_report().get("at", 0.0)
    except QueueUnavailableError as error:
        sys.exit(error.message)
    if pause_s > _LONGEST_PAUSE_S:
        sys.exit(f"nothing was swept for {_LONGEST_PAUSE_S:g} s")


if __name__ == "__main__":
    main()
