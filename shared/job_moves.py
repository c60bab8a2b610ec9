"""What the moves of `job_moves.lua` are told and what they answer; a job's id and its keys.

Leaves out making moves (`shared.job_store` for whoever may wait, `api.redis_line` for whoever may not).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

from shared.contracts import Status
from shared.errors import NotFoundError, TooMuchError
from shared.quotas import Full, Quota

PREFIX: Final = "riffarm:"
EVENTS_CHANNEL: Final = f"{PREFIX}events"
"""Where the id of a job with new events is published."""
_JOB_ID: Final = re.compile("job_[0-9a-z]{1,64}")
_COUNTERS: Final = (
    "batches_done",
    "chunks_done",
    "frames_reused",
    "render_ms",
    "sound_ms",
    "encode_ms",
    "gpu_ms",
    "runs",
)
_UNSAID: Final = dict.fromkeys(_COUNTERS, "0") | {"stage": ""}
_MOVES_FILE: Final = Path(__file__).with_name("job_moves.lua")


class Accepted(NamedTuple):
    """How a new job stands: its place among those that nobody has begun (None: begun, or there before), and the queues
    that need a ticket."""

    queue_position: int | None
    queues: list[str]


class Attempt(NamedTuple):
    """An item that a worker has taken, under the lease that `token` stands for.

    starts: how often the item has been begun, this time included. next_chunk: the job's next chunk when it was taken.
    request_id, traceparent: of the request that submitted the job, "" where none is known.
    """

    job_id: str
    item: str
    token: str
    starts: int
    input: str
    sources: str
    next_chunk: int
    worker_id: str
    request_id: str = ""
    traceparent: str = ""

    @property
    def number(self) -> int:
        """The batch's or chunk's number."""
        return int(self.item[1:])


class Begun(NamedTuple):
    """An item that is not done: the name of the worker that holds it (None: nobody does), how often it was begun."""

    worker: str | None
    starts: int


class Take(NamedTuple):
    """What a look into a queue gave: an item, or the reason why this worker may have none; whether there is more."""

    attempt: Attempt | None
    refusal: Literal["draining", "benched"] | None = None
    has_more: bool = False


class Renewal(NamedTuple):
    """How a lease stands: whether it holds, the job's status (None: gone), whether the worker is to stop."""

    is_held: bool
    status: Status | None
    is_draining: bool


class Returned(NamedTuple):
    """An item that was given back: how often its worker was lost until now, and the queues that need a ticket."""

    losses: int
    queues: list[str]


class Done(NamedTuple):
    """What follows a finished item: the chunk to ask for with `move_on` (None: nothing), and queues for tickets."""

    next_chunk: int | None
    queues: list[str]


class Mended(NamedTuple):
    """What was amiss with a job: lost items, now ready; the chunk to ask for with `move_on` when nothing at all goes on
    (else None); queues for tickets."""

    items: int
    next_chunk: int | None
    queues: list[str]


def is_job_id(name: str) -> bool:
    """Whether a job could have this id."""
    return bool(_JOB_ID.fullmatch(name))


def job_key(job_id: str, part: str = "") -> str:
    """The key of a job, or of a part such as ":events". Raises NotFoundError for what is no job's id."""
    # An id is part of a key: one with a colon would lead to another job's sets.
    if not is_job_id(job_id):
        raise NotFoundError(f"There is no job {job_id[:80]}.")
    return f"{PREFIX}job:{job_id}{part}"


def created_ms_from_job_id(job_id: str) -> int:
    """Milliseconds since 1970 at which the id was made."""
    return int(job_id[4:16], 16)


def unsaid_fields() -> dict[str, str]:
    """What `JobStore.read` says of a job that nobody has begun, beside what it was recorded with."""
    return dict.fromkeys(_COUNTERS, "0") | {"status": "queued", "stage": "", "frames_done": "0"}


@cache
def moves() -> dict[str, str]:
    """The moves by name, each a whole script."""
    prelude, *parts = _MOVES_FILE.read_text(encoding="utf-8").split("\n--@ ")
    named = (part.partition("\n") for part in parts)
    return {name: f"{prelude}\n{body}" for name, _, body in named}


def created_arguments(
    job_id: str, fields: Mapping[str, str | int | float], quota: Quota | None
) -> list[str | int | float]:
    """What `create` is told."""
    job_key(job_id)
    pairs = (part for pair in ({"id": job_id, "status": "queued", **fields}).items() for part in pair)
    return [job_id, *(quota or ("", "", "")), *pairs]


def accepted_from_answer(answer: Sequence[Any], quota: Quota | None) -> Accepted | TooMuchError:
    """What `create` says: the job's place and the queues that need a ticket, or which limit keeps it away."""
    position, *queues = answer
    if quota and position in get_args(Full):
        return quota.error(position)
    return Accepted(int(position) or None, queues)


def fields_from_view(view: Sequence[Any]) -> dict[str, str] | None:
    """All fields of a job from what the move `view` says of it; None when there is no such job."""
    texts, frames_done, warnings, rank, previews = view
    if not texts:
        return None
    seen = {
        "frames_done": str(frames_done),
        "queue_position": "" if rank is None else str(rank + 1),
        "warnings": json.dumps(sorted(warnings)) if warnings else "[]",
        "previews": f"[{','.join(previews)}]",
    }
    return _UNSAID | dict(zip(texts[::2], texts[1::2], strict=True)) | seen
