"""The models of Replicate's face: their names, versions, the form of their inputs, and the request each input becomes.

`riffarm/clip`, `/track`, `/remix` and `/convert` take what the job of that type takes; `riffusion/riffusion` takes what
the published model of that name does. Leaves out predictions (`api.replicate`) and files (`api.replicate_files`).
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import models_json_schema

from api.access import Reading
from api.intake import Jobs
from api.near_names import unknown
from api.problems import responses
from api.replicate_files import with_uploads
from shared.catalogue import SEED_IMAGE_ALIASES, seed_images
from shared.contracts import (
    JOB_REQUEST,
    REQUESTS,
    ClipEnd,
    ClipRequest,
    NegativePrompt,
    PictureId,
    Prompt,
    Strength,
)
from shared.errors import InvalidRequestError, NotFoundError
from shared.plan import ResolvedRequest
from shared.predictions import FACE_LABEL, OWNER, RIFFUSION, version_of

router = APIRouter(prefix="/v1/models", tags=["replicate"])
_RESPONSES: Final = responses("not_found", "unauthorized", "forbidden", "queue_unavailable", "storage_unavailable")
_MADE_AT: Final = "2022-12-15T00:00:00.000000Z"
"""Clients want a time; the inputs' form is as old as the published model's."""
_COG_VERSION: Final = "0.16.0"
"""Clients read a version's schema by it; in this one lists that come all at once are told from streams."""


class RiffusionInput(BaseModel):
    """What the published Riffusion model takes."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    prompt_a: Prompt = Field("funky synth solo", description="What it should sound like.")
    prompt_b: NegativePrompt | None = Field(None, description="A second prompt to go towards; none when left out.")
    denoising: Strength = Field(0.75, description="How far to move from the seed image: 0 keeps it, 1 ignores it.")
    alpha: Strength = Field(0.5, description="With a second prompt: how far to go, 0 is prompt_a, 1 is prompt_b.")
    num_inference_steps: Annotated[int, Field(ge=1, le=150)] = Field(50, description="Denoising steps at strength 1.")
    seed_image_id: PictureId = Field(
        "vibes", description="A built-in seed image, or the URL or id of an uploaded picture."
    )

    def request(self) -> ClipRequest:
        """The clip that this asks for."""
        return ClipRequest(
            prompt=self.prompt_a,
            end=ClipEnd(prompt=self.prompt_b) if self.prompt_b else None,
            alpha=self.alpha if self.prompt_b else 0.0,
            denoising_strength=self.denoising,
            guidance_scale=7.0,
            num_inference_steps=self.num_inference_steps,
            seed_image=SEED_IMAGE_ALIASES.get(self.seed_image_id, self.seed_image_id),
            formats=["wav"],
            labels={FACE_LABEL: RIFFUSION},
        )


_INPUTS: Final[dict[str, type[BaseModel]]] = {
    **{f"{OWNER}/{name}": form for name, form in REQUESTS.items()},
    RIFFUSION: RiffusionInput,
}
_DESCRIPTIONS: Final = {
    f"{OWNER}/clip": "One prompt, or a point between two, and as many variations of it as asked for.",
    f"{OWNER}/track": "A walk from keyframe to keyframe, rendered as one piece of sound of any length.",
    f"{OWNER}/remix": "A sound of any length, painted over by the model.",
    f"{OWNER}/convert": "A spectrogram picture as sound, or a sound as a spectrogram picture.",
    RIFFUSION: "The published model's inputs, on this farm: one frame of sound between two prompts.",
}
_UNSAID: Final = ("type", "webhook", "cancel_after_s")
"""Of a job's fields those that the model's name, the prediction or its headers say."""


def model_from_reference(reference: str) -> str:
    """The model that `owner/name`, `owner/name:version` or a version names. Raises NotFoundError."""
    name, _, version = reference.partition(":")
    found = [model for model in _INPUTS if name in (model, version_of(model)) and version in ("", version_of(model))]
    if not found:
        raise NotFoundError(f"There is no model {reference[:200]!r} here; there are {', '.join(_INPUTS)}.")
    return found[0]


def request_from_input(farm: Jobs, model: str, given: dict[str, Any]) -> ResolvedRequest:
    """The request that a model's input stands for; files in it are kept as uploads.

    Raises RequestValidationError and InvalidRequestError, each naming the input's field.
    """
    kind = _INPUTS[model]
    names = [name for name in kind.model_fields if name not in _UNSAID]
    for name in given:
        if name not in names:
            raise InvalidRequestError(unknown("input", name, names))
    given = with_uploads(farm, given)
    try:
        if model == RIFFUSION:
            return RiffusionInput.model_validate(given).request()
        return JOB_REQUEST.validate_python({**given, "type": model.partition("/")[2]})
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise RequestValidationError(found) from None


@router.get("/{owner}/{name}", responses=_RESPONSES, summary="See a model, as Replicate tells it")
def read_model(owner: str, name: str, farm: Reading) -> dict[str, Any]:
    """One of this face's models, with its latest version."""
    model = _known(owner, name)
    return {
        "url": f"{farm.settings.base_url}/v1/models/{model}",
        "owner": owner,
        "name": name,
        "description": _DESCRIPTIONS[model],
        "visibility": "public",
        "is_official": False,
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "run_count": 0,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": _version(farm, model),
    }


@router.get("/{owner}/{name}/versions", responses=_RESPONSES, summary="List a model's versions, as Replicate does")
def list_versions(owner: str, name: str, farm: Reading) -> dict[str, Any]:
    """A model of this face has one version: it stands for the form of its inputs."""
    return {"previous": None, "next": None, "results": [_version(farm, _known(owner, name))]}


@router.get("/{owner}/{name}/versions/{version}", responses=_RESPONSES, summary="See a version, as Replicate tells it")
def read_version(owner: str, name: str, version: str, farm: Reading) -> dict[str, Any]:
    """A version with `openapi_schema`, which describes the inputs and the output."""
    return _version(farm, model_from_reference(f"{_known(owner, name)}:{version}"))


def _known(owner: str, name: str) -> str:
    model = f"{owner}/{name}"
    if model not in _INPUTS:
        raise NotFoundError(f"There is no model {model[:200]!r} here; there are {', '.join(_INPUTS)}.")
    return model


def _version(farm: Jobs, model: str) -> dict[str, Any]:
    return {
        "id": version_of(model),
        "created_at": _MADE_AT,
        "cog_version": _COG_VERSION,
        "openapi_schema": _openapi(farm, model),
    }


def _openapi(farm: Jobs, model: str) -> dict[str, Any]:
    """The form of a model's inputs and output, as cog writes it."""
    kind = _INPUTS[model]
    _, whole = models_json_schema([(kind, "validation")], ref_template="#/components/schemas/{model}")
    schemas = whole["$defs"]
    own = schemas.pop(kind.__name__)
    names = [name for name in own["properties"] if name not in _UNSAID]
    own |= {"title": "Input", "properties": {name: own["properties"][name] for name in names}}
    for order, name in enumerate(names):
        own["properties"][name]["x-order"] = order
    if "model" in names:
        own["properties"]["model"]["enum"] = [*farm.models]
    if "seed_image_id" in names:
        own["properties"]["seed_image_id"]["examples"] = [*seed_images()]
    url = {"type": "string", "format": "uri"}
    named = {"type": "object", "properties": {"audio": url, "spectrogram": url}, "title": "Output"}
    output = named if model == RIFFUSION else {"type": "array", "items": url, "title": "Output"}
    return {
        "openapi": "3.0.2",
        "info": {"title": model, "version": "1"},
        "paths": {},
        "components": {"schemas": schemas | {"Input": own, "Output": output}},
    }
