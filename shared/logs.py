"""Structured logging, one form for every process: JSON lines for machines, aligned text for a terminal.

Owns the name under which lines say by which request they were caused. Leaves out the gateway's line for each request
(`api.watch`).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal

import structlog
from pydantic_core import to_json

from shared.secrecy import masked

_KEPT: Final = 64
_QUIET: Final = (
    "httpx",
    "botocore",
    "uvicorn.access",
    "celery.worker.strategy",
    "celery.app.trace",
    "multiprocessing",
)
"""These repeat at every request or message what our own lines already say."""


_quick: list[tuple[Lines, str]] = []


class Lines:
    """Lines that are kept for a moment and written together: each write lets all other threads of the process go first.

    What is told at warning and above is written at once, with all that came before it.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        """`write` gets whole lines."""
        self._write = write
        self._kept: list[str] = []

    def debug(self, line: str) -> None:
        """Keep a line."""
        self._kept.append(line)
        if len(self._kept) >= _KEPT:
            self.flush()

    info = msg = debug

    def warning(self, line: str) -> None:
        """Write a line."""
        self._kept.append(line)
        self.flush()

    error = exception = critical = fatal = warn = warning

    def flush(self) -> None:
        """Write what is kept."""
        kept, self._kept = self._kept, []
        if kept:
            self._write("\n".join(kept) + "\n")


def configure_logs(log_format: Literal["console", "json"], process: str, lines: Lines | None = None) -> None:
    """Send structlog and the standard library's loggers to standard error in one form.

    JSON lines name the process; on a terminal the local farm does, before each line. With `lines` they are written
    when these are, and at once only when something is wrong.
    """
    is_json = log_format == "json"
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if is_json else "%H:%M:%S", utc=is_json),
        structlog.processors.format_exc_info,
    ]
    if is_json:
        shared.append(_names_process(process))
    _quick[:] = [(lines, process)] if is_json and lines else []
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if is_json else structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0)
    )
    structlog.configure(
        # Past the standard library's loggers, which would take three times as long over each of our lines.
        processors=[*shared, renderer, _hides_secrets],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=(lambda *_: lines) if lines else structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer, _hides_secrets],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _hides_secrets(logger: Any, method: str, line: Any) -> Any:
    return masked(line)


def _names_process(process: str) -> structlog.typing.Processor:
    # In every line, also in those of threads, which begin without their maker's context.
    def name(logger: Any, method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        line["process"] = process
        return line

    return name


def tell_request(**said: str | float | None) -> None:
    """`log.info("request", …)` for the one line that every request writes, and in which every text is ours: as JSON it
    goes past the processors, which take as long as answering a short request."""
    if not _quick:
        structlog.get_logger().info("request", **said)
        return
    lines, process = _quick[0]
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    more = {"event": "request", "request": request_id(), "level": "info", "timestamp": now, "process": process}
    lines.info(to_json(said | more).decode())


def bind_request(request_id: str) -> None:
    """Have all that is logged from here on say by which request it was caused."""
    structlog.contextvars.bind_contextvars(request=request_id)


def request_id() -> str:
    """The id of the request that is worked on; "" outside of one."""
    return str(structlog.contextvars.get_contextvars().get("request", ""))
