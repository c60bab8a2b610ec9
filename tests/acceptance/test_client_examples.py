"""The examples of docs/client.md, taken from the page and run against a farm whose model costs nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import psutil
import pytest
import soundfile

from api.client import Client
from tests.conftest import Farm, free_port, running_farm, wait_until
from tests.tiny_audio import write_tone

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "client.md"
KEY = "rf_" + "e" * 40
LANGUAGES = ("curl", "Python", "JavaScript")
TASKS = ("Submit and wait", "Follow events", "Upload and remix", "Many at once", "Verify a webhook")
ENVIRONMENT = {
    "RIFFARM_WORKER_APP": "tests.stub_worker:app",
    "RIFFARM_GATEWAY_KEY": KEY,
    "RIFFARM_WEBHOOK_ALLOW_LOOPBACK": "true",
}
_FILES = {"curl": "example.sh", "Python": "example.py", "JavaScript": "example.mjs"}
_COMMANDS = {"curl": ["bash", "-euo", "pipefail"], "Python": [sys.executable], "JavaScript": ["node"]}


@pytest.fixture(scope="module")
def keyed_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """A farm with a key and a stub worker."""
    folder = tmp_path_factory.mktemp("farm")
    running = running_farm(folder / "data", "--workers", "1", environment=ENVIRONMENT)
    with running as farm, Client(farm.url, KEY) as client:
        farm.client = client
        yield farm


def example(task: str, language: str) -> str:
    """An example's code, from the page."""
    text = PAGE.read_text(encoding="utf-8")
    section = re.split(r"^## ", text, flags=re.M)
    part = next(one for one in section if one.startswith(f"{task}\n"))
    chapter = next(one for one in re.split(r"^### ", part, flags=re.M) if one.startswith(f"{language}\n"))
    blocks = re.findall(r"^```(?:sh|python|js)\n(.*?)^```$", chapter, flags=re.M | re.S)
    assert len(blocks) == 1
    return str(blocks[0])


def started(task: str, language: str, farm: Farm, folder: Path, **variables: str) -> subprocess.Popen[str]:
    """An example that runs in the folder as its reader would run it."""
    file = folder / _FILES[language]
    file.write_text(example(task, language), encoding="utf-8")
    environment = os.environ | {"RIFFARM_URL": farm.url, "RIFFARM_API_KEY": KEY, "PYTHONPATH": str(ROOT)} | variables
    return subprocess.Popen(
        [*_COMMANDS[language], file.name],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(task: str, language: str, farm: Farm, folder: Path) -> list[str]:
    """What an example prints, once it has ended well."""
    process = started(task, language, farm, folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.splitlines()


def test_the_page_has_every_example() -> None:
    """Five tasks, three languages."""
    assert all(example(task, language).strip() for task in TASKS for language in LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_submit_and_wait(language: str, keyed_farm: Farm, tmp_path: Path) -> None:
    """The file is there and can be heard."""
    assert output("Submit and wait", language, keyed_farm, tmp_path) == ["succeeded"]
    assert soundfile.info(tmp_path / "piano.mp3").duration == pytest.approx(5.12, abs=0.1)


@pytest.mark.parametrize("language", LANGUAGES)
def test_follow_events(language: str, keyed_farm: Farm, tmp_path: Path) -> None:
    """Progress up to all frames, then the end."""
    lines = output("Follow events", language, keyed_farm, tmp_path)
    assert any("4 of 4 frames" in line for line in lines)
    assert "succeeded" in lines[-1]


@pytest.mark.parametrize("language", LANGUAGES)
def test_upload_and_remix(language: str, keyed_farm: Farm, tmp_path: Path) -> None:
    """A sound of the source's length."""
    write_tone(tmp_path / "song.flac", channels=2)
    assert output("Upload and remix", language, keyed_farm, tmp_path) == ["succeeded"]
    assert soundfile.info(tmp_path / "remix.flac").duration == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("language", LANGUAGES)
def test_many_at_once(language: str, keyed_farm: Farm, tmp_path: Path) -> None:
    """Two are rendered, the third one's mistake is told."""
    lines = output("Many at once", language, keyed_farm, tmp_path)
    assert lines[0].startswith("request 2: prompt")
    assert sorted(lines[1:]) == ["1 succeeded", "2 succeeded"]


def listens(process: subprocess.Popen[str], port: int) -> bool:
    """Whether a process waits for connections there."""
    connections = psutil.Process(process.pid).net_connections("tcp")
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections)


def hooked(port: int) -> dict[str, object]:
    """A request whose end is posted to a port of this machine."""
    webhook = {"url": f"http://127.0.0.1:{port}/", "events": ["job.succeeded"]}
    return {"type": "clip", "prompt": "bells", "webhook": webhook}


@pytest.mark.parametrize("language", ["Python", "JavaScript"])
def test_verify_a_webhook(language: str, keyed_farm: Farm, tmp_path: Path) -> None:
    """The farm's own is taken; what another sends is not."""
    port = free_port()
    receiver = started("Verify a webhook", language, keyed_farm, tmp_path, PORT=str(port))
    wait_until(lambda: listens(receiver, port), "the receiver listens")
    if language == "JavaScript":
        forged = {"webhook-id": "dlv_1", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
        assert httpx.post(f"http://127.0.0.1:{port}/", content=b"{}", headers=forged).status_code == 400
    keyed_farm.client.submit(hooked(port))
    out, err = receiver.communicate(timeout=60)
    assert (out.strip(), receiver.returncode) == ("verified job.succeeded", 0), err


def test_verify_a_webhook_in_a_shell(keyed_farm: Farm, tmp_path: Path) -> None:
    """Likewise, with what a receiver kept of it in files; a changed body is found out."""
    has_come = threading.Event()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            (tmp_path / "body").write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
            for name in ("id", "timestamp", "signature"):
                (tmp_path / name).write_text(self.headers[f"webhook-{name}"])
            self.send_response(204)
            self.end_headers()
            has_come.set()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 — the library's name
            pass

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        keyed_farm.client.submit(hooked(server.server_port))
        server.timeout = 60
        server.handle_request()
    assert has_come.is_set()
    assert output("Verify a webhook", "curl", keyed_farm, tmp_path) == ["verified job.succeeded"]
    (tmp_path / "body").write_bytes((tmp_path / "body").read_bytes().replace(b"succeeded", b"canceled!"))
    changed = started("Verify a webhook", "curl", keyed_farm, tmp_path)
    assert changed.communicate(timeout=60) == ("", "not from the farm\n")
    assert changed.returncode == 1
