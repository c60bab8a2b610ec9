"""Riffusion's inference server as a face of the farm: its web app gets picture and sound from here, unmodified.

One request is one clip of one frame between two prompts, answered when it is there. Leaves out the rest of the farm:
this face can do nothing but render, so it may be opened to everybody (RIFFARM_RIFFUSION_TENANT).
"""

from __future__ import annotations

import base64
import io
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, cast

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from api.access import ANYBODY, Access, Caller, admitted
from api.bodies import value_from_json
from api.intake import Jobs
from api.problems import PROBLEMS, what_is_wrong, what_is_wrong_in
from api.waiting import has_ended
from shared.catalogue import SEED_IMAGE_ALIASES
from shared.contracts import ClipEnd, ClipRequest, Guidance, PictureId, Prompt, Seed, Strength
from shared.dispatch import plan_of
from shared.errors import FieldError, InvalidRequestError, QueueUnavailableError, RenderError, RiffarmError
from shared.frames import frame_hash
from shared.object_store import frame_key, output_key
from shared.predictions import FACE_LABEL

if TYPE_CHECKING:
    from shared.plan import Plan

PATH: Final = "/run_inference/"
router = APIRouter(tags=["riffusion"])
_PATIENCE_S: Final = 55
"""The web app gives up after 60 s."""
_LATE: Final = f"Not done within {_PATIENCE_S} s; ask again, what is rendered by then is kept."
_PIXELS: Final = 512
_JPEG_QUALITY: Final = 90
_BEYOND: Final = 1e-3
"""How far the web app's sums of alpha run past the end."""


def _within(alpha: Any) -> Any:
    is_near = isinstance(alpha, float) and -_BEYOND <= alpha <= 1 + _BEYOND
    return min(1.0, max(0.0, alpha)) if is_near else alpha


class _Input(BaseModel):
    # What other versions of the web app send beside these is passed over, as the original does.
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class PromptInput(_Input):
    """One end of the interpolation."""

    prompt: Prompt = Field(description="What it should sound like.")
    seed: Seed = Field(description="Noise seed.")
    denoising: Strength = Field(0.75, description="How far to move from the seed image: 0 keeps it, 1 ignores it.")
    guidance: Guidance = Field(7.0, description="How strictly to follow the prompt.")


class InferenceInput(_Input):
    """What Riffusion's web app asks for."""

    start: PromptInput
    end: PromptInput
    alpha: Annotated[Strength, BeforeValidator(_within)] = Field(description="0 is the start, 1 the end.")
    num_inference_steps: Annotated[int, Field(ge=1, le=150)] = Field(50, description="Denoising steps at strength 1.")
    seed_image_id: PictureId = Field("og_beat", description="A built-in seed image, or the id of an uploaded picture.")
    mask_image_id: PictureId | Literal[""] | None = Field(
        None, description="The id of an uploaded mask: white repaints; none when empty."
    )

    def request(self) -> ClipRequest:
        """The clip that this asks for."""
        return ClipRequest(
            prompt=self.start.prompt,
            seed=self.start.seed,
            denoising_strength=self.start.denoising,
            guidance_scale=self.start.guidance,
            end=ClipEnd(
                prompt=self.end.prompt,
                seed=self.end.seed,
                denoising_strength=self.end.denoising,
                guidance_scale=self.end.guidance,
            ),
            alpha=self.alpha,
            num_inference_steps=self.num_inference_steps,
            seed_image=SEED_IMAGE_ALIASES.get(self.seed_image_id, self.seed_image_id),
            mask_image=self.mask_image_id or None,
            formats=["mp3"],
            priority="interactive",
            # Nobody waits any longer: what has not begun by then need not.
            expires_in_s=_PATIENCE_S,
            labels={FACE_LABEL: "riffusion"},
        )


class InferenceOutput(BaseModel):
    """What Riffusion's web app gets."""

    image: str = Field(description="The spectrogram as a data URL: a JPEG of 512×512.")
    audio: str = Field(description="The sound as a data URL: an MP3.")
    duration_s: float = Field(description="How long the sound is, in seconds.")


class OpenToPages:
    """ASGI middleware: lets pages of any site use this face, and this face alone; errors can be read by them too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open = CORSMiddleware(app, allow_origins=["*"], allow_methods=["POST"], allow_headers=["*"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_ours = scope["type"] == "http" and scope["path"].rstrip("/") == PATH.rstrip("/")
        await (self._open if is_ours else self._app)(scope, receive, send)


@router.post(
    PATH,
    response_model=InferenceOutput,
    responses={
        status: {"description": text, "content": {"text/plain": {"schema": {"type": "string"}}}}
        for status, text in (
            (400, "What is wrong with the request, in a sentence."),
            (401, "The farm has keys, and this face is not opened."),
            (403, "The key may not submit jobs."),
            (413, "The body is too large."),
            (429, "Too many requests, or too much that has not ended."),
            (500, "The frame cannot be rendered, and why."),
            (503, "The farm does not answer, or is not done in time: ask again, what is rendered by then is kept."),
        )
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": InferenceInput.model_json_schema(ref_template="#/$defs/{model}")}
            },
        }
    },
    summary="Render one frame for Riffusion's web app",
)
async def run_inference(request: Request) -> Response:
    """Picture and sound of one frame, `alpha` of the way between two prompts. Whatever the body is said to be, it is
    read as JSON; errors come as plain text, and pages of every site may ask. Works as the original server does."""
    until_s = time.monotonic() + _PATIENCE_S
    try:
        farm = await _farm(request)
        asked = _input(await request.body()).request()
        job = await run_in_threadpool(farm.accept, asked)
        if not await has_ended(request.app.state.event_reader, job.id, until_s):
            raise QueueUnavailableError(_LATE)
        return JSONResponse(await run_in_threadpool(_answer, farm, job.id))
    except RiffarmError as error:
        status = 400 if isinstance(error, InvalidRequestError) else PROBLEMS[what_is_wrong(error)[0]].status
        return PlainTextResponse(error.message, status)


async def _farm(request: Request) -> Jobs:
    """The farm as the tenant sees it whom this face is opened for, or the caller's key belongs to."""
    jobs: Jobs = request.app.state.jobs
    access: Access = request.app.state.access
    tenant = jobs.settings.riffusion_tenant
    if not await access.needs_key():
        request.state.caller = replace(ANYBODY, tenant=tenant or ANYBODY.tenant, scopes=frozenset({"submit"}))
    elif tenant and "authorization" not in request.headers:
        request.state.caller = Caller(tenant, frozenset({"submit"}))
    return await admitted(request, "submit")


def _input(body: bytes) -> InferenceInput:
    """What a body asks for. Raises InvalidRequestError."""
    try:
        return InferenceInput.model_validate(value_from_json(body))
    except json.JSONDecodeError as error:
        raise InvalidRequestError(FieldError("body", f"not JSON: {error.msg}", None, "a JSON object")) from None
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        _, detail, errors = what_is_wrong_in(found)
        raise InvalidRequestError(*(errors or [FieldError("body", detail)])) from None


def _answer(farm: Jobs, job_id: str) -> dict[str, Any]:
    fields = farm.fields(job_id)
    if fields["status"] != "succeeded":
        reason = json.loads(fields["error"])["message"] if fields.get("error") else "The job was canceled."
        raise RenderError(reason)
    sound = next(one for one in json.loads(fields["outputs"]) if one["media_type"] == "audio/mpeg")
    plan = cast("Plan", plan_of(fields))
    picture = farm.object_store.get(frame_key(frame_hash(plan.frame(0))))
    audio = farm.object_store.get(output_key(job_id, sound["name"]))
    return {
        "image": _data_url("image/jpeg", _jpeg(picture)),
        "audio": _data_url("audio/mpeg", audio),
        "duration_s": sound["duration_s"],
    }


def _jpeg(picture: bytes) -> bytes:
    with Image.open(io.BytesIO(picture)) as image:
        shown = image.convert("RGB").resize((_PIXELS, _PIXELS), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    shown.save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


def _data_url(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
