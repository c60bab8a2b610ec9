"""`riffarm doctor`: what it finds, and that nothing it finds ends it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.sd15_checkpoint import write_lora, write_sd15_checkpoint
from tests.tiny_checkpoint import write_tiny_checkpoint
from workers import doctor
from workers.doctor import Finding, findings


@pytest.fixture(autouse=True)
def one_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A CPU, whatever the machine has, and no farm; the process is left as it was."""
    threads = torch.get_num_threads()
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    monkeypatch.setenv("RIFFARM_DEVICE", "cpu")
    for name in ("MODELS_FILE", "REDIS_URL", "STORAGE_URL"):
        monkeypatch.delenv(f"RIFFARM_{name}", raising=False)
    yield
    torch.set_num_threads(threads)


def found_models(monkeypatch: pytest.MonkeyPatch, file: Path) -> dict[str, Finding]:
    """What it says of a catalogue's models, by the name that each sentence begins with."""
    monkeypatch.setenv("RIFFARM_MODELS_FILE", str(file))
    monkeypatch.setattr(doctor, "_speed", lambda: Finding("speed", is_good=True, found=""))
    models = [one for one in findings() if one.what.startswith("model")]
    return {re.split("[ :]", one.found)[0]: one for one in models}


def test_it_says_which_device_is_picked_and_how_fast_it_is() -> None:
    """Seconds a step and frames a minute that agree with each other; the built-in model loads."""
    found = {one.what: one for one in findings()}
    assert all(one.is_good for name, one in found.items() if name != "disk")
    assert found["device"].found.startswith("CPU, ")
    said = r"([\d.]+) s a denoising step .* (\d+) frames a minute at (\d+) steps"
    step_s, frames, steps = map(float, re.search(said, found["speed"].found).groups())
    assert 0 < step_s < 60
    # Decoding comes on top of the steps; both figures are rounded.
    assert frames <= 60 / (steps * (step_s - 0.0005)) + 1
    assert re.fullmatch(r"riffarm-mini loads: \d+ MB in float32", found["model"].found)


def test_each_model_of_the_catalogue_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Good ones with what they take, the others with the reason and a way out."""
    write_tiny_checkpoint(tmp_path / "tiny")
    write_tiny_checkpoint(tmp_path / "pickled", is_pickled=True)
    write_sd15_checkpoint(tmp_path / "sd15")
    write_lora(tmp_path / "warm.safetensors", tmp_path / "sd15", "kohya")
    entry = '[{}]\nsource = "{}"\nrevision = "1"\n{}\n'
    added = 'loras = [{{source = "{}.safetensors"}}]'
    rows = [("tiny", "tiny", 'dtype = "bfloat16"'), ("warm", "sd15", added.format("warm"))]
    rows += [("cold", "sd15", added.format("cold")), ("misfit", "tiny", added.format("warm"))]
    rows += [("pickled", "pickled", ""), ("lost", "./nowhere", ""), ("hub", "some/model-of-the-hub", "")]
    (tmp_path / "own.toml").write_text("".join(entry.format(*row) for row in rows))
    found = found_models(monkeypatch, tmp_path / "own.toml")
    assert {name for name, one in found.items() if one.is_good} == {"riffarm-mini", "tiny", "warm", "hub"}
    assert "in bfloat16" in found["tiny"].found
    assert "loads with 1 added to it" in found["warm"].found
    assert "not fetched yet" in found["hub"].found
    for name, reason in (
        ("cold", "no LoRA file"),
        ("misfit", "does not fit the model"),
        ("pickled", "pickles"),
        ("lost", "no model folder"),
    ):
        assert reason in found[name].found
        assert found[name].remedy


def test_a_catalogue_that_cannot_be_read_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the file, the entry and the field."""
    (tmp_path / "own.toml").write_text('[own]\nsource = "x"\n')
    monkeypatch.setenv("RIFFARM_MODELS_FILE", str(tmp_path / "own.toml"))
    monkeypatch.setattr(doctor, "_speed", lambda: Finding("speed", is_good=True, found=""))
    (one,) = (one for one in findings() if not one.is_good and one.what == "models")
    assert one.found.endswith("own.toml: [own] revision: must be given")
