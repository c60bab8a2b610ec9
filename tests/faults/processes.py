"""One process of a farm under test: started in a session of its own, frozen, killed and started again by name."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from functools import partial
from pathlib import Path

import psutil

from infra.process import die_with_parent


class Process:
    """A process that can be started again and again; every start appends to the same log."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.disturbed: set[int] = set()
        self.late: set[int] = set()
        """The pids of all that was killed, frozen or stopped here."""
        self.kills = 0
        self._command = command
        self.environment = environment
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, in a process group of its own."""
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self._command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=partial(die_with_parent, os.getpid()),
            )

    @property
    def popen(self) -> subprocess.Popen[bytes]:
        """The process as it was started last."""
        assert self._popen, f"{self.name} was never started"
        return self._popen

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._popen is not None and self._popen.poll() is None

    def kill(self) -> None:
        """SIGKILL to it and all that it started."""
        self.disturb()
        self.kills += 1
        os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()

    def kill_alone(self) -> None:
        """SIGKILL to it and none of those it started."""
        self.disturb()
        self.kills += 1
        self.popen.kill()
        self.popen.wait()

    def kill_child(self) -> bool:
        """SIGKILL to the child that works; False when there is none just now."""
        for one in self._children():
            if "spawn_main" in " ".join(_command(one)):
                self.disturbed.add(one.pid)
                self.kills += 1
                one.kill()
                return True
        return False

    def freeze(self) -> None:
        """SIGSTOP to it and all that it started."""
        self.disturb()
        os.killpg(self.popen.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.killpg(self.popen.pid, signal.SIGCONT)

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM to it; its exit code."""
        self.disturb()
        self.popen.terminate()
        return self.popen.wait(timeout_s)

    def end(self) -> None:
        """Leave nothing of it, whatever state it is in."""
        if self._popen:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()

    def disturb(self) -> None:
        """Note that what it and its children do from now on is no fault of the farm's."""
        self.disturbed |= {self.popen.pid, *(one.pid for one in self._children())}

    def forget_items(self) -> None:
        """Note that it and its children may still be at items that others begin anew."""
        self.disturb()
        self.late |= self.disturbed

    def said(self, words: str) -> list[str]:
        """The lines of its log with these words."""
        return [line for line in self.log.read_text(errors="replace").splitlines() if words in line]

    def _children(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.popen.pid).children(recursive=True)
        return []


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
