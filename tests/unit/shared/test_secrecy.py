"""Secrets in text: what looks like one is hidden, and nothing else."""

from __future__ import annotations

import pytest

from shared.secrecy import hide, masked
from tests.conftest import WEBHOOK_SECRET

KEY = f"rf_{'0123456789' * 2}_{'a' * 64}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"Bearer {KEY}", "Bearer rf_…"),
        (f'{{"key":"{KEY}","n":1}}', '{"key":"rf_…","n":1}'),
        (f"?key={KEY}&x=1", "?key=rf_…&x=1"),
        (f"secret {WEBHOOK_SECRET}.", "secret whsec_…."),
        (f"/v1/jobs/job_1/outputs/a.flac?expires=1&signature={'ab' * 32}", None),
        (
            "time.perf_counter_ns() key_019ab3c5d2e4f6071829 job_019ab3c5d2e4",
            "time.perf_counter_ns() key_019ab3c5d2e4f6071829 job_019ab3c5d2e4",
        ),
        ("rf_… whsec_<base64 of 24..64 bytes>", "rf_… whsec_<base64 of 24..64 bytes>"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, shown: str | None) -> None:
    """In a header, in JSON, in an address; ids and words that only begin alike stay."""
    assert masked(text) == (shown or "/v1/jobs/job_1/outputs/a.flac?expires=1&signature=…")


def test_a_secret_of_ones_own_form_is_hidden_once_it_is_known() -> None:
    """The operator's key may be any 32 characters."""
    secret = "correct-horse-battery-staple-1234"
    assert masked(f"with {secret}!") == f"with {secret}!"
    hide(secret, "short")
    assert masked(f"with {secret}, in short") == "with …, in short"
