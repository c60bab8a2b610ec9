"""The gallery's page and its pictures belong together, and its requests can be sent."""

from __future__ import annotations

import re

from shared.contracts import JOB_REQUEST
from tests.benchmarks.gallery import FOLDER, PAGE, SHEETS
from tests.benchmarks.gallery_layout import MAX_BYTES

MAX_BYTES_IN_ALL = 2_000_000
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_page_shows_every_sheet_and_no_other() -> None:
    """One picture for each parameter's function, all of them there, in order, and none that is left over."""
    shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", TEXT)
    assert shown == [f"{draw.__name__}.jpg" for draw in SHEETS]
    assert sorted(shown) == sorted(path.name for path in FOLDER.glob("*.jpg"))


def test_pictures_are_small() -> None:
    """None above its limit, all together below two megabytes."""
    sizes = [path.stat().st_size for path in FOLDER.glob("*.jpg")]
    assert max(sizes) <= MAX_BYTES
    assert sum(sizes) < MAX_BYTES_IN_ALL


def test_the_requests_on_the_page_can_be_sent() -> None:
    """Each is accepted by the contract as it is printed, with an upload's id in full."""
    requests = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    assert len(requests) == len(SHEETS)
    for request in requests:
        JOB_REQUEST.validate_json(request.replace("upl_…", f"upl_{'0' * 64}"))
