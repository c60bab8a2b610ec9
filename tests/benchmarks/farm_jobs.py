"""The jobs of the farm's benchmark: tracks of any length that no job before had.

Leaves out who works on them.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

from api.intake import Jobs, fields_of_plan
from api.stamps import new_stamp
from shared.catalogue import models
from shared.contracts import JOB_REQUEST
from shared.dispatch import Dispatcher, celery_app, render_queue
from shared.job_moves import created_ms_from_job_id
from shared.job_store import JobStore
from shared.object_store import object_store_from_url
from shared.plan import Plan
from shared.settings import Settings

FRAME_S: Final = 3.2
"""Eight beats at 150 a minute: with frames so short the longest track has more than 10,000."""


class JobMaker:
    """Makes jobs in the stores that `settings` name."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = JobStore(settings.redis_url)
        self.objects = object_store_from_url(settings.storage_url)
        self._celery = celery_app(settings)
        self.dispatcher = Dispatcher(self._celery)
        self._jobs = Jobs(settings, self.store, self.objects, self.dispatcher, models(None))
        self.model = next(iter(models(None)))
        self.queue = render_queue(self.model)
        # From what others that make jobs here begin with, it is far.
        self._seed = secrets.randbelow(2**31)

    def close(self) -> None:
        """Let the connections go."""
        self._celery.close()
        self.store.redis.close()

    def request(self, frames: int) -> dict[str, Any]:
        """A track of so many frames that no job before had."""
        self._seed += 2
        prompts = ("slow ambient strings, no drums", "fast techno synth, four on the floor drums")
        return {
            "type": "track",
            "keyframes": [{"prompt": text, "seed": self._seed + one} for one, text in enumerate(prompts)],
            "duration_s": round(frames * FRAME_S, 3),
            "seed_image": "og_beat",
            "tempo_bpm": 150,
        }

    def plan(self, frames: int) -> Plan:
        """The plan of such a track."""
        plan = self._jobs.plan(JOB_REQUEST.validate_python(self.request(frames)))
        assert isinstance(plan, Plan)
        assert plan.frames_total == frames
        return plan

    def submit(self, frames: int) -> str:
        """Submit such a track as the gateway does; its id."""
        return self._jobs.submit(JOB_REQUEST.validate_python(self.request(frames)))

    def create(self, plan: Plan, **fields: int) -> str:
        """Record a job with these fields besides its plan's, and have workers hear of it; its id."""
        job_id = new_stamp().job_id
        planned = fields_of_plan(plan, created_ms_from_job_id(job_id), self.settings.job_window)
        self.dispatcher.send_tickets(self.store.create(job_id, planned | fields))
        return job_id

    def create_frames_only(self, plan: Plan) -> str:
        """Record a job whose sound nobody makes, its next chunk being past its last; its id."""
        return self.create(plan, next_chunk=plan.chunks_total)

    def plans(self, frames: int, batches: int) -> list[Plan]:
        """Plans of such tracks, enough for so many batches."""
        first = self.plan(frames)
        return [first, *(self.plan(frames) for _ in range(batches // first.batches_total - 1))]
