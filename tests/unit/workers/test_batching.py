"""Batches sized to a device's memory, and what happens when it runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from shared.errors import RenderError
from workers.batching import MAX_BATCH_FRAMES, BatchSize, DeviceMemory

COLUMNS = 512
MIB = 2**20


class Card(DeviceMemory):
    """A card of so much memory, every frame taking its part while it is worked on."""

    def __init__(self, total_mib: int, frame_mib: int) -> None:
        self.total_mib, self.frame_mib = total_mib, frame_mib
        self.peak = 0
        self.sizes: list[int] = []
        self.gave_back = 0

    def start(self) -> None:
        self.peak = 0

    def peak_bytes(self) -> int:
        return self.peak

    def free_bytes(self) -> int:
        return self.total_mib * MIB

    def give_back(self) -> None:
        self.gave_back += 1

    def work(self, items: Sequence[int]) -> Iterator[int]:
        """Squares; raises when the batch is too large for the card."""
        self.sizes.append(len(items))
        self.peak = len(items) * self.frame_mib * MIB
        if self.peak > self.total_mib * MIB:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        yield from (item * item for item in items)


def on_card(card: Card) -> BatchSize:
    return BatchSize(torch.device("cuda"), card)


def failing_once(size: int, after: int) -> tuple[Callable[[Sequence[int]], Iterator[int]], list[list[int]]]:
    """Work whose memory runs out in the first batch of `size`, after so many results; and the batches it was given."""
    batches: list[list[int]] = []

    def work(items: Sequence[int]) -> Iterator[int]:
        batches.append(list(items))
        for index, item in enumerate(items):
            if index == after and len(batches) == 1:
                assert len(items) == size
                raise torch.OutOfMemoryError("CUDA out of memory.")
            yield item * item

    return work, batches


@pytest.mark.parametrize("after", [0, 1, 3, 7])
def test_memory_that_runs_out_amid_a_batch_loses_nothing(after: int) -> None:
    """Every item is done once, in order; what was done stands, and the rest goes on in halves."""
    size = BatchSize.fixed(8)
    work, batches = failing_once(8, after)
    assert list(size.run(range(16), COLUMNS, work)) == [item * item for item in range(16)]
    assert batches[0] == list(range(8))
    assert batches[1][0] == after
    assert max(map(len, batches[1:])) <= 4
    assert [item for batch in batches[1:] for item in batch] == list(range(after, 16))


def test_a_batch_once_halved_stays_smaller() -> None:
    """The next call begins where the last one came to; frames of another width have their own size."""
    size = BatchSize.fixed(8)
    list(size.run(range(8), COLUMNS, failing_once(8, 0)[0]))
    assert (size.frames(COLUMNS), size.frames(1024)) == (4, 8)


def test_it_is_halved_until_it_fits() -> None:
    """A card that holds three frames and believes in 64 comes down to two; its memory is given back each time."""
    card = Card(total_mib=3_000, frame_mib=1_000)
    size = on_card(card)
    size._frames[COLUMNS] = 64
    assert list(size.run(range(64), COLUMNS, card.work)) == [item * item for item in range(64)]
    assert card.sizes == [64, 32, 16, 8, 4] + [2] * 32
    assert card.gave_back == 5


def test_a_single_frame_that_is_too_much_says_so() -> None:
    """The error is final, a sentence, and without the library's advice."""
    card = Card(total_mib=500, frame_mib=1_000)
    with pytest.raises(RenderError, match="does not hold a single frame of 512 columns") as caught:
        list(on_card(card).run(range(4), COLUMNS, card.work))
    assert card.sizes == [2, 1]
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("total_mib", "expected"),
    [pytest.param(10_000, 8, id="what fits"), pytest.param(1_000_000, MAX_BATCH_FRAMES, id="no more than pays")],
)
def test_the_first_batch_measures_the_device(total_mib: int, expected: int) -> None:
    """Two frames show what a frame takes; the size found is kept, though later batches are smaller."""
    card = Card(total_mib, frame_mib=1_000)
    size = on_card(card)
    list(size.run(range(2 + expected), COLUMNS, card.work))
    assert card.sizes == [2, expected]
    list(size.run(range(3), COLUMNS, card.work))
    assert size.frames(COLUMNS) == expected


def test_a_rest_is_shared_out() -> None:
    """Nine frames in batches of at most eight are five and four."""
    card = Card(100, 1)
    list(BatchSize.fixed(8).run(range(9), COLUMNS, card.work))
    assert card.sizes == [5, 4]


def test_a_cpu_takes_one_frame_at_a_time() -> None:
    """A frame's bits do not depend on its company there."""
    card = Card(1_000, 1)
    assert list(BatchSize(torch.device("cpu")).run(range(3), COLUMNS, card.work)) == [0, 1, 4]
    assert card.sizes == [1, 1, 1]


def test_other_errors_pass_through() -> None:
    """Only a lack of memory is answered with smaller batches."""

    def work(items: Sequence[int]) -> Iterator[int]:
        raise ValueError("no picture")
        yield 0

    with pytest.raises(ValueError, match="no picture"):
        list(BatchSize.fixed(4).run(range(4), COLUMNS, work))


@pytest.mark.gpu
def test_a_card_measures_itself() -> None:
    """A batch's own memory is seen, and more of the card is free than it took."""
    memory = DeviceMemory(torch.device("cuda"))
    memory.start()
    block = torch.empty(64 * MIB, dtype=torch.uint8, device="cuda")
    assert memory.peak_bytes() == block.numel()
    assert memory.free_bytes() > 0


@pytest.mark.gpu
def test_a_real_lack_of_memory_is_halved_away() -> None:
    """Allocations that no card holds end in batches that it does."""
    total = torch.cuda.get_device_properties(0).total_memory
    sizes: list[int] = []

    def work(items: Sequence[int]) -> Iterator[int]:
        sizes.append(len(items))
        block = torch.empty(len(items) * total // 5, dtype=torch.uint8, device="cuda")
        yield from (block.numel() and item for item in items)

    size = BatchSize(torch.device("cuda"))
    size._frames[COLUMNS] = 8
    assert list(size.run(range(8), COLUMNS, work)) == list(range(8))
    assert sizes[0] == 8
    assert size.frames(COLUMNS) <= 4
