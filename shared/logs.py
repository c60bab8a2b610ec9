"""Structured logging, one form for every process: JSON lines for machines, aligned text for a terminal."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog


def configure_logs(log_format: Literal["console", "json"], process: str) -> None:
    """Send structlog and the standard library's loggers to standard error in one form.

    JSON lines name the process; on a terminal the local farm does, before each line.
    """
    is_json = log_format == "json"
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if is_json else "%H:%M:%S", utc=is_json),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer() if is_json else structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    # These repeat at every request or message what our own lines already say.
    for name in (
        "httpx",
        "botocore",
        "uvicorn.access",
        "celery.worker.strategy",
        "celery.app.trace",
        "multiprocessing",
    ):
        logging.getLogger(name).setLevel(logging.WARNING)
    if is_json:
        structlog.contextvars.bind_contextvars(process=process)
