"""What the storage tests share: keys that must be refused, and every way to reach a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shared.object_store import ObjectStore

BUCKET = "riffarm"
BAD_KEYS = [
    "",
    "/etc/passwd",
    "../secret",
    "jobs/../../secret",
    "jobs//x",
    "jobs/",
    "./x",
    "jobs\\x",
    "jobs/\0",
    "jobs/é",
    "jobs/a b",
    "jobs/a\n",
    ".writing-0",
    "a/" * 256 + "b",
    "a" * 256,
]
DEAD_AFTER_S = 10.0


def calls(store: ObjectStore, key: str, path: Path) -> dict[str, Callable[[], object]]:
    """Every way to reach storage, with `key`; `path` is a file that exists."""
    return {
        "put": lambda: store.put(key, b"x"),
        "put_file": lambda: store.put_file(key, path, "audio/flac"),
        "get": lambda: store.get(key),
        "exists": lambda: store.exists(key),
        "delete": lambda: store.delete(key),
        "keys": lambda: list(store.keys(f"{key}/")),
        "aged_keys": lambda: list(store.aged_keys(f"{key}/")),
        "check": store.check,
        "remove_unfinished": lambda: store.remove_unfinished(0),
    }
