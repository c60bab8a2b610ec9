"""`riffarm render` and `riffarm remix`: from words on the command line to files beside it.

Owns their options and the requests these make. Leaves out finding a farm (`api.local_farm`) and how a job is shown
(`api.display`).
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from api.client import Client, FarmError
from api.display import job_progress, report
from api.durations import duration_s_from_text
from api.local_farm import farm_client
from shared.contracts import LOUDNESS_LUFS, Job
from shared.spectrogram_params import SpectrogramParams

commands = typer.Typer()
# Progress is for people: results alone go to standard output.
console = Console(stderr=True)
FRAME_S: Final = SpectrogramParams().frame_s

Prompts = Annotated[
    list[str], typer.Argument(help="One prompt for a clip's sound, more to walk between them. (word:1.3) weighs more.")
]
Seeds = Annotated[list[int] | None, typer.Option("--seed", help="Noise seed of each prompt; drawn when left out.")]
Negative = Annotated[str, typer.Option(help="What it should not sound like.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps; the model's own number when left out.")]
Sampler = Annotated[str | None, typer.Option(help="Denoising method; the model's own when left out.")]
Guidance = Annotated[float | None, typer.Option(help="How strictly to follow the prompt; the model's own if left out.")]
Quality = Annotated[str, typer.Option(help="Of the sound: fast, standard or high.")]
Loudness = Annotated[float, typer.Option(help="Integrated loudness in LUFS.")]
Model = Annotated[str, typer.Option(help="A model the farm serves.")]
Formats = Annotated[list[str] | None, typer.Option("--format", help="wav, flac, mp3, ogg or opus; may be given again.")]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="File to write; its folder and stem serve all outputs.")
]
Url = Annotated[str | None, typer.Option(help="The farm's address; RIFFARM_URL, else this machine's port 8000.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the job as JSON.")]


@commands.command()
def render(
    prompts: Prompts,
    duration: Annotated[
        str | None, typer.Option(help="Length: 90s, 2m, 1h30m. 5.12s for one prompt, 20.48s for each of several.")
    ] = None,
    seed: Seeds = None,
    negative: Negative = "",
    seed_image: Annotated[str | None, typer.Option(help="A built-in seed image, or a picture file of yours.")] = None,
    mask: Annotated[Path | None, typer.Option(help="A picture: white repaints, black keeps the seed image.")] = None,
    denoising_strength: Annotated[float, typer.Option(help="0 keeps the seed image, 1 ignores it.")] = 0.75,
    steps: Steps = None,
    sampler: Sampler = None,
    guidance: Guidance = None,
    loop: Annotated[bool, typer.Option("--loop", help="Let the end run into the start.")] = False,
    joins: Annotated[str, typer.Option(help="How frames meet: blend, repaint or cut.")] = "blend",
    tempo: Annotated[float | None, typer.Option(help="Beats per minute of the grid that frames lie on.")] = None,
    quality: Quality = "standard",
    loudness: Loudness = LOUDNESS_LUFS,
    model: Model = "riffarm-mini",
    formats: Formats = None,
    output: Output = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Render sound from prompts, on a running farm or else on a local one started for this."""
    points = _keyframes(prompts, seed, negative)
    default_s = FRAME_S if len(prompts) == 1 else 4 * FRAME_S * len(prompts)
    request = _settings(steps, sampler, guidance, quality, loudness, model) | {
        # One prompt is a clip, but for a loop.
        **({"type": "clip", **points[0]} if len(points) == 1 and not loop else {"type": "track", "keyframes": points}),
        **({"loop": True} if loop else {}),
        **({"tempo_bpm": tempo} if tempo is not None else {}),
        "denoising_strength": denoising_strength,
        "duration_s": duration_s_from_text(duration, "--duration") if duration else default_s,
        "joins": joins,
    }
    target, request["formats"] = _target(output, formats, "track")
    with farm_client(url, console) as client:
        if seed_image:
            # No built-in one has a dot or a slash in its name.
            is_file = Path(seed_image).is_file() or not re.fullmatch("[a-z0-9_]+", seed_image)
            request["seed_image"] = client.upload(Path(seed_image)) if is_file else seed_image
        if mask:
            request["mask_image"] = client.upload(mask)
        _deliver(client, request, target, as_json=as_json)


@commands.command()
def remix(
    source: Annotated[Path, typer.Argument(help="A sound of yours: wav, flac, mp3, ogg or opus.")],
    prompts: Prompts,
    start: Annotated[str, typer.Option(help="Where to begin in it: 90s, 1m30s.")] = "0s",
    end: Annotated[str | None, typer.Option(help="Where to end in it; its end when left out.")] = None,
    denoising_strength: Annotated[float, typer.Option(help="0 keeps the source, 1 ignores it.")] = 0.5,
    overlap: Annotated[float, typer.Option(help="Seconds that neighbouring windows overlap.")] = 0.64,
    seed: Seeds = None,
    negative: Negative = "",
    steps: Steps = None,
    sampler: Sampler = None,
    guidance: Guidance = None,
    quality: Quality = "standard",
    loudness: Loudness = LOUDNESS_LUFS,
    model: Model = "riffarm-mini",
    formats: Formats = None,
    output: Output = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Paint a sound of any length over with prompts, on a running farm or else on a local one started for this."""
    request = _settings(steps, sampler, guidance, quality, loudness, model) | {
        "type": "remix",
        "keyframes": _keyframes(prompts, seed, negative),
        "start_s": duration_s_from_text(start, "--start"),
        **({"end_s": duration_s_from_text(end, "--end")} if end else {}),
        "denoising_strength": denoising_strength,
        "overlap_s": overlap,
    }
    target, request["formats"] = _target(output, formats, "remix")
    with farm_client(url, console) as client:
        request["source"] = client.upload(source)
        _deliver(client, request, target, as_json=as_json)


def _keyframes(prompts: list[str], seeds: list[int] | None, negative: str) -> list[dict[str, Any]]:
    if seeds and len(seeds) != len(prompts):
        raise typer.BadParameter(f"{len(prompts)} prompts need {len(prompts)} seeds, not {len(seeds)}")
    return [
        {"prompt": prompt, "negative_prompt": negative} | ({"seed": seeds[index]} if seeds else {})
        for index, prompt in enumerate(prompts)
    ]


def _settings(
    steps: int | None, sampler: str | None, guidance: float | None, quality: str, loudness: float, model: str
) -> dict[str, Any]:
    chosen = {"num_inference_steps": steps, "sampler": sampler, "guidance_scale": guidance}
    always = {"quality": quality, "loudness_lufs": loudness, "model": model, "priority": "interactive"}
    return {name: value for name, value in chosen.items() if value is not None} | always


def _target(output: Path | None, formats: list[str] | None, stem: str) -> tuple[Path, list[str]]:
    """Where the files go, once it is sure that they can be made there, and which they are. Raises FarmError."""
    wanted = formats or ([output.suffix[1:].lower()] if output and output.suffix else ["flac"])
    return _writable(output or Path(f"{stem}.{wanted[0]}")), wanted


def _deliver(client: Client, request: dict[str, Any], target: Path, *, as_json: bool) -> None:
    job = _followed(client, client.submit(request))
    files = _downloaded(client, job, target)
    if as_json:
        typer.echo(job.model_dump_json())
    else:
        for path in files:
            typer.echo(path)
    report(console, job, files, is_brief=as_json)


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
