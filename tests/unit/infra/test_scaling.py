"""How many workers a backlog needs: up at once, down slowly, never beyond the limits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.preflight import LocalFarmError
from infra.scaling import Policy, Scale, policy_from_text

POLICY = Policy(least=1, most=8, target_s=20.0, quiet_s=60.0)


def scales(policy: Policy, backlogs: Sequence[tuple[float, float]], items: int = 100) -> list[int]:
    """Numbers of workers that follow from backlogs in seconds at times in seconds, from one worker on."""
    scale, found = Scale(policy.least), []
    for now_s, backlog_s in backlogs:
        scale = policy.next(scale, items, backlog_s, now_s)
        found.append(scale.workers)
    return found


def test_a_grown_backlog_gets_its_workers_at_once() -> None:
    """One worker for every 20 s of work, the last begun 20 s included, in one step."""
    assert scales(POLICY, [(0, 0), (1, 20), (2, 20.1), (3, 119)]) == [1, 1, 2, 6]


def test_there_are_never_more_workers_than_allowed_or_than_items() -> None:
    """An hour's backlog starts the most there may be; one item that takes an hour needs one worker."""
    assert scales(POLICY, [(0, 3_600)]) == [8]
    assert scales(POLICY, [(0, 3_600)], items=3) == [3]
    assert scales(POLICY, [(0, 3_600)], items=0) == [1]


def test_workers_go_one_at_a_time_each_after_a_quiet_while() -> None:
    """A minute without need, one fewer; another minute, one fewer; the last one stays."""
    calm = [(now_s, 0.0) for now_s in (1.0, 60.0, 61.0, 120.0, 121.0, 122.0, 181.0, 300.0)]
    assert scales(POLICY, [(0.0, 60.0), *calm]) == [3, 3, 3, 2, 2, 1, 1, 1, 1]


def test_a_moment_of_need_begins_the_quiet_while_anew() -> None:
    """Work that comes and goes keeps its workers."""
    backlogs = [(0, 60.0), (10, 0.0), (65, 60.0), (69, 0.0), (128, 0.0), (129, 0.0)]
    assert scales(POLICY, backlogs) == [3, 3, 3, 3, 3, 2]


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 1_000), st.integers(0, 50)), min_size=1))
def test_whatever_the_backlog_the_limits_hold_and_workers_go_singly(turns: list[tuple[float, float, int]]) -> None:
    """And none goes while the backlog needs all, nor within the quiet while of the one before."""
    scale, now_s, last_gone_s = Scale(POLICY.least), 0.0, -60.0
    for passed_s, backlog_s, items in turns:
        now_s += passed_s
        before, scale = scale, POLICY.next(scale, items, backlog_s, now_s)
        assert 1 <= scale.workers <= 8
        if scale.workers < before.workers:
            assert scale.workers == before.workers - 1
            assert min(items, backlog_s / POLICY.target_s) <= scale.workers
            assert now_s - last_gone_s >= POLICY.quiet_s
            last_gone_s = now_s


def test_workers_are_a_number_or_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number is both limits; auto begins with one and ends at the cores, or at what is said."""
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    limits = [(one.least, one.most) for one in map(policy_from_text, ("3", "auto", "auto:12"))]
    assert limits == [(3, 3), (1, 6), (1, 12)]


@pytest.mark.parametrize("text", ["0", "65", "auto:0", "auto:65", "auto:", "two", "-1", "1.5", "", "auto 4"])
def test_other_numbers_of_workers_are_refused_by_name(text: str) -> None:
    """With what was said."""
    with pytest.raises(LocalFarmError, match=f"--workers {text}"):
        policy_from_text(text)


def test_target_and_quiet_while_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """And only as seconds above zero."""
    monkeypatch.setenv("RIFFARM_SCALE_TARGET_S", "5")
    monkeypatch.setenv("RIFFARM_SCALE_QUIET_S", "2.5")
    assert policy_from_text("auto:4") == Policy(1, 4, 5.0, 2.5)
    for wrong in ("0", "-1", "soon", "nan", "inf"):
        monkeypatch.setenv("RIFFARM_SCALE_QUIET_S", wrong)
        with pytest.raises(LocalFarmError, match="RIFFARM_SCALE_QUIET_S"):
            policy_from_text("auto")
