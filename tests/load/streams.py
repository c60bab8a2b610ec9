"""Thousands of event streams on one gateway: whether each is told, and what they take.

Leaves out who opens them and what the figures mean (`tests.load.measures`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from tests.load.wire import request

_OPENED_AT_ONCE: Final = 100
_PATIENCE_S: Final = 120.0


class Streams(NamedTuple):
    """How many streams heard their first event, how many the last one, and megabytes of the gateway while all stood."""

    opened: int
    ended: int
    memory_mb: float


def followed(
    port: int, job_ids: Sequence[str], count: int, end: Callable[[], None], memory: Callable[[], float]
) -> Streams:
    """Follow these jobs over `count` streams, ask for the memory once all stand, and call `end`, which ends them."""
    return asyncio.run(_follow(port, job_ids, count, end, memory))


async def _follow(
    port: int, job_ids: Sequence[str], count: int, end: Callable[[], None], memory: Callable[[], float]
) -> Streams:
    gate = asyncio.Semaphore(_OPENED_AT_ONCE)
    is_told = [asyncio.get_running_loop().create_future() for _ in range(count)]

    async def one(number: int) -> bool:
        async with gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request("GET", f"/v1/jobs/{job_ids[number % len(job_ids)]}/events"))
            await reader.readuntil(b"event: status")
        is_told[number].set_result(None)
        heard = await reader.readuntil(b"event: completed")
        writer.close()
        return bool(heard)

    tasks = [asyncio.create_task(one(number)) for number in range(count)]
    opened, _ = await asyncio.wait(is_told, timeout=_PATIENCE_S)
    memory_mb = memory()
    await asyncio.to_thread(end)
    ended, _ = await asyncio.wait(tasks, timeout=_PATIENCE_S)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return Streams(len(opened), sum(not task.cancelled() and task.exception() is None for task in ended), memory_mb)
