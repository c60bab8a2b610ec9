"""A worker for the farm's benchmark: neither model, pictures nor sound take time; all else is a worker's own.

Goes further than `tests.stub_worker`: every frame is one and the same picture, drawn and compressed once, and sound and
delivery write one small object each and make their moves. What is left is the farm's own work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any, Final

from PIL import Image

import workers.main
import workers.tasks
from shared.dispatch import plan_from_texts
from shared.frames import Frame
from shared.object_store import chunk_key
from shared.plan import Conversion, Plan
from tests.stub_worker import ROWS, STEPS, StubPipeline, app
from workers.delivery import Delivery
from workers.lease import Lease
from workers.tasks import Tasks

__all__ = ["app"]
COLUMNS: Final = 512
_compressed = workers.tasks._png


class FreePipeline(StubPipeline):
    """Tells of all steps and pictures at once, and of nothing else."""

    def render(
        self,
        frames: Sequence[Frame],
        seed_images: Any = None,
        mask_images: Any = None,
        *,
        on_step: Callable[[Any], None],
        on_picture: Callable[[int, Image.Image], None],
    ) -> None:
        for index in range(len(frames)):
            for step in range(STEPS):
                on_step(SimpleNamespace(frames=[index], step=step, steps=STEPS, clean=lambda: [None]))
            on_picture(index, picture())


@cache
def picture() -> Image.Image:
    """The picture that all frames are."""
    return Image.new("RGB", (COLUMNS, ROWS), "white")


@cache
def png(plan: Plan) -> bytes:
    """That picture as a job's file."""
    return _compressed(picture(), plan)


def _sound_chunk(self: Tasks, lease: Lease) -> None:
    attempt = lease.attempt
    plan = plan_from_texts(attempt.input, attempt.sources)
    assert isinstance(plan, Plan)
    self._objects.put(chunk_key(attempt.job_id, 0, attempt.number), b"no sound")
    self._finish_item(lease, plan, 0.0, "cpu")


def _outputs(self: Delivery, plan: Plan | Conversion, on_upload: Callable[[], object]) -> dict[str, str | int]:
    return {"outputs": "[]"}


def _same_png(image: Image.Image, plan: Plan) -> bytes:
    return png(plan)


# The child that a worker spawns imports these, so that what follows holds there too.
app.conf.imports = ("tests.benchmarks.farm_worker",)
workers.main.renderer = lambda child: lambda name, revision: FreePipeline()  # type: ignore[assignment,return-value]
workers.tasks._png = _same_png
Tasks.sound_chunk = _sound_chunk  # type: ignore[method-assign]
Delivery.outputs = _outputs  # type: ignore[method-assign]
