"""The environments that published clients run in: made once from hashed locks, kept below .venv."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
_KEPT = HERE.parents[1] / ".venv" / "clients"
_UV = [sys.executable, "-m", "uv", "--quiet"]


def python_with(name: str) -> Path:
    """A Python in which the packages of `name`.lock are installed, and nothing else."""
    lock = HERE / f"{name}.lock"

    def install(folder: Path) -> None:
        subprocess.run([*_UV, "venv", "--python", sys.executable, folder], check=True)
        python = folder / "bin" / "python"
        subprocess.run([*_UV, "pip", "sync", "--python", python, "--require-hashes", lock], check=True)

    return _made(name, lock, install) / "bin" / "python"


def node_modules(name: str = "node") -> Path:
    """A folder in which the packages of a folder's package-lock.json are installed."""
    lock = HERE / name / "package-lock.json"

    def install(folder: Path) -> None:
        folder.mkdir(parents=True)
        for file in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(HERE / name / file, folder)
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(["npm", "ci", *options], check=True, cwd=folder)  # noqa: S607 — whichever npm there is

    return _made(name, lock, install)


def _made(name: str, lock: Path, install: Callable[[Path], None]) -> Path:
    version = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = _KEPT / f"{name}-{version}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        install(folder)
        (folder / "complete").touch()
    return folder
