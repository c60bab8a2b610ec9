"""A real S3 server for the tests: OpenStack Swift with its S3 face, all of it in one process.

    python tests/swift_s3.py DIR PORT        # 0 picks a free port; the address is printed when it answers

It checks signatures, expiry and digests, and knows multipart uploads, ranges and presigned links. It has one account,
keeps its objects below DIR, and is no server for anything but tests: one copy of each object, no replication.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ACCESS_KEY: Final = "riffarm:tests"
SECRET_KEY: Final = "only-the-tests-know-this"
READY: Final = "READY "
START_TIMEOUT_S: Final = 60.0

_BACKENDS: Final = ("account", "container", "object")
_FILTERS: Final = ("catch_errors", "gatekeeper", "listing_formats", "s3api", "tempauth", "slo", "dlo")
_BACKEND_CONF: Final = """\
[DEFAULT]
swift_dir = {etc}
devices = {devices}
mount_check = false
log_level = ERROR
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
fallocate_reserve = 0
"""
_PROXY_CONF: Final = """\
[DEFAULT]
swift_dir = {etc}
log_level = ERROR
[pipeline:main]
pipeline = {filters} proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_{user} = {secret} .admin
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
"""
_SWIFT_CONF: Final = """\
[swift-hash]
swift_hash_path_prefix = riffarm
swift_hash_path_suffix = tests
[storage-policy:0]
name = single
default = yes
"""


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server; `process` is there to be frozen or killed by a test of bad days."""

    endpoint_url: str
    access_key: str
    secret_key: str
    process: subprocess.Popen[str] = field(repr=False)

    def environment(self) -> dict[str, str]:
        """The variables with which boto3, in this process or another, is let in."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def create_bucket(self, name: str) -> None:
        """Make an empty bucket."""
        import boto3

        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=name)


@contextmanager
def running_swift_s3(folder: Path | None = None, port: int = 0) -> Iterator[S3Server]:
    """A server in a process of its own, ended on leaving; with a folder of yours its objects outlive it."""
    with tempfile.TemporaryDirectory(prefix="swift-") as temporary:
        command = [sys.executable, "-W", "ignore", __file__, str(folder or temporary), str(port)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        with process:
            try:
                yield S3Server(_announced_address(process), ACCESS_KEY, SECRET_KEY, process)
            finally:
                process.kill()


def _announced_address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    is_readable = bool(select.select([process.stdout], [], [], START_TIMEOUT_S)[0])
    line = process.stdout.readline() if is_readable else ""
    if not line.startswith(READY):
        raise RuntimeError(f"the S3 server did not start: {line.strip() or 'nothing was announced'}")
    return line.removeprefix(READY).strip()


class _Cache:
    """What Swift asks of its memcache. Nothing need expire: nobody else changes the accounts and containers in it."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def get(self, key: str, raise_on_error: bool = False) -> Any:
        return self._values.get(key)

    def set(self, key: str, value: Any, **_expiry: object) -> None:
        self._values[key] = value

    def delete(self, key: str) -> None:
        self._values.pop(key, None)


def serve(folder: Path, port: int) -> None:
    """Serve until killed. To be called before anything else has opened a socket or a thread."""
    import eventlet

    eventlet.monkey_patch()
    from eventlet import wsgi
    from swift.common.http_protocol import SwiftHttpProtocol

    quiet = logging.getLogger("swift-s3")
    quiet.addHandler(logging.NullHandler())

    def spawn(listener: Any, app: Any) -> Any:
        # Otherwise an answer in two pieces waits 40 ms for the client to acknowledge the first.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return eventlet.spawn(
            wsgi.server, listener, app, quiet, protocol=SwiftHttpProtocol, capitalize_response_headers=False
        )

    listeners = {name: eventlet.listen(("127.0.0.1", 0)) for name in _BACKENDS}
    etc = _write_cluster(folder, {name: listener.getsockname()[1] for name, listener in listeners.items()})
    for name, listener in listeners.items():
        spawn(listener, _app(etc, name, _BACKEND_CONF.format(etc=etc, devices=folder / "devices", name=name)))
    face = eventlet.listen(("127.0.0.1", port))
    proxy, cache = _app(etc, "proxy", _proxy_conf(etc)), _Cache()
    # Without a cache every request asks for its account and its container first: four times as slow.
    server = spawn(face, lambda environ, start: proxy(environ | {"swift.cache": cache}, start))
    print(f"{READY}http://127.0.0.1:{face.getsockname()[1]}", flush=True)
    server.wait()


def _write_cluster(folder: Path, ports: dict[str, int]) -> Path:
    """A cluster of one device: its configuration and the rings that say where each backend listens."""
    from swift.common.ring import RingBuilder
    from swift.common.storage_policy import reload_storage_policies
    from swift.common.utils import set_swift_dir

    etc = folder / "etc"
    etc.mkdir(parents=True, exist_ok=True)
    (folder / "devices" / "d1").mkdir(parents=True, exist_ok=True)
    (etc / "swift.conf").write_text(_SWIFT_CONF)
    set_swift_dir(str(etc))
    reload_storage_policies()
    for name, port in ports.items():
        builder = RingBuilder(part_power=4, replicas=1, min_part_hours=0)
        device = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": port, "device": "d1", "weight": 1.0}
        builder.add_dev(device)
        builder.rebalance()
        builder.get_ring().save(str(etc / f"{name}.ring.gz"))
    return etc


def _proxy_conf(etc: Path) -> str:
    user = ACCESS_KEY.replace(":", "_")
    conf = _PROXY_CONF.format(etc=etc, filters=" ".join(_FILTERS), user=user, secret=SECRET_KEY)
    plain = [name for name in _FILTERS if f"[filter:{name}]" not in conf]
    return conf + "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in plain)


def _app(etc: Path, name: str, conf: str) -> Any:
    from swift.common.wsgi import loadapp

    file = etc / f"{name}-server.conf"
    file.write_text(conf)
    return loadapp(str(file), global_conf={"log_name": name})


def main() -> None:
    parser = argparse.ArgumentParser(description="A real S3 server for tests.")
    parser.add_argument("folder", type=Path, help="where its objects are kept")
    parser.add_argument("port", type=int, help="port on 127.0.0.1; 0 picks a free one")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    serve(arguments.folder.absolute(), arguments.port)


if __name__ == "__main__":
    main()
