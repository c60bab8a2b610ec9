"""The sweeper's entry: a Celery worker with one task, and Celery beat that sends it again and again.

`python -m workers.sweeper`. Several may run: one of them at a time sweeps. SIGTERM ends it at once: what it was at is
done by the next sweep. Leaves out what a sweep does (`workers.sweep`). Needs neither model nor torch.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import warnings
from typing import Any

import structlog
from celery import Celery
from celery.beat import EmbeddedService, Scheduler
from celery.schedules import schedule
from celery.signals import setup_logging, worker_ready

from shared import dispatch
from shared.errors import QueueUnavailableError
from shared.job_store import JobStore
from shared.logs import configure_logs
from shared.object_store import object_store_from_url
from shared.settings import Settings, settings_from_environment
from workers.storage_pass import StoragePass
from workers.sweep import Sweep

log = structlog.get_logger()


def sweep_from_settings(settings: Settings, app: Celery) -> Sweep:
    """A sweep over the stores that the settings name."""
    jobs = JobStore(settings.redis_url, settings.lease_s)
    objects = object_store_from_url(settings.storage_url, settings.s3_endpoint_url, settings.s3_public_endpoint_url)
    dispatcher = dispatch.Dispatcher(app)
    return Sweep(settings, jobs, objects, dispatcher, StoragePass(settings, jobs, objects, dispatcher))


def main() -> None:
    """Sweep until SIGTERM or SIGINT."""
    _end_at_once()
    # Inside a container root is the only user there may be.
    warnings.filterwarnings("ignore", "You're running the worker with superuser privileges")
    settings = settings_from_environment()
    app = dispatch.celery_app(settings)
    sweep = sweep_from_settings(settings, app)
    name = f"sweeper-{socket.gethostname()}"
    options = {"queue": dispatch.SWEEP_QUEUE, "expires": sweep.every_s}

    def run() -> None:
        try:
            sweep.run()
        except QueueUnavailableError as error:
            log.warning("not swept", error=error.message)

    def set_up_logs(**_: Any) -> None:
        configure_logs(settings.log_format, name)
        # It tells of each sweep that it sends; what a sweep did is told by the sweep.
        logging.getLogger("celery.beat").setLevel(logging.WARNING)

    def begin(**_: Any) -> None:
        # Anew: a warm shutdown, which is Celery's, would wait for what need not be waited for.
        _end_at_once()
        app.send_task(dispatch.SWEEP, **options)
        # In memory: the schedule is one line of code, and nothing need be known of the last start.
        EmbeddedService(app, thread=True, scheduler_cls=Scheduler).start()

    # Off the queue as soon as it is begun: a sweep that is lost is followed by the next.
    app.task(run, name=dispatch.SWEEP, acks_late=False)
    every = {"task": dispatch.SWEEP, "schedule": schedule(sweep.every_s), "options": options}
    app.conf.beat_schedule = {"sweep": every}
    setup_logging.connect(set_up_logs)
    worker_ready.connect(begin)
    arguments = ["worker", "--pool", "solo", "--queues", dispatch.SWEEP_QUEUE, "--hostname", f"{name}@%h"]
    app.start(["--quiet", *arguments, "--without-mingle", "--without-gossip", "--loglevel", "INFO"])


def _end_at_once() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: os._exit(0))


if __name__ == "__main__":
    main()
