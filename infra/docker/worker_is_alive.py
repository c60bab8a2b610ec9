"""The worker container's health check: has this container's worker reported to Redis within the last seconds?

Its exit code is the answer. A worker has no HTTP server to ask, and its process may live while its child does not.
"""

from __future__ import annotations

import os
import socket
import sys

from shared.errors import QueueUnavailableError
from shared.farm_state import FarmState
from shared.redis_connection import redis_from_url


def main() -> None:
    """Exit with 0, or with 1 and the reason."""
    name = socket.gethostname()
    try:
        workers = FarmState(redis_from_url(os.environ["RIFFARM_REDIS_URL"])).workers()
    except QueueUnavailableError as error:
        sys.exit(error.message)
    if name not in {worker["name"] for worker in workers}:
        sys.exit(f"worker {name} has not reported lately")


if __name__ == "__main__":
    main()
