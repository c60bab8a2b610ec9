"""The command `riffarm seed-image`: draw the built-in seed images, or make one from a pattern or a recording.

Owns its options, which of them go together, and what is printed. Leaves out all making, which is imported only when it
is asked for.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from shared.catalogue import seed_images
from workers.seed_grid import BeatGrid, Meter, SeedImageError, fitting_grid

if TYPE_CHECKING:
    from PIL import Image

FOLDER: Final = Path("out") / "seed_images"
OUTPUT: Final = Path("out") / "seed_image.png"
_LEAST_SURE: Final = 0.4
"""Confidence below which a tempo found is told to be doubted."""

HELP: Final = """Draw the built-in seed images, or make one of your own: a pattern, or a slice of a recording.

A pattern is parts of a name, a colon and steps: drums as marks (x, X loud, o soft, . none), bass and lead as notes,
chords as names. | parts measures; each is divided evenly into its steps and repeated until the frame is full. A voice
may follow a slash; - lets a note go on.

  riffarm seed-image --tempo 94 --pattern "kick:x...x...x...x... snare:....x.......x... hat:x.x.x.x.x.x.x.x."

  riffarm seed-image --tempo 105 --meter 3/4 --pattern "bass:C2 . . | A1 . . chords/piano:. C C | . Am Am"

  riffarm seed-image --measures 2 --meter 6/8 --pattern "rim:x..x.. lead/flute:E5 - G5 A5 - G5 bass:A1 - - E2 - -"

  riffarm seed-image --audio song.mp3 --tempo 93 --start 30

The tempo becomes the nearest at which whole measures fill 5.12 s. Use the picture by its file's name:
riffarm render "jazz piano" --seed-image out/seed_image.png
"""


def seed_image(
    names: Annotated[list[str] | None, typer.Argument(help="Which built-in ones; all, with their index.")] = None,
    folder: Annotated[Path | None, typer.Option(help=f"Where the built-in ones go; {FOLDER} when left out.")] = None,
    is_list: Annotated[bool, typer.Option("--list", help="List the built-in ones and draw nothing.")] = False,
    pattern: Annotated[str | None, typer.Option(help="Make one of this pattern.")] = None,
    audio: Annotated[Path | None, typer.Option(help="Make one of a slice of this audio file.")] = None,
    tempo: Annotated[
        float | None, typer.Option(help="Beats per minute, 20 to 400; a beat is the meter's lower number.")
    ] = None,
    meter: Annotated[str | None, typer.Option(help="Beats of a measure and their kind; 4/4 when left out.")] = None,
    measures: Annotated[int | None, typer.Option(help="How many; as the tempo says when left out.")] = None,
    start: Annotated[
        float | None, typer.Option(help="Seconds from where on the recording's first measure is looked for.")
    ] = None,
    downbeat: Annotated[
        float | None, typer.Option(help="Seconds at which a measure of the recording begins, exactly.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=f"Your own picture's file; {OUTPUT} when left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Draw the built-in seed images, or make one of your own."""
    own = {"--tempo": tempo, "--meter": meter, "--measures": measures, "--output": output}
    places = {"--start": start, "--downbeat": downbeat}
    if pattern is None and audio is None:
        _refuse(own | places, "needs --pattern or --audio")
        _built_in(names, folder, is_list=is_list, as_json=as_json)
        return
    source = "--audio" if pattern is None else "--pattern"
    _refuse({"NAMES": names or None, "--folder": folder, "--list": is_list or None}, f"does not go with {source}")
    path = _target(output or OUTPUT)
    bars = Meter.from_text("4/4" if meter is None else meter)
    if pattern is not None:
        _refuse({"--audio": audio}, "does not go with --pattern")
        _refuse(places, "needs --audio; a pattern begins at its beginning")
        own_image = _of_pattern(pattern, fitting_grid(bars, tempo, measures), tempo)
    else:
        if downbeat is not None:
            _refuse({"--start": start}, "does not go with --downbeat, which says exactly where to begin")
        own_image = _of_audio(audio or Path(), SliceOptions(tempo, bars, measures, start, downbeat))
    _keep(own_image, path, as_json=as_json)


class SliceOptions(NamedTuple):
    """The options of a slice, in the order of `workers.seed_audio.SliceWishes`."""

    tempo_bpm: float | None
    meter: Meter
    measures: int | None
    start_s: float | None
    downbeat_s: float | None


class _Own(NamedTuple):
    """A picture of one's own: what it says of itself, and what there is to tell of it."""

    image: Image.Image
    grid: BeatGrid
    title: str
    description: str
    told: list[str]
    found: dict[str, float]


def _refuse(options: dict[str, Any], why: str) -> None:
    """Raise SeedImageError for the first of the options that is given."""
    for name, value in options.items():
        if value is not None:
            raise SeedImageError(f"{name} {why}")


def _built_in(names: list[str] | None, folder: Path | None, *, is_list: bool, as_json: bool) -> None:
    known = seed_images()
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise SeedImageError(f"there is no seed image {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = {name: known[name] for name in names or known}
    if is_list:
        _refuse({"--folder": folder}, "does not go with --list, which draws nothing")
        rows = [f"{one.id:<18}{one.tempo_bpm:>7.2f} bpm  {one.meter}  {one.description}" for one in chosen.values()]
        typer.echo(json.dumps([asdict(one) for one in chosen.values()]) if as_json else "\n".join(rows))
        return
    from workers.seed_images import write_seed_images

    files = write_seed_images(folder or FOLDER, chosen)
    typer.echo(json.dumps({"files": [str(path) for path in files]}) if as_json else "\n".join(map(str, files)))


def _target(output: Path) -> Path:
    if output.suffix.lower() != ".png":
        raise SeedImageError(f"--output {output} must end in .png")
    return output


def _of_pattern(pattern: str, grid: BeatGrid, tempo_bpm: float | None) -> _Own:
    from workers.seed_images import image_from_notation

    return _Own(image_from_notation(pattern, grid), grid, "A pattern", pattern, [grid.told(tempo_bpm)], {})


def _of_audio(audio: Path, options: SliceOptions) -> _Own:
    from workers.seed_audio import SliceWishes, slice_from_audio

    cut = slice_from_audio(audio, SliceWishes(*options))
    told = list(cut.warnings)
    if options.tempo_bpm is None:
        doubt = "" if cut.tempo.confidence >= _LEAST_SURE else "; if that is not so, give --tempo"
        told.append(f"{cut.tempo.bpm:.2f} bpm found, confidence {cut.tempo.confidence:.2f}{doubt}")
    told.append(f"{cut.grid.told(options.tempo_bpm)}, from {cut.start_s:.3f} s")
    found = {"start_s": cut.start_s, "found_bpm": cut.tempo.bpm, "confidence": cut.tempo.confidence}
    return _Own(cut.image, cut.grid, audio.stem, f"A slice of {audio.name} from {cut.start_s:.3f} s", told, found)


def _keep(own: _Own, path: Path, *, as_json: bool) -> None:
    from workers.seed_images import save_seed_image

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_seed_image(own.image, path, own.grid, own.title, own.description)
    except OSError as error:
        raise SeedImageError(f"--output {path} cannot be written: {error.strerror}") from error
    for sentence in own.told:
        typer.echo(sentence, err=True)
    grid = {"tempo_bpm": own.grid.tempo_bpm, "beats": own.grid.beats, "meter": str(own.grid.meter)}
    typer.echo(json.dumps({"files": [str(path)]} | grid | own.found) if as_json else str(path))
