"""The command line: `riffarm render|jobs|show|cancel`, and the commands that the other packages announce.

Leaves out how jobs are shown (`api.display`), and the commands that need a model or start processes: `workers.cli`,
`infra.local`.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from api.client import Client, FarmError
from api.display import frame_table, job_progress, job_table, report
from shared.contracts import LOUDNESS_LUFS, Job
from shared.errors import RiffarmError
from shared.spectrogram_params import SpectrogramParams

app = typer.Typer(
    help="riffarm: a render farm for music made by diffusion.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# Progress and tables are for people: results alone go to standard output.
console = Console(stderr=True)
FRAME_S: Final = SpectrogramParams().frame_s
_DURATION: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?")
Url = Annotated[str | None, typer.Option(help="The farm's address; RIFFARM_URL, else this machine's port 8000.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the job as JSON.")]


def duration_s_from_text(text: str) -> float:
    """Seconds from '90', '90s', '2m', '1m30s' or '1h'. Raises typer.BadParameter."""
    match = _DURATION.fullmatch(text.strip())
    if not match or not any(match.groups()):
        raise typer.BadParameter(f"{text!r} is no duration; write 90s, 2m, 1m30s or 1h")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3_600 + minutes * 60 + seconds


@app.command()
def render(
    prompts: Annotated[list[str], typer.Argument(help="One prompt for a clip's sound, more to walk between them.")],
    duration: Annotated[
        str | None, typer.Option(help="Length: 90s, 2m, 1h. 5.12s for one prompt, 20.48s for each of several.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Noise seed of each prompt; drawn when left out.")] = None,
    negative: Annotated[str, typer.Option(help="What it should not sound like.")] = "",
    seed_image: Annotated[str | None, typer.Option(help="A built-in seed image, or a picture file of yours.")] = None,
    denoising_strength: Annotated[float, typer.Option(help="0 keeps the seed image, 1 ignores it.")] = 0.75,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the model's own number when left out.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Let the end run into the start.")] = False,
    tempo: Annotated[float | None, typer.Option(help="Beats per minute of the grid that frames lie on.")] = None,
    quality: Annotated[str, typer.Option(help="Of the sound: fast, standard or high.")] = "standard",
    loudness: Annotated[float, typer.Option(help="Integrated loudness in LUFS.")] = LOUDNESS_LUFS,
    model: Annotated[str, typer.Option(help="A model the farm serves.")] = "riffarm-mini",
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="wav, flac, mp3, ogg or opus; may be given again.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; its folder and stem serve all outputs.")
    ] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Render sound from prompts, on a running farm or else on a local one started for this."""
    if seed and len(seed) != len(prompts):
        raise typer.BadParameter(f"{len(prompts)} prompts need {len(prompts)} seeds, not {len(seed)}")
    wanted = formats or ([output.suffix[1:].lower()] if output and output.suffix else ["flac"])
    points = [
        {"prompt": prompt, "negative_prompt": negative, "denoising_strength": denoising_strength}
        | ({"seed": seed[index]} if seed else {})
        for index, prompt in enumerate(prompts)
    ]
    default_s = FRAME_S if len(prompts) == 1 else 4 * FRAME_S * len(prompts)
    duration_s = duration_s_from_text(duration) if duration else default_s
    if loop and len(points) == 1 and duration_s >= 2 * FRAME_S:
        # There and back between two noises, so that a long loop of one prompt does not stand still.
        points += [points[0] | ({"seed": (seed[0] + 2**31) % 2**32} if seed else {})]
    request: dict[str, Any] = {
        # One prompt as a clip: over a longer time it walks between two noises instead of repeating one frame.
        **({"type": "clip", **points[0]} if len(points) == 1 and not loop else {"type": "track", "keyframes": points}),
        **({"loop": True} if loop else {}),
        **({"tempo_bpm": tempo} if tempo else {}),
        **({"num_inference_steps": steps} if steps is not None else {}),
        "duration_s": duration_s,
        "quality": quality,
        "loudness_lufs": loudness,
        "model": model,
        "formats": wanted,
        "priority": "interactive",
    }
    target = _writable(output or Path(f"track.{wanted[0]}"))
    with _farm(url) as client:
        if seed_image:
            request["seed_image"] = client.upload(Path(seed_image)) if Path(seed_image).is_file() else seed_image
        job = _followed(client, client.submit(request))
        files = _downloaded(client, job, target)
    if as_json:
        typer.echo(job.model_dump_json())
    else:
        for path in files:
            typer.echo(path)
    report(console, job, files, is_brief=as_json)


@contextlib.contextmanager
def _farm(url: str | None) -> Iterator[Client]:
    """A client of the farm that runs, or of a local one that lives as long as the block."""
    with Client.from_environment(url) as client:
        if client.is_farm() or url or os.environ.get("RIFFARM_URL"):
            yield client
            return
    with _local_farm() as address, Client(address) as client:
        yield client


@contextlib.contextmanager
def _local_farm() -> Iterator[str]:
    """Start `riffarm up` on a free port; its address. It stops with the block, also on Ctrl-C."""
    file, name = tempfile.mkstemp(prefix="riffarm-", suffix=".log")
    log_path = Path(name)
    console.print(f"No farm is running: starting a local one (its log is {log_path}).", style="dim", highlight=False)
    command = [sys.executable, "-m", "infra.local", "--port", "0"]
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(os.fdopen(file, "w"))
        # A session of its own: Ctrl-C reaches us alone, and we stop the farm in order.
        farm = stack.enter_context(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                env={**os.environ, "RIFFARM_STOP_WITH_PARENT": "1"},
            )
        )
        try:
            with console.status("Starting Valkey, the gateway and the workers"):
                ready = next((line for line in farm.stdout or () if line.startswith("READY ")), None)
            if ready is None:
                raise FarmError(f"the local farm did not start: {_last_line(log_path)}")
            yield ready.removeprefix("READY ").strip()
        finally:
            farm.send_signal(signal.SIGTERM)
            with _uninterrupted():
                farm.wait()


def _last_line(log_path: Path) -> str:
    lines = [line for line in log_path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it left no log"


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let nothing break off the block: a second Ctrl-C must not leave processes behind."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _followed(client: Client, job: Job) -> Job:
    """Show a job's progress to its end. Cancels it on Ctrl-C; raises FarmError when it does not succeed."""
    try:
        with job_progress(console) as (show, note):
            for current in client.follow(job.id, note):
                job = current
                show(job)
    except KeyboardInterrupt:
        client.cancel(job.id)
        raise
    if job.status != "succeeded":
        raise FarmError(f"{job.id} {job.status}" + (f": {job.error.message}" if job.error else ""))
    return job


def _downloaded(client: Client, job: Job, target: Path) -> list[Path]:
    """Download all outputs beside `target`, named after its stem."""
    files = []
    for output in job.outputs:
        path = target.with_name(target.stem + Path(output.name).suffix)
        client.download(output, path)
        files.append(path)
    return files


def _writable(target: Path) -> Path:
    """The path, once it is sure that a file can be made there. Raises FarmError."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            return target
    except OSError as error:
        raise FarmError(f"cannot write to {target.parent}: {error.strerror}") from error


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
