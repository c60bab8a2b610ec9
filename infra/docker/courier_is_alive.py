"""The courier container's health check: has this container's courier looked for deliveries within the last seconds?

Its exit code is the answer.
"""

from __future__ import annotations

import os
import socket
import sys

from shared.deliveries import Deliveries
from shared.errors import QueueUnavailableError
from shared.redis_connection import redis_from_url


def main() -> None:
    """Exit with 0, or with 1 and the reason."""
    name = socket.gethostname()
    try:
        is_alive = Deliveries(redis_from_url(os.environ["RIFFARM_REDIS_URL"])).has_courier(name)
    except QueueUnavailableError as error:
        sys.exit(error.message)
    if not is_alive:
        sys.exit(f"courier {name} has not looked lately")


if __name__ == "__main__":
    main()
