"""The command `riffarm listen`.

Owns its options and what is printed. The work is in `workers.training.listen`, imported only when it runs, since
torch takes seconds to load.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import Progress

from shared.errors import RiffarmError

FOLDER: Final = Path("out") / "listen"
SEED: Final = 40_404


def listen(
    output: Annotated[Path, typer.Option(help="The folder for index.html, its sounds and pictures.")] = FOLDER,
    count: Annotated[int, typer.Option(min=1, max=400, help="How many examples.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="What the examples are dealt from.")] = SEED,
    model: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="A model's folder, to be heard beside the data.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Make a page to see and hear examples of the training data, and a model's own music for the same prompts."""
    from workers.training.listen import write_listening_page

    console = Console(stderr=True, highlight=False)
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("examples", total=count)
            page = write_listening_page(
                output, count, seed, model, lambda done, _: progress.update(task, completed=done)
            )
    except (RiffarmError, OSError) as error:
        typer.echo(f"riffarm listen: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(json.dumps({"files": [str(page)]}) if as_json else page)
