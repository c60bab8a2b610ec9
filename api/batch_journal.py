"""What `riffarm batch` remembers beside its outputs, so that it goes on where it stopped.

A journal of JSON Lines, only ever added to: a kill leaves at worst half a line at its end, which counts as not written.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from api.transport import FarmError

NAME: Final = ".riffarm-batch.jsonl"


@dataclass
class Submitted:
    """A request that the farm has taken.

    files: what was downloaded; None until all was.
    """

    job_id: str
    batch_id: str
    name: str
    files: list[str] | None = None


@dataclass
class Journal:
    """What was done so far. As a context: nobody else works in the folder meanwhile.

    jobs: by the entry's id. open_groups: entries that were sent together under a key, and whose answer did not come.
    """

    folder: Path
    jobs: dict[str, Submitted] = field(default_factory=dict)
    open_groups: dict[str, list[str]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        path = self.folder / NAME
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise FarmError(f"cannot write to {self.folder}: {error.strerror}") from error
        self._lock()
        self._file.seek(0)
        text = self._file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        for line in whole.splitlines():
            self._replay(json.loads(line))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def _lock(self) -> None:
        # Windows has no such lock, and a second run there is its user's care.
        with suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._file.close()
                raise FarmError(f"another `riffarm batch` is at work in {self.folder}") from None

    def sending(self, key: str, entries: Sequence[str]) -> None:
        """These entries are about to be sent under this idempotency key."""
        self._add({"group": key, "entries": [*entries]})

    def answered(self, key: str, taken: dict[str, Submitted]) -> None:
        """The farm's answer to a group: the entries that it took."""
        self._add({"answered": key, "jobs": {entry: vars(job) for entry, job in taken.items()}})

    def downloaded(self, entry: str, files: Sequence[str]) -> None:
        """All files of an entry are in the folder."""
        self._add({"downloaded": entry, "files": [*files]})

    def gone(self, entry: str) -> None:
        """The entry's job is not on the farm any more."""
        self._add({"gone": entry})

    def _add(self, event: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(event).encode() + b"\n")
        except OSError as error:
            raise FarmError(f"cannot write to {self.folder}: {error.strerror}") from error
        self._replay(event)

    def _replay(self, event: dict[str, Any]) -> None:
        match event:
            case {"group": key, "entries": entries}:
                self.open_groups[key] = entries
            case {"answered": key, "jobs": jobs}:
                self.open_groups.pop(key)
                self.jobs |= {entry: Submitted(**job) for entry, job in jobs.items()}
            case {"downloaded": entry, "files": files}:
                self.jobs[entry].files = files
            case {"gone": entry}:
                self.jobs.pop(entry)
