"""What hostile cases are thrown at: a gateway process with two tenants, one of them the victim.

Owns the processes, the victim's goods and the raw socket. Leaves out the cases.
"""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import redis
from PIL import Image

from shared.contracts import JobFailure
from shared.job_store import JobStore
from shared.object_store import LocalDiskStore, output_key
from shared.settings import Settings
from tests.conftest import SECRET, WEBHOOK_SECRET, free_port, wait_until

OPERATOR: Final = "rf_" + "o" * 40
CLIP: Final = {"type": "clip", "prompt": "jazz piano"}
_SILENCE_S: Final = 20.0
"""An answer that takes longer is none."""


class Answer(NamedTuple):
    """What came back; status 0 when the connection ended without an answer."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Goods:
    """What the victim has and nobody else may see or touch."""

    waiting: str = ""
    ended: str = ""
    upload: str = ""
    link: str = ""
    secrets: list[str] = field(default_factory=list)


class Rig:
    """A gateway under attack. `key` is the attacker's own, with the scopes submit and read."""

    def __init__(self, settings: Settings, http: httpx.Client) -> None:
        self.settings = settings
        self.http = http
        self.url = str(http.base_url).rstrip("/")
        self.address = (http.base_url.host, int(http.base_url.port or 0))
        self.objects = LocalDiskStore(Path(settings.storage_url.removeprefix("file:")))
        self.redis = redis.Redis.from_url(settings.redis_url, decode_responses=True)
        self._ids: dict[str, str] = {}
        self._scoped: dict[str, str] = {}
        self._own_job = ""
        self.key = self.made_key("mallory", "--scope", "submit", "--scope", "read")
        self.victims_key = self.made_key("victim")
        self.goods = self._goods()

    def made_key(self, tenant: str, *options: str) -> str:
        """A new key, made as an operator does."""
        command = [sys.executable, "-m", "api.cli", "keys", "create", "--tenant", tenant, "--name", "x", *options]
        made = subprocess.run(
            [*command, "--json"], env=environment(self.settings), capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
        told = json.loads(made.stdout)
        self._ids[told["key"]] = told["id"]
        return str(told["key"])

    def call(self, method: str, path: str, *, key: str | None = "", **options: Any) -> Answer:
        """One request with the attacker's key, another one, or none (None)."""
        bearer = {} if key is None else {"authorization": f"Bearer {key or self.key}"}
        options["headers"] = bearer | {name.lower(): value for name, value in options.get("headers", {}).items()}
        answer = self.http.request(method, path, **options)
        return Answer(answer.status_code, dict(answer.headers), answer.content)

    def raw(self, *parts: bytes, pause_s: float = 0.0) -> Answer:
        """Bytes as they are, one part after the other; the first answer to them."""
        with socket.create_connection(self.address, timeout=_SILENCE_S) as line:
            try:
                for part in parts:
                    line.sendall(part)
                    time.sleep(pause_s)
                told = _read(line)
            except (ConnectionError, TimeoutError):
                told = b""
        return _answer(told)

    def revoke(self, key: str) -> None:
        """Withdraw a key, as an operator does."""
        command = [sys.executable, "-m", "api.cli", "keys", "revoke", self._ids[key]]
        subprocess.run(command, env=environment(self.settings), check=True, capture_output=True)

    def scoped_key(self, scope: str) -> str:
        """A key of the attacker's tenant that may do this alone."""
        if scope not in self._scoped:
            self._scoped[scope] = self.made_key("mallory", "--scope", scope)
        return self._scoped[scope]

    def own_job(self) -> str:
        """A job of the attacker's own."""
        if not self._own_job:
            self._own_job = self._submitted(self.key)
        return self._own_job

    def jobs(self) -> tuple[int, int]:
        """How many jobs Redis and storage know."""
        return int(self.redis.zcard("riffarm:jobs")), sum(1 for _ in self.objects.keys("jobs/"))  # type: ignore[arg-type]

    def _goods(self) -> Goods:
        """A job that waits, one that ended with an output, an upload."""
        key = self.victims_key
        waiting, ended = (self._submitted(key) for _ in range(2))
        store = JobStore(self.settings.redis_url)
        self.objects.put(output_key(ended, "clip.flac"), b"the victim's sound")
        output = {"name": "clip.flac", "media_type": "audio/flac", "bytes": 18, "sha256": "0" * 64, "duration_s": 5.12}
        failure = JobFailure(code="render_failed", message="for the test", retryable=False).model_dump_json()
        assert store.finish(ended, "failed", {"outputs": json.dumps([output]), "error": failure})
        store.redis.close()
        job = json.loads(self.call("GET", f"/v1/jobs/{ended}", key=key).body)
        upload = json.loads(self.call("POST", "/v1/uploads", key=key, files={"content": ("a.png", picture())}).body)
        secrets = [key, OPERATOR, SECRET, WEBHOOK_SECRET, str(self.objects.root), "Traceback"]
        return Goods(waiting, ended, upload["id"], job["outputs"][0]["url"].removeprefix(self.url), secrets)

    def _submitted(self, key: str) -> str:
        answer = self.call("POST", "/v1/jobs", key=key, json=CLIP)
        assert answer.status == 202, answer.body
        return str(json.loads(answer.body)["id"])


def picture(size: tuple[int, int] = (512, 512)) -> bytes:
    """A PNG that nobody else has."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (7, 77, 177)).save(buffer, "PNG")
    return buffer.getvalue()


def environment(settings: Settings) -> dict[str, str]:
    """What the gateway's process and the operator's commands are told."""
    return os.environ | {
        "RIFFARM_REDIS_URL": settings.redis_url,
        "RIFFARM_STORAGE_URL": settings.storage_url,
        "RIFFARM_SECRET": SECRET,
        "RIFFARM_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "RIFFARM_GATEWAY_KEY": OPERATOR,
    }


@contextmanager
def under_attack(settings: Settings, log: Path) -> Iterator[Rig]:
    """A gateway process over these stores."""
    port = free_port()
    with log.open("wb") as file:
        variables = environment(settings) | {"RIFFARM_PORT": str(port)}
        process = subprocess.Popen([sys.executable, "-m", "api.main"], env=variables, stdout=file, stderr=file)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_SILENCE_S, trust_env=False) as http:
            wait_until(lambda: is_alive(http), "the gateway answers")
            rig = Rig(settings, http)
            yield rig
            rig.redis.close()
    finally:
        process.terminate()
        process.wait(20)


def is_alive(http: httpx.Client) -> bool:
    """Whether the gateway answers."""
    try:
        return http.get("/health", timeout=5).is_success
    except httpx.HTTPError:
        return False


def _read(line: socket.socket) -> bytes:
    """Until the end of the first answer's body, or of the connection."""
    told = b""
    while part := line.recv(65_536):
        told += part
        head, is_whole, body = told.partition(b"\r\n\r\n")
        length = next((one for one in head.lower().split(b"\r\n") if one.startswith(b"content-length:")), b":0")
        if is_whole and len(body) >= int(length.partition(b":")[2]):
            break
    return told


def _answer(told: bytes) -> Answer:
    head, _, body = told.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    if not first.startswith("HTTP/1.1 "):
        return Answer(0, {}, b"")
    pairs = (line.partition(":") for line in lines)
    return Answer(int(first.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}, body)
