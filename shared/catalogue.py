"""Which models and built-in seed images a farm has.

Both sides ask: the gateway to refuse unknown names, a worker to find the files. Owns what a `models.toml` may say.
Leaves out loading models.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, StringConstraints, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass
from pydantic_core import ErrorDetails

from shared.contracts import Guidance, Sampler
from shared.spectrogram_params import SpectrogramParams

HERE: Final = Path(__file__).parent
UPLOAD_PREFIX: Final = "upl_"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""Names of models are parts of queues' names."""
_SAFETENSORS: Final = ".safetensors"
_PICKLES: Final = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
_CLOSED: Final = ConfigDict(extra="forbid", allow_inf_nan=False)

SEED_IMAGE_ALIASES: Final = {
    "epic": "motorway",
    "folksy": "marim",
    "funk": "agile",
    "hustle": "motorway",
    "latin": "marim",
    "lounge": "vibes",
    "pressure": "motorway",
    "rock": "og_beat",
    "stomp": "og_beat",
    "wild": "agile",
}
"""What else Riffusion's web app offers as a seed image, and the built-in one that is nearest in kind."""

DType = Literal["auto", "float32", "float16", "bfloat16"]
Text = Annotated[str, Strict(), StringConstraints(min_length=1, strip_whitespace=True)]


def _is_no_pickle(source: str) -> str:
    if source.lower().endswith(_PICKLES):
        raise ValueError("must be a safetensors file or a hub id: a pickle could run any code")
    return source


def _is_safetensors(name: str) -> str:
    if not name.endswith(_SAFETENSORS):
        raise ValueError(f"must end in {_SAFETENSORS}: a pickle could run any code")
    return name


@checked_dataclass(frozen=True, slots=True, config=_CLOSED)
class Lora:
    """What is added to a model's weights: `weight` times what a file of low-rank layers says.

    source: a safetensors file, or a hub id.
    weight_name: the file in the hub's repository; None exactly when the source is a file.
    revision: of the hub's repository; its main branch when None.
    """

    source: Annotated[Text, AfterValidator(_is_no_pickle)]
    weight: Annotated[float, Strict(), Field(ge=-10, le=10)] = 1.0
    weight_name: Annotated[Text, AfterValidator(_is_safetensors)] | None = None
    revision: Text | None = None

    def __post_init__(self) -> None:
        is_file = self.source.endswith(_SAFETENSORS)
        if is_file and (self.weight_name or self.revision):
            raise ValueError("a file needs neither weight_name nor revision")
        if not is_file and not self.weight_name:
            raise ValueError(f"needs a weight_name, the {_SAFETENSORS} file in the hub's repository {self.source!r}")


@checked_dataclass(frozen=True, slots=True, config=_CLOSED)
class ModelDefaults:
    """What a request of this model that leaves them out is rendered with; None is the farm's own default."""

    sampler: Sampler | None = None
    num_inference_steps: Annotated[int, Strict(), Field(ge=1, le=150)] | None = None
    guidance_scale: Annotated[Guidance, Strict()] | None = None


def _checked_grid(grid: dict[str, Any]) -> dict[str, float | int]:
    usual = asdict(SpectrogramParams())
    for name, value in grid.items():
        if name not in usual:
            raise ValueError(f"{name!r} is no part of a grid; it may have {', '.join(usual)}")
        wanted = type(usual[name])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            kind = {int: "a whole number", float: "a number", bool: "true or false"}[wanted]
            raise ValueError(f"{name} must be {kind}, not {value!r}")
    SpectrogramParams(**grid)
    return grid


class _Table(BaseModel):
    """An entry as a `models.toml` has it."""

    model_config = _CLOSED

    source: Text
    revision: Text
    description: Annotated[str, Strict()] = ""
    dtype: DType = "auto"
    grid: Annotated[dict[str, Any], AfterValidator(_checked_grid)] = {}
    defaults: ModelDefaults = ModelDefaults()
    loras: tuple[Lora, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model by name.

    source: a folder or a hub id.
    source_revision: what the hub is asked for.
    revision: what frames know the weights by: it changes with all that is added to them.
    grid: the fields of `SpectrogramParams` in which the model's pictures differ from the usual grid.
    loras: added to the weights when the model is loaded.
    """

    name: str
    source: str
    source_revision: str
    revision: str
    description: str = ""
    dtype: DType = "auto"
    grid: dict[str, float | int] = field(default_factory=dict)
    defaults: ModelDefaults = field(default_factory=ModelDefaults)
    loras: tuple[Lora, ...] = ()


@dataclass(frozen=True, slots=True)
class SeedImageEntry:
    """A built-in spectrogram picture on an exact beat grid."""

    id: str
    title: str
    description: str
    tempo_bpm: float
    beats: int
    meter: str
    columns: int
    duration_s: float
    sha256: str

    @property
    def path(self) -> Path:
        """The picture's file."""
        return HERE / "seed_images" / f"{self.id}.png"


def models(own_file: Path | None = None) -> dict[str, ModelEntry]:
    """The built-in models and those of `own_file`, by name; one of the same name takes the built-in one's place.

    Raises ValueError naming the file, the entry and the field that is wrong, and what would be right.
    """
    return {entry.name: entry for file in (HERE / "models.toml", own_file) if file for entry in _read(file)}


def chosen_models(names: str | None, catalogue: Mapping[str, ModelEntry]) -> list[str]:
    """The models of a list with commas, each once; all of the catalogue for None.

    Raises ValueError naming what the catalogue lacks.
    """
    if names is None:
        return [*catalogue]
    chosen = [*dict.fromkeys(name.strip() for name in names.split(",") if name.strip())]
    if unknown := [name for name in chosen if name not in catalogue]:
        raise ValueError(f"there is no model {', '.join(unknown)}; there are {', '.join(catalogue)}")
    if not chosen:
        raise ValueError(f"names no model; there are {', '.join(catalogue)}")
    return chosen


def _read(file: Path) -> list[ModelEntry]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return [_entry(file, name, table) for name, table in tables.items()]


def _entry(file: Path, name: str, content: object) -> ModelEntry:
    if not isinstance(content, dict):
        # A key above the first entry, or one that was meant for it.
        raise ValueError(f"{file}: {name!r} stands outside of every entry; an entry is [its-name]")  # noqa: TRY004
    if not _NAME.fullmatch(name):
        rule = "1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
        raise ValueError(f"{file}: [{name}] is no name for a model: {rule}")
    try:
        table = _Table.model_validate(content)
    except ValidationError as error:
        wrong = "; ".join(_sentence(one) for one in error.errors())
        raise ValueError(f"{file}: [{name}] {wrong}") from None
    folder = file.parent / table.source
    return ModelEntry(
        name,
        source=str(folder.resolve()) if folder.is_dir() else table.source,
        source_revision=table.revision,
        revision=_revision(table),
        description=table.description,
        dtype=table.dtype,
        grid=table.grid,
        defaults=table.defaults,
        loras=tuple(_with_path(lora, file.parent) for lora in table.loras),
    )


def _revision(table: _Table) -> str:
    """The revision, with the precision and each addition: files by the path that the catalogue gives them.

    Where the files lie does not count, so that a farm's machines agree.
    """
    parts = [table.revision, *([] if table.dtype == "auto" else [table.dtype])]
    for lora in table.loras:
        at = f"@{lora.revision}" if lora.revision else ""
        file = f"/{lora.weight_name}" if lora.weight_name else ""
        parts.append(f"{lora.weight}*{lora.source}{at}{file}")
    return "+".join(parts)


def _with_path(lora: Lora, folder: Path) -> Lora:
    return lora if lora.weight_name else replace(lora, source=str((folder / lora.source).resolve()))


def _sentence(error: ErrorDetails) -> str:
    """One of pydantic's errors as the field and what would be right."""
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).lstrip(".")
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = {"defaults": ModelDefaults, "loras": Lora}.get(str(error["loc"][0]), _Table)
        return f"{where}: there is no such field; there are {', '.join(known.__annotations__)}"
    if error["type"] == "missing":
        return f"{where}: must be given"
    got = "" if isinstance(error["input"], dict | list) else f", not {error['input']!r}"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}{got}"


@cache
def seed_images() -> dict[str, SeedImageEntry]:
    """The built-in seed images by id."""
    index = json.loads((HERE / "seed_images" / "index.json").read_text(encoding="utf-8"))
    return {entry["id"]: SeedImageEntry(**entry) for entry in index}
