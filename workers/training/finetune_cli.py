"""The command `riffarm fine-tune`.

Owns its options and what is printed. The work is in `workers.training.make_tuned`, imported only when it runs, since
torch takes seconds to load.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shared.catalogue import ModelEntry, models

commands = typer.Typer()
OUTPUT_FOLDER: Final = Path("out") / "fine-tune"


@commands.command(name="fine-tune")
def fine_tune(
    folder: Annotated[Path, typer.Argument(help="Audio files, each with its caption in NAME.txt or in a list.")],
    model: Annotated[str, typer.Option(help="A model of the farm, a folder or a hub id.")] = "riffarm-mini",
    output: Annotated[Path | None, typer.Option(help="Where it goes; out/fine-tune/FOLDER if left out.")] = None,
    caption: Annotated[str | None, typer.Option(help="For files without a caption of their own.")] = None,
    tempo: Annotated[
        float | None, typer.Option(min=30, max=300, help="Beats a minute: slices begin on bars of four.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="More than before go on from there.")] = 1_000,
    rank: Annotated[int, typer.Option(min=1, max=256, help="Of the LoRA's layers.")] = 8,
    full: Annotated[bool, typer.Option("--full", help="Train all of the denoiser instead of a LoRA.")] = False,
    learning_rate: Annotated[
        float | None, typer.Option(min=1e-8, max=1.0, help="By the model's size when left out.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Slices in a step.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="On a CPU the same one gives the same bytes.")] = 0,
    models_file: Annotated[
        Path | None, typer.Option(envvar="RIFFARM_MODELS_FILE", help="The farm's models, beside the built-in one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Teach a model the sound of your own audio; goes on from where it was stopped.

    What is left is a LoRA, or with --full a whole model, and a models.toml that has a farm serve it.
    """
    from workers.training.finetune import Wishes
    from workers.training.make_tuned import WORK_FOLDER, make_tuned
    from workers.training.own_audio import recordings_from_folder

    result = output or OUTPUT_FOLDER / folder.resolve().name
    recordings = recordings_from_folder(folder, caption, tempo)
    wishes = Wishes(steps, None if full else rank, learning_rate, batch, seed)
    console = Console(stderr=True, highlight=False)
    console.print(f"Latents, the log and checkpoints to go on from are kept in {result / WORK_FOLDER}.", soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        encoding = progress.add_task("recordings", total=len(recordings))
        training = progress.add_task("steps", total=steps, start=False)

        def on_step(done: int, loss: float) -> None:
            progress.start_task(training)
            progress.update(training, completed=done, description=f"steps, loss {loss:.4f}")

        tuned = make_tuned(
            recordings,
            _entry(model, models_file),
            result,
            wishes,
            on_recording=lambda done, total: progress.update(encoding, completed=done),
            on_step=on_step,
        )
    console.print(f"Learnt from {tuned.slices} slices; {tuned.silent} silent ones were left out.")
    files = sorted(path for path in result.iterdir() if path.is_file())
    if as_json:
        typer.echo(json.dumps({"files": [str(path) for path in files], "slices": tuned.slices, "silent": tuned.silent}))
        return
    typer.echo("\n".join(map(str, files)))
    console.print(f"\n{result / 'models.toml'} has a farm serve it (RIFFARM_MODELS_FILE):\n", soft_wrap=True)
    console.print(tuned.entry, markup=False, soft_wrap=True)


def _entry(model: str, models_file: Path | None) -> ModelEntry:
    """The farm's model of this name, or one that is a folder or on the hub."""
    try:
        known = models(models_file)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--models-file") from error
    return known.get(model) or ModelEntry(Path(model).name, model, source_revision="main", revision="main")
