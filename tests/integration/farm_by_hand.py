"""A farm without processes: a test says which item a worker does next, with the real sound of made-up frames."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from api.intake import Jobs
from shared import dispatch
from shared.catalogue import ModelEntry
from shared.contracts import Keyframe, OutputPlace, TrackRequest
from shared.frames import Frame, frame_hash
from shared.job_store import JobStore
from shared.object_store import LocalDiskStore, ObjectStore, chunk_key, frame_key
from shared.plan import Plan
from shared.settings import Settings
from workers.attempts import Attempts
from workers.tasks import Tasks

QUEUES = ("render.stub", "sound", "deliver")


class Pipeline:
    """Stands in for a model: four grey lines whose places a frame's hash tells."""

    memory_mb = 1

    def truncated_words(self, prompt: str) -> str:
        return ""

    def render(
        self,
        frames: Sequence[Frame],
        seed_images: Any,
        mask_images: Any,
        *,
        on_step: Callable[[Any], None],
        on_picture: Callable[[int, Image.Image], None],
    ) -> None:
        for index, frame in enumerate(frames):
            on_step(SimpleNamespace(frames=[index], step=0, steps=1, clean=lambda: [None]))
            image = Image.new("RGB", (frame.columns, 512), "white")
            for place in range(0, 8, 2):
                row = 400 - int(frame_hash(frame)[place : place + 2], 16)
                image.paste((60, 60, 60), (0, row, frame.columns, row + 3))
            on_picture(index, image)


class Farm:
    """A worker and a gateway by hand, over one folder or another store, and one track."""

    def __init__(
        self,
        settings: Settings,
        job_store: JobStore,
        storage: Path | ObjectStore,
        duration_s: float = 66.56,
        output: OutputPlace | None = None,
    ) -> None:
        self.store = job_store
        self.objects = LocalDiskStore(storage) if isinstance(storage, Path) else storage
        dispatcher = dispatch.Dispatcher(dispatch.celery_app(settings))
        self.jobs = Jobs(settings, job_store, self.objects, dispatcher, {"stub": ModelEntry("stub", "stub", "1", "1")})
        pipeline: Any = Pipeline()
        tasks = Tasks(settings, job_store, self.objects, dispatcher, lambda name, revision: pipeline, "w1")
        self.attempts = Attempts(job_store, tasks, dispatcher, "w1", "w1/1", threading.Event())
        keyframes = [Keyframe(prompt="a piano", seed=1), Keyframe(prompt="drums", seed=2)]
        self.job_id = self.jobs.submit(
            TrackRequest(
                keyframes=keyframes,
                duration_s=duration_s,
                model="stub",
                joins="repaint",
                formats=["wav"],
                quality="fast",
                output=output,
            )
        )
        plan = dispatch.plan_of(job_store.read(self.job_id))
        assert isinstance(plan, Plan)
        self.plan = plan

    def work(self, item: str) -> None:
        """Go on until this item is the next, or the end."""
        while self.next_items() - {item}:
            done = [queue for queue in QUEUES if item not in self.ready(queue) and self.attempts.work(queue) == "done"]
            assert done

    def ready(self, queue: str) -> list[str]:
        fields = self.store.read(self.job_id)
        if fields["status"] == "succeeded":
            return []
        ready = fields.get(f"ready:{queue.partition('.')[0]}", "").split()
        begun, total = int(fields.get("next_batch", 0)), int(fields["batches_total"])
        return ready or ([f"b{begun}"] if queue == "render.stub" and begun < total else [])

    def next_items(self) -> set[str]:
        return {item for queue in QUEUES for item in self.ready(queue)[:1]}

    def lose(self, *what: str) -> None:
        for one in what:
            number = int(one[1:])
            chunk = self.plan.chunk(number if one.startswith("c") else 0)
            name = chunk_key(self.job_id, chunk.part, chunk.index_in_part)
            self.objects.delete(name if one.startswith("c") else frame_key(frame_hash(self.plan.frame(number))))

    def sha256(self) -> str:
        self.work("")
        job = self.jobs.read(self.job_id)
        assert job.status == "succeeded", job.error
        return job.outputs[0].sha256
