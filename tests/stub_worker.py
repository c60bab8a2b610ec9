"""A worker whose model costs nothing: everything else of it is real.

Start one as `RIFFARM_WORKER_APP=tests.stub_worker:app python -m workers.main …` from the repository's root; set for
`riffarm up`, all its workers are such. What a frame looks like depends on its hash alone, so the same request always
gives the same sound. RIFFARM_STUB_FRAME_S makes a frame take that long, in steps between which it can be canceled. A
prompt with the word `kills` kills the process that renders it, one with `breaks` raises an error, and one with
`refuses` an error that is final. The file named by
RIFFARM_STUB_RENDERS gets a line for every frame that is rendered, its hash and the process, and one for each that is to
be rendered though storage has it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Final

from PIL import Image

import workers.main
from shared.errors import RenderError
from shared.frames import Frame, frame_hash
from shared.object_store import frame_key, object_store_from_url
from workers.main import app

__all__ = ["app"]
RENDERS: Final = "RIFFARM_STUB_RENDERS"
STEPS: Final = 8
ROWS: Final = 512


class StubPipeline:
    """Stands in for workers.diffusion.FramePipeline: gives a picture for each frame, at once or after a while."""

    memory_mb = 1

    def truncated_words(self, prompt: str) -> str:
        """Everything is read."""
        return ""

    def preview(self, latents: Any) -> str:
        """A picture of nothing."""
        return "data:,"

    def render(
        self,
        frames: Sequence[Frame],
        seed_images: Any = None,
        mask_images: Any = None,
        *,
        on_step: Callable[[Any], None],
        on_picture: Callable[[int, Image.Image], None],
    ) -> None:
        """Tell of every frame's steps and of its picture, one frame after the other."""
        frame_s = float(os.environ.get("RIFFARM_STUB_FRAME_S", "0"))
        for frame in frames:
            _note_stored(frame)
        for index, frame in enumerate(frames):
            _obey(frame.start.prompt)
            for step in range(STEPS):
                time.sleep(frame_s / STEPS)
                on_step(SimpleNamespace(frames=[index], step=step, steps=STEPS, clean=lambda: [None]))
            _count(frame)
            on_picture(index, picture(frame))


def picture(frame: Frame) -> Image.Image:
    """Eight grey lines whose places its hash tells."""
    name = frame_hash(frame)
    image = Image.new("RGB", (frame.columns, ROWS), "white")
    for place in range(0, 16, 2):
        row = ROWS - 8 - int(name[place : place + 2], 16) * 3 // 2
        image.paste((90, 90, 90), (0, row, frame.columns, row + 3))
    return image


def _note(line: str) -> None:
    # Appended in one write: several processes share the file.
    with open(os.environ[RENDERS], "ab", buffering=0) as renders:
        renders.write(f"{line}\n".encode())


def _count(frame: Frame) -> None:
    if RENDERS in os.environ:
        _note(f"{frame_hash(frame)} {os.getpid()}")


def _note_stored(frame: Frame) -> None:
    if RENDERS in os.environ:
        name, settings = frame_hash(frame), workers.main.settings
        if object_store_from_url(settings.storage_url, settings.s3_endpoint_url).exists(frame_key(name)):
            _note(f"{name} {os.getpid()} stored")


def _obey(prompt: str) -> None:
    if "kills" in prompt:
        os.kill(os.getpid(), signal.SIGKILL)
    if "breaks" in prompt:
        raise RuntimeError("the stub was told to break")
    if "refuses" in prompt:
        raise RenderError("the stub was told to refuse")


# The child that a worker spawns imports these, so that what follows holds there too.
app.conf.imports = ("tests.stub_worker",)
# No model is loaded, and every model's name is taken.
workers.main._Child._shelf = lambda self: None  # type: ignore[method-assign,assignment,return-value]
workers.main.renderer = lambda child: lambda name, revision: StubPipeline()  # type: ignore[assignment,return-value]
