"""A device whose memory runs out amid a batch: no frame is lost, and the job's sound is the same to the bit."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from api.intake import Jobs
from shared import dispatch
from shared.catalogue import ModelEntry
from shared.contracts import Keyframe, TrackRequest
from shared.job_store import JobStore
from shared.object_store import LocalDiskStore
from shared.plan import Plan
from shared.settings import Settings
from tests.tiny_checkpoint import write_tiny_checkpoint
from workers.attempts import Attempts
from workers.batching import BatchSize
from workers.diffusion import FramePipeline
from workers.tasks import Tasks

TINY = ModelEntry("tiny", "tiny", "1", "1")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"), 64, "epsilon")


def audio_sha256(
    settings: Settings, job_store: JobStore, folder: Path, pipeline: FramePipeline, **fields: Any
) -> tuple[str, dict[str, Any]]:
    """The job's sound and its frames' records, every item taken and seen through by hand."""
    objects = LocalDiskStore(folder)
    dispatcher = dispatch.Dispatcher(dispatch.celery_app(settings))
    jobs = Jobs(settings, job_store, objects, dispatcher, {"tiny": TINY})
    tasks = Tasks(settings, job_store, objects, dispatcher, lambda name, revision: pipeline, "worker-1")
    attempts = Attempts(job_store, tasks, dispatcher, "worker-1", "worker-1/1", threading.Event())
    keyframes = [Keyframe(prompt="a piano", seed=1), Keyframe(prompt="drums", seed=2)]
    request = TrackRequest(keyframes=keyframes, duration_s=30.72, model="tiny", num_inference_steps=4, **fields)
    job_id = jobs.submit(request)
    plan = dispatch.plan_of(job_store.read(job_id))
    assert isinstance(plan, Plan)
    while any(attempts.work(queue) == "done" for queue in dispatch.queues(["tiny"])):
        pass
    job = jobs.read(job_id)
    assert job.status == "succeeded"
    return job.outputs[0].sha256, job_store.frames(job_id, range(plan.frames_total))


@pytest.mark.parametrize("fail_at", [2, 7])
@pytest.mark.parametrize("joins", ["blend", "repaint"])
def test_memory_that_runs_out_amid_a_batch_loses_nothing(
    settings: Settings,
    job_store: JobStore,
    tmp_path: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    fail_at: int,
    joins: str,
) -> None:
    """The batch is begun anew in halves; frames done before stand, and no frame is rendered more than it must be."""
    pipeline = FramePipeline.from_source(str(checkpoint), device="cpu")
    pipeline._batch_size = BatchSize.fixed(4)
    whole, records = audio_sha256(settings, job_store, tmp_path / "whole", pipeline, joins=joins)
    denoise, sizes = pipeline._denoiser, list[int]()

    def short_of_memory(latents: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        sizes.append(len(latents))
        if len(sizes) == fail_at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return denoise(latents, *arguments, **options)

    monkeypatch.setattr(pipeline, "_denoiser", short_of_memory)
    broken, after = audio_sha256(settings, job_store, tmp_path / "broken", pipeline, joins=joins)
    assert broken == whole
    assert records.keys() == after.keys()
    assert max(sizes[:fail_at]) > max(sizes[fail_at:])
