"""The slow pass over storage, in a thread of its own: what Redis lost is brought back, what is too old is removed.

Once an hour, and at once when Redis was started anew: what it was last told may be lost with it. One pass at a time on
the whole farm. Owns when, and under which turn; leaves out what is done (`workers.recovery`, `workers.retention`).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Final

import structlog

from shared.dispatch import Dispatcher
from shared.errors import LeaseLostError, TransientError
from shared.farm_state import FarmState
from shared.job_store import JobStore
from shared.object_store import ObjectStore
from shared.settings import Settings
from workers.recovery import recover
from workers.retention import remove_old

log = structlog.get_logger()
EVERY_S: Final = 3_600.0
_TURN_S: Final = 60.0
"""A pass that says nothing for so long has ended with its process."""


class StoragePass:
    """Makes a pass when one is due, beside whatever else its process does."""

    def __init__(
        self, settings: Settings, job_store: JobStore, object_store: ObjectStore, dispatcher: Dispatcher
    ) -> None:
        self._settings = settings
        self._jobs = job_store
        self._objects = object_store
        self._dispatcher = dispatcher
        self._farm = FarmState(job_store.redis)
        self._thread: threading.Thread | None = None
        self._counts: Counter[str] = Counter()
        self._kept_s = 0.0

    def begin_if_due(self) -> None:
        """Begin a pass in a thread if one is due and none goes on. Raises QueueUnavailableError."""
        age_s = self._farm.storage_pass_age_s()
        is_due = age_s is None or age_s > EVERY_S
        if is_due and not (self._thread and self._thread.is_alive()):
            self._thread = threading.Thread(target=self.run, name="storage-pass", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Return when no pass goes on in this process."""
        if self._thread:
            self._thread.join()

    def counts(self) -> dict[str, int]:
        """What was done since this was last asked: jobs recovered, things removed."""
        counts, self._counts = self._counts, Counter()
        return {name: counts[name] for name in ("recovered", "removed")}

    def run(self) -> None:
        """Make one pass, unless another process is at it."""
        try:
            fence = self._farm.begin_sweep(_TURN_S, "storage_pass")
            if fence is None:
                return
            try:
                self._pass(fence)
            finally:
                self._farm.end_sweep(fence, "storage_pass")
        except TransientError as error:
            log.warning("the pass over storage will be made again", error=error.message)
        except LeaseLostError:
            log.warning("the pass over storage is another's")
        except Exception:
            # The next one is an hour or a start of Redis away; a thread that dies in silence would hide why.
            log.exception("the pass over storage failed")

    def _pass(self, fence: str) -> None:
        def go_on() -> None:
            if time.monotonic() - self._kept_s > _TURN_S / 10:
                self._kept_s = time.monotonic()
                if not self._farm.keep_sweep(fence, _TURN_S, "storage_pass"):
                    raise LeaseLostError

        # The one of now: were Redis started anew meanwhile, it would have to be done again.
        server = self._farm.server()
        found = recover(self._jobs, self._objects, self._dispatcher, go_on)
        self._farm.mark_recovered(fence, server)
        removed = remove_old(self._settings, self._jobs, self._objects, go_on)
        self._counts.update(recovered=found.recovered + found.ended, removed=found.orphans + sum(removed.values()))
        log.info("storage looked through", **found._asdict(), **{f"{kind}_removed": n for kind, n in removed.items()})
