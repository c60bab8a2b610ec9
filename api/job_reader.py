"""Reading jobs without a thread: those that are asked for at the same time cost one question.

Leaves out what a job looks like (`shared.job_view`) and whose it is (`api.intake`).
"""

from __future__ import annotations

from collections.abc import Mapping

from api.redis_line import RedisLine
from api.together import Together
from shared.errors import NotFoundError
from shared.job_moves import fields_from_view, job_key
from shared.redis_connection import reachable


class JobReader:
    """Jobs in Redis for all requests of a gateway."""

    def __init__(self, line: RedisLine) -> None:
        self._line = line
        self._read: Together[str, dict[str, str] | None] = Together(self._read_many)

    async def fields(self, job_id: str) -> dict[str, str]:
        """As `shared.job_store.JobStore.read`. Raises NotFoundError, QueueUnavailableError."""
        job_key(job_id)
        found = await self._read(job_id)
        if found is None:
            raise NotFoundError(f"There is no job {job_id}.")
        return found

    async def _read_many(self, wanted: Mapping[str, int]) -> dict[str, list[dict[str, str] | None]]:
        with reachable():
            views = await self._line.move("view", *wanted)
        found = zip(wanted.items(), views, strict=True)
        return {job_id: [fields_from_view(view)] * count for (job_id, count), view in found}
