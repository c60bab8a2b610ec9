"""`riffarm batch`: submits what is not submitted, waits for all, downloads what is not downloaded.

Killed and started again it goes on where it stopped. Leaves out the file (`api.batch_file`), what is remembered
(`api.batch_journal`), and how it is shown (`api.display`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from api.batch_file import Entry
from api.batch_journal import Journal, Submitted
from api.client import Client, FarmError
from api.transport import sentence_from_problem
from shared.contracts import Job

_GROUP: Final = 200
"""Requests sent at once: far below what the gateway takes, so that an answer comes soon."""
_PASSING: Final = ("rate_limited", "quota_exceeded", "farm_full", "queue_unavailable", "storage_unavailable")
_POLL_S: Final = 1.0
_LATER_S: Final = 5.0
"""So long it waits before it sends again what the farm had no room for."""


@dataclass
class BatchProgress:
    """How far a batch is: for each entry by its id, its job as last seen, the files it has, or why it has none."""

    jobs: dict[str, Job] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


class BatchRun:
    """One go at a batch: all its entries, into one folder."""

    def __init__(self, client: Client, entries: Sequence[Entry], journal: Journal) -> None:
        self._client = client
        self._entries = {entry.id: entry for entry in entries}
        self._journal = journal
        self.progress = BatchProgress()

    def run(self, show: Callable[[BatchProgress], None]) -> None:
        """See all entries to their end; `show` is told how far it is. Raises FarmError when the farm is lost."""
        send_again_at = 0.0
        while True:
            if time.monotonic() >= send_again_at:
                self._submit()
                send_again_at = time.monotonic() + _LATER_S
            self._look(show)
            show(self.progress)
            if not self._unsubmitted() and not self._unfinished():
                return
            time.sleep(_POLL_S)

    def _submit(self) -> None:
        """Send what an earlier go had sent without an answer, as it was then; after it, what was never sent."""
        for key, ids in [*self._journal.open_groups.items()]:
            if all(one in self._entries for one in ids):
                self._send(key, ids)
            else:
                # The file has changed since; what the farm has taken of it is not asked for any more.
                self._journal.answered(key, {})
        waiting = self._unsubmitted()
        for begin in range(0, len(waiting), _GROUP):
            ids = waiting[begin : begin + _GROUP]
            key = uuid.uuid4().hex
            self._journal.sending(key, ids)
            if not self._send(key, ids):
                return

    def _send(self, key: str, ids: list[str]) -> bool:
        """Send a group; whether the farm had room for all of it."""
        answer = self._client.submit_batch([self._entries[one].request for one in ids], idempotency_key=key)
        taken: dict[str, Submitted] = {}
        has_room = True
        for item in answer.data:
            entry = self._entries[ids[item.index]]
            if item.job is not None:
                taken[entry.id] = Submitted(item.job.id, answer.batch_id, self._free_name(entry))
                self.progress.jobs[entry.id] = item.job
            elif item.problem is not None and item.problem.code in _PASSING:
                has_room = False
            elif item.problem is not None:
                self.progress.failures[entry.id] = sentence_from_problem(item.problem.model_dump())
        self._journal.answered(key, taken)
        return has_room

    def _free_name(self, entry: Entry) -> str:
        """The entry's name, unless another's files have it since the file was changed."""
        taken = {job.name for job in self._journal.jobs.values()}
        return entry.name if entry.name not in taken else f"{entry.name}-{entry.id[:8]}"

    def _unsubmitted(self) -> list[str]:
        return [one for one in self._entries if one not in self._journal.jobs and one not in self.progress.failures]

    def _unfinished(self) -> dict[str, Submitted]:
        known = self.progress.failures.keys() | self.progress.files.keys()
        return {one: job for one, job in self._journal.jobs.items() if one in self._entries and one not in known}

    def _look(self, show: Callable[[BatchProgress], None]) -> None:
        """See how all unfinished jobs are, and download what has been made."""
        unfinished = self._unfinished()
        for entry, known in unfinished.items():
            if known.files is not None and all((self._journal.folder / name).exists() for name in known.files):
                self.progress.files[entry] = known.files
        by_job = {known.job_id: entry for entry, known in self._unfinished().items()}
        for job in self._jobs_now(by_job):
            entry = by_job.pop(job.id)
            self.progress.jobs[entry] = job
            self._take(entry, job)
            show(self.progress)
        for entry in by_job.values():
            self._journal.gone(entry)

    def _jobs_now(self, by_job: dict[str, str]) -> Iterator[Job]:
        """The jobs that are still there, batch by batch."""
        wanted = {self._journal.jobs[entry].batch_id: None for entry in by_job.values()}
        for batch_id in wanted:
            for job in self._client.jobs(batch_id=batch_id, limit=200):
                if job.id in by_job:
                    yield job

    def _take(self, entry: str, job: Job) -> None:
        if job.status == "succeeded":
            try:
                files = [*self._download(self._journal.jobs[entry].name, job)]
            except FarmError as error:
                self.progress.failures[entry] = error.message
                return
            self._journal.downloaded(entry, files)
            self.progress.files[entry] = files
        elif job.status in ("failed", "canceled"):
            why = f": {job.error.message}" if job.error else ""
            self.progress.failures[entry] = f"{job.id} {job.status}{why}; `riffarm retry {job.id}` and this again go on"

    def _download(self, name: str, job: Job) -> Iterator[str]:
        for output in job.outputs:
            if not output.is_preview:
                path = self._journal.folder / f"{name}{output.name.removeprefix(job.type)}"
                self._client.download(output, path)
                yield path.name
