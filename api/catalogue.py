"""What a request can name, over HTTP: the farm's models, and the built-in seed images with their pictures.

Leaves out what there is (`shared.catalogue`), and uploads (`api.uploads`).
"""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from api.access import Reading
from api.file_answers import UNMODIFIED, FileAnswer
from api.problems import responses
from shared.catalogue import seed_images
from shared.errors import NotFoundError

router = APIRouter(tags=["catalogue"])


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True)


class ModelReport(_Report):
    """A model that the farm serves."""

    name: str = Field(description="What a request's `model` says.")
    revision: str = Field(description="What its pictures depend on: another revision paints other frames.")
    description: str = Field(description="What the farm's operator says of it.")


class ModelList(_Report):
    """All models."""

    data: list[ModelReport]


class SeedImageReport(_Report):
    """A built-in seed image."""

    id: str = Field(description="What a request's `seed_image` says.")
    title: str
    description: str
    tempo_bpm: float = Field(description="Beats per minute of the pattern in it.")
    beats: int = Field(description="Beats in it: a whole number, so that it loops.")
    meter: str = Field(description="Beats in a measure and what a beat is, as in 4/4.")
    duration_s: float = Field(description="Its exact length in seconds.")
    picture: str = Field(description="Path of its picture, a PNG of 512 rows.")


class SeedImageList(_Report):
    """All built-in seed images."""

    data: list[SeedImageReport]


@router.get("/v1/models", summary="List models")
def list_models(farm: Reading) -> ModelList:
    """The models a request can name."""
    entries = farm.models.values()
    return ModelList(
        data=[ModelReport(name=one.name, revision=one.revision, description=one.description) for one in entries]
    )


@router.get("/v1/seed-images", summary="List seed images")
def list_seed_images(farm: Reading) -> SeedImageList:
    """The built-in seed images, with their tempo and exact length."""
    fields = SeedImageReport.model_fields.keys() - {"picture"}
    return SeedImageList(
        data=[
            SeedImageReport(
                **{name: getattr(one, name) for name in fields}, picture=f"/v1/seed-images/{one.id}/picture"
            )
            for one in seed_images().values()
        ]
    )


@router.get(
    "/v1/seed-images/{seed_image_id}/picture",
    response_class=FileAnswer,
    responses=responses("not_found", "invalid_request", "range_not_satisfiable")
    | {200: {"content": {"image/png": {}}, "description": "The picture."}}
    | UNMODIFIED,
    summary="See a seed image",
)
def read_seed_image(seed_image_id: str, farm: Reading) -> FileAnswer:
    """A built-in seed image's picture."""
    entry = seed_images().get(seed_image_id)
    if entry is None:
        raise NotFoundError(f"There is no seed image {seed_image_id}; there are {', '.join(seed_images())}.")
    return FileAnswer(entry.path, media_type="image/png", headers={"ETag": f'"{entry.sha256}"'})
