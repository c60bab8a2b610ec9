"""The command line: `riffarm jobs|show|cancel|pause|resume|retry|delete`, `riffarm farm|workers`, and the commands that
other modules announce.

Leaves out rendering (`api.render`), batches (`api.batch`), how things are shown (`api.display`), and the commands that
need a model or start processes: `workers.cli`, `infra.local`.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Annotated, NoReturn

import stamina.instrumentation
import typer
from rich.console import Console

from api.batch import commands as batch_commands
from api.client import Client, FarmError
from api.display import frame_table, job_table, queue_table, rate_table, worker_table
from api.farm_answers import WorkerReport
from api.keys_cli import commands as keys_commands
from api.render import AsJson, Url, console
from api.render import commands as render_commands
from shared.contracts import Job, Status
from shared.errors import RiffarmError

app = typer.Typer(
    help="riffarm: a render farm for music made by diffusion.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(render_commands)
app.add_typer(batch_commands)
app.add_typer(keys_commands, name="keys")
workers = typer.Typer(help="Drain workers, and let benched ones work again.")
app.add_typer(workers, name="workers")


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
    _do(Client.cancel, job_id, ("canceled",), url, as_json=as_json)


@app.command()
def pause(job_id: str, url: Url = None, as_json: AsJson = False) -> None:
    """Begin nothing more of a job until it is resumed."""
    _do(Client.pause, job_id, ("paused",), url, as_json=as_json)


@app.command()
def resume(job_id: str, url: Url = None, as_json: AsJson = False) -> None:
    """Let a paused job go on."""
    _do(Client.resume, job_id, ("queued", "running"), url, as_json=as_json)


@app.command()
def retry(job_id: str, url: Url = None, as_json: AsJson = False) -> None:
    """Queue a failed or canceled job again; only what is missing is rendered."""
    _do(Client.retry, job_id, ("queued", "running"), url, as_json=as_json)


def _do(
    action: Callable[[Client, str], Job], job_id: str, wanted: tuple[Status, ...], url: str | None, *, as_json: bool
) -> None:
    """Do something to a job and print how it is then. Raises FarmError when that is not what was wanted."""
    with Client.from_environment(url) as client:
        job = action(client, job_id)
    if job.status not in wanted:
        raise FarmError(f"{job.id} stays as it is: {job.status}")
    typer.echo(job.model_dump_json() if as_json else f"{job.id} {job.status}")


@app.command()
def delete(job_id: str, url: Url = None, as_json: AsJson = False) -> None:
    """Remove a job and its files, canceling it first if it lives."""
    with Client.from_environment(url) as client:
        client.delete(job_id)
    typer.echo(json.dumps({"id": job_id, "deleted": True}) if as_json else f"{job_id} deleted")


@app.command("farm")
def show_farm(url: Url = None, as_json: AsJson = False) -> None:
    """Show the farm's queues and workers."""
    with Client.from_environment(url) as client:
        farm = client.farm()
    if as_json:
        typer.echo(farm.model_dump_json())
        return
    output = Console()
    output.print(queue_table(farm))
    output.print(worker_table(farm.workers))
    output.print(rate_table(farm.rates))
    wait = "unknown: a queue has no worker" if farm.estimated_wait_s is None else f"{farm.estimated_wait_s:g} s"
    output.print(f"Estimated wait: {wait}")


@workers.command()
def drain(name: str, url: Url = None, as_json: AsJson = False) -> None:
    """Have a worker hand back what it is at and take nothing more, until it is started anew."""
    _tell(Client.drain, name, url, as_json=as_json)


@workers.command()
def lift(name: str, url: Url = None, as_json: AsJson = False) -> None:
    """Let a worker work again that was benched for what it lost."""
    _tell(Client.lift, name, url, as_json=as_json)


def _tell(action: Callable[[Client, str], list[WorkerReport]], name: str, url: str | None, *, as_json: bool) -> None:
    with Client.from_environment(url) as client:
        told = action(client, name)
    if as_json:
        typer.echo(f"[{','.join(worker.model_dump_json() for worker in told)}]")
    else:
        Console().print(worker_table(told))


def _add_commands() -> None:
    for point in entry_points(group="riffarm.commands"):
        try:
            app.add_typer(point.load())
        except ImportError as error:
            console.print(f"[dim]The commands of {point.value} are off: {error}; install riffarm\\[worker].[/dim]")


def main() -> None:
    """Run the command line; errors are one sentence on standard error."""
    _add_commands()
    # What is tried again is nobody's news, least of all on standard output.
    stamina.instrumentation.set_on_retry_hooks([])
    # Told to end, or left alone by its terminal, it tidies up as with Ctrl-C.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        # What typer would show itself is a box of several lines.
        sys.exit(app(sys.argv[1:] or ["--help"], prog_name="riffarm", standalone_mode=False))
    except RiffarmError as error:
        _end(error.message, 1)
    except typer.TyperException as error:
        _end(_usage(error), error.exit_code)
    except KeyboardInterrupt:
        console.print("Stopped.")
        sys.exit(130)


def _end(sentence: str, code: int) -> NoReturn:
    console.print(f"riffarm: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


def _usage(error: typer.TyperException) -> str:
    """What is wrong with how a command was called, in one line."""
    words = " ".join(error.format_message().split()).replace(". Did you mean", "; did you mean")
    context = getattr(error, "ctx", None)
    page = f"; see {context.command_path} --help" if context else ""
    return f"{words[:1].lower()}{words[1:]}".replace("Value error, ", "").rstrip(".?") + page


if __name__ == "__main__":
    main()
