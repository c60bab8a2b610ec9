"""What keeps a farm's processes running, with small programs in their place."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra import supervisor as supervisor_module
from infra.preflight import LocalFarmError
from infra.process import SupervisedProcess
from infra.supervisor import Supervisor
from tests.conftest import wait_until

SLEEP = "import time; time.sleep(60)"
# Says in a file when it is ended, and does not end before another file is gone.
SLOW_TO_END = """
import pathlib, signal, sys, time
def end(*_):
    pathlib.Path(sys.argv[1]).touch()
    while pathlib.Path(sys.argv[2]).exists():
        time.sleep(0.01)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
time.sleep(60)
"""
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """A supervisor that hardly pauses; nothing that it started outlives the test."""
    monkeypatch.setattr(supervisor_module, "_PAUSE_S", 0.01)
    monkeypatch.setattr(supervisor_module, "_LONGEST_PAUSE_S", 0.02)
    monkeypatch.setattr(supervisor_module, "STOP_TIMEOUT_S", 0.5)
    one = Supervisor()
    yield one
    one.stop_all(last=[])


def program(name: str, code: str, *arguments: str) -> SupervisedProcess:
    """A process that runs some Python."""
    return SupervisedProcess(name, [sys.executable, "-c", code, *arguments], dict(os.environ))


def pid(process: SupervisedProcess) -> int:
    """Its process id now."""
    assert process.popen
    return process.popen.pid


def is_catching(process: SupervisedProcess, number: signal.Signals) -> bool:
    """Whether it has begun to handle or ignore a signal."""
    status = Path(f"/proc/{pid(process)}/status").read_text()
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigCgt", "SigIgn"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


def test_what_dies_is_started_again_and_what_is_retired_is_not(supervisor: Supervisor) -> None:
    """A killed process comes back under its name; an ended one is gone for good."""
    process = program("worker-1", SLEEP)
    supervisor.start(process)
    first = pid(process)
    process.signal_one(signal.SIGKILL)

    def is_back() -> bool:
        supervisor.tend()
        return pid(process) != first and process.exit_code is None

    wait_until(is_back, "the process is started again")
    supervisor.retire("worker-1")

    def is_gone() -> bool:
        supervisor.tend()
        return not supervisor.has("worker-1")

    wait_until(is_gone, "the process is gone")
    for _ in range(10):
        supervisor.tend()
    assert supervisor.names() == []
    assert process.exit_code == -signal.SIGTERM


def test_a_retired_process_that_will_not_end_is_killed_in_time(supervisor: Supervisor) -> None:
    """Until then its name is taken: two workers never share one."""
    process = program("worker-2", DEAF)
    supervisor.start(process)
    wait_until(lambda: is_catching(process, signal.SIGTERM), "the program is deaf")
    supervisor.retire("worker-2")
    supervisor.tend()
    assert supervisor.has("worker-2")

    def is_gone() -> bool:
        supervisor.tend()
        return not supervisor.has("worker-2")

    wait_until(is_gone, "the process is killed")
    wait_until(lambda: process.exit_code == -signal.SIGKILL, "it has ended")


def test_what_keeps_ending_is_given_up_only_while_the_farm_starts(supervisor: Supervisor) -> None:
    """A broken installation is said; a farm that ran once is not ended by a crowd of faults."""
    process = program("sweeper", "raise SystemExit(3)")
    supervisor.start(process)

    def is_given_up() -> bool:
        try:
            supervisor.tend()
        except LocalFarmError as error:
            return "sweeper keeps ending" in str(error)
        return False

    wait_until(is_given_up, "the supervisor gives up")
    supervisor.settle()
    seen: set[int] = set()

    def has_tried_on() -> bool:
        supervisor.tend()
        seen.add(pid(process))
        return len(seen) >= 5

    wait_until(has_tried_on, "it is started again and again")


def test_all_end_before_the_last_one_is_told_to(supervisor: Supervisor, tmp_path: Path) -> None:
    """What workers hand back on their way out finds the queue; one being retired is waited for, too."""
    told, block = tmp_path / "told", tmp_path / "block"
    order = "import pathlib, signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit({}));"
    worker = program("worker-1", SLOW_TO_END, str(told), str(block))
    check = f"40 + pathlib.Path({str(told)!r}).exists()"
    valkey = program("valkey", order.format(check) + "print('up', flush=True); import time; time.sleep(60)")
    for process in (valkey, worker):
        supervisor.start(process)
    wait_until(lambda: all(is_catching(one, signal.SIGTERM) for one in (valkey, worker)), "both are up")
    supervisor.retire("worker-1")
    supervisor.stop_all(last=["valkey"])
    assert (worker.exit_code, valkey.exit_code) == (0, 41)


def test_a_child_of_what_died_does_not_outlive_it(supervisor: Supervisor, tmp_path: Path) -> None:
    """A killed worker's child would go on beside its successor."""
    file = tmp_path / "child"
    code = (
        "import pathlib, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n"
        "pathlib.Path(sys.argv[1]).write_text(str(child.pid))\n"
        "time.sleep(60)"
    )
    process = program("worker-1", code, str(file))
    supervisor.start(process)
    wait_until(lambda: file.exists() and file.read_text() != "", "the child is there")
    child = psutil.Process(int(file.read_text()))
    process.signal_one(signal.SIGKILL)

    def has_ended() -> bool:
        supervisor.tend()
        return not child.is_running() or child.status() == psutil.STATUS_ZOMBIE

    wait_until(has_ended, "the child has ended")
