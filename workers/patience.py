"""Trying again while storage or Redis do not answer. Leaves out what follows when they never do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import stamina
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.errors import QueueUnavailableError, TransientError

PATIENCE_S: Final = 45.0
"""How long a worker tries again before others may: the fault may be its own."""


def patiently(
    function: Callable[[], Any], patience_s: float | None = None, check: Callable[[], None] = lambda: None
) -> Any:
    """Call again, with growing pauses, while storage or Redis do not answer: an accepted job is not lost.

    Raises the TransientError after `patience_s`, None: never; but while Redis is away there is nobody to tell. Raises
    what `check` raises before another try.
    """
    deadline_s = None if patience_s is None else time.monotonic() + patience_s

    def may_pass(error: Exception) -> bool:
        is_away = isinstance(error, QueueUnavailableError | RedisConnectionError | RedisTimeoutError)
        if not is_away and not isinstance(error, TransientError):
            return False
        is_patient = deadline_s is None or time.monotonic() < deadline_s
        return is_patient or is_away

    for attempt in stamina.retry_context(on=may_pass, attempts=None, timeout=None, wait_initial=0.5, wait_max=5.0):
        with attempt:
            if attempt.num > 1:
                check()
            return function()
    raise AssertionError("retries have no end")
