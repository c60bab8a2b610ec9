"""A whole fine-tune, stage by stage: recordings, latents, training, the folder that is left.

Owns the order, and where it may write. Leaves out how each is done.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import torch

from shared.catalogue import ModelEntry
from shared.spectrogram_params import SpectrogramParams
from workers.checkpoint import device_from_name, load_checkpoint
from workers.training.finetune import FineTuneError, FineTuning, OnStep, Wishes, run
from workers.training.material import material_from_recordings
from workers.training.own_audio import Recording
from workers.training.tuned_model import write_log, write_lora, write_model

WORK_FOLDER: Final = "work"
"""In the output's folder: latents, checkpoint and log, to go on from."""


class Tuned(NamedTuple):
    """What came of a fine-tune: its slices, those left out as silent, and the lines that have a farm serve it."""

    slices: int
    silent: int
    entry: str


def make_tuned(
    recordings: list[Recording],
    entry: ModelEntry,
    output: Path,
    wishes: Wishes,
    *,
    on_recording: Callable[[int, int], None],
    on_step: OnStep,
) -> Tuned:
    """Fine-tune the model of `entry` and write what was learnt into `output`, going on from whatever is there.

    Raises FineTuneError when `output` is not a fine-tune's folder, OwnAudioError as
    `workers.training.material.material_from_recordings`, RenderError when the model cannot be loaded.
    """
    work = output / WORK_FOLDER
    if output.exists() and not work.is_dir() and (not output.is_dir() or any(output.iterdir())):
        raise FineTuneError(f"{output} holds something else; --output must be a new folder or that of a fine-tune")
    device = device_from_name("auto")
    parts = load_checkpoint(entry.source, entry.source_revision, torch.float32, entry.loras)
    params = SpectrogramParams(**entry.grid)  # type: ignore[arg-type]
    parts.vae.to(device)
    material = material_from_recordings(recordings, parts, params, work / "latents", on_recording)
    parts.vae.cpu()
    training = FineTuning(parts, material, wishes, device)
    run(training, wishes.steps, work, on_step)
    write_log(work, output)
    write = write_model(parts, output, entry) if wishes.rank is None else write_lora(parts.unet, output, entry)
    return Tuned(len(material.captions), material.silent, write)
