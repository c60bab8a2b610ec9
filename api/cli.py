"""The command line: `riffarm jobs|show|cancel`, and the commands that other modules announce.

Leaves out rendering (`api.render`), how jobs are shown (`api.display`), and the commands that need a model or start
processes: `workers.cli`, `infra.local`.
"""

from __future__ import annotations

import signal
import sys
from importlib.metadata import entry_points
from typing import Annotated

import typer
from rich.console import Console

from api.client import Client
from api.display import frame_table, job_table
from api.render import AsJson, Url, console
from api.render import commands as render_commands
from shared.errors import RiffarmError

app = typer.Typer(
    help="riffarm: a render farm for music made by diffusion.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(render_commands)


@app.command("jobs")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List the farm's jobs, newest first."""
    with Client.from_environment(url) as client:
        filters: dict[str, str | int] = {"limit": min(limit, 200)} | ({"status": status} if status else {})
        found = [job for _, job in zip(range(limit), client.jobs(**filters), strict=False)]
    if as_json:
        typer.echo(f"[{','.join(job.model_dump_json() for job in found)}]")
        return
    Console().print(job_table(found))


@app.command("show")
def show_job(
    job_id: str,
    frames: Annotated[
        bool, typer.Option("--frames", help="Its frames instead: how far each is, how it was made.")
    ] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Show one job, as JSON, or a table of its frames."""
    with Client.from_environment(url) as client:
        if not frames:
            typer.echo(client.job(job_id).model_dump_json(indent=2))
        elif as_json:
            typer.echo(f"[{','.join(frame.model_dump_json() for frame in client.frames(job_id))}]")
        else:
            Console().print(frame_table(client.frames(job_id)))


@app.command()
def cancel(job_id: str, url: Url = None, as_json: AsJson = False) -> None:
    """Cancel a job; what it finished stays."""
    with Client.from_environment(url) as client:
        job = client.cancel(job_id)
    typer.echo(job.model_dump_json() if as_json else f"{job.id} {job.status}")


def _add_commands() -> None:
    for point in entry_points(group="riffarm.commands"):
        try:
            app.add_typer(point.load())
        except ImportError as error:
            console.print(f"[dim]The commands of {point.value} are off: {error}; install riffarm\\[worker].[/dim]")


def main() -> None:
    """Run the command line; errors are one sentence on standard error."""
    _add_commands()
    # Told to end, or left alone by its terminal, it tidies up as with Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        app()
    except RiffarmError as error:
        console.print(f"riffarm: {error.message}", style="red", markup=False, highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("Stopped.")
        sys.exit(130)


if __name__ == "__main__":
    main()
