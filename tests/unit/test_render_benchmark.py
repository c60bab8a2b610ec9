"""The rendering benchmark runs, on whatever machine there is: what needs a GPU is rehearsed on a small model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from tests.benchmarks import render, render_report
from tests.benchmarks.render_cuda import idle_share_of, measured
from tests.benchmarks.render_model import WHOLE, parts_from_scale

pytestmark = [
    # diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is letting go.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers"),
    # diffusers keeps what it looked up about its own versions.
    pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning"),
]


def test_all_of_it_is_rehearsed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line has every figure that a target asks for, and the model compiles without an error."""
    monkeypatch.setattr(sys, "argv", ["render", "--rehearse"])
    threads = torch.get_num_threads()
    assert render.main() == 0
    torch.set_num_threads(threads)
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all(target.value(results) >= 0 for target in render.TARGETS)
    assert [batch["frames"] for batch in results["cuda"]["batches"]] == [1, 2]
    assert "error" not in results["cuda"]["compiled"]


def test_without_a_device_there_are_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made up: null, a sentence on the page, and targets of the CPU alone."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert measured() is None
    way = {"frames_per_cpu_s": 1.0, "unet_s": 0.9, "all_s": 1.0, "rest_s": 0.1}
    results = {"cpu": {"speed_ratio": 1.4, "unet_share": 0.9, "farm": way, "stock": way}, "cuda": None}
    assert [target.figure for target in render.unmet(results)] == ["cpu.speed_ratio"]
    page = tmp_path / "page.md"
    page.write_text(f"before\n{render_report.BEGIN}\nold\n{render_report.END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        render_report.write(results, render.targets_of(results), page, tmp_path / "render.json")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("missed by 0.1") == text.count(render_report.NO_CUDA) == 1
    assert json.loads((tmp_path / "render.json").read_text(encoding="utf-8")) == results


def test_idleness_is_what_no_kernel_covers() -> None:
    """Kernels overlap and lie within each other; gaps count once, what comes before and after does not."""
    assert idle_share_of([(10, 20), (12, 14), (15, 30), (40, 50)]) == pytest.approx(10 / 40)
    assert idle_share_of([(0, 1), (1, 2)]) == 0


def test_the_model_has_stable_diffusions_size() -> None:
    """859,520,964 weights in the denoiser and 83,653,863 in the autoencoder, as published."""
    parts = parts_from_scale(WHOLE, torch.device("meta"))
    sizes = [sum(weights.numel() for weights in part.parameters()) for part in (parts.unet, parts.vae)]
    assert sizes == [859_520_964, 83_653_863]
