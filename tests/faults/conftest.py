"""What the tests of faults share: one farm, as long as it stays whole, and the sounds of its jobs undisturbed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.faults.checks import sounds_of, tally
from tests.faults.mix import SEED_IMAGE, Request, mixed
from tests.faults.rig import Farm

KILLS: Final = int(os.environ.get("RIFFARM_FAULT_KILLS", "20"))
"""How many random kills: `make test-faults` makes 200."""
JOBS: Final = max(12, KILLS * 3 // 10)
FIGURES: Final = Path("out/faults.json")
FEW: Final = 7
"""Jobs for one fault: one of each kind."""


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Request], dict[str, str]]:
    """Jobs of every kind and their sounds, by name, from a farm that nothing happens to."""
    with Farm(tmp_path_factory.mktemp("undisturbed"), frame_s=0.0) as farm:
        requests = mixed(JOBS, farm.client.upload(SEED_IMAGE))
        farm.submit(*requests)
        farm.wait_for_end(timeout_s=240)
        return requests, sounds_of(farm, farm.accepted)


@pytest.fixture(scope="session")
def requests(undisturbed: tuple[list[Request], dict[str, str]]) -> list[Request]:
    """The jobs."""
    return undisturbed[0]


@pytest.fixture(scope="session")
def sounds(undisturbed: tuple[list[Request], dict[str, str]]) -> dict[str, str]:
    """What they must sound like."""
    return undisturbed[1]


MakeFarm = Callable[..., Farm]


@pytest.fixture(scope="module")
def make_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeFarm]:
    """Starts farms, with the options of `tests.faults.rig.Farm`, that end with the module."""
    with ExitStack() as farms:

        def make(**options: object) -> Farm:
            farm = farms.enter_context(Farm(tmp_path_factory.mktemp("farm"), **options))  # type: ignore[arg-type]
            assert farm.client.upload(SEED_IMAGE)
            return farm

        yield make


@pytest.fixture(scope="session")
def lasting_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Farm]]:
    """Gives the one farm of all tests, and a new one when a test left it broken."""
    farms: list[Farm] = []

    def give() -> Farm:
        if farms and not farms[-1].is_whole:
            farms.pop().end()
        if farms:
            farms[-1].begin()
        else:
            farms.append(Farm(tmp_path_factory.mktemp("farm")).__enter__())
            farms[-1].client.upload(SEED_IMAGE)
        return farms[-1]

    yield give
    for farm in farms:
        farm.end()


@pytest.fixture
def farm(lasting_farm: Callable[[], Farm]) -> Farm:
    """A whole farm of two workers without jobs."""
    return lasting_farm()


def pytest_unconfigure(config: pytest.Config) -> None:
    """The figures of a full run, as its last line and in a file that `make bench-farm` reads."""
    if "RIFFARM_FAULT_KILLS" in os.environ and not config.option.collectonly:
        FIGURES.parent.mkdir(exist_ok=True)
        FIGURES.write_text(json.dumps(tally), encoding="utf-8")
        print(json.dumps(tally))
