"""Every action on a job in every state, once and twice; and long random runs of them all, against real Valkey.

RIFFARM_TEST_RUNS sets how many random runs there are.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from shared.job_store import JobStore
from tests.integration.job_farm import LATER_MS, NOBODY, Farm, act
from tests.integration.job_model import ACTIONS, GONE, TABLE, JobModel, after, markdown_table

RUNS: Final = int(os.environ.get("RIFFARM_TEST_RUNS", "120"))
WAYS: Final = {
    GONE: (),
    "queued": ("submit",),
    "running": ("submit", "begin"),
    "paused, not begun": ("submit", "pause"),
    "paused, begun": ("submit", "begin", "pause"),
    "succeeded": ("submit", "begin", "deliver"),
    "failed": ("submit", "begin", "fail"),
    "canceled": ("submit", "cancel"),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("state", TABLE)
def test_every_action_in_every_state_does_what_the_table_says_also_twice(
    job_store: JobStore, state: str, action: str
) -> None:
    """A conversion has one item, so its job can be brought to every state; nobody else's is touched."""
    job = JobModel("job_1", 0, 1, "default", "normal", 1, 1 if action == "expire" else LATER_MS)
    attempt = NOBODY
    for step in WAYS[state]:
        if step == "begin":
            job_store.redis.hset("riffarm:job:job_1", "expires_ms", LATER_MS)
            attempt = job_store.take("sound", "w1", "w1/1").attempt or pytest.fail("nothing to begin")
        else:
            act(job_store, step, job, attempt)
    for _ in range(2):
        expected = after(state, action)
        has_changed = act(job_store, action, job, attempt)
        assert (job_store.status("job_1") or GONE) == expected.partition(",")[0]
        assert has_changed == (expected != state)
        state = expected


def test_the_table_in_the_documentation_is_this_one() -> None:
    """To the letter: so it cannot drift from what is tested."""
    assert markdown_table() in Path("docs/jobs.md").read_text(encoding="utf-8")


def test_whatever_happens_in_any_order_nothing_is_lost_or_doubled(job_store: JobStore) -> None:
    """After each step Redis holds what a plain model says; in the end every job has ended."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: Farm(job_store),
        settings=settings(
            max_examples=RUNS,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate, Phase.shrink],
            database=None,
            suppress_health_check=[*HealthCheck],
        ),
    )
