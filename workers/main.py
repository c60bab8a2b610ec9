"""The worker's entry: a Celery process with one child that loads the model once and does the work.

`python -m workers.main [--models a,b] [--queues a,b] [--name NAME]`. Owns the Celery side: registration, tickets,
heartbeat. Leaves out what becomes of an item (`workers.attempts`), the work (`workers.tasks`) and how a worker ends
(`workers.stopping`).
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import structlog
from celery import Celery
from celery.signals import setup_logging, worker_process_init, worker_shutdown
from redis.exceptions import RedisError

from shared import dispatch
from shared.catalogue import chosen_models, models
from shared.errors import QueueUnavailableError, RenderError
from shared.farm_state import HEARTBEAT_TTL_S, FarmState
from shared.job_store import JobStore
from shared.logs import configure_logs
from shared.object_store import object_store_from_url
from shared.settings import settings_from_environment
from shared.telemetry import configure_traces
from workers import stopping

if TYPE_CHECKING:
    from workers.attempts import Attempts
    from workers.diffusion import FramePipeline
    from workers.shelf import Shelf
    from workers.tasks import Tasks

log = structlog.get_logger()
settings = settings_from_environment()
app: Celery = dispatch.celery_app(settings)
_NAME: Final = "RIFFARM_WORKER_NAME"
_ID: Final = "RIFFARM_WORKER_ID"
_QUEUES: Final = "RIFFARM_WORKER_QUEUES"
_APP: Final = "RIFFARM_WORKER_APP"


class _Child:
    """What the child process holds for its life; built in the child, never in the parent."""

    def __init__(self) -> None:
        # Until it takes work there is nothing to hand back, and a large model takes long to load.
        signal.signal(stopping.CHILD_SIGNAL, lambda number, frame: os._exit(0))
        self.name, self.id = os.environ[_NAME], os.environ[_ID]
        self.is_stopping = threading.Event()
        self.jobs = JobStore(settings.redis_url, settings.lease_s)
        self.farm = FarmState(self.jobs.redis)
        self.dispatcher = dispatch.Dispatcher(app)
        self.queues = os.environ[_QUEUES].split(",")
        self.models = dispatch.models_of_queues(self.queues)
        self.device = "cpu"
        # A worker for sound alone does without torch, which is half a gigabyte.
        self.shelf = self._shelf() if self.models else None
        self.tasks, self.attempts = self._attempts()
        self.attempts.lose_predecessors("its process died")
        signal.signal(stopping.CHILD_SIGNAL, self._stop)
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        # Once: in the middle of `set` its lock is taken, and the signal comes again and again.
        if not self.is_stopping.is_set():
            self.is_stopping.set()

    def _attempts(self) -> tuple[Tasks, Attempts]:
        # Here and not at the top: the parent only passes messages on.
        from workers.attempts import Attempts
        from workers.tasks import Tasks

        objects = object_store_from_url(settings.storage_url, settings.s3_endpoint_url, settings.s3_public_endpoint_url)
        tasks = Tasks(settings, self.jobs, objects, self.dispatcher, renderer(self), self.name, self.device)
        return tasks, Attempts(self.jobs, tasks, self.dispatcher, self.name, self.id, self.is_stopping)

    def _shelf(self) -> Shelf[FramePipeline]:
        import torch

        from workers.shelf import shelf_from_settings

        # One thread a process: rounding must not depend on the machine, and two workers must not fight for cores.
        torch.set_num_threads(1)
        shelf = shelf_from_settings(settings, self.models)
        # Before the first job, and so that a worker whose model is broken never takes one.
        self.device = str(shelf.get(self.models[0]).device)
        return shelf

    def pipeline(self, name: str, revision: str) -> FramePipeline:
        """A model by name and revision, loaded. Raises RenderError when this worker has no such model."""
        if self.shelf is None:
            raise RenderError("This worker makes sound and has no models.")
        if (own := self.shelf.revision(name)) != revision:
            # Its frames would be kept under the name of pictures they are not.
            raise RenderError(f"The job was planned for {name} {revision}; this worker has {own}.")
        return self.shelf.get(name)

    def work(self, queue: str) -> None:
        """See one item of a queue through.

        A benched worker waits here until it is lifted, a drained one until it is stopped: else the ticket that it hands
        on would come back to it at once, again and again.
        """
        if self.is_stopping.is_set():
            # Others may see to it.
            self.dispatcher.send_tickets([queue])
            return
        outcome = self.attempts.work(queue)
        while outcome in ("benched", "draining") and not self.is_stopping.wait(2.0):
            if outcome == "benched" and not self.farm.is_benched(self.name):
                return

    def _beat(self) -> None:
        while True:
            try:
                self.farm.beat(self.id, self._record())
            except (QueueUnavailableError, RedisError) as error:
                log.warning("no heartbeat", error=str(error))
            threading.Event().wait(HEARTBEAT_TTL_S / 3)

    def _record(self) -> dict[str, object]:
        """What others may know: queues served, models served and loaded, what it is at, how fast, in what memory."""
        current = self.attempts.current
        return {
            "name": self.name,
            "pid": os.getpid(),
            "queues": [*dict.fromkeys(map(dispatch.kind_of_queue, self.queues))],
            "models": self.models,
            "loaded": self.shelf.loaded if self.shelf else [],
            "job": current and current.job_id,
            "item": current and current.item,
            "items_done": self.attempts.items_done,
            "frames_per_minute": self.tasks.frame_rate.per_minute(),
            "device": self.device,
            "memory_bytes": self.shelf.used_bytes if self.shelf else 0,
            "memory_budget_bytes": self.shelf.budget_bytes if self.shelf else 0,
        }


def renderer(child: _Child) -> Callable[[str, str], FramePipeline]:
    """Where the models come from; a farm without models, to measure the rest, puts its own in this place."""
    return child.pipeline


_children: list[_Child] = []


@setup_logging.connect
def _set_up_logs(**_: Any) -> None:
    configure_logs(settings.log_format, os.environ.get(_NAME, "worker"))


@worker_process_init.connect
def _start_child(**_: Any) -> None:
    _set_up_logs()
    configure_traces(os.environ[_NAME], settings.traces_url)
    try:
        _children.append(_Child())
    except Exception:
        # Celery only logs what a signal's receiver raises and would start such children for ever: whoever started
        # the worker must hear of it.
        log.exception("the worker cannot start")
        os.kill(os.getppid(), signal.SIGKILL)
        os._exit(1)


@worker_shutdown.connect
def _sign_off(**_: Any) -> None:
    stopping.sign_off(os.environ[_ID], JobStore(settings.redis_url), dispatch.Dispatcher(app))


stopping.stop_in_order(app, _sign_off)


@app.task(name=dispatch.WORK)
def work(queue: str) -> None:
    """Take the next item of a queue and see it through."""
    _children[0].work(queue)


def _served(names: str | None, queue_names: str | None) -> list[str]:
    """The queues to take from; ends the process with a sentence when there are no such models or queues."""
    try:
        chosen = chosen_models(names, models(settings.models_file))
        return dispatch.queues_from_names(queue_names, chosen)
    except (OSError, ValueError) as error:
        sys.exit(f"riffarm: {error}")


def main() -> None:
    """Become a Celery worker with one child process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", help="models to render with; all of the catalogue when left out")
    parser.add_argument("--queues", help="queues to serve, first ones first: deliver, sound, render, render.MODEL")
    parser.add_argument("--name", default=socket.gethostname(), help="name in logs and heartbeats")
    options = parser.parse_args()
    queues = ",".join(_served(options.models, options.queues))
    os.environ |= {
        _NAME: options.name,
        _ID: f"{options.name}/{secrets.token_hex(4)}",
        _QUEUES: queues,
        # Set before torch is imported: oversubscribed cores are an order of magnitude slower.
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        # Pictures' arrays are kept and not given back to the system after each layer: decoding takes a fifth less.
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
        "MALLOC_TRIM_THRESHOLD_": str(2**30),
        "TRANSFORMERS_VERBOSITY": "error",
    }
    # Inside a container root is the only user there may be.
    quiet = ["-W", "ignore:You're running the worker with superuser privileges"]
    command = [
        sys.executable,
        *quiet,
        "-m",
        "celery",
        "--quiet",
        "-A",
        os.environ.get(_APP, "workers.main:app"),
        "worker",
        "-Q",
        queues,
    ]
    command += ["-n", f"{options.name}@%h", "-P", "prefork", "-c", "1", "--pool-start-method", "spawn"]
    stopping.defer_stop()
    # Workers have heartbeats of their own (`shared.farm_state`); Celery's are nobody's.
    command += ["--without-mingle", "--without-gossip", "--without-heartbeat", "--loglevel", "INFO"]
    os.execv(sys.executable, command)  # noqa: S606


if __name__ == "__main__":
    main()
