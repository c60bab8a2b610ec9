"""One question for all who ask at the same time: what many requests want of Redis costs one round trip.

Leaves out what is asked (`api.key_ring`, `api.limits`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

Subject = TypeVar("Subject", bound=Hashable)
Answer = TypeVar("Answer")


class Together(Generic[Subject, Answer]):
    """Collects what is asked while a question is under way, and asks it next, all at once."""

    def __init__(self, ask: Callable[[Mapping[Subject, int]], Awaitable[Mapping[Subject, Sequence[Answer]]]]) -> None:
        """`ask`: gets each subject with how often it is asked for, gives as many answers to each."""
        self._ask = ask
        self._waiting: dict[Subject, list[asyncio.Future[Answer]]] = {}
        self._task: asyncio.Task[None] | None = None

    def __call__(self, subject: Subject) -> asyncio.Future[Answer]:
        """The answer for a subject, to be waited for; it raises what asking raises."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(subject, []).append(future)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._serve())
        return future

    async def _serve(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, {}
            futures = [future for some in waiting.values() for future in some]
            try:
                answers = await self._ask({subject: len(some) for subject, some in waiting.items()})
            except Exception as error:
                for future in _still_wanted(futures):
                    future.set_exception(error)
            except asyncio.CancelledError:
                for future in futures:
                    future.cancel()
                raise
            else:
                for subject, some in waiting.items():
                    for future, answer in zip(some, answers[subject], strict=True):
                        if not future.done():
                            future.set_result(answer)


def _still_wanted(futures: list[asyncio.Future[Answer]]) -> list[asyncio.Future[Answer]]:
    """Without those of clients that have gone."""
    return [future for future in futures if not future.done()]
