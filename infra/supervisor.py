"""Keeps a local farm's processes running: starts again what dies, ends what is no longer wanted, leaves nothing behind.

Leaves out which processes there are (`infra.local_farm`) and what a single one is (`infra.process`).
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Final

from infra.preflight import LocalFarmError
from infra.process import SupervisedProcess, console

STOP_TIMEOUT_S: Final = 12.0
"""How long a process may take to end: longer than a worker's own grace (`workers.stopping`)."""
_QUICK_S: Final = 30.0
_MAX_QUICK_DEATHS: Final = 3
_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 5.0


class Supervisor:
    """Processes by name, in the order they were started. `tend` is to be called again and again."""

    def __init__(self) -> None:
        self._processes: dict[str, SupervisedProcess] = {}
        self._leaving: dict[str, SupervisedProcess] = {}
        self._is_steady = False

    def start(self, process: SupervisedProcess) -> None:
        """Start a process and keep it running from now on."""
        self._processes[process.name] = process
        process.start()

    def has(self, name: str) -> bool:
        """Whether a process of this name is there, also one that is about to end."""
        return name in self._processes or name in self._leaving

    def names(self) -> list[str]:
        """The processes that are to run."""
        return [*self._processes]

    def settle(self) -> None:
        """The farm is up: from now on a process that keeps ending is started again for ever, not given up."""
        self._is_steady = True

    def retire(self, name: str) -> None:
        """End a process in order and do not start it again; `tend` sees it out."""
        process = self._leaving[name] = self._processes.pop(name)
        process.stop_by_s = time.monotonic() + STOP_TIMEOUT_S
        process.signal_one(signal.SIGTERM)

    def tend(self) -> None:
        """Start what has died, after a pause; see out what was retired. Raises LocalFarmError for what will not run."""
        now_s = time.monotonic()
        for process in self._processes.values():
            if process.exit_code is None:
                continue
            if process.start_at_s is None:
                self._note_death(process, now_s)
            elif now_s >= process.start_at_s:
                process.start()
        for name, process in [*self._leaving.items()]:
            if process.exit_code is not None or now_s > process.stop_by_s:
                process.signal_all(signal.SIGKILL)
                del self._leaving[name]

    def _note_death(self, process: SupervisedProcess, now_s: float) -> None:
        is_quick = now_s - process.started_s < _QUICK_S
        process.quick_deaths = process.quick_deaths + 1 if is_quick else 0
        # The gateway's way to say that it cannot listen where it should.
        has_refused = process.name == "gateway" and process.exit_code == 1
        if not self._is_steady and (process.quick_deaths >= _MAX_QUICK_DEATHS or has_refused):
            raise LocalFarmError(f"{process.name} keeps ending; its log says why")
        pause_s = min(_LONGEST_PAUSE_S, _PAUSE_S * 2 ** max(0, process.quick_deaths - 1))
        process.start_at_s = now_s + pause_s
        console.print(f"{process.name} ended ({process.exit_code}); starting it again in {pause_s:g} s", style="yellow")
        # What it started itself may have outlived it.
        process.signal_all(signal.SIGKILL)

    def stop_all(self, last: Sequence[str]) -> None:
        """End everything in order; the processes named `last` when all others have ended."""
        everyone = [*self._processes.values()]
        first = [process for process in everyone if process.name not in last]
        # What is leaving has been told: a second signal in the last moment of an orderly end would make it a killing.
        for told, ending in ((first, [*first, *self._leaving.values()]), (everyone, everyone)):
            for process in told:
                process.signal_one(signal.SIGTERM)
            self._wait_for_end(ending)

    def _wait_for_end(self, processes: list[SupervisedProcess]) -> None:
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        for process in processes:
            if process.popen:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.popen.wait(max(0.0, deadline_s - time.monotonic()))
            # Also when it ended well: a child of its own may have outlived it.
            process.signal_all(signal.SIGKILL)
