"""What follows when an attempt was lost and its item given back: it begins elsewhere, or its job fails.

Both use it who find that out: a worker for the process before it, the sweeper for a worker that says nothing any more.
So it stands apart from the work itself (`workers.tasks`), and needs no model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from shared.contracts import JobFailure
from shared.dispatch import Dispatcher, plan_of
from shared.errors import NotFoundError
from shared.job_moves import Returned
from shared.job_store import JobStore
from shared.plan import Plan

log = structlog.get_logger()
MAX_LOSSES: Final = 3
"""An item that took so many workers down, or went wrong so often, fails its job instead of being tried again."""


def follow_loss(
    job_id: str,
    item: str,
    returned: Returned,
    reason: str,
    job_store: JobStore,
    dispatcher: Dispatcher,
    fail: Callable[[JobFailure], object],
) -> None:
    """Tell the queues of an item that was given back; call `fail` once it was lost too often."""
    if returned.losses < MAX_LOSSES:
        log.info("given back", job=job_id, item=item, losses=returned.losses)
        dispatcher.send_tickets(returned.queues)
        return
    try:
        what = _what(item, job_store.read(job_id))
    except NotFoundError:
        # It was deleted meanwhile: there is nothing left to fail.
        return
    message = f"{what} failed {returned.losses} times; the last time: {reason}"
    log.error("job failed", job=job_id, error=message)
    fail(JobFailure(code="poison", message=message, retryable=True))


def _what(item: str, fields: dict[str, str]) -> str:
    """What an item is, in words."""
    if item.startswith("c"):
        return f"making the sound of chunk {item[1:]}"
    plan = plan_of(fields)
    if item.startswith("b") and isinstance(plan, Plan):
        frames = plan.batch_frames(int(item[1:]))
        return f"rendering frames {frames.start} to {frames.stop - 1}"
    return "making the files"
