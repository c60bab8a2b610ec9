"""The models a worker holds: side by side while they fit, the least recently used one gone first."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from structlog.testing import capture_logs

from shared.catalogue import ModelEntry
from shared.errors import RenderError
from shared.settings import Settings
from tests.conftest import SECRET
from tests.tiny_checkpoint import write_tiny_checkpoint
from tests.tiny_frames import ROWS, a_frame, render_one
from workers import shelf as shelf_module
from workers.checkpoint import checkpoint_bytes, load_checkpoint, parts_bytes
from workers.shelf import Loaded, Shelf, budget_bytes, shelf_from_settings

CPU = torch.device("cpu")


class Weights:
    """Stands for a model in memory."""

    def __init__(self, name: str) -> None:
        self.name = name


class Loader:
    """Loads models that take as much memory as their names say; counts, and remembers what was there at each load."""

    def __init__(self, **sizes: int) -> None:
        self.entries = {name: ModelEntry(name, name, "1", "1") for name in sizes}
        self.sizes = sizes
        self.loads: list[str] = []
        self.alive_at_load: list[set[str]] = []
        self.fail: Callable[[str], None] = lambda name: None
        self._alive: weakref.WeakSet[Weights] = weakref.WeakSet()

    def shelf(self, budget: int, **expected: int) -> Shelf[Weights]:
        """A shelf over these models; some may be expected to take another size than they will."""
        return Shelf(self.entries, self.load, budget, lambda entry: (self.sizes | expected)[entry.name])

    def load(self, entry: ModelEntry) -> Loaded[Weights]:
        self.alive_at_load.append({one.name for one in self._alive})
        self.loads.append(entry.name)
        self.fail(entry.name)
        weights = Weights(entry.name)
        self._alive.add(weights)
        return Loaded(weights, self.sizes[entry.name])


def test_a_model_is_loaded_once_and_kept() -> None:
    """However often it is asked for, and beside others while they fit."""
    loader = Loader(a=3, b=4, c=3)
    shelf = loader.shelf(10)
    assert [shelf.get(name).name for name in "abcabca"] == [*"abcabca"]
    assert loader.loads == ["a", "b", "c"]
    assert (shelf.loaded, shelf.used_bytes) == (["b", "c", "a"], 10)


def test_the_least_recently_used_ones_go_and_no_more_than_need_be() -> None:
    """Use counts, not the order in which they were loaded; all that must go has gone before the new one comes."""
    loader = Loader(a=3, b=4, c=3, d=5)
    shelf = loader.shelf(10)
    for name in "abcad":
        shelf.get(name)
    assert loader.alive_at_load[-1] == {"a"}
    assert shelf.loaded == ["a", "d"]
    shelf.get("b")
    assert (shelf.loaded, shelf.used_bytes) == (["d", "b"], 9)
    assert loader.loads == [*"abcdb"]


def test_a_model_larger_than_the_budget_is_loaded_alone_and_said_so() -> None:
    """Slow is better than not at all; the log names it."""
    loader = Loader(a=3, huge=50)
    shelf = loader.shelf(10)
    shelf.get("a")
    with capture_logs() as logs:
        assert shelf.get("huge").name == "huge"
    assert loader.alive_at_load[-1] == set()
    assert shelf.loaded == ["huge"]
    warnings = [one for one in logs if one["log_level"] == "warning"]
    assert [(one["model"], one["event"]) for one in warnings] == [
        ("huge", "the model is larger than the memory for models")
    ]
    shelf.get("a")
    assert shelf.loaded == ["a"]


def test_a_model_that_turns_out_larger_makes_the_others_go() -> None:
    """What its files said is an estimate; what it takes counts from then on."""
    loader = Loader(a=3, b=9)
    shelf = loader.shelf(10, b=2)
    shelf.get("a")
    assert shelf.get("b").name == "b"
    assert (shelf.loaded, shelf.used_bytes) == (["b"], 9)


def test_an_unknown_model_is_an_error_that_names_those_there_are() -> None:
    """And costs none of them its place."""
    loader = Loader(a=3, b=4)
    shelf = loader.shelf(10)
    shelf.get("a")
    with pytest.raises(RenderError, match="no model 'c'; it has a, b"):
        shelf.get("c")
    assert shelf.loaded == ["a"]


def test_a_model_that_cannot_be_read_leaves_the_shelf_whole() -> None:
    """Its job fails; the next one finds its own model."""
    loader = Loader(a=3, broken=4)
    shelf = loader.shelf(10)
    shelf.get("a")

    def fail(name: str) -> None:
        raise RenderError("damaged")

    loader.fail = fail
    with pytest.raises(RenderError, match="damaged"):
        shelf.get("broken")
    assert shelf.get("a").name == "a"
    assert loader.loads == ["a", "broken"]


def test_memory_that_runs_out_while_loading_costs_the_others_their_place() -> None:
    """The budget is an estimate: the device decides, and the load is tried once more with nothing beside it."""
    loader = Loader(a=1, b=1, c=1)
    shelf = loader.shelf(10)
    shelf.get("a")
    shelf.get("b")

    def fail(name: str) -> None:
        if loader.alive_at_load[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    loader.fail = fail
    assert shelf.get("c").name == "c"
    assert (shelf.loaded, loader.loads) == (["c"], ["a", "b", "c", "c"])


def test_a_model_that_fits_no_device_is_an_error() -> None:
    """Once alone is enough."""
    loader = Loader(a=1)

    def fail(name: str) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    loader.fail = fail
    shelf = loader.shelf(10)
    with pytest.raises(RenderError, match="'a' does not fit into the device's memory"):
        shelf.get("a")
    assert (shelf.loaded, loader.loads) == ([], ["a"])


def test_a_gpu_is_given_its_memory_back_before_the_next_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freed tensors stay in torch's own reserve until they are handed back."""
    loader = Loader(a=6, b=6)
    shelf = loader.shelf(10)
    shelf.get("a")
    loads_at_call: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: loads_at_call.append(len(loader.loads)))
    shelf.get("b")
    assert loads_at_call == [1]


def test_the_budget_is_the_setting_or_a_share_of_what_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """80 % of a GPU's free memory, half of the machine's, half of a container's limit."""
    assert budget_bytes(1.5, CPU) == 1_500_000_000
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * 10**9, 80 * 10**9))
    assert budget_bytes(None, torch.device("cuda")) == 8 * 10**9
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(shelf_module, "_CONTAINER_LIMIT", limit)
    monkeypatch.setattr(shelf_module.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 4_000_000}.__getitem__)
    assert budget_bytes(None, CPU) == 2048 * 4_000_000
    limit.write_text("max\n")
    assert budget_bytes(None, CPU) == 2048 * 4_000_000
    limit.write_text("4000000000\n")
    assert budget_bytes(None, CPU) == 2_000_000_000


def own_models(folder: Path) -> Path:
    """A catalogue of two tiny checkpoints."""
    for name, seed in (("one", 1), ("other", 2)):
        write_tiny_checkpoint(folder / name, ROWS, seed=seed)
    text = "".join(f'[{name}]\nsource = "{name}"\nrevision = "1"\n' for name in ("one", "other"))
    (folder / "own.toml").write_text(text)
    return folder / "own.toml"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A worker's, with two tiny models of its own."""
    return Settings(
        redis_url="redis://x", storage_url="file:x", secret=SECRET, models_file=own_models(tmp_path), device="cpu"
    )


def test_two_real_models_share_too_little_memory(settings: Settings, tmp_path: Path) -> None:
    """Each is gone, to the last tensor, when the other is loaded; pictures stay the same whatever came between."""
    taken = checkpoint_bytes(str(tmp_path / "one"), None, torch.float32)
    enough = settings.model_copy(update={"model_memory_gb": 2.1 * taken / 10**9})
    tight = settings.model_copy(update={"model_memory_gb": 1.5 * taken / 10**9})
    names = ["one", "other"]
    shelf = shelf_from_settings(enough, names)
    pictures = {name: render_one(shelf.get(name), a_frame()).tobytes() for name in names}
    assert shelf.loaded == names
    assert pictures["one"] != pictures["other"]
    shelf = shelf_from_settings(tight, names)
    for name in ("one", "other", "one"):
        before = [weakref.ref(held.pipeline._parts.unet) for held in shelf._held.values()]
        assert render_one(shelf.get(name), a_frame()).tobytes() == pictures[name]
        assert shelf.loaded == [name]
        assert shelf.used_bytes <= shelf.budget_bytes
        assert not any(one() for one in before)


def test_the_memory_of_a_model_is_counted_from_its_parameters(settings: Settings, tmp_path: Path) -> None:
    """All three parts that have weights."""
    shelf = shelf_from_settings(settings, ["one"])
    shelf.get("one")
    parts = load_checkpoint(str(tmp_path / "one"), None, torch.float32)
    models = (parts.unet, parts.vae, parts.text_encoder)
    assert shelf.used_bytes == parts_bytes(parts)
    assert shelf.used_bytes >= 4 * sum(parameter.numel() for model in models for parameter in model.parameters())


def test_a_shelf_has_only_the_models_its_worker_serves(settings: Settings) -> None:
    """Though the farm's catalogue has more."""
    with pytest.raises(RenderError, match="no model 'other'; it has one"):
        shelf_from_settings(settings, ["one"]).get("other")


@pytest.mark.gpu
def test_a_dropped_model_leaves_no_memory_taken_on_a_gpu(settings: Settings, tmp_path: Path) -> None:
    """What the device has left is what it had before."""
    taken = checkpoint_bytes(str(tmp_path / "one"), None, torch.float16)
    tight = settings.model_copy(update={"device": "cuda", "model_memory_gb": 1.5 * taken / 10**9})
    shelf = shelf_from_settings(tight, ["one", "other"])
    shelf.get("one")
    alone = torch.cuda.memory_allocated()
    shelf.get("other")
    assert torch.cuda.memory_allocated() <= alone * 1.01
