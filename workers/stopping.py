"""How a worker ends when it is told to: with SIGTERM, SIGINT, SIGQUIT or SIGHUP, however often they come.

Owns the parent process's side: its child hands back what it is at, whatever is left is given back for it, the worker
signs off and exits with 0, all within GRACE_S. Leaves out how the child hands back (`workers.attempts`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from types import FrameType
from typing import Any, Final

import billiard
import structlog
from celery import Celery
from celery.apps.worker import Worker
from celery.worker import state

from shared.dispatch import Dispatcher
from shared.errors import QueueUnavailableError
from shared.farm_state import FarmState
from shared.job_store import JobStore

log = structlog.get_logger()
GRACE_S: Final = 8.0
"""The longest a stop takes; whoever starts workers should wait a little longer before it kills them."""
CHILD_SIGNAL: Final = signal.SIGUSR2
"""From the parent to its child: hand back what is under way. SIGTERM would end it amid a write."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
_REMIND_EVERY_S: Final = 0.1


def defer_stop() -> None:
    """Let a stop that comes before the worker can end in order wait until it can; holds over an exec."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def stop_in_order(app: Celery, sign_off: Callable[[], None]) -> None:
    """Have the app's worker end as this module says, whichever signal comes first; `sign_off` is called at the end."""

    class StoppableWorker(Worker):  # type: ignore[misc]  # Celery has no types
        def install_platform_tweaks(self, worker: Any) -> None:
            super().install_platform_tweaks(worker)
            # Celery's own would leave by other ways and codes at a second signal, and start anew at a SIGHUP.
            for number in _SIGNALS:
                signal.signal(number, _stopper(sign_off))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

        def stop(self, in_sighandler: bool = False, exitcode: int | None = None) -> None:
            # A child that is gone before the loop has begun is a failure to Celery, also when it was told to go.
            super().stop(in_sighandler, exitcode if state.should_stop is None else 0)

    app.Worker = app.subclass_with_self(StoppableWorker)


def _stopper(sign_off: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
    # A pipe and a thread that waits: of all ways to wake somebody from a signal's handler this one takes no lock.
    reader, writer = os.pipe()

    def see_out() -> None:
        os.read(reader, 1)
        log.info("stopping")
        _remind_children()
        log.warning("not out in time: what it is at begins anew elsewhere")
        for process in billiard.active_children():
            _signal(process.pid, signal.SIGKILL)
        sign_off()
        os._exit(0)

    # A thread begins without the worker's name for its log lines.
    threading.Thread(target=copy_context().run, args=(see_out,), name="stop", daemon=True).start()

    def handle(number: int, frame: FrameType | None) -> None:
        # Celery's loop ends at its next turn: it takes no more messages and waits for the child.
        state.should_stop = 0
        os.write(writer, b".")

    return handle


def _remind_children() -> None:
    """Tell the children to stop for GRACE_S; normally the process has ended long before.

    Again and again: Celery may just be starting a new one.
    """
    deadline_s = time.monotonic() + GRACE_S
    while time.monotonic() < deadline_s:
        for process in billiard.active_children():
            _signal(process.pid, CHILD_SIGNAL)
        time.sleep(_REMIND_EVERY_S)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def sign_off(worker_id: str, job_store: JobStore, dispatcher: Dispatcher) -> None:
    """Give back what a child that was ended by force still held, and end the worker's heartbeat.

    Counts no loss. While Redis does not answer it does nothing: leases and heartbeats end by themselves.
    """
    try:
        for (job_id, item), holder in job_store.leases().items():
            if holder == worker_id and (returned := job_store.give_back_of(worker_id, job_id, item, reason="")):
                dispatcher.send_tickets(returned.queues)
        FarmState(job_store.redis).remove_worker(worker_id)
    except QueueUnavailableError as error:
        log.warning("not signed off", error=error.message)
