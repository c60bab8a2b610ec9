"""What a job may queue now, and how: task and queue names, the Celery app's delivery settings, the move of a job.

Owns everything both sides must agree on about messages. Leaves out what the tasks do (`workers.tasks`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from celery import Celery
from kombu.exceptions import OperationalError

from shared.contracts import JOB_REQUEST, ConvertRequest, Priority, Stage, WebhookEvent
from shared.errors import QueueUnavailableError
from shared.job_store import SUBMITTED, JobStore
from shared.plan import Conversion, Plan, Sources

if TYPE_CHECKING:
    from shared.settings import Settings

# Plain strings: Celery reads `task.name`, so an enumeration's member would be taken for a task.
RENDER_BATCH: Final = "riffarm.render_batch"
SOUND_CHUNK: Final = "riffarm.sound_chunk"
DELIVER: Final = "riffarm.deliver"
POST_WEBHOOK: Final = "riffarm.post_webhook"

SOUND_QUEUE: Final = "sound"
DELIVER_QUEUE: Final = "deliver"
_RENDER: Final = "render"
PRIORITIES: Final[tuple[Priority, ...]] = ("interactive", "normal", "bulk")
"""The most urgent first."""
# What is nearly finished goes first: it frees storage and gives a client something to hear.
QUEUES: Final = (DELIVER_QUEUE, SOUND_QUEUE, *(f"{_RENDER}.{priority}" for priority in PRIORITIES))
"""The kinds of queues, in the order they are served. One for rendering is there once for each model."""

STAGE_OF_ITEM: Final[dict[str, Stage]] = {"b": "rendering", "c": "sounding", "d": "encoding"}
"""By an item's first letter: b4 is a batch, c0 a chunk, deliver the delivery."""


def celery_app(settings: Settings) -> Celery:
    """The Celery app with the delivery settings that survive killed workers and restarted brokers."""
    app = Celery("riffarm", broker=settings.redis_url)
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_publish_retry_policy={"max_retries": 2, "interval_start": 0.1, "interval_max": 0.5},
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        # A spawned child imports torch and loads the model before it reports for work.
        worker_proc_alive_timeout=300.0,
        worker_soft_shutdown_timeout=3.0,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=3,
        broker_transport_options={
            "visibility_timeout": settings.visibility_timeout_s,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "health_check_interval": 10,
            "socket_timeout": 30,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "retry_on_timeout": True,
            "sep": ":",
            "queue_order_strategy": "priority",
        },
    )
    return app


def render_queue(priority: Priority, model: str) -> str:
    """The queue of one model's batches: only a worker that has the model takes from it."""
    return f"{_RENDER}.{priority}.{model}"


def queues(models: Iterable[str]) -> list[str]:
    """All queues of a worker with these models, in the order it serves them: what is urgent for any goes first."""
    names = [*models]
    return [DELIVER_QUEUE, SOUND_QUEUE, *(render_queue(priority, name) for priority in PRIORITIES for name in names)]


def queues_from_names(names: str | None, models: Sequence[str]) -> list[str]:
    """The queues of a list with commas, in its order; all for None.

    A name is a queue's own, that of its kind ("render.bulk": of every model), or "render" for all of rendering. Raises
    ValueError for a name that is none of these, or of a model that is not among `models`.
    """
    served = queues(models)
    if names is None:
        return served
    chosen: dict[str, None] = {}
    for name in (one.strip() for one in names.split(",")):
        meant = [queue for queue in served if name in (queue, kind_of_queue(queue), queue.partition(".")[0])]
        if not meant:
            raise ValueError(f"there is no queue {name!r} here; there are {_RENDER}, {', '.join((*QUEUES, *served))}")
        chosen |= dict.fromkeys(meant)
    return [*chosen]


def kind_of_queue(queue: str) -> str:
    """A queue's place in QUEUES: its name without the model."""
    return ".".join(queue.split(".", 2)[:2])


def models_of_queues(served: Iterable[str]) -> list[str]:
    """The models whose batches are in these queues, each once."""
    return [*dict.fromkeys(queue.split(".", 2)[2] for queue in served if queue.startswith(f"{_RENDER}."))]


def plan_of(job: dict[str, str]) -> Plan | Conversion:
    """The plan of a recorded job."""
    request, sources = JOB_REQUEST.validate_json(job["input"]), Sources(**json.loads(job["sources"]))
    return Conversion(request, sources) if isinstance(request, ConvertRequest) else Plan(request, sources)


class Dispatcher:
    """Puts a job's work into the queues, as much at a time as its window lets it."""

    def __init__(self, app: Celery, job_store: JobStore, window: int) -> None:
        self._app = app
        self._job_store = job_store
        self._window = window

    def move_on(self, job_id: str, plan: Plan | Conversion, finished: str = SUBMITTED) -> list[str]:
        """Queue what may start now that item `finished` is recorded as done. Safe to call twice.

        Raises QueueUnavailableError when Redis does not answer.
        """
        chunk = self._job_store.next_chunk(job_id)
        needed = plan.chunk(chunk).needed_frames if isinstance(plan, Plan) and chunk < plan.chunks_total else ()
        items = self._job_store.release(
            job_id, finished, self._window, plan.batches_total, plan.chunks_total, chunk, needed
        )
        for item in items:
            self._publish(job_id, item, plan)
        return items

    def announce(self, job_id: str, event: WebhookEvent) -> None:
        """Queue the webhook for a job's end."""
        self._send(POST_WEBHOOK, DELIVER_QUEUE, job_id=job_id, event=event)

    def _publish(self, job_id: str, item: str, plan: Plan | Conversion) -> None:
        match item[0]:
            case "b" if isinstance(plan, Plan):
                queue = render_queue(plan.request.priority, plan.request.model)
                self._send(RENDER_BATCH, queue, job_id=job_id, batch=int(item[1:]))
            case "c":
                self._send(SOUND_CHUNK, SOUND_QUEUE, job_id=job_id, chunk=int(item[1:]))
            case _:
                # A conversion makes sound; what waits to be uploaded should not wait for it.
                queue = SOUND_QUEUE if isinstance(plan, Conversion) else DELIVER_QUEUE
                self._send(DELIVER, queue, job_id=job_id)

    def _send(self, task: str, queue: str, **arguments: str | int) -> None:
        try:
            self._app.send_task(task, kwargs=arguments, queue=queue)
        except (OperationalError, ConnectionError, TimeoutError) as error:
            raise QueueUnavailableError(f"Redis does not take messages: {error}") from error
