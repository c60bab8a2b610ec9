"""A farm to talk to: the one that runs, or a local one that lives as long as a command.

Owns starting `riffarm up` as a process of its own and stopping it in order. Leaves out what that does
(`infra.local_farm`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from api.client import Client, FarmError


@contextlib.contextmanager
def farm_client(url: str | None, console: Console) -> Iterator[Client]:
    """A client of the farm that runs, or of a local one that lives as long as the block."""
    with Client.from_environment(url) as client:
        if client.is_farm() or url or os.environ.get("RIFFARM_URL"):
            yield client
            return
    with _local_farm(console) as address, Client(address) as client:
        yield client


@contextlib.contextmanager
def _local_farm(console: Console) -> Iterator[str]:
    """Start `riffarm up` on a free port; its address. It stops with the block, also on Ctrl-C."""
    file, name = tempfile.mkstemp(prefix="riffarm-", suffix=".log")
    log_path = Path(name)
    console.print(f"No farm is running: starting a local one (its log is {log_path}).", style="dim", highlight=False)
    command = [sys.executable, "-m", "infra.local", "--port", "0"]
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(os.fdopen(file, "w"))
        # A session of its own: Ctrl-C reaches us alone, and we stop the farm in order.
        farm = stack.enter_context(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                env={**os.environ, "RIFFARM_STOP_WITH_PARENT": str(os.getpid())},
            )
        )
        try:
            with console.status("Starting Valkey, the gateway and the workers"):
                ready = next((line for line in farm.stdout or () if line.startswith("READY ")), None)
            if ready is None:
                raise FarmError(f"the local farm did not start: {_last_line(log_path)}")
            yield ready.removeprefix("READY ").strip()
        finally:
            farm.send_signal(signal.SIGTERM)
            with _uninterrupted():
                farm.wait()


def _last_line(log_path: Path) -> str:
    lines = [line for line in log_path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it left no log"


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let nothing break off the block: a second Ctrl-C must not leave processes behind."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
