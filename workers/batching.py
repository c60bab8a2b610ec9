"""How many frames go through the model together.

Owns the batch size: on CUDA as many frames as the memory holds, measured on a first batch and kept, and half as many
once it has run out; elsewhere one. Leaves out what a batch is made of (`workers.diffusion`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

import torch

from shared.errors import RenderError

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_BATCH_FRAMES: Final = 64
"""A GPU gains no more beyond it, and a canceled job would hold it for longer."""
_FIRST_BATCH_FRAMES: Final = 2
_USED_SHARE: Final = 0.85
"""Of what is free: blocks come in sizes of their own, and a first batch meets no fragments."""


class DeviceMemory:
    """What a CUDA device's memory holds, in bytes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0

    def start(self) -> None:
        """From here on the peak is measured."""
        torch.cuda.reset_peak_memory_stats(self._device)
        self._before = torch.cuda.memory_allocated(self._device)

    def peak_bytes(self) -> int:
        """The most that was taken since `start`, above what was taken then."""
        return torch.cuda.max_memory_allocated(self._device) - self._before

    def free_bytes(self) -> int:
        """What can be taken now: the device's own, and what this process keeps in reserve."""
        free, _ = torch.cuda.mem_get_info(self._device)
        return free + torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)

    def give_back(self) -> None:
        """Let go of what is kept in reserve: it lies in pieces that were too small."""
        torch.cuda.empty_cache()


class BatchSize:
    """How many frames a device takes at a time; frames of another width take another part of its memory.

    One thread at a time.
    """

    def __init__(self, device: torch.device, memory: DeviceMemory | None = None) -> None:
        """On a CPU a frame keeps its bits in any company only alone; it would gain nothing either."""
        self._memory = memory or (DeviceMemory(device) if device.type == "cuda" else None)
        self._default = _FIRST_BATCH_FRAMES if self._memory else 1
        self._frames: dict[int, int] = {}
        """By columns, where measured or run out."""

    @classmethod
    def fixed(cls, frames: int) -> BatchSize:
        """As many frames as that, until memory runs out."""
        size = cls(torch.device("cpu"))
        size._default = frames
        return size

    def frames(self, columns: int) -> int:
        """The most frames of that width that go together, as far as is known."""
        return self._frames.get(columns, self._default)

    def run(
        self, items: Sequence[Item], columns: int, work: Callable[[Sequence[Item]], Iterable[Result]]
    ) -> Iterator[Result]:
        """What `work` makes of the items, in order: it is given batches of them and gives a result for each item.

        When the device's memory runs out amid a batch, the results until then stand; the rest goes on in batches half
        as large, and so does what comes later. Raises RenderError when a single item is too much.
        """
        done = 0
        while done < len(items):
            batch = items[done : done + self._share(len(items) - done, columns)]
            if self._memory:
                self._memory.start()
            try:
                for result in work(batch):
                    done += 1
                    yield result
            except torch.OutOfMemoryError:
                self._halve(len(batch), columns)
            else:
                self._measure(len(batch), columns)
                continue
            # Only now nothing holds on to the batch: the error and its traceback are gone.
            if self._memory:
                self._memory.give_back()

    def _share(self, missing: int, columns: int) -> int:
        """Batches alike in size, rather than full ones and a small rest."""
        batches = -(-missing // self.frames(columns))
        return -(-missing // batches)

    def _halve(self, tried: int, columns: int) -> None:
        if tried == 1:
            raise RenderError(
                f"The device's memory does not hold a single frame of {columns} columns with this model."
            ) from None
        self._frames[columns] = tried // 2

    def _measure(self, measured: int, columns: int) -> None:
        """After a first batch: the size is kept."""
        if self._memory is None or columns in self._frames:
            return
        per_frame = max(1, self._memory.peak_bytes()) / measured
        fitting = int(_USED_SHARE * self._memory.free_bytes() / per_frame)
        self._frames[columns] = min(MAX_BATCH_FRAMES, max(1, fitting))
