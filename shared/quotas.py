"""How much work may wait: a tenant's unfinished jobs and their sound, and all jobs of the farm.

Owns the rule and the sentences. Leaves out the counting (`shared/job_moves.lua`), which applies the same rule at the
moment in which a job is recorded, and where the numbers come from (`api.limits`).
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from shared.errors import FarmFullError, FieldError, InvalidRequestError, QuotaExceededError

Full = Literal["farm", "jobs", "audio"]
RETRY_AFTER_S: Final = 30


class Load(NamedTuple):
    """What has not ended: jobs of the whole farm, of one tenant, and the length of the tenant's sound."""

    farm_jobs: int
    jobs: int
    audio_ms: int


class Quota(NamedTuple):
    """The most that may be there of each at a time."""

    farm_jobs: int
    jobs: int
    audio_ms: int

    def full(self, load: Load, audio_ms: int) -> Full | None:
        """Which limit keeps one more job away, of so much sound; None when there is room."""
        if load.farm_jobs >= self.farm_jobs:
            return "farm"
        if load.jobs >= self.jobs:
            return "jobs"
        return "audio" if audio_ms and load.audio_ms + audio_ms > self.audio_ms else None

    def error(self, full: Full) -> FarmFullError | QuotaExceededError:
        """What a client is told that comes upon this limit."""
        if full == "farm":
            return FarmFullError(
                f"The farm has {self.farm_jobs} jobs that have not ended, and takes no more until some have.",
                RETRY_AFTER_S,
            )
        most = (
            f"{self.jobs} jobs that have not ended"
            if full == "jobs"
            else f"{self.audio_ms / 1_000:g} s of sound in jobs that have not ended"
        )
        return QuotaExceededError(
            f"You may have {most}, and this would be more; try again when some have ended.", RETRY_AFTER_S
        )


class Room:
    """What a request may still add, by what was there when it came."""

    def __init__(self, quota: Quota, load: Load, upload_bytes: int) -> None:
        """`upload_bytes`: the most that the tenant may keep of uploads."""
        self.quota = quota
        self.upload_bytes = upload_bytes
        self._load = load

    def take(self, audio_ms: int) -> None:
        """Make room for one more job. Raises TooMuchError where there is none now, InvalidRequestError where there
        never is, since the job alone has more sound than all may have."""
        if audio_ms > self.quota.audio_ms:
            most = f"<= {self.quota.audio_ms / 1_000:g}"
            message = "more sound than all your unfinished jobs may have"
            raise InvalidRequestError(FieldError("duration_s", message, audio_ms / 1_000, most))
        if full := self.quota.full(self._load, audio_ms):
            raise self.quota.error(full)
        farm_jobs, jobs, ms = self._load
        self._load = Load(farm_jobs + 1, jobs + 1, ms + audio_ms)


def audio_ms_from_s(audio_s: float) -> int:
    """Milliseconds, as they are counted."""
    return int(audio_s * 1_000 + 0.5)
