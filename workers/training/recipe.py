"""All numbers of the built-in model's making: what they are, and how they are read from a TOML file.

Owns the file's keys, what their values may be, and which file wins. Leaves out the numbers themselves
(`riffarm-mini.toml`) and the code that obeys them.
"""

from __future__ import annotations

import tomllib
from copy import deepcopy
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

OWN_RECIPE: Final = Path(__file__).parent / "riffarm-mini.toml"
CHANGEABLE: Final = frozenset(
    {
        "torch_threads",
        "checkpoint_minutes",
        "data.processes",
        "data.processes_beside",
        "vae.check_steps",
        "unet.check_steps",
    }
)
"""Keys that a training under way may change; any other would make another training of it."""

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Widths = Annotated[tuple[Count, ...], Field(min_length=2)]
_STRICT: Final = ConfigDict(extra="forbid")


class RecipeError(ValueError):
    """A recipe that cannot be read or obeyed; one line that names the key and says what would be right."""


@dataclass(frozen=True, slots=True, config=_STRICT)
class DataRecipe:
    """Clips: how many, and from which seeds; the two sets never share a seed."""

    train_clips: Count
    train_seed: Seed
    vae_clips: Count
    """The first of the training clips: drawn before all else, for the autoencoder."""
    first_clips: Count
    """So many training clips the denoiser begins with."""
    clips_per_step: Weight
    """So many more it draws from after each step, until it has all."""
    shard_clips: Count
    """Clips in one file of latents."""
    processes: Count
    """Processes that draw clips while nothing else is done."""
    processes_beside: Count
    """Processes that draw clips and encode them while the denoiser trains."""
    held_out_clips: Count
    held_out_seed: Seed


@dataclass(frozen=True, slots=True, config=_STRICT)
class VaeRecipe:
    """The image autoencoder and its training on crops of full height."""

    widths: Annotated[tuple[Count, ...], Field(min_length=4, max_length=4)]
    """Channels at each of four levels: pictures are halved three times, to an eighth."""
    norm_groups: Count
    steps: Count
    batch: Count
    crop_columns: Annotated[int, Field(ge=8, le=512, multiple_of=8)]
    learning_rate: Positive
    gradient_weight: Weight
    square_weight: Weight
    kl_weight: Weight
    seed: Seed
    check_steps: Count


@dataclass(frozen=True, slots=True, config=_STRICT)
class UnetRecipe:
    """The denoiser, its text encoder and their joint training."""

    widths: Widths
    norm_groups: Count
    heads: Count
    text_width: Count
    text_layers: Count
    vocabulary: Annotated[int, Field(ge=515)]
    """Tokens at most; 514 of them are every byte, within a word and at its end, and a text's start and end."""
    steps: Count
    batch: Count
    learning_rate: Positive
    warm_up_steps: Count
    half_width_share: Share
    """The first share of the training sees frames of half the width: twice as many for the same work."""
    decay_share: Share
    """The last share of the training, over which the learning rate falls to zero along a cosine."""
    caption_dropout: Share
    noise_bias: Positive
    """Exponent on the evenly drawn share of the noise schedule: below 1 shows high noise more often."""
    naming_steps: Annotated[int, Field(ge=0)]
    """Steps in which a new text encoder learns what captions say before all else; 0 keeps the one there is."""
    naming_weight: Weight
    """Weight of going on with that, beside the error of the denoiser."""
    ema_decay: Share
    seed: Seed
    check_steps: Count
    """Steps between two measures of steering while training."""


@dataclass(frozen=True, slots=True, config=_STRICT)
class Recipe:
    """One whole making of the model."""

    torch_threads: Count
    checkpoint_minutes: Weight
    data: DataRecipe
    vae: VaeRecipe
    unet: UnetRecipe

    def __post_init__(self) -> None:
        for fault in _faults(self):
            raise RecipeError(fault)


def _faults(recipe: Recipe) -> list[str]:
    """What no key alone says wrongly."""
    data, vae, unet = recipe.data, recipe.vae, recipe.unet
    found = []
    if data.train_seed == data.held_out_seed:
        found.append(f"data.held_out_seed = {data.held_out_seed}: must differ from data.train_seed")
    found += [
        f"data.{name} = {getattr(data, name)}: must be data.train_clips ({data.train_clips}) at most"
        for name in ("vae_clips", "first_clips")
        if getattr(data, name) > data.train_clips
    ]
    for part in (vae, unet):
        name = "vae" if part is vae else "unet"
        if any(width % part.norm_groups for width in part.widths):
            found.append(f"{name}.norm_groups = {part.norm_groups}: must divide each of {name}.widths")
    if any(width % unet.heads for width in (*unet.widths[1:], unet.text_width)):
        found.append(f"unet.heads = {unet.heads}: must divide unet.text_width and each of unet.widths but the first")
    return found


def read_recipe(path: Path | None = None, kind: str = "cpu") -> Recipe:
    """The recipe for a kind of device, "cpu" or "cuda": the package's own file, and what the file at `path` overrides.

    In either file the table [cuda] holds what is different on such a device; what `path` says comes before all of the
    package's. Raises RecipeError.
    """
    values: dict[str, Any] = {}
    for file in (OWN_RECIPE, path) if path else (OWN_RECIPE,):
        content = _content(file)
        special = content.pop("cuda", {})
        if not isinstance(special, dict):
            raise RecipeError(f"{file}: cuda = {special!r}: must be a table, such as [cuda.unet]")
        try:
            # Both are checked whatever the device is, so that a file is right or wrong everywhere.
            plain = _overridden(values or content, content)
            both = _overridden(plain, special, "cuda.")
            _checked(plain)
            _checked(both)
        except RecipeError as error:
            raise RecipeError(f"{file}: {error}") from None
        values = both if kind == "cuda" else plain
    return _checked(values)


def _content(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{file}: cannot be read as TOML: {error}") from error


def _overridden(values: dict[str, Any], other: dict[str, Any], where: str = "") -> dict[str, Any]:
    """`values` with those of `other` in their places; a key that `values` has not is a fault."""
    result = deepcopy(values)
    for key, value in other.items():
        if key not in values:
            raise RecipeError(f"{where}{key}: there is no such key; there are {', '.join(values)}")
        if isinstance(values[key], dict):
            if not isinstance(value, dict):
                raise RecipeError(f"{where}{key} = {value!r}: must be a table, [{where}{key}]")
            result[key] = _overridden(values[key], value, f"{where}{key}.")
        else:
            result[key] = value
    return result


def _checked(values: dict[str, Any]) -> Recipe:
    try:
        return TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, RecipeError):
            raise cause from None
        key = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"{key} = {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}") from None


def flat(recipe: Recipe) -> dict[str, Any]:
    """All keys with their dots and their values, as JSON holds them."""
    result: dict[str, Any] = {}
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        if field.name in ("data", "vae", "unet"):
            result |= {f"{field.name}.{k}": list(v) if isinstance(v, tuple) else v for k, v in asdict(value).items()}
        else:
            result[field.name] = value
    return result
