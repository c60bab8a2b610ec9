"""Storage loses what was finished (retention, a hand, a fault): it is made again, and the sound is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.job_store import JobStore
from shared.settings import Settings
from tests.integration.farm_by_hand import Farm


@pytest.fixture
def undisturbed(settings: Settings, job_store: JobStore, tmp_path: Path) -> str:
    """What the track sounds like when nothing happens."""
    return Farm(settings, job_store, tmp_path / "undisturbed").sha256()


@pytest.mark.parametrize(
    ("before", "lost"),
    [
        # A frame beside a joint that the next batch is to paint.
        ("b1", ["f3"]),
        # Frames and a joint that the sound is made of, before the first chunk and before the second.
        ("c0", ["f0", "f13"]),
        ("c1", ["f12", "f7"]),
        # The sound before the one that goes on from it.
        ("c1", ["c0"]),
        # What is to be delivered; and a frame of its picture.
        ("deliver", ["c1"]),
        ("deliver", ["c0", "f5"]),
    ],
)
def test_what_storage_loses_is_made_again(
    settings: Settings, job_store: JobStore, tmp_path: Path, undisturbed: str, before: str, lost: list[str]
) -> None:
    """Whoever needs it has it made, and the job ends with the same bytes, without a sweeper."""
    farm = Farm(settings, job_store, tmp_path / "disturbed")
    farm.work(before)
    farm.lose(*lost)
    assert farm.sha256() == undisturbed
