"""How many frames a minute a worker says it renders."""

from __future__ import annotations

import pytest

from workers.reporting import FrameRate


def test_a_rate_is_of_the_last_five_minutes_or_since_the_worker_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """It falls to 0 once nothing was rendered for so long, and is told in the first moment too."""
    now_s = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    rate = FrameRate()
    assert rate.per_minute() == 0
    rate.count()
    assert rate.per_minute() == 60
    for now_s in (110.0, 120.0, 130.0):  # noqa: B007 — the clock reads it
        rate.count()
    assert rate.per_minute() == 8
    now_s = 400.0
    assert rate.per_minute() == 0.6
    now_s = 429.9
    assert rate.per_minute() == 0.2
    now_s = 430.0
    assert rate.per_minute() == 0
