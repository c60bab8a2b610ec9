"""Looking for jobs: which are wanted, and the shortest of the lists that have them all.

Leaves out who keeps the lists (`lists_of` in shared/job_moves.lua), and pages (`api.intake`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from shared.contracts import TERMINAL, JobType, Status
from shared.job_moves import PREFIX, created_ms_from_job_id
from shared.job_store import JobStore

MAX_LOOKS: Final = 20_000
"""Jobs that one page of a list looks at: those that are wanted may be rare."""
_LOOKS_AT_ONCE: Final = 2_000
"""Of these so many in one move: nobody waits for Redis longer than some milliseconds."""


class Found(NamedTuple):
    """What a look through a listing gave: ids, newest first, and the id that it came to; None at the listing's end."""

    ids: list[str]
    last_id: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs of a tenant are looked for; all when nothing is said.

    after_ms, before_ms: created between these, in milliseconds since 1970, neither included.
    """

    status: Status | None = None
    type: JobType | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    batch_id: str | None = None
    after_ms: float = float("-inf")
    before_ms: float = float("inf")


def find(job_store: JobStore, tenant: str, wanted: Wanted, before_id: str | None, limit: int) -> Found:
    """Up to `limit` of a tenant's jobs older than the named one, newest first.

    Looks at no more than MAX_LOOKS jobs: where those wanted are rare there may be fewer than `limit`, even none,
    and more to come. Raises QueueUnavailableError.
    """
    newest_ms = float("inf") if before_id is None else created_ms_from_job_id(before_id)
    newest: str | float = f"({wanted.before_ms}" if wanted.before_ms <= newest_ms else newest_ms
    bounds = (newest, f"({wanted.after_ms}")
    filters = (wanted.status or "", wanted.type or "", json.dumps(dict(wanted.labels)))
    lists = json.dumps(_lists(tenant, wanted))
    ids: list[str] = []
    last_id = before_id or "~"
    for _ in range(MAX_LOOKS // _LOOKS_AT_ONCE):
        last, *some = job_store.move("find", lists, *bounds, last_id, limit - len(ids), _LOOKS_AT_ONCE, *filters)
        ids += some
        if not last:
            return Found(ids, None)
        last_id = last
        if len(ids) == limit:
            break
        bounds = (created_ms_from_job_id(last_id), bounds[1])
    return Found(ids, last_id)


def _lists(tenant: str, wanted: Wanted) -> list[str]:
    """The lists that each have all jobs wanted."""
    lists = [f"of:{tenant}"]
    if wanted.status is not None:
        lists.append(f"{wanted.status if wanted.status in TERMINAL else 'live'}:{tenant}")
    for kind, value in (("batch", wanted.batch_id), ("type", wanted.type)):
        lists += [f"{kind}:{tenant}:{value}"] if value is not None else []
    lists += [f"label:{tenant}:{name}={value}" for name, value in wanted.labels.items()]
    return [f"{PREFIX}jobs:{one}" for one in lists]
