"""Waiting for a job's end, without asking again and again.

Leaves out what is answered then.
"""

from __future__ import annotations

import asyncio
import time

from api.event_reader import EventReader
from shared.contracts import TERMINAL


async def has_ended(reader: EventReader, job_id: str, until_s: float) -> bool:
    """Whether a job ends, or is gone, before `until_s` on the monotonic clock; looks once if that is over."""
    last_id = "0"
    with reader.following(job_id) as follower:
        news = await follower.look(last_id)
        while news.status not in (None, *TERMINAL):
            last_id = news.events[-1].id if news.events else last_id
            try:
                news = await asyncio.wait_for(follower.news(last_id), until_s - time.monotonic())
            except TimeoutError:
                return False
    return True
