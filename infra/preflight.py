"""What must be right before a local farm starts: addresses, folders, secrets, storage, Redis.

Every check raises LocalFarmError with one sentence that says what to do.
"""

from __future__ import annotations

import base64
import fcntl
import os
import secrets
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import redis

from shared.catalogue import models
from shared.errors import RiffarmError
from shared.object_store import has_keys, object_store_from_url
from shared.settings import LOCAL_FARM_FILE


class LocalFarmError(Exception):
    """The local farm cannot start; the message is one sentence for the user."""


def writable(folder: Path) -> Path:
    """The folder, made if need be. Raises LocalFarmError when it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise LocalFarmError(f"cannot write to {folder} ({error.strerror}); choose another with --data") from error
    return folder.resolve()


def usable(storage: str) -> str:
    """The storage's URL. Raises LocalFarmError when there is no such storage."""
    try:
        object_store_from_url(storage, os.environ.get("RIFFARM_S3_ENDPOINT_URL")).check()
    except (RiffarmError, ValueError) as error:
        raise LocalFarmError(f"the storage {storage} cannot be used: {error}") from error
    return storage


def check_keys(host: str, storage: str) -> None:
    """Raise LocalFarmError where listening on this address would let in whoever comes."""
    objects = object_store_from_url(storage, os.environ.get("RIFFARM_S3_ENDPOINT_URL"))
    if not os.environ.get("RIFFARM_GATEWAY_KEY") and not has_keys(objects):
        raise LocalFarmError(
            f"listening on {host} lets others in: set RIFFARM_GATEWAY_KEY to a key first, or make one with "
            "riffarm keys create"
        )


def answering(url: str) -> str:
    """The URL of a Redis that answers. Raises LocalFarmError."""
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=3) as client:
            client.ping()
    except (redis.exceptions.RedisError, ValueError) as error:
        raise LocalFarmError(f"no Redis answers at {url.rpartition('@')[2]}: {error}") from error
    return url


def check_models() -> None:
    """Raise LocalFarmError when RIFFARM_MODELS_FILE cannot be read."""
    own_file = os.environ.get("RIFFARM_MODELS_FILE")
    try:
        models(Path(own_file) if own_file else None)
    except (OSError, ValueError) as error:
        raise LocalFarmError(f"the models in {own_file} cannot be read: {error}") from error


def locked(data: Path) -> TextIO:
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


def free_port(host: str, port: int) -> int:
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


def kept_secrets(data: Path) -> dict[str, str]:
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


def keep_settings(data: Path, environment: Mapping[str, str]) -> None:
    """Let the operator's commands find a running farm by its data folder."""
    lines = (f"{name}='{value}'\n" for name, value in environment.items() if name.startswith("RIFFARM_"))
    # Only its owner may read it: it holds secrets.
    with tempfile.NamedTemporaryFile("w", dir=data, delete=False) as file:
        file.writelines(lines)
    Path(file.name).replace(data / LOCAL_FARM_FILE)


def is_this_machine(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
