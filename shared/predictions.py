"""A job as a prediction: what Replicate's clients read, the same for an HTTP answer and a webhook's body.

Owns names of models and versions, states, logs and URLs of that face. Leaves out HTTP (`api.replicate`), and what a
model's inputs become (`api.replicate_models`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

from shared.contracts import TERMINAL, ClipRequest, ConvertRequest, Job, Output, Status
from shared.job_view import output_signature
from shared.settings import Settings

FACE_LABEL: Final = "face"
"""The label of jobs that came through another system's API; its value says which."""
RIFFUSION: Final = "riffusion/riffusion"
OWNER: Final = "riffarm"
STATES: Final[Mapping[Status, str]] = {
    "queued": "starting",
    "running": "processing",
    "paused": "processing",
    "succeeded": "succeeded",
    "failed": "failed",
    "canceled": "canceled",
}
STREAM: Final = "stream"
"""In place of an output's name, what a signature of the stream of events is made with."""
_PUBLISHED_VERSION: Final = "8cf61ea6c56afd61d8f5b9ffd14d7c216c0a93844ce2d82ac1c9ecc9c7f24e05"
"""What programs that use the published Riffusion model name: they go on as they are."""
_NOT_INPUT: Final = {"type", "webhook", "cancel_after_s", "expires_in_s"}
_LINES: Final = 20
"""Lines of progress in a prediction's logs, at most."""
_FEW_FRAMES: Final = 20
"""So few frames are counted in tenths."""


def model_of(job: Job) -> str:
    """The model that made a job, as owner/name: a job of any face has one."""
    return RIFFUSION if job.labels.get(FACE_LABEL) == RIFFUSION else f"{OWNER}/{job.type}"


def version_of(model: str) -> str:
    """The model's one version, 64 hexadecimal digits: it stands for the form of its inputs, not for weights."""
    return _PUBLISHED_VERSION if model == RIFFUSION else hashlib.sha256(f"{model} 1".encode()).hexdigest()


class PredictionView:
    """Turns jobs into predictions, with URLs of the gateway's own that need no key: some clients send one to them, some
    do not, and a link that S3 signed takes none."""

    def __init__(self, settings: Settings) -> None:
        self._base_url = settings.base_url
        self._secret = settings.secret.get_secret_value()
        self._ttl_s = settings.output_url_ttl_s

    def prediction(self, job: Job) -> dict[str, Any]:
        """The prediction, ready for JSON."""
        model = model_of(job)
        url = f"{self._base_url}/v1/predictions/{job.id}"
        return {
            "id": job.id,
            "model": model,
            "version": version_of(model),
            "input": input_of(job),
            "output": self.output(job),
            "logs": "\n".join(log_lines(job)),
            "error": job.error.message if job.error else None,
            "status": STATES[job.status],
            "source": "api",
            "data_removed": False,
            "created_at": _time(job.created_at),
            "started_at": _time(job.started_at),
            "completed_at": _time(job.finished_at),
            "deadline": _time(_deadline(job)),
            "metrics": _metrics(job),
            "urls": {
                "get": url,
                "cancel": f"{url}/cancel",
                "stream": self._signed(f"/v1/files/{job.id}/stream", job.id, STREAM),
                "web": url,
            },
        }

    def output(self, job: Job) -> dict[str, str] | list[str] | None:
        """What a job that has ended has made: of the Riffusion model its two files by name, else a list of URLs."""
        if job.status not in TERMINAL or not job.outputs:
            return None
        if model_of(job) != RIFFUSION:
            return self.output_urls(job)
        kinds = {"audio": "audio/", "spectrogram": "image/"}
        named = {name: [one for one in job.outputs if one.media_type.startswith(kind)] for name, kind in kinds.items()}
        return {name: self._output_url(job, found[0]) for name, found in named.items() if found}

    def output_urls(self, job: Job) -> list[str]:
        """The URL of every output, in the job's order."""
        return [self._output_url(job, one) for one in job.outputs]

    def _output_url(self, job: Job, output: Output) -> str:
        return self._signed(f"/v1/predictions/{job.id}/outputs/{quote(output.name)}", job.id, output.name)

    def _signed(self, path: str, job_id: str, name: str) -> str:
        expires_s = int(time.time()) + self._ttl_s
        signature = output_signature(self._secret, job_id, name, expires_s)
        return f"{self._base_url}{path}?expires={expires_s}&signature={signature}"


def input_of(job: Job) -> dict[str, Any]:
    """What the job's model was given: as resolved, so that it makes the same again."""
    request = job.input
    if model_of(job) != RIFFUSION or not isinstance(request, ClipRequest):
        return request.model_dump(mode="json", exclude=_NOT_INPUT)
    return {
        "prompt_a": request.prompt,
        "prompt_b": request.end.prompt if request.end else None,
        "alpha": request.alpha,
        "denoising": request.denoising_strength,
        "num_inference_steps": request.num_inference_steps,
        "seed_image_id": request.seed_image,
    }


def log_lines(job: Job) -> list[str]:
    """What there is to say of a job so far, one line after the other; what is said once stays. Progress is told as tqdm
    does, which the clients read."""
    lines = [*_seed_lines(job), *_progress_lines(*_progress(job))]
    if job.status in TERMINAL:
        lines += job.warnings
        lines += [job.error.message] if job.error else []
    return lines


def _seed_lines(job: Job) -> Iterator[str]:
    request = job.input
    if isinstance(request, ClipRequest):
        seeds = [request.seed, *([request.end.seed] if request.end else [])]
    elif isinstance(request, ConvertRequest):
        return
    else:
        seeds = [keyframe.seed for keyframe in request.keyframes]
    yield f"Using seed: {', '.join(map(str, seeds))}"


def _progress(job: Job) -> tuple[int, int]:
    """How much of how much is done."""
    frames = job.progress.frames_total
    if not frames:
        return int(job.status == "succeeded"), 1
    parts = 10 if frames < _FEW_FRAMES else 1
    begun = sum(min(1.0, (one.step + 1) / one.steps) for one in job.previews)
    done = int(parts * min(job.progress.frames_done + begun, frames))
    return done, frames * parts


def _progress_lines(done: int, total: int) -> Iterator[str]:
    stride = -(-total // _LINES)
    for count in range(done + 1):
        if count % stride == 0 or count == total:
            percent = 100 * count // total
            yield f"{percent:3}%|{'█' * (percent // 10):10}| {count}/{total}"


def _deadline(job: Job) -> datetime | None:
    after_s = job.input.cancel_after_s
    return job.created_at + timedelta(seconds=after_s) if after_s else None


def _metrics(job: Job) -> dict[str, float]:
    if job.finished_at is None:
        return {}
    total_s = (job.finished_at - job.created_at).total_seconds()
    predict_s = (job.finished_at - job.started_at).total_seconds() if job.started_at else 0.0
    return {"predict_time": predict_s, "total_time": total_s}


def _time(moment: datetime | None) -> str | None:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment else None
