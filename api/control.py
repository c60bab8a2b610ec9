"""What can be done to a job, over HTTP: cancel, pause, resume, retry, delete.

Each is safe to call twice and in any order: where it does not apply the job is answered as it is. Under an
`Idempotency-Key` the first answer is given again. Leaves out the work
behind it (`api.intake`) and which move a job may make (`shared/job_moves.lua`).
"""

from __future__ import annotations

from fastapi import APIRouter, Response

from api.access import Submitting
from api.idempotency import OncePerKey
from api.jobs import ONCE_PROBLEMS, UNAVAILABLE, answer
from api.problems import responses
from shared.contracts import Job

_ONCE = responses("invalid_request", *ONCE_PROBLEMS)
router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=responses("not_found", *UNAVAILABLE))


@router.post("/{job_id}/cancel", response_model=Job, responses=_ONCE, summary="Cancel a job")
def cancel_job(job_id: str, farm: Submitting, once: OncePerKey) -> Response:
    """Stop a job: at once when it waits, between two denoising steps when it runs. What it finished stays.

    One that has ended stays as it is.
    """
    return once.answer(lambda _: answer(farm.cancel(job_id).model_dump_json()))


@router.post("/{job_id}/pause", response_model=Job, responses=_ONCE, summary="Pause a job")
def pause_job(job_id: str, farm: Submitting, once: OncePerKey) -> Response:
    """Begin nothing more of a job; what runs of it comes to its end. One that has ended stays as it is."""
    return once.answer(lambda _: answer(farm.pause(job_id).model_dump_json()))


@router.post("/{job_id}/resume", response_model=Job, responses=_ONCE, summary="Resume a paused job")
def resume_job(job_id: str, farm: Submitting, once: OncePerKey) -> Response:
    """Let a paused job go on from where it stands. One that is not paused stays as it is."""
    return once.answer(lambda _: answer(farm.resume(job_id).model_dump_json()))


@router.post("/{job_id}/retry", response_model=Job, responses=_ONCE, summary="Retry a failed or canceled job")
def retry_job(job_id: str, farm: Submitting, once: OncePerKey) -> Response:
    """Queue a failed or canceled job again, under the same id: only what is missing is rendered.

    One that lives or succeeded stays as it is.
    """
    return once.answer(lambda _: answer(farm.retry(job_id).model_dump_json()))


@router.delete("/{job_id}", status_code=204, response_class=Response, summary="Delete a job")
def delete_job(job_id: str, farm: Submitting) -> Response:
    """Cancel a job if it lives, and remove it with its outputs. Frames and uploads, which jobs share, stay."""
    farm.delete(job_id)
    return Response(status_code=204)
