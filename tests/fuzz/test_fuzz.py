"""The short form of `make test-fuzz`."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.rig import fuzzed_farm, run


def test_nothing_drawn_from_the_document_breaks_the_gateway(tmp_path: Path) -> None:
    """Examples, random and wrong requests, and jobs led from call to call: no 5xx, nothing undeclared, no drift."""
    with fuzzed_farm(tmp_path) as url:
        results = [run(url, tmp_path, "examples,fuzzing", 3, seed=1), run(url, tmp_path, "stateful", 10, seed=2)]
    assert [one.output for one in results if one.failures or one.errors] == []
    assert sum(one.cases for one in results) > 150
