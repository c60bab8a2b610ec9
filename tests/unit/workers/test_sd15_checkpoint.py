"""A checkpoint as Stable Diffusion 1.5 is published goes the same way as the built-in model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shared.catalogue import Lora, models
from tests.sd15_checkpoint import write_lora, write_sd15_checkpoint
from tests.tiny_frames import a_frame, distance, pixels, render_one
from workers.checkpoint import load_checkpoint
from workers.diffusion import FramePipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As workers do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published layout, narrower."""
    return write_sd15_checkpoint(tmp_path_factory.mktemp("sd15"))


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> FramePipeline:
    """It, loaded."""
    return FramePipeline.from_source(str(checkpoint), device="cpu")


def test_it_renders_as_the_built_in_model_does(pipeline: FramePipeline, checkpoint: Path) -> None:
    """The same calls, pictures of the same size, equal again from equal frames, and nothing unpickled."""
    built_in = FramePipeline.from_source(models()["riffarm-mini"].source, device="cpu")
    frame = a_frame(columns=512, num_inference_steps=1)
    for one in (pipeline, built_in):
        picture = render_one(one, frame)
        assert (one.rows, picture.size, picture.mode) == (512, (512, 512), "RGB")
        assert pixels(picture).std() > 5
    narrow = a_frame(columns=64, num_inference_steps=2)
    assert render_one(pipeline, narrow).tobytes() == render_one(pipeline, narrow).tobytes()
    assert not [*checkpoint.rglob("*.was_read")]


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"prompt": "techno"}, {"negative_prompt": "noise"}, {"sampler": "pndm"}]
)
def test_every_part_of_a_frame_reaches_its_picture(pipeline: FramePipeline, change: dict[str, object]) -> None:
    """The text encoder's words included: random weights hear them too."""
    frame = {"columns": 64, "num_inference_steps": 2, "denoising_strength": 1.0, "guidance_scale": 8.0}
    assert distance(render_one(pipeline, a_frame(**frame)), render_one(pipeline, a_frame(**frame | change))) > 0.01


def test_a_seed_image_is_kept_at_low_strength(pipeline: FramePipeline) -> None:
    """Through an autoencoder whose attention has the names it was published with."""
    y, x = np.mgrid[0:512, 0:64]
    seed_image = Image.fromarray((128 + 80 * np.sin(x / 10) * np.cos(y / 60)).astype(np.uint8)).convert("RGB")
    frame = a_frame(columns=64, num_inference_steps=4)
    weak, strong = (
        render_one(pipeline, frame.model_copy(update={"start": frame.start.model_copy(update=change)}), seed_image)
        for change in ({"denoising_strength": 0.0}, {"denoising_strength": 1.0})
    )
    assert distance(weak, seed_image) < 1 < distance(strong, seed_image)


def test_an_added_file_is_seen_in_the_picture(pipeline: FramePipeline, checkpoint: Path, tmp_path: Path) -> None:
    """Weight 0 gives the plain model's bytes, weight 1 another picture."""
    file = tmp_path / "a.safetensors"
    write_lora(file, checkpoint, "kohya")
    frame = a_frame(columns=64, num_inference_steps=2, denoising_strength=1.0)
    plain, *added = (
        render_one(one, frame)
        for one in (
            pipeline,
            *(
                FramePipeline(load_checkpoint(str(checkpoint), None, torch.float32, [Lora(str(file), weight)]), CPU)
                for weight in (0.0, 1.0)
            ),
        )
    )
    assert added[0].tobytes() == plain.tobytes()
    assert distance(added[1], plain) > 0.5
