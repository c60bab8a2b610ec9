"""The models a worker holds in memory: several side by side, within a budget.

Owns which one has to go for another. Leaves out reading a model (`workers.checkpoint`) and rendering with it
(`workers.diffusion`).
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar

import structlog
import torch

from shared.catalogue import ModelEntry, models
from shared.errors import RenderError
from shared.settings import Settings
from workers.checkpoint import (
    checkpoint_bytes,
    device_from_name,
    dtype_from_name,
    load_checkpoint,
    parts_bytes,
)
from workers.diffusion import FramePipeline

log = structlog.get_logger()
Pipeline = TypeVar("Pipeline")

_GB: Final = 10**9
_SHARE_OF_GPU: Final = 0.8
"""Of what is free: the rest is for latents, activations and what else runs there."""
_SHARE_OF_RAM: Final = 0.5
_CONTAINER_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")


class Loaded(NamedTuple, Generic[Pipeline]):
    """A model in memory, and the bytes that its weights take there."""

    pipeline: Pipeline
    weights_bytes: int


class Shelf(Generic[Pipeline]):
    """Models by name, each loaded when it is first asked for; the least recently used ones go first."""

    def __init__(
        self,
        entries: Mapping[str, ModelEntry],
        load: Callable[[ModelEntry], Loaded[Pipeline]],
        budget_bytes: int,
        expected_bytes: Callable[[ModelEntry], int],
    ) -> None:
        """`expected_bytes` says, before a model is loaded, how much memory its weights will take."""
        self.budget_bytes = budget_bytes
        self._entries = entries
        self._load = load
        self._expected_bytes = expected_bytes
        # The least recently used first. Replaced, never changed: the heartbeat's thread reads it.
        self._held: dict[str, Loaded[Pipeline]] = {}

    @property
    def loaded(self) -> list[str]:
        """Names of the models in memory, the least recently used first."""
        return [*self._held]

    @property
    def used_bytes(self) -> int:
        """Memory that the weights of these models take."""
        return sum(held.weights_bytes for held in self._held.values())

    def revision(self, name: str) -> str:
        """What frames know the model's weights by. Raises RenderError when there is no such model."""
        return self._entry(name).revision

    def get(self, name: str) -> Pipeline:
        """The model of this name, loaded if need be.

        A model larger than the whole budget is loaded all the same, alone. Raises RenderError when there is no such
        model, when it cannot be read, and when the device's memory does not hold even this one.
        """
        held = self._held.get(name)
        if held is None:
            held = self._loaded_from(self._entry(name))
        self._held = {other: one for other, one in self._held.items() if other != name} | {name: held}
        # It may have turned out larger than its files said.
        while len(self._held) > 1 and self.used_bytes > self.budget_bytes:
            self._drop_oldest()
        return held.pipeline

    def _entry(self, name: str) -> ModelEntry:
        if name not in self._entries:
            raise RenderError(f"This worker has no model {name!r}; it has {', '.join(self._entries)}.")
        return self._entries[name]

    def _loaded_from(self, entry: ModelEntry) -> Loaded[Pipeline]:
        needed = self._expected_bytes(entry)
        while self._held and self.used_bytes + needed > self.budget_bytes:
            self._drop_oldest()
        if needed > self.budget_bytes:
            log.warning(
                "the model is larger than the memory for models",
                model=entry.name,
                needed_mb=needed // 10**6,
                budget_mb=self.budget_bytes // 10**6,
            )
        held = self._loaded_or_none(entry)
        if held is None and self._held:
            # The budget is an estimate, the device's memory is not.
            while self._held:
                self._drop_oldest()
            held = self._loaded_or_none(entry)
        if held is None:
            raise RenderError(f"The model {entry.name!r} does not fit into the device's memory.")
        log.info("model loaded", model=entry.name, megabytes=held.weights_bytes // 10**6)
        return held

    def _loaded_or_none(self, entry: ModelEntry) -> Loaded[Pipeline] | None:
        """None when memory did not suffice; nothing of the failed try is held any more then."""
        try:
            return self._load(entry)
        except torch.OutOfMemoryError as error:
            log.warning("no memory for the model", model=entry.name, error=str(error).partition("\n")[0])
        _give_back_memory()
        return None

    def _drop_oldest(self) -> None:
        oldest, *others = self._held
        self._held = {name: self._held[name] for name in others}
        _give_back_memory()
        log.info("model dropped", model=oldest)


def _give_back_memory() -> None:
    # A pipeline's caches point back at it: without this it would stay until the collector comes by.
    gc.collect()
    torch.cuda.empty_cache()


def shelf_from_settings(settings: Settings, names: Sequence[str]) -> Shelf[FramePipeline]:
    """An empty shelf for these models of the farm's catalogue, on the device that the settings name."""
    device = device_from_name(settings.device)
    catalogue = models(settings.models_file)

    def load(entry: ModelEntry) -> Loaded[FramePipeline]:
        parts = load_checkpoint(entry.source, entry.source_revision, dtype_from_name(entry.dtype, device), entry.loras)
        return Loaded(FramePipeline(parts, device), parts_bytes(parts))

    def expected_bytes(entry: ModelEntry) -> int:
        return checkpoint_bytes(entry.source, entry.source_revision, dtype_from_name(entry.dtype, device))

    entries = {name: catalogue[name] for name in names}
    return Shelf(entries, load, budget_bytes(settings.model_memory_gb, device), expected_bytes)


def budget_bytes(setting_gb: float | None, device: torch.device) -> int:
    """Memory for models: what is set, else most of a GPU's free memory, else half of the machine's or container's."""
    if setting_gb is not None:
        return round(setting_gb * _GB)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return round(free * _SHARE_OF_GPU)
    return round(_ram_bytes() * _SHARE_OF_RAM)


def _ram_bytes() -> int:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(machine, int(_CONTAINER_LIMIT.read_text(encoding="ascii")))
    except (OSError, ValueError):
        # No container, or one without a limit.
        return machine
