"""Pickles that leave a trace when they are read: proof that nothing reads them."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Trap:
    """A file, and where it leaves its trace."""

    file: Path
    trace: Path

    @property
    def has_sprung(self) -> bool:
        """Whether the file was unpickled."""
        return self.trace.exists()


class _Trace:
    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self._trace), "w")


def write_trap(file: Path) -> Trap:
    """Write a trap in the place of weights."""
    trace = file.with_name(f"{file.name}.was_read")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(_Trace(trace)))
    return Trap(file, trace)
