"""One process of the local farm: apart from the terminal, its log printed line by line, ended with its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TextIO

from rich.console import Console
from rich.text import Text

console = Console(stderr=True, highlight=False, soft_wrap=True)
_COLOURS: Final = {"gateway": "cyan", "sweeper": "magenta", "courier": "blue"}
_PR_SET_PDEATHSIG: Final = 1


@dataclass
class SupervisedProcess:
    """One process of the farm, how to start it and how it is doing.

    start_at_s, stop_by_s: when it is to be started again, and by when it is to have ended; on the monotonic clock.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    popen: subprocess.Popen[str] | None = None
    quick_deaths: int = 0
    started_s: float = 0.0
    start_at_s: float | None = None
    stop_by_s: float = 0.0
    _reader: threading.Thread | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it in a session of its own, so that a Ctrl-C in the terminal reaches the supervisor alone."""
        self.started_s, self.start_at_s = time.monotonic(), None
        self.popen = subprocess.Popen(
            self.command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid()) if sys.platform == "linux" else None,
        )
        self._reader = threading.Thread(target=self._print_log, args=(self.popen.stdout,), daemon=True)
        self._reader.start()

    def _print_log(self, log: TextIO) -> None:
        with log:
            for line in log:
                label = Text(f"{self.name:>9} │ ", style=_COLOURS.get(self.name, "green"))
                console.print(label + Text.from_ansi(line.rstrip()))

    def signal_all(self, number: int) -> None:
        """Signal the process and everything it started."""
        if self.popen:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.popen.pid, number)

    def signal_one(self, number: int) -> None:
        """Signal the process alone, when it is running."""
        if self.popen and self.popen.poll() is None:
            self.popen.send_signal(number)

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs, or before it was started."""
        return self.popen.poll() if self.popen else None


def die_with_parent(parent: int) -> None:
    """Ask the kernel to end this process with its parent, by process id: even a killed one leaves nothing running."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        # It ended before the kernel was asked, and nobody will tell.
        os._exit(1)
