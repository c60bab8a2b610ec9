"""What goes over the wire: requests, and the job as the client sees it.

Owns names, types, ranges and defaults. Leaves out what a request expands to (`shared.plan`, `shared.frames`) and which
models and pictures exist (`shared.catalogue`).
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from shared.prompts import weighted_parts

MAX_SEED: Final = 2**32 - 1
MAX_DURATION_S: Final = 36_000.0
MAX_PROMPT_CHARACTERS: Final = 500
MAX_PREFIX_CHARACTERS: Final = 512
LOUDNESS_LUFS: Final = -16.0
"""What sound is brought to unless asked otherwise: loud, while the limiter has next to nothing to do."""

DEFAULT_STEPS: Final = 16
"""As near to the picture of 100 steps as 20 are with dpmpp_2m: docs/rendering/steps.png."""
DEFAULT_GUIDANCE: Final = 5.0

Status = Literal["queued", "running", "paused", "succeeded", "failed", "canceled"]
Stage = Literal["rendering", "sounding", "encoding", "uploading"]
JobType = Literal["clip", "track", "remix", "convert"]
Priority = Literal["interactive", "normal", "bulk"]
Format = Literal["wav", "flac", "mp3", "ogg", "opus"]
Sampler = Literal["dpmpp_2m", "dpmpp_2m_karras", "ddim", "pndm", "euler", "euler_a", "unipc", "lcm"]
DEFAULT_SAMPLER: Final[Sampler] = "dpmpp_2m_karras"
MAX_LCM_STEPS: Final = 50
"""Models are distilled for this many points in time; there is no picture at any other."""
Quality = Literal["fast", "standard", "high", "griffin_lim"]
Joins = Literal["blend", "repaint", "cut"]
WebhookEvent = Literal["job.started", "job.progress", "job.succeeded", "job.failed", "job.canceled"]
TERMINAL: Final[frozenset[Status]] = frozenset({"succeeded", "failed", "canceled"})


_PLACE_NAME: Final = "[A-Za-z0-9_=+@,-][A-Za-z0-9_=+@,.-]{0,254}"
_PLACE: Final = f"^({_PLACE_NAME}(/{_PLACE_NAME})*/?)?$"


def _is_encodable(text: str) -> str:
    """Refuse lone surrogates and NULs: neither can be stored or sent on as UTF-8 text."""
    if "\x00" in text or re.search("[\ud800-\udfff]", text):
        raise ValueError("must be plain text without NUL characters or lone surrogates")
    return text


def _has_readable_weights(prompt: str) -> str:
    """Refuse brackets that make no sense: see `shared.prompts`."""
    weighted_parts(prompt)
    return prompt


def _is_place(prefix: str) -> str:
    """Refuse what could lead out of its place, or hardly be written in a URL; a slash at the end says nothing."""
    if not re.fullmatch(_PLACE, prefix):
        raise ValueError("must be names of letters, digits and _=+@,.- with / between them, none beginning with a dot")
    return prefix.removesuffix("/")


class _Contract(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Text = Annotated[str, AfterValidator(_is_encodable)]
Prompt = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_PROMPT_CHARACTERS),
    AfterValidator(_is_encodable),
    AfterValidator(_has_readable_weights),
]
NegativePrompt = Annotated[
    str,
    StringConstraints(strip_whitespace=True, max_length=MAX_PROMPT_CHARACTERS),
    AfterValidator(_is_encodable),
    AfterValidator(_has_readable_weights),
]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Strength = Annotated[float, Field(ge=0.0, le=1.0)]
Guidance = Annotated[float, Field(ge=1.0, le=30.0)]
PictureId = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,80}$")]


class Webhook(_Contract):
    """Where to post signed news of a job."""

    url: Annotated[Text, Field(min_length=1, max_length=2_000, description="https URL that is posted to.")]
    events: list[WebhookEvent] = Field(
        default=["job.succeeded", "job.failed", "job.canceled"],
        min_length=1,
        max_length=5,
        description="Events to send. job.started and job.progress, the latter at most every 500 ms, are sent once; the "
        "others again and again until they are taken.",
    )
    form: Literal["job", "prediction"] = Field(
        "job", description="What is posted: an event with the job, or the job as Replicate's clients read it."
    )


class OutputPlace(_Contract):
    """Where a job's finished files go, in place of the farm's own storage: to `{prefix}/{job id}/{name}`."""

    bucket: Annotated[Text, Field(min_length=1, max_length=63)] = Field(
        description="An S3 bucket that this farm's operator allows."
    )
    prefix: Annotated[str, AfterValidator(_is_place)] = Field(
        "",
        max_length=MAX_PREFIX_CHARACTERS,
        json_schema_extra={"pattern": _PLACE},
        description="What the files' keys begin with: names of letters, digits and `_=+@,.-` with `/` between them, "
        "none beginning with a dot. Below it each job has a folder of its own.",
    )


class ClipEnd(_Contract):
    """What a clip is on its way to."""

    prompt: Prompt = Field(description="What it should sound like.")
    negative_prompt: NegativePrompt = Field("", description="What it should not sound like.")
    seed: Seed | None = Field(None, description="Noise seed; drawn and reported when left out.")
    denoising_strength: Strength | None = Field(
        None, description="How far to move from the seed image or the source; the job's when left out."
    )
    guidance_scale: Guidance | None = Field(
        None, description="How strictly to follow the prompt; the job's when left out."
    )


class Keyframe(ClipEnd):
    """A point of a track that its frames move towards and away from."""

    at_s: float | None = Field(
        None,
        ge=0,
        le=MAX_DURATION_S,
        description="Seconds from the start, moved to the measure where the nearest frame begins; spread evenly when "
        "left out.",
    )


class PowerCurve(_Contract):
    """alpha ** power between two keyframes: above 1 lingers at the first, below 1 leaves it at once."""

    power: float = Field(gt=0, le=10, description="The exponent; 1 is linear.")


Keyframes = Annotated[
    list[Keyframe], Field(min_length=1, max_length=256, description="The points of the walk, in order.")
]
AlphaCurve = Annotated[
    Literal["linear", "smooth"] | PowerCurve, Field(description="How alpha moves between two keyframes.")
]


class _Request(_Contract):
    formats: list[Format] = Field(default=["flac"], min_length=1, max_length=5, description="Audio files to make.")
    loudness_lufs: float = Field(
        LOUDNESS_LUFS,
        ge=-60,
        le=-5,
        description="Integrated loudness of the whole in LUFS (BS.1770); peaks stay below -1 dBTP.",
    )
    quality: Quality = Field(
        "standard",
        description="Care taken to find the sound of a picture; griffin_lim is slow and there for comparison.",
    )
    priority: Priority = Field(
        "normal", description="interactive goes first, bulk last; each has its share however full the farm is."
    )
    expires_in_s: int | None = Field(
        None, ge=1, le=30 * 86_400, description="Give up if the job has not begun after so many seconds."
    )
    cancel_after_s: int | None = Field(
        None, ge=1, le=30 * 86_400, description="Cancel the job if it has not ended after so many seconds."
    )
    webhook: Webhook | None = Field(None, description="Where to post signed news of this job.")
    output: OutputPlace | None = Field(
        None,
        description="A bucket of yours for the finished files, on a farm that keeps its own on S3; previews stay with "
        "the farm. What is delivered there is removed by DELETE alone.",
    )
    labels: dict[Annotated[Text, Field(min_length=1, max_length=63)], Annotated[Text, Field(max_length=255)]] = Field(
        default_factory=dict, max_length=16, description="Your own marks, to filter by."
    )


class _ModelRequest(_Request):
    model: str = Field("riffarm-mini", max_length=200, description="Name of a model this farm serves.")
    sampler: Sampler | None = Field(None, description="The denoising method; the model's own when left out.")
    num_inference_steps: Annotated[int, Field(ge=1, le=150)] | None = Field(
        None, description="Denoising steps at strength 1; the model's own when left out."
    )
    guidance_scale: Guidance | None = Field(
        None, description="How strictly to follow the prompt; the model's own when left out."
    )


class _RenderRequest(_ModelRequest):
    duration_s: float = Field(
        5.12, ge=0.1, le=MAX_DURATION_S, description="Length of the sound in seconds; exact to the sample."
    )
    seed_image: PictureId | None = Field(
        None, description="Id of a built-in or uploaded spectrogram picture to start from."
    )
    mask_image: PictureId | None = Field(
        None, description="Id of an uploaded mask: white repaints, black keeps the seed image."
    )
    tempo_bpm: float | None = Field(
        None,
        ge=20,
        le=400,
        description="Beats per minute of the grid that frames lie on: a frame is made as long as its beats. "
        "When left out, a frame is 5.12 s, and a built-in seed image keeps its own tempo.",
    )
    denoising_strength: Strength = Field(
        0.75, description="How far to move from the seed image: 0 keeps it, 1 ignores it."
    )
    joins: Joins = Field(
        "blend",
        description="How frames meet: blend fades from one to the next, repaint lets the model draw what lies "
        "between them anew, cut lays them side by side.",
    )


class ClipRequest(_RenderRequest):
    """One prompt, and as many variations of it as asked for."""

    type: Literal["clip"] = "clip"
    prompt: Prompt = Field(description="What it should sound like.")
    negative_prompt: NegativePrompt = Field("", description="What it should not sound like.")
    seed: Seed | None = Field(None, description="Noise seed; drawn and reported when left out.")
    variations: int = Field(1, ge=1, le=64, description="How many different takes to make.")
    end: ClipEnd | None = Field(None, description="A second prompt: the clip stands between the two, where alpha says.")
    alpha: Strength = Field(0.0, description="How far from the prompt to the end's: 0 is the prompt, 1 the end.")


class TrackRequest(_RenderRequest):
    """A walk from keyframe to keyframe, rendered as one piece of sound."""

    type: Literal["track"] = "track"
    keyframes: Keyframes
    alpha_curve: AlphaCurve = "linear"
    loop: bool = Field(
        False,
        description="Whether the end runs into the start: the walk goes back to its first keyframe, "
        "and no seam is left in the sound.",
    )


class RemixRequest(_ModelRequest):
    """An uploaded sound of any length painted over by the model, window by window."""

    type: Literal["remix"] = "remix"
    source: PictureId = Field(description="Id of the uploaded sound.")
    start_s: float = Field(0.0, ge=0, le=MAX_DURATION_S, description="Where to begin in the source, in seconds.")
    end_s: Annotated[float, Field(gt=0, le=MAX_DURATION_S)] | None = Field(
        None, description="Where to end in the source, in seconds; its end when left out."
    )
    keyframes: Keyframes
    alpha_curve: AlphaCurve = "linear"
    denoising_strength: Strength = Field(0.5, description="How far to move from the source: 0 keeps it, 1 ignores it.")
    overlap_s: float = Field(
        0.64,
        ge=0.08,
        le=2.4,
        description="How long neighbouring windows overlap, in seconds; one fades into the other there. "
        "Taken to the nearest 0.08 s.",
    )


class ConvertRequest(_Request):
    """An uploaded spectrogram picture as audio, or uploaded audio as a spectrogram picture (PNG)."""

    type: Literal["convert"] = "convert"
    source: PictureId = Field(description="Id of the upload: a picture becomes audio, audio a picture.")
    stereo: bool | None = Field(
        None, description="Two channels, drawn in green and blue; a picture's own EXIF decides when left out."
    )
    f_min_hz: Annotated[float, Field(ge=0, le=22_050)] | None = Field(
        None, description="Lowest frequency drawn; the picture's own, or 0, when left out."
    )
    f_max_hz: Annotated[float, Field(gt=0, le=22_050)] | None = Field(
        None, description="Highest frequency drawn; the picture's own, or 10,000, when left out."
    )


REQUESTS: Final[dict[str, type[BaseModel]]] = {
    "clip": ClipRequest,
    "track": TrackRequest,
    "remix": RemixRequest,
    "convert": ConvertRequest,
}
"""The form of each type of job's request."""
JobRequest = Annotated[ClipRequest | TrackRequest | RemixRequest | ConvertRequest, Field(discriminator="type")]
JOB_REQUEST: Final[TypeAdapter[ClipRequest | TrackRequest | RemixRequest | ConvertRequest]] = TypeAdapter(JobRequest)


class Progress(_Contract):
    """How far a job is."""

    frames_done: int = Field(description="Finished frames, those reused among them.")
    frames_total: int = Field(description="Frames of the whole job; 0 for a conversion.")
    frames_reused: int = Field(description="Of the finished frames, those that had been rendered before.")
    fraction: float = Field(description="0..1 over all stages.")
    audio_s_ready: float = Field(description="Seconds of sound already made.")
    eta_s: float | None = Field(description="Estimated seconds to the end; null while unknown.")


class Output(_Contract):
    """A finished file."""

    name: str = Field(description="File name, as clip.flac or clip-02.flac for the second variation.")
    media_type: str = Field(description="As audio/flac, image/png.")
    bytes: int = Field(description="Size in bytes.")
    sha256: str = Field(description="The content's SHA-256 in 64 hexadecimal digits.")
    duration_s: float | None = Field(description="Length of the sound in seconds.")
    is_preview: bool = Field(
        False,
        description="What is finished of a track that runs or ended early, from its beginning; a longer one follows.",
    )
    url: str = Field(description="Where to download it, without a key; ranges are answered.")
    url_expires_at: datetime = Field(description="Until when the url works; read the job again for a fresh one.")


class JobFailure(_Contract):
    """Why a job failed."""

    code: str = Field(description="The kind of failure, for programs.")
    message: str = Field(description="What went wrong, in a sentence.")
    retryable: bool = Field(description="Whether a retry may go well.")


class Metrics(_Contract):
    """Where a job's time went, in seconds; `render_s` and `sound_s` add up over workers."""

    queued_s: float | None = Field(description="From being taken in to being begun; null before that.")
    render_s: float = Field(description="Time spent on frames, in seconds.")
    sound_s: float = Field(description="Time spent on making sound of frames, in seconds.")
    encode_s: float = Field(description="Time spent on levels and files, in seconds.")
    gpu_s: float = Field(description="Of render_s and sound_s what was done on a GPU.")
    audio_s: float = Field(description="Length of the sound in seconds, of all variations together.")
    realtime_factor: float | None = Field(description="Seconds of sound per second of waiting.")


class Preview(_Contract):
    """A small picture of a frame that is still being denoised."""

    frame: int = Field(description="Its number, from 0.")
    step: int = Field(description="How many denoising steps it has had.")
    steps: int = Field(description="How many it will have.")
    image: str = Field(description="The picture as a data URL.")


class JobUrls(_Contract):
    """Where to go on from here."""

    self: str = Field(description="The job.")
    events: str = Field(description="Its stream of events.")
    frames: str = Field(description="Its frames.")
    deliveries: str = Field(description="What was posted to its webhook.")
    cancel: str = Field(description="POST here to cancel it.")
    pause: str = Field(description="POST here to pause it.")
    resume: str = Field(description="POST here to let it go on.")
    retry: str = Field(description="POST here to have what is missing rendered.")


class Job(_Contract):
    """A job as the client sees it."""

    id: str = Field(description="job_ and 28 hexadecimal digits; ids sort by time.")
    type: JobType
    status: Status = Field(description="Where it stands; succeeded, failed and canceled are final but for a retry.")
    stage: Stage | None = Field(description="What a running job is at; null otherwise.")
    created_at: datetime = Field(description="When it was taken in.")
    started_at: datetime | None = Field(description="When its first work was begun.")
    finished_at: datetime | None = Field(description="When it ended.")
    progress: Progress = Field(description="How far it is.")
    queue_position: int | None = Field(description="Its place among the jobs that wait, from 1; null once begun.")
    input: JobRequest = Field(description="The request with every default and drawn seed filled in.")
    outputs: list[Output] = Field(description="Its files; of a track that runs, a preview that grows.")
    previews: list[Preview] = Field(description="Frames that are being denoised just now.")
    error: JobFailure | None = Field(description="Why it failed.")
    attempts: int = Field(description="How often it was begun: once, and once more for each retry.")
    warnings: list[str] = Field(description="What you may not have meant, in sentences.")
    metrics: Metrics = Field(description="Where its time went.")
    labels: dict[str, str] = Field(description="Your own marks.")
    batch_id: str | None = Field(description="What the jobs of one batch share; null for a job that came alone.")
    urls: JobUrls = Field(description="Where what belongs to it is, and what can be done to it.")


class JobPage(_Contract):
    """One page of jobs, newest first."""

    data: list[Job] = Field(description="The jobs.")
    next: str | None = Field(description="Where the next page is; null on the last.")


class Cost(_Contract):
    """What it would take, estimated from how the farm did of late. What is not known is null; `unknown` says why."""

    render_s: float | None = Field(description="Seconds that one worker needs for the frames that are not ready.")
    sound_s: float | None = Field(description="Seconds that one worker needs for the sound.")
    gpu_s: float | None = Field(description="Of both together the seconds on a GPU.")
    wait_s: float | None = Field(description="Seconds until all that waits before it is through, if nothing overtakes.")
    unknown: dict[str, str] = Field(description="By field: why it is null.")


class PlanSummary(_Contract):
    """What a request would render."""

    frames_total: int = Field(description="Frames of the whole job.")
    frames_ready: int = Field(description="Frames in storage already; from a sample on long tracks.")
    batches_total: int = Field(description="Batches of frames, each rendered by one worker.")
    chunks_total: int = Field(description="Pieces of sound, of about a minute.")
    duration_s: float = Field(description="Length of the sound in seconds, of all variations together.")
    samples_total: int = Field(description="Samples of all parts; 0 for a conversion, whose length its source has.")
    cost: Cost = Field(description="What it would take of the farm.")
    bytes: dict[Format, int] | None = Field(
        description="About how large the files of each format are together; null for a conversion: its source decides."
    )
    warnings: list[str] = Field(description="What you may not have meant, in sentences.")
    input: JobRequest = Field(description="The request with every default and drawn seed filled in.")
