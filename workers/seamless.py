"""Time as a circle: a model's convolutions see the first columns of a picture after its last ones.

Owns how convolutions are padded in time. Leaves out when that is wanted (`workers.diffusion`). A frame is a loop of
whole beats, but a convolution pads its edges with zeros, which leaves a step where the loop closes. Rows, which are
frequencies, keep their zeros: the highest note is no neighbour of the lowest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch


class TimeCircle:
    """Lets the convolutions of the given models see time as a circle for a while.

    Outside of `closed` they compute what they always did, bit for bit. Holds for columns, the last axis.
    """

    def __init__(self, *models: torch.nn.Module) -> None:
        self._is_closed = False
        self._convolutions: list[tuple[torch.nn.Conv2d, tuple[int, int]]] = []
        for convolution in (module for model in models for module in model.modules()):
            if isinstance(convolution, torch.nn.Conv2d) and isinstance(convolution.padding, tuple):
                rows, columns = convolution.padding
                if columns:
                    self._convolutions.append((convolution, (int(rows), int(columns))))
                    convolution.register_forward_pre_hook(partial(self._padded, columns=int(columns)))

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Time is a circle inside the block."""
        for convolution, (rows, _) in self._convolutions:
            convolution.padding = (rows, 0)
        self._is_closed = True
        try:
            yield
        finally:
            self._is_closed = False
            for convolution, padding in self._convolutions:
                convolution.padding = padding

    def _padded(self, module: torch.nn.Module, arguments: tuple[Any, ...], *, columns: int) -> tuple[Any, ...] | None:
        if not self._is_closed:
            return None
        picture, *others = arguments
        return torch.nn.functional.pad(picture, (columns, columns, 0, 0), mode="circular"), *others
