"""Keeps a running task's message from being given to another worker.

The broker hands a message out again once its entry in `unacked_index` is older than the visibility time-out. A
thread renews the entry while the task runs, so the time-out can be short and the task long; when the process dies,
so does the thread, and the work starts elsewhere after one time-out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis
import structlog

log = structlog.get_logger()
_UNACKED_INDEX = "unacked_index"


@contextmanager
def renewed_lease(client: redis.Redis, delivery_tag: str, every_s: float) -> Iterator[None]:
    """Renew the message's entry every `every_s` seconds until the block ends."""
    is_over = threading.Event()

    def renew() -> None:
        while not is_over.wait(every_s):
            try:
                # XX: only while the message is still ours; never bring an acknowledged one back.
                client.zadd(_UNACKED_INDEX, {delivery_tag: time.time()}, xx=True)
            except redis.exceptions.RedisError as error:
                log.warning("lease not renewed, trying again", error=str(error))

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
