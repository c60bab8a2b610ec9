"""Commands of the workers' side: `riffarm train|fine-tune|evaluate|listen|seed-image|convert|doctor|recover`.

Owns options and what is printed. The work is in the modules of the same names, imported only when a command
runs, since torch takes seconds to load.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import Progress

from shared.contracts import LOUDNESS_LUFS, Quality
from shared.errors import RiffarmError
from workers.seed_command import HELP as SEED_IMAGE_HELP
from workers.seed_command import seed_image
from workers.training.finetune_cli import commands as finetune_commands
from workers.training.listen_command import listen

commands = typer.Typer()
commands.command(name="seed-image", help=SEED_IMAGE_HELP)(seed_image)
commands.add_typer(finetune_commands)
commands.command()(listen)
AsJson = Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")]

BUILT_IN_MODEL: Final = Path(__file__).parent / "models" / "riffarm-mini"
REPORT_FOLDER: Final = Path(__file__).parents[1] / "docs" / "model"
TRAINING_FOLDER: Final = Path(".training")
OTHER_REPORT_FOLDER: Final = Path("out") / "evaluation"


@commands.command()
def train(
    config: Annotated[Path | None, typer.Argument(help="A TOML file of your own; it may hold only some keys.")] = None,
    folder: Annotated[Path, typer.Option(help="Clips, checkpoints, log and curves are kept here.")] = TRAINING_FOLDER,
    output: Annotated[
        Path | None, typer.Option(help="Where the finished model goes; FOLDER/riffarm-mini when left out.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="A model's folder whose weights to train on from, not from nothing.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the built-in model anew, on CUDA if there is any; goes on from where it was stopped.

    All numbers come from the package's recipe and, where it says otherwise, from CONFIG.
    """
    from workers.training.loop import device
    from workers.training.make import make_model
    from workers.training.progress import shown
    from workers.training.recipe import RecipeError, read_recipe

    model = output or folder / BUILT_IN_MODEL.name
    console = Console(stderr=True, highlight=False)
    kind = device().type
    try:
        recipe = read_recipe(config, kind)
        console.print(f"Training on {kind}; all is kept in {folder}.", markup=False, soft_wrap=True)
        with shown(console) as tell:
            make_model(recipe, folder, model, start, tell)
    except RecipeError as error:
        typer.echo(f"riffarm train: {error}", err=True)
        raise typer.Exit(1) from error
    _tell([model], as_json=as_json)


def _tell(paths: Iterable[Path], *, as_json: bool) -> None:
    """Print what was written: a path on each line, or all in one JSON object."""
    typer.echo(json.dumps({"files": [str(path) for path in paths]}) if as_json else "\n".join(map(str, paths)))


@commands.command()
def evaluate(
    model: Annotated[Path, typer.Option(help="The model's folder.")] = BUILT_IN_MODEL,
    folder: Annotated[Path, typer.Option(help="Clips, listeners and pictures are kept here.")] = TRAINING_FOLDER,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Where the report goes; when left out, docs/model for the whole proof of the built-in model, "
            "out/evaluation for any other."
        ),
    ] = None,
    prompts: Annotated[int | None, typer.Option(help="How many crossed prompts, 2 to 240; all when left out.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps of each picture; 16 when left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one line of JSON.")] = False,
) -> None:
    """Measure whether a model makes music and follows its prompt; writes a report with pictures.

    Whether the points hold is in the report; the command fails only when there is nothing to evaluate. Pictures are
    kept, so that one that was stopped goes on.
    """
    from workers.training.crossing import MAX_PROMPTS
    from workers.training.evaluate import EvaluationError
    from workers.training.evaluate import evaluate as evaluated
    from workers.training.progress import shown
    from workers.training.renders import NUM_INFERENCE_STEPS
    from workers.training.report import summary, write_report

    is_whole = model.resolve() == BUILT_IN_MODEL.resolve() and prompts is None and steps is None
    target = output or (REPORT_FOLDER if is_whole else OTHER_REPORT_FOLDER)
    log = _training_log(model, target)
    console = Console(stderr=True, highlight=False)
    try:
        with shown(console) as tell:
            count = MAX_PROMPTS if prompts is None else prompts
            evaluation = evaluated(model, folder, log, tell, count, NUM_INFERENCE_STEPS if steps is None else steps)
        write_report(evaluation, target, log)
    except (EvaluationError, OSError, RiffarmError) as error:
        typer.echo(f"riffarm evaluate: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(json.dumps(evaluation.figures) if as_json else summary(evaluation.figures))
    console.print(f"The report is {target / 'report.md'}", markup=False, soft_wrap=True)


def _training_log(model: Path, target: Path) -> Path:
    """The log of a model's training: with the report, or beside the model's folder; the built-in one's is kept here."""
    name = "training_log.jsonl"
    if model.resolve() == BUILT_IN_MODEL.resolve():
        return REPORT_FOLDER / name
    return target / name if (target / name).exists() else model.parent / name


@commands.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A spectrogram picture, or audio.")],
    target: Annotated[Path, typer.Argument(help="Audio, or a picture; the suffix decides.")],
    quality: Annotated[Quality, typer.Option(help="How much work goes into the sound of a picture.")] = "standard",
    stereo: Annotated[bool, typer.Option("--stereo", help="Left in green, right in blue.")] = False,
    f_min: Annotated[float | None, typer.Option(help="Lowest frequency of the picture in Hz.")] = None,
    f_max: Annotated[float | None, typer.Option(help="Highest frequency of the picture in Hz, 22050 at most.")] = None,
    loudness: Annotated[float, typer.Option(min=-60, max=-5, help="Loudness of the audio in LUFS.")] = LOUDNESS_LUFS,
    as_json: AsJson = False,
) -> None:
    """Turn a spectrogram picture into audio, or audio into a spectrogram picture; needs no farm.

    A picture's EXIF says which frequencies it spans and whether it is stereo; the options come before it.
    """
    from workers.convert import Wishes
    from workers.convert import convert as converted

    wishes = Wishes(quality, loudness, stereo or None, f_min, f_max)
    console = Console(stderr=True, highlight=False)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(target.name, total=1.0)
        converted(
            source,
            target,
            wishes,
            warn=lambda text: console.print(f"Warning: {text}", markup=False, soft_wrap=True),
            on_block=lambda fraction: progress.update(task, completed=fraction),
        )
    _tell([target], as_json=as_json)


@commands.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Say what is missing or slow on this machine, and how to mend it."""
    from workers.doctor import findings

    found = findings()
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2))
    else:
        for one in found:
            typer.echo(f"{'ok ' if one.is_good else 'BAD'}  {one.what:<9} {one.found}")
            if one.remedy and not one.is_good:
                typer.echo(f"     {'':<9} → {one.remedy}")
    if not all(one.is_good for one in found):
        raise typer.Exit(1)


@commands.command()
def recover(
    data: Annotated[Path | None, typer.Option(help="Folder of the farm, when riffarm up runs it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Bring back from storage every job that Redis lost. Safe at any time, also beside a farm that works.

    Storage and Redis are those of the farm's settings (RIFFARM_REDIS_URL, RIFFARM_STORAGE_URL), or with --data those of
    a farm that riffarm up runs there. A running sweeper does the same by itself.
    """
    from shared.dispatch import Dispatcher, celery_app
    from shared.errors import TransientError
    from shared.job_store import JobStore
    from shared.logs import configure_logs
    from shared.object_store import object_store_from_url
    from shared.settings import settings_from_environment
    from workers.recovery import recover as recovered

    settings = settings_from_environment(data)
    configure_logs(settings.log_format, "recover")
    try:
        objects = object_store_from_url(settings.storage_url, settings.s3_endpoint_url, settings.s3_public_endpoint_url)
        found = recovered(JobStore(settings.redis_url), objects, Dispatcher(celery_app(settings)))
    except (TransientError, ValueError) as error:
        typer.echo(f"riffarm recover: {error}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps(found._asdict()))
    else:
        typer.echo(
            f"{found.recovered} unfinished and {found.ended} ended jobs are back, {found.orphans} orphans removed, "
            f"{found.unreadable} unreadable, in {found.took_s:.1f} s"
        )
