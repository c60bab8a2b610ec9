"""How far a training is, shown to a person: bars on a terminal, a line now and then elsewhere.

Owns what is shown and the time left. Leaves out what is worth keeping: that is in the log (`workers.training.loop`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from workers.training.loop import Tell

LINE_EVERY_S: Final = 30.0


@contextmanager
def shown(console: Console) -> Iterator[Tell]:
    """A `Tell` that shows on `console` what it is told, as long as the context lasts."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(elapsed_when_finished=True))
    with Bars(
        TextColumn("{task.description:<8}"), *columns, TextColumn("{task.fields[figures]}"), console=console
    ) as bars:
        yield _bars(bars)


def _bars(bars: Bars) -> Tell:
    tasks = {}

    def tell(part: str, done: int, total: int, figures: str) -> None:
        if part not in tasks:
            tasks[part] = bars.add_task(part, total=total, completed=done, figures=figures)
        bars.update(tasks[part], completed=done, total=total, figures=figures)

    return tell


class _Lines:
    """A line when a part begins, when it ends, and every so often between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun: dict[str, tuple[float, int]] = {}
        self._told_s = 0.0

    def __call__(self, part: str, done: int, total: int, figures: str) -> None:
        now = time.monotonic()
        is_new = part not in self._begun
        began, first = self._begun.setdefault(part, (now, done))
        if not is_new and done < total and now - self._told_s < LINE_EVERY_S:
            return
        self._told_s = now
        left = f", {_time((now - began) * (total - done) / (done - first))} left" if done > first else ""
        line = f"{part} {done} of {total}{left}" + (f"; {figures}" if figures else "")
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
