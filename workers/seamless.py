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
from diffusers.models.downsampling import Downsample2D

_Arguments = tuple[Any, ...]


class TimeCircle:
    """Lets the convolutions of the given models see time as a circle for a while.

    Outside of `closed` they compute what they always did, bit for bit. Time is the last axis. Inside, a model that
    halves time n times is turned by whole multiples of 2^n columns as its input is; a width that can't be halved so
    often still closes, but is no circle to turn. One thread at a time: the models themselves are switched.
    """

    def __init__(self, *models: torch.nn.Module) -> None:
        self._is_closed = False
        self._convolutions: list[tuple[torch.nn.Conv2d, tuple[int, int]]] = []
        for module in (module for model in models for module in model.modules()):
            if isinstance(module, torch.nn.Conv2d) and isinstance(module.padding, tuple) and module.padding[1]:
                rows, columns = module.padding
                self._convolutions.append((module, (rows, columns)))
                module.register_forward_pre_hook(partial(self._padded, columns=columns))
            elif isinstance(module, Downsample2D) and module.use_conv and module.padding == 0:
                module.conv.register_forward_pre_hook(self._last_replaced)

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

    def _padded(self, module: torch.nn.Module, arguments: _Arguments, *, columns: int) -> _Arguments | None:
        if not self._is_closed:
            return None
        picture, *others = arguments
        return torch.cat([picture[..., -columns:], picture, picture[..., :columns]], dim=-1), *others

    def _last_replaced(self, module: torch.nn.Module, arguments: _Arguments) -> _Arguments | None:
        """An encoder's downsampling comes with one column of zeros at the end, put there by its own hand."""
        if not self._is_closed:
            return None
        picture, *others = arguments
        return torch.cat([picture[..., :-1], picture[..., :1]], dim=-1), *others
