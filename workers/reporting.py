"""What the farm hears of a batch while it is rendered: finished frames, previews, how long each frame took, how many a
minute.

Leaves out rendering (`workers.tasks`) and who may hear it (`shared.job_store`).
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from shared.contracts import Preview
from shared.job_moves import Attempt
from shared.job_store import JobStore
from workers.lease import Lease

if TYPE_CHECKING:
    from workers.diffusion import FramePipeline, Step

_PREVIEW_S: Final = 0.5
_RECORD_S: Final = 0.25
_RATE_S: Final = 300.0
"""Over how long frames are counted: a slow device needs minutes for one."""


class Recorder:
    """Records finished frames, several at a time when they come faster than _RECORD_S."""

    def __init__(self, jobs: JobStore, attempt: Attempt) -> None:
        self._jobs = jobs
        self._attempt = attempt
        self._lock = threading.Lock()
        self._frames: dict[int, Mapping[str, object]] = {}
        self._recorded_s = -math.inf

    def add(self, frames: Mapping[int, Mapping[str, object]]) -> None:
        """Record frames now or with the next ones. Raises LeaseLostError when the attempt is late."""
        with self._lock:
            self._frames |= frames
            if time.monotonic() - self._recorded_s >= _RECORD_S:
                self._record()

    def flush(self) -> None:
        """Record what is left."""
        with self._lock:
            self._record()

    def _record(self) -> None:
        self._jobs.record_frames(self._attempt, self._frames)
        self._frames, self._recorded_s = {}, time.monotonic()


class Watch:
    """Looks on while frames are denoised: ends it when the lease says so, shows previews, counts seconds."""

    def __init__(self, jobs: JobStore, lease: Lease, numbers: Sequence[int], pipeline: FramePipeline) -> None:
        self._jobs = jobs
        self._lease = lease
        self._numbers = numbers
        self._pipeline = pipeline
        self._shown_s = self._since_s = time.monotonic()
        self._together: Sequence[int] = ()
        self._timed: Sequence[int] = ()
        self._each_s = 0.0

    def step(self, step: Step) -> None:
        """Raise what the lease raises; show how far one frame is, at most every _PREVIEW_S."""
        self._lease.check()
        self._together = step.frames
        if time.monotonic() - self._shown_s >= _PREVIEW_S:
            self._shown_s = time.monotonic()
            # Of frames that are denoised together each has its turn.
            turn = step.step % len(step.frames)
            preview = Preview(
                frame=self._numbers[step.frames[turn]],
                step=step.step,
                steps=step.steps,
                image=self._pipeline.preview(step.clean()[turn]),
            )
            self._jobs.add_event(self._lease.attempt.job_id, "preview", preview.model_dump())

    def seconds_each(self) -> float:
        """Seconds the frame took whose picture is there now: an equal share of those denoised with it."""
        if self._timed != self._together:
            now_s = time.monotonic()
            self._each_s = (now_s - self._since_s) / len(self._together)
            self._timed, self._since_s = self._together, now_s
        return self._each_s


class FrameRate:
    """How many frames a worker renders in a minute: of the last five, or since it began if that is less."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._rendered_s: deque[float] = deque()

    def count(self) -> None:
        """Count a frame, rendered now; by any thread."""
        self._rendered_s.append(time.monotonic())

    def per_minute(self) -> float:
        """Frames a minute, 0 or more; for one thread."""
        now_s = time.monotonic()
        while self._rendered_s and self._rendered_s[0] <= now_s - _RATE_S:
            self._rendered_s.popleft()
        # Of the first moments no rate can be told.
        passed_s = min(max(now_s - self._began_s, 1.0), _RATE_S)
        return round(60 * len(self._rendered_s) / passed_s, 2)
