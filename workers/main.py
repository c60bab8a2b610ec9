"""The worker's entry: a Celery process with one child that loads the model once and runs the tasks.

`python -m workers.main [--models a,b] [--queues a,b] [--name NAME]`. Owns the Celery side: registration, retries of
what may pass, leases, heartbeat, what an error means for the job. Leaves out the work (`workers.tasks`).
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import stamina
import structlog
from celery import Celery, Task
from celery.signals import setup_logging, worker_process_init
from redis.exceptions import RedisError

from shared import dispatch
from shared.catalogue import chosen_models, models
from shared.contracts import JobFailure
from shared.errors import JobCanceled, ObjectNotFoundError, QueueUnavailableError, RenderError, TransientError
from shared.job_store import HEARTBEAT_TTL_S, JobStore
from shared.logs import configure_logs
from shared.object_store import object_store_from_url
from shared.settings import settings_from_environment

if TYPE_CHECKING:
    from workers.diffusion import FramePipeline
    from workers.shelf import Shelf

log = structlog.get_logger()
settings = settings_from_environment()
app: Celery = dispatch.celery_app(settings)
_WEBHOOK_RETRIES_S: Final = (5, 20)
_NAME: Final = "RIFFARM_WORKER_NAME"
_QUEUES: Final = "RIFFARM_WORKER_QUEUES"


class _Child:
    """What the child process holds for its life; built in the child, never in the parent."""

    def __init__(self) -> None:
        # Here and not at the top: the parent only passes messages on.
        from workers.tasks import Tasks

        self.jobs = JobStore(settings.redis_url)
        objects = object_store_from_url(settings.storage_url, settings.s3_endpoint_url, settings.s3_public_endpoint_url)
        dispatcher = dispatch.Dispatcher(app, self.jobs, settings.job_window)
        self.tasks = Tasks(settings, self.jobs, objects, dispatcher, self._pipeline, os.environ[_NAME])
        self.queues = os.environ[_QUEUES].split(",")
        self.models = dispatch.models_of_queues(self.queues)
        self.device = "cpu"
        # A worker for sound alone does without torch, which is half a gigabyte.
        self.shelf = self._shelf() if self.models else None
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def _shelf(self) -> Shelf[FramePipeline]:
        import torch

        from workers.shelf import shelf_from_settings

        # One thread a process: rounding must not depend on the machine, and two workers must not fight for cores.
        torch.set_num_threads(1)
        shelf = shelf_from_settings(settings, self.models)
        # Before the first job, and so that a worker whose model is broken never takes one.
        self.device = str(shelf.get(self.models[0]).device)
        return shelf

    def _pipeline(self, name: str, revision: str) -> FramePipeline:
        if self.shelf is None:
            raise RenderError("This worker makes sound and has no models.")
        if (own := self.shelf.revision(name)) != revision:
            # Its frames would be kept under the name of pictures they are not.
            raise RenderError(f"The job was planned for {name} {revision}; this worker has {own}.")
        return self.shelf.get(name)

    def _beat(self) -> None:
        while True:
            try:
                self.jobs.beat(os.environ[_NAME], self._record())
            except (QueueUnavailableError, RedisError) as error:
                log.warning("no heartbeat", error=str(error))
            threading.Event().wait(HEARTBEAT_TTL_S / 3)

    def _record(self) -> dict[str, object]:
        """What others may know: kinds of queues served, models served and loaded, where, in how much memory."""
        return {
            "name": os.environ[_NAME],
            "pid": os.getpid(),
            "queues": [*dict.fromkeys(map(dispatch.kind_of_queue, self.queues))],
            "models": self.models,
            "loaded": self.shelf.loaded if self.shelf else [],
            "device": self.device,
            "memory_bytes": self.shelf.used_bytes if self.shelf else 0,
            "memory_budget_bytes": self.shelf.budget_bytes if self.shelf else 0,
        }


_children: list[_Child] = []


@setup_logging.connect
def _set_up_logs(**_: Any) -> None:
    configure_logs(settings.log_format, os.environ.get(_NAME, "worker"))


@worker_process_init.connect
def _start_child(**_: Any) -> None:
    _set_up_logs()
    try:
        _children.append(_Child())
    except Exception:
        # Celery only logs what a signal's receiver raises and would start such children for ever: whoever started
        # the worker must hear of it.
        log.exception("the worker cannot start")
        os.kill(os.getppid(), signal.SIGKILL)
        os._exit(1)


def _run(task: Task, step: Callable[..., None], item: str, job_id: str, **arguments: Any) -> None:
    """Run one item of a job under its lease; what may pass is tried until it does, what is final fails the job."""
    from workers.lease import renewed_lease

    child = _children[0]
    delivery_tag = task.request.properties["delivery_tag"]
    structlog.contextvars.bind_contextvars(job=job_id, task=task.name, **arguments)
    try:
        with renewed_lease(child.jobs.redis, delivery_tag, settings.visibility_timeout_s / 3):
            # Counted once a message: waiting for storage is no attempt.
            if _patiently(_done_or_failed, child, job_id, lambda: child.tasks.start(job_id, item)):
                _patiently(_done_or_failed, child, job_id, lambda: step(job_id, **arguments))
            else:
                log.info("nothing to do: the item is done or its job has ended")
    except JobCanceled:
        log.info("stopped: the job was canceled")
    finally:
        structlog.contextvars.unbind_contextvars("job", "task", *arguments)


def _done_or_failed(child: _Child, job_id: str, work: Callable[[], Any]) -> Any:
    """What the work answers; None when it failed the job."""
    try:
        return work()
    except (JobCanceled, TransientError):
        raise
    except (RenderError, ObjectNotFoundError) as error:
        log.error("job failed", error=error.message)  # noqa: TRY400 — the sentence says it all
        child.tasks.fail(job_id, JobFailure(code="render_failed", message=error.message, retryable=False))
    except Exception as error:
        log.exception("job failed")
        message = f"{type(error).__name__}: {error}"
        child.tasks.fail(job_id, JobFailure(code="internal_error", message=message, retryable=True))
    return None


def _patiently(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call again, with growing pauses, for as long as storage or Redis do not answer: an accepted job is not lost."""
    for attempt in stamina.retry_context(
        on=(TransientError, RedisError), attempts=None, timeout=None, wait_initial=0.5, wait_max=15.0
    ):
        with attempt:
            return function(*arguments)
    raise AssertionError("retries have no end")


@app.task(name=dispatch.RENDER_BATCH, bind=True)
def render_batch(task: Task, job_id: str, batch: int) -> None:
    """Render one batch of frames."""
    _run(task, _children[0].tasks.render_batch, f"b{batch}", job_id, batch=batch)


@app.task(name=dispatch.SOUND_CHUNK, bind=True)
def sound_chunk(task: Task, job_id: str, chunk: int) -> None:
    """Turn one chunk of frames into sound."""
    _run(task, _children[0].tasks.sound_chunk, f"c{chunk}", job_id, chunk=chunk)


@app.task(name=dispatch.DELIVER, bind=True)
def deliver(task: Task, job_id: str) -> None:
    """Encode, upload and end a job."""
    _run(task, _children[0].tasks.deliver, "deliver", job_id)


@app.task(name=dispatch.POST_WEBHOOK, bind=True, max_retries=len(_WEBHOOK_RETRIES_S))
def post_webhook(task: Task, job_id: str, event: str) -> None:
    """Post one webhook, trying again twice."""
    structlog.contextvars.bind_contextvars(job=job_id, task=task.name)
    try:
        _children[0].tasks.post_webhook(job_id, event)  # type: ignore[arg-type]  # ours, from the queue
    except TransientError as error:
        log.warning("webhook not taken", error=error.message, attempt=task.request.retries + 1)
        if task.request.retries < len(_WEBHOOK_RETRIES_S):
            raise task.retry(countdown=_WEBHOOK_RETRIES_S[task.request.retries]) from None
    finally:
        structlog.contextvars.unbind_contextvars("job", "task")


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
    parser.add_argument(
        "--queues", help="queues or kinds of queues to serve, first ones first: deliver, sound, render, render.bulk, …"
    )
    parser.add_argument("--name", default=socket.gethostname(), help="name in logs and heartbeats")
    options = parser.parse_args()
    queues = ",".join(_served(options.models, options.queues))
    os.environ |= {
        _NAME: options.name,
        _QUEUES: queues,
        # A stop hands running work back to the queue at once instead of finishing it.
        "REMAP_SIGTERM": "SIGQUIT",
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
        "workers.main:app",
        "worker",
        "-Q",
        queues,
    ]
    command += ["-n", f"{options.name}@%h", "-P", "prefork", "-c", "1", "--pool-start-method", "spawn"]
    os.execv(sys.executable, [*command, "--without-mingle", "--without-gossip", "--loglevel", "INFO"])  # noqa: S606


if __name__ == "__main__":
    main()
