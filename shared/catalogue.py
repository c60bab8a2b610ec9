"""Which models and built-in seed images a farm has.

Both sides ask: the gateway to refuse unknown names, a worker to find the files. Leaves out loading them.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
UPLOAD_PREFIX: Final = "upl_"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model by name; `source` is a folder or a hub id."""

    name: str
    source: str
    revision: str
    description: str


@dataclass(frozen=True, slots=True)
class SeedImageEntry:
    """A built-in spectrogram picture on an exact beat grid."""

    id: str
    title: str
    description: str
    tempo_bpm: float
    beats: int
    meter: str
    columns: int
    duration_s: float
    sha256: str

    @property
    def path(self) -> Path:
        """The picture's file."""
        return HERE / "seed_images" / f"{self.id}.png"


def models(own_file: Path | None = None) -> dict[str, ModelEntry]:
    """The built-in models and those of `own_file`, by name.

    Raises ValueError naming the file and the entry when one has no source or revision.
    """
    return {entry.name: entry for file in (HERE / "models.toml", own_file) if file for entry in _read(file)}


def _read(file: Path) -> list[ModelEntry]:
    entries = []
    for name, table in tomllib.loads(file.read_text(encoding="utf-8")).items():
        if not isinstance(table, dict) or not {"source", "revision"} <= table.keys():
            raise ValueError(f"{file}: [{name}] needs both source and revision")
        folder = file.parent / table["source"]
        source = str(folder.resolve()) if folder.is_dir() else str(table["source"])
        entries.append(ModelEntry(name, source, str(table["revision"]), str(table.get("description", ""))))
    return entries


@cache
def seed_images() -> dict[str, SeedImageEntry]:
    """The built-in seed images by id."""
    index = json.loads((HERE / "seed_images" / "index.json").read_text(encoding="utf-8"))
    return {entry["id"]: SeedImageEntry(**entry) for entry in index}
