"""What a job's state should be: the table of states and actions, and a plain model of a job to compare the store with.

Leaves out the store itself, and the looks into Redis (`tests.integration.job_invariants`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from shared.job_moves import Attempt
from shared.quotas import audio_ms_from_s

GONE: Final = "gone"
ACTIONS: Final = (
    "submit",
    "begin",
    "deliver",
    "fail",
    "expire",
    "cancel",
    "pause",
    "resume",
    "retry",
    "forget",
)
_LIVE_ENDS: Final = {"fail": "failed", "cancel": "canceled"}
TABLE: Final[dict[str, dict[str, str]]] = {
    GONE: {"submit": "queued"},
    "queued": {"begin": "running", "expire": "failed", "pause": "paused, not begun", **_LIVE_ENDS},
    "running": {"deliver": "succeeded", "pause": "paused, begun", **_LIVE_ENDS},
    "paused, not begun": {"resume": "queued", **_LIVE_ENDS},
    "paused, begun": {"deliver": "succeeded", "resume": "running", **_LIVE_ENDS},
    "succeeded": {"forget": GONE},
    "failed": {"retry": "queued", "forget": GONE},
    "canceled": {"retry": "queued", "forget": GONE},
}
"""What each action makes of each state; where nothing stands, nothing changes."""
KINDS: Final = {"b": "render", "c": "sound", "d": "deliver"}


def after(state: str, action: str) -> str:
    """The state that an action leads to."""
    return TABLE[state].get(action, state)


def markdown_table() -> str:
    """The table as it stands in docs/jobs.md."""
    rows = [("", *ACTIONS), ("---",) * (len(ACTIONS) + 1)]
    rows += [(f"**{state}**", *(TABLE[state].get(action, "") for action in ACTIONS)) for state in TABLE]
    return "".join("|".join(("", *(f" {cell} " if cell else " " for cell in row), "\n")) for row in rows)


@dataclass
class JobModel:
    """A job as it should be. Batch n renders frame n; a chunk is made of two frames and looks one ahead."""

    id: str
    batches: int
    window: int
    tenant: str
    priority: str
    created_ms: int
    expires_ms: int = 0
    state: str = "queued"
    next_batch: int = 0
    next_chunk: int = 0
    chunks_done: int = 0
    is_delivering: bool = False
    ready: set[str] = field(default_factory=set)
    leased: dict[str, Attempt] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    frames: set[int] = field(default_factory=set)
    losses: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.is_conversion:
            self.is_delivering, self.ready = True, {"deliver"}

    @property
    def is_conversion(self) -> bool:
        return self.batches == 0

    @property
    def chunks(self) -> int:
        return -(-self.batches // 2)

    @property
    def audio_s(self) -> float:
        """Odd on purpose: what is added must be what is taken away."""
        return 5.1205 * (self.batches or 1)

    @property
    def status(self) -> str:
        return self.state.partition(",")[0]

    @property
    def is_live(self) -> bool:
        return self.status in ("queued", "running", "paused")

    @property
    def may_start(self) -> bool:
        return self.status in ("queued", "running") and not self.has_expired

    @property
    def has_expired(self) -> bool:
        """An expiry of these tests lies far back, or far ahead."""
        return self.state == "queued" and self.expires_ms == 1

    @property
    def fields(self) -> dict[str, str | int | float]:
        """What the gateway would record of it."""
        common: dict[str, str | int | float] = {
            "created_ms": self.created_ms,
            "audio_s": self.audio_s,
            "frames_total": self.batches,
            "batches_total": self.batches,
            "chunks_total": self.chunks,
            "window": self.window,
            "tenant": self.tenant,
            "priority": self.priority,
            "input": "{}",
            "sources": "{}",
        }
        common |= {"expires_ms": self.expires_ms} if self.expires_ms else {}
        return common | (
            {"ready:sound": "deliver", "delivering": 1} if self.is_conversion else {"render_queue": "render.m"}
        )

    def needed(self, chunk: int) -> list[int]:
        """The frames that a chunk is made of."""
        return [*range(2 * chunk, min(2 * chunk + 3, self.batches))] if chunk < self.chunks else []

    def queue_of(self, item: str) -> str:
        kind = "sound" if self.is_conversion else KINDS[item[0]]
        return "render.m" if kind == "render" else kind

    def takeable(self, queue: str) -> set[str]:
        """The items of which a look into this queue may give one."""
        return self.work(queue) if self.may_start else set()

    def work(self, queue: str) -> set[str]:
        """The items that could be begun next, if any could."""
        ready = {item for item in self.ready if self.queue_of(item) == queue}
        has_fresh = self.next_batch < self.batches and self.next_batch - len(self.done) < self.window
        return ready or ({f"b{self.next_batch}"} if queue == "render.m" and has_fresh else set())

    @property
    def is_idle(self) -> bool:
        """Whether nothing of it goes on, or could, but for somebody asking what may start now."""
        has_work = any(self.work(queue) for queue in ("render.m", "sound", "deliver"))
        return self.status in ("queued", "running") and not (has_work or self.ready or self.leased)

    def remaining(self, queue: str) -> int:
        """What is left to do in a queue, in items."""
        left = {"render.m": self.batches - len(self.done), "sound": self.chunks - self.chunks_done, "deliver": 1}
        return int(queue == "sound") if self.is_conversion else left[queue]

    def audio_ms_left(self, queue: str) -> int:
        """Its sound, by the share of a queue's items that is left to do."""
        items = {"render.m": self.batches, "sound": self.chunks, "deliver": 1}[queue] or 1
        return round(audio_ms_from_s(self.audio_s) * self.remaining(queue) / items + 1e-6)

    def frames_left(self, queue: str) -> int:
        """The frames that are not finished, while a batch is not."""
        return self.batches - len(self.frames) if queue == "render.m" and self.remaining(queue) else 0

    def do(self, action: str) -> bool:
        """Apply the table; whether anything changed."""
        before, self.state = self.state, after(self.state, action)
        if before == self.state:
            return False
        if not self.is_live:
            self.ready |= {*self.leased} - ({"deliver"} if self.state == "succeeded" else set())
            self.leased.clear()
        if action == "retry":
            self.expires_ms, self.losses = 0, {}
        return True

    def take(self, attempt: Attempt) -> None:
        """Note that an item is under way."""
        self.next_batch += attempt.item == f"b{self.next_batch}"
        self.ready.discard(attempt.item)
        self.leased[attempt.item] = attempt
        self.do("begin")

    def finish(self, attempt: Attempt) -> None:
        """Note that a batch or a chunk is done."""
        del self.leased[attempt.item]
        self.losses.pop(attempt.item, None)
        if attempt.item.startswith("b"):
            self.done.add(attempt.number)
        else:
            self.chunks_done += 1

    def move_on(self, chunk: int) -> None:
        """Make ready what may start now."""
        is_next = chunk == self.next_chunk == self.chunks_done and chunk < self.chunks
        if is_next and {*self.needed(chunk)} <= self.frames:
            self.next_chunk += 1
            self.ready.add(f"c{chunk}")
        if not self.is_delivering and self.chunks_done == self.chunks and len(self.done) == self.batches:
            self.is_delivering = True
            self.ready.add("deliver")

    def give_back(self, item: str, has_reason: bool) -> int:
        """Note that an item is ready again; how often it was lost."""
        del self.leased[item]
        self.ready.add(item)
        if has_reason:
            self.losses[item] = self.losses.get(item, 0) + 1
        return self.losses.get(item, 0) if has_reason else 0

    def reopen(self, attempt: Attempt, chunk: int, frames: set[int]) -> None:
        """Note that frames are lost, and the sound from a chunk on."""
        del self.leased[attempt.item]
        if attempt.item.startswith("b"):
            self.ready.add(attempt.item)
        else:
            self.next_chunk = self.chunks_done = chunk
            self.is_delivering = False
        again = {f"b{frame}" for frame in frames if frame in self.done or f"b{frame}" in self.leased}
        self.done -= frames
        self.frames -= frames
        self.ready |= again
        for item in again:
            self.leased.pop(item, None)
