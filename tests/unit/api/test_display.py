"""What the command line shows."""

from __future__ import annotations

import io

from rich.console import Console

from api.display import job_table
from api.examples import JOB, JOB_ID
from shared.contracts import Job


def test_a_jobs_id_is_whole_however_narrow_the_terminal() -> None:
    """It is there to be copied into the next command."""
    console = Console(file=io.StringIO(), width=60)
    console.print(job_table([Job.model_validate(JOB, strict=False)]))
    assert isinstance(console.file, io.StringIO)
    assert JOB_ID in console.file.getvalue()
