"""Two processes of one thread each that do independent work, and what they made kept in files.

Owns the spreading, so that a figure is the same on any machine, and progress. Leaves out the work itself.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from workers.training.dataset import be_single_threaded
from workers.training.loop import Tell

Item = TypeVar("Item")
Made = TypeVar("Made")
PROCESSES: Final = 2
_ROOT: Final = Path(__file__).parents[2]


class Crew:
    """Processes that do work item by item; results come in order, the same whatever their number.

    They start with the first work and end with the `with` block.
    """

    def __init__(self, tell: Tell, processes: int = PROCESSES) -> None:
        """`tell` hears how much of each kind of work is done; without processes all is done in this one."""
        self._tell = tell
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def done(self, what: str, work: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
        """What `work`, a function of a module, makes of each item."""
        results: list[Made] = []
        for made in self._map(work, items):
            results.append(made)
            self._tell(what, len(results), len(items), "")
        return results

    def kept(self, path: Path, what: str, work: Callable[[Item], NDArray[Any]], items: Sequence[Item]) -> NDArray[Any]:
        """What `work` makes of all items, stacked; read from `path` if it was made before."""
        if not path.exists():
            made = np.stack(self.done(what, work, items))
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial.npy")
            np.save(partial, made)
            os.replace(partial, path)
        return np.asarray(np.load(path))

    def _map(self, work: Callable[[Item], Made], items: Sequence[Item]) -> Any:
        if self._processes == 0 or not items:
            return map(work, items)
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._processes, spawn, initializer=one_thread)
        return self._pool.map(work, items, chunksize=max(1, min(8, len(items) // (4 * self._processes))))


def one_thread() -> None:
    """Have this process compute on one thread: sums do not depend on how many cores there are, and cores are shared."""
    # Libraries that are still to be loaded read it then.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    be_single_threaded()


def sources_sha256(*modules: str) -> str:
    """One hash over the sources of modules (`workers.x.y`) and of all of the project's that they import."""
    found: dict[Path, bytes] = {}
    waiting = [_ROOT / f"{module.replace('.', '/')}.py" for module in modules]
    while waiting:
        path = waiting.pop()
        if path in found or not path.exists():
            continue
        found[path] = path.read_bytes()
        names = re.findall(rb"^from ((?:workers|shared)[\w.]*) import", found[path], re.MULTILINE)
        waiting += [_ROOT / f"{name.decode().replace('.', '/')}.py" for name in names]
    digest = hashlib.sha256()
    for path in sorted(found):
        digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + found[path])
    return digest.hexdigest()
