"""What the ids of a request's jobs are made from: a request that is carried out again comes to the same ids.

Leaves out who carries a request out again (`api.idempotency`).
"""

from __future__ import annotations

import random
import secrets
import time
from typing import Final, NamedTuple

# Marks tell requests apart and keep nothing secret: asking the system for each would let all other threads go first.
_draw: Final = random.Random(secrets.token_bytes(32))  # noqa: S311


class Stamp(NamedTuple):
    """When a request was first taken, and a mark of its own.

    at_ms: milliseconds since 1970.
    mark: 32 hexadecimal digits: drawn, or a hash of the idempotency key.
    origin: what is kept with the jobs so that their key is known again after a loss of Redis; "" without a key.
    is_repeat: whether somebody may have recorded some of it already.
    """

    at_ms: int
    mark: str
    origin: str = ""
    is_repeat: bool = False

    @property
    def job_id(self) -> str:
        """The id of the request's one job."""
        return f"job_{self.at_ms:012x}{self.mark[:16]}"

    @property
    def batch_id(self) -> str:
        """The id that the jobs of a batch share."""
        return f"bat_{self.at_ms:012x}{self.mark[:16]}"

    def job_id_in_batch(self, index: int) -> str:
        """The id of a batch's job by its place, 0..65,535: ids sort as the requests came."""
        return f"job_{self.at_ms:012x}{index:04x}{self.mark[:12]}"


def new_stamp() -> Stamp:
    """A stamp that no other request has."""
    return Stamp(time.time_ns() // 1_000_000, f"{_draw.getrandbits(128):032x}")
