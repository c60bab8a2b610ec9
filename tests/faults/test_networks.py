"""Lines that are cut, or frozen, between a worker and Valkey and between everybody and an S3 server that also dies."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from tests.conftest import free_port, wait_until
from tests.faults.checks import check
from tests.faults.conftest import FEW
from tests.faults.mix import SEED_IMAGE, Request
from tests.faults.processes import Process
from tests.faults.proxy import Proxy
from tests.faults.rig import LEASE_S, Farm
from tests.swift_s3 import ACCESS_KEY, SECRET_KEY

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": "us-east-1",
}
FAULT_S = 2 * LEASE_S


@pytest.fixture(scope="module")
def cut_off_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Farm, Proxy]]:
    """A farm whose first worker reaches Valkey through the proxy."""
    farm = Farm(tmp_path_factory.mktemp("farm"))
    with Proxy(farm.valkey_port) as line:
        farm.add_to_environment("worker-1", {"RIFFARM_REDIS_URL": farm.redis_url(line.port)})
        with farm:
            farm.client.upload(SEED_IMAGE)
            yield farm, line


@pytest.mark.parametrize("fault", [Proxy.cut, pytest.param(Proxy.freeze, marks=pytest.mark.long)])
def test_a_worker_without_valkey_is_replaced_and_comes_back(
    cut_off_farm: tuple[Farm, Proxy],
    requests: list[Request],
    sounds: dict[str, str],
    fault: Callable[[Proxy], None],
) -> None:
    """What it was at goes on elsewhere; once it is back it is late with that, and takes new work."""
    farm, line = cut_off_farm
    farm.begin()
    first, *_ = farm.submit(*requests[:FEW])
    wait_until(lambda: "worker-1" in farm.holders(first).values(), "the first worker is at it")
    farm["worker-1"].disturb()
    fault(line)
    wait_until(lambda: "worker-1" not in farm.holders(first).values(), "its item is another's", 6 * LEASE_S)
    line.mend()
    check(farm, sounds)
    farm["worker-2"].freeze()
    farm.submit(requests[1])
    farm.wait_for_end()
    farm["worker-2"].thaw()


@contextmanager
def running_s3(folder: Path) -> Iterator[tuple[Process, int]]:
    """An S3 server that can be killed and started again with its objects, and its port."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "tests.swift_s3", str(folder / "objects"), str(port)]
    server = Process("s3", command, dict(os.environ), folder)
    try:
        server.start()
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", config=Config(retries={"max_attempts": 0}))
        wait_until(lambda: _has_bucket(client), "the S3 server has a bucket")
        yield server, port
    finally:
        server.end()


def _has_bucket(client: Any) -> bool:
    try:
        client.create_bucket(Bucket="riffarm")
    except BotoCoreError:
        return False
    return True


@pytest.fixture(scope="module")
def farm_on_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Farm, Proxy, Process]]:
    """A farm whose storage is an S3 server, which its workers reach through the proxy."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        server, port = stack.enter_context(running_s3(tmp_path_factory.mktemp("s3")))
        line = stack.enter_context(Proxy(port))
        place = {"RIFFARM_STORAGE_URL": "s3://riffarm", "RIFFARM_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        farm = Farm(tmp_path_factory.mktemp("farm"), environment=place)
        for name in farm.workers:
            farm.add_to_environment(name, {"RIFFARM_S3_ENDPOINT_URL": f"http://127.0.0.1:{line.port}"})
        stack.enter_context(farm)
        farm.client.upload(SEED_IMAGE)
        yield farm, line, server


@pytest.mark.parametrize(
    "fault", ["kill", pytest.param("cut", marks=pytest.mark.long), pytest.param("freeze", marks=pytest.mark.long)]
)
def test_workers_without_storage_wait_and_go_on(
    farm_on_s3: tuple[Farm, Proxy, Process], requests: list[Request], sounds: dict[str, str], fault: str
) -> None:
    """However storage goes away: nothing fails, nothing counts as lost, the work goes on where it was."""
    farm, line, server = farm_on_s3
    farm.begin()
    first, *_ = farm.submit(*requests[:FEW])
    farm.wait_for_frames(first, 1)
    for name in farm.workers:
        # What they cannot store they render again.
        farm[name].disturb()
    if fault == "kill":
        server.kill()
    else:
        getattr(line, fault)()
    farm.wait_s(FAULT_S)
    if fault == "kill":
        server.start()
    line.mend()
    check(farm, sounds, timeout_s=120)
    assert not farm.told("begins anew")
