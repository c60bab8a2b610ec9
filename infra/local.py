"""`riffarm up`: its options.

Leaves out the farm (`infra.local_farm`), imported only when the command runs: every command loads this module.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from infra.process import console, die_with_parent

commands = typer.Typer()
_STOP_WITH_PARENT: Final = "RIFFARM_STOP_WITH_PARENT"


@commands.command()
def up(
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine need a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 finds a free one.", min=0, max=65_535)] = 8000,
    data: Annotated[Path, typer.Option(help="Folder for the queue's file, secrets and local storage.")] = Path(
        ".riffarm"
    ),
    workers: Annotated[
        str,
        typer.Option(help="Worker processes, or auto[:MAX] for as many as the backlog needs; one a core by default."),
    ] = str(os.cpu_count() or 1),
    models: Annotated[
        str | None, typer.Option(help="Models to render with, by name, with commas; all of the catalogue by default.")
    ] = None,
    storage: Annotated[str | None, typer.Option(help="file:DIR or s3://bucket/prefix; in --data by default.")] = None,
    redis_url: Annotated[
        str | None, typer.Option("--redis", help="redis://… of your own instead of a Valkey started here.")
    ] = None,
) -> None:
    """Run a whole farm on this machine until Ctrl-C; prints READY and its address once it can render."""
    if (parent := os.environ.get(_STOP_WITH_PARENT)) and sys.platform == "linux":
        die_with_parent(int(parent))
    from infra.local_farm import LocalFarm
    from infra.preflight import LocalFarmError

    try:
        LocalFarm(host, port, data, workers, models, storage, redis_url).run(lambda url: typer.echo(f"READY {url}"))
    except LocalFarmError as error:
        console.print(f"riffarm up: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    commands()
