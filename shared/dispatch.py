"""How workers hear of work: task and queue names, the Celery app's delivery settings, tickets.

A ticket is a message that says no more than "look into this queue": which item comes next is decided when a worker
takes it (`shared.job_store`). So a message that is lost, repeated or late harms nothing.

Owns everything both sides must agree on about messages. Leaves out what the tasks do (`workers.tasks`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from shared.contracts import JOB_REQUEST, ConvertRequest
from shared.errors import QueueUnavailableError
from shared.plan import Conversion, Plan, Sources

if TYPE_CHECKING:
    from shared.settings import Settings

log = structlog.get_logger()

# Plain strings: Celery reads `task.name`, so an enumeration's member would be taken for a task.
WORK: Final = "riffarm.work"
SWEEP: Final = "riffarm.sweep"

SOUND_QUEUE: Final = "sound"
DELIVER_QUEUE: Final = "deliver"
SWEEP_QUEUE: Final = "sweep"
_RENDER: Final = "render"
# What is nearly finished goes first: it frees storage and gives a client something to hear.
QUEUES: Final = (DELIVER_QUEUE, SOUND_QUEUE, _RENDER)
"""The kinds of queues with work, in the order they are served. One for rendering is there once for each model."""


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
        # Nobody gives workers orders through Celery: it would be two connections and some messages of each.
        worker_enable_remote_control=False,
        # A spawned child imports torch and loads the model before it reports for work.
        worker_proc_alive_timeout=300.0,
        worker_soft_shutdown_timeout=3.0,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # Redis at its memory limit, or with a full disk, answers with errors: Celery would end for good.
        broker_channel_error_retry=True,
        broker_connection_timeout=3,
        broker_transport_options={
            # A ticket names no work: one that is given out again finds other work, or none. So nothing hangs on this.
            "visibility_timeout": 3_600,
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


def render_queue(model: str) -> str:
    """The queue of one model's batches: only a worker that has the model takes from it."""
    return f"{_RENDER}.{model}"


def queues(models: Iterable[str]) -> list[str]:
    """All queues of a worker with these models, in the order it serves them."""
    return [DELIVER_QUEUE, SOUND_QUEUE, *map(render_queue, models)]


def queues_from_names(names: str | None, models: Sequence[str]) -> list[str]:
    """The queues of a list with commas, in its order; all for None.

    A name is a queue's own, or "render" for those of all models. Raises ValueError for a name that is none of these,
    or of a model that is not among `models`.
    """
    served = queues(models)
    if names is None:
        return served
    chosen: dict[str, None] = {}
    for name in (one.strip() for one in names.split(",")):
        meant = [queue for queue in served if name in (queue, kind_of_queue(queue))]
        if not meant:
            known = ", ".join(dict.fromkeys((*QUEUES, *served)))
            raise ValueError(f"there is no queue {name!r} here; there are {known}")
        chosen |= dict.fromkeys(meant)
    return [*chosen]


def kind_of_queue(queue: str) -> str:
    """A queue's place in QUEUES: its name without the model."""
    return queue.partition(".")[0]


def models_of_queues(served: Iterable[str]) -> list[str]:
    """The models whose batches are in these queues, each once."""
    return [*dict.fromkeys(queue.partition(".")[2] for queue in served if kind_of_queue(queue) == _RENDER)]


def plan_of(job: Mapping[str, str]) -> Plan | Conversion:
    """The plan of a recorded job."""
    return plan_from_texts(job["input"], job["sources"])


@lru_cache(maxsize=32)
def plan_from_texts(input_json: str, sources_json: str) -> Plan | Conversion:
    """The plan of a resolved request and what its names stood for. Kept: a worker asks for one again and again."""
    request, sources = JOB_REQUEST.validate_json(input_json), Sources(**json.loads(sources_json))
    return Conversion(request, sources) if isinstance(request, ConvertRequest) else Plan(request, sources)


def needed_frames(plan: Plan | Conversion, chunk: int) -> tuple[int, ...]:
    """The frames that must be there before a chunk is made; none when there is no such chunk."""
    return plan.chunk(chunk).needed_frames if isinstance(plan, Plan) and chunk < plan.chunks_total else ()


class Dispatcher:
    """Sends the messages that wake workers up."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def send_tickets(self, queues: Iterable[str]) -> None:
        """Tell one worker for each of these queues to look there. A ticket that cannot be sent is not missed: the
        sweeper sends one wherever work waits and none is out."""
        for queue in dict.fromkeys(queues):
            try:
                self._send(WORK, queue, {"queue": queue})
            except QueueUnavailableError as error:
                log.warning("no ticket sent", queue=queue, error=error.message)

    def _send(self, task: str, queue: str, arguments: dict[str, str]) -> None:
        try:
            self._app.send_task(task, kwargs=arguments, queue=queue)
        except (OperationalError, ConnectionError, TimeoutError) as error:
            raise QueueUnavailableError(f"Redis does not take messages: {error}") from error
