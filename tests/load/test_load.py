"""The gateway under a short load: everything is answered, and the figures are there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_a_short_load_is_carried_and_measured(tmp_path: Path) -> None:
    """Hundreds of jobs and reads over 16 connections, 200 streams; no answer is amiss, and the last line is JSON.

    What a few seconds on a busy machine measure is no figure; but a gateway that became ten times slower is seen.
    """
    command = [sys.executable, "-m", "tests.load", "--quick", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [*found] == [
        "submit_rps",
        "submit_ratio",
        "submit_p99_ms",
        "get_rps",
        "sse_streams",
        "fuzz_cases",
        "fuzz_5xx",
    ]
    assert found["sse_streams"] == 200
    assert found["submit_ratio"] > 0.05
    assert found["get_rps"] > 0
