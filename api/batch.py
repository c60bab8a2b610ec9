"""`riffarm batch`: its options, what it prints, and whether it went well.

Leaves out the file (`api.batch_file`) and the work (`api.batch_run`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from api.batch_file import Entry, Served, entries_from_file
from api.batch_journal import Journal
from api.batch_run import BatchProgress, BatchRun
from api.display import batch_progress
from api.local_farm import farm_client
from api.render import AsJson, Url, console

commands = typer.Typer()


@commands.command()
def batch(
    file: Annotated[Path, typer.Argument(help="JSON Lines, or the original Riffusion's batch JSON.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for all files.")] = Path("out"),
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Render every request of a file, and download all that they make.

    FILE holds one request on each line, as POST /v1/jobs takes it; or `params` and `entries` as in the original
    Riffusion, whose entries become clips (its `checkpoint` counts where the farm has a model of that name).

    Stopped in whatever way, the same command goes on: what was submitted is not submitted again within 24 hours, what
    was downloaded is not downloaded again. Jobs that failed and were retried meanwhile are taken up too.
    """
    with farm_client(url, console) as client, Journal(output) as journal:
        entries = entries_from_file(file, Served(client.models(), client.seed_images()))
        run = BatchRun(client, entries, journal)
        with batch_progress(console, len(entries)) as show:
            run.run(show)
        report = [_line(entry, run.progress, journal) for entry in entries]
    failed = [one for one in report if one["error"]]
    if as_json:
        typer.echo(json.dumps({"succeeded": len(report) - len(failed), "failed": len(failed), "jobs": report}))
    else:
        for one in report:
            for name in one["files"]:
                typer.echo(name)
        for one in failed:
            words = f"{file}, line {one['line']}: {one['error']}"
            console.print(words, style="red", markup=False, highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _line(entry: Entry, progress: BatchProgress, journal: Journal) -> dict[str, Any]:
    """What became of one request."""
    job = journal.jobs.get(entry.id)
    files = progress.files.get(entry.id, [])
    return {
        "line": entry.line,
        "id": job.job_id if job else None,
        "files": [str(journal.folder / name) for name in files],
        "error": progress.failures.get(entry.id),
    }
