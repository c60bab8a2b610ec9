"""What the tests of faults share: a farm for each, and the sounds of an undisturbed one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.mix import SEED_IMAGE, Request
from tests.faults.rig import Farm


class Undisturbed:
    """A farm that nothing happens to, and what its jobs sound like."""

    def __init__(self, farm: Farm) -> None:
        self._farm = farm
        self._ids: dict[str, str] = {}
        self.upload = farm.client.upload(SEED_IMAGE)

    def sounds(self, requests: list[Request]) -> dict[str, str]:
        """SHA-256 of each request's sound, by its name."""
        names = [request["labels"]["name"] for request in requests]
        new = {name: request for name, request in zip(names, requests, strict=True) if name not in self._ids}
        self._ids |= dict(zip(new, self._farm.submit(*new.values()), strict=True))
        self._farm.wait_for_end(timeout_s=240)
        return self._farm.sounds(self._ids[name] for name in names)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Undisturbed]:
    """The farm to compare with."""
    with Farm(tmp_path_factory.mktemp("undisturbed")) as farm:
        yield Undisturbed(farm)


@pytest.fixture
def make_farm(tmp_path: Path) -> Callable[..., Farm]:
    """A farm in a folder of the test's own, with the options of `tests.faults.rig.Farm`."""

    def make(**options: Any) -> Farm:
        return Farm(tmp_path / "farm", **options)

    return make
