"""What the rendering engine adds, through a whole farm: painted joints, remixes, samplers, refusals."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from PIL import Image

from api.client import Client, FarmError
from shared.contracts import Job
from shared.spectrogram_params import SpectrogramParams
from tests.conftest import Farm
from workers.phase import waveform_from_mel_amplitudes
from workers.seed_images import FOLDER
from workers.spectrogram import mel_amplitudes_from_image, mel_amplitudes_from_waveform

GRID = SpectrogramParams()
STEPS = 3
seeds = itertools.count(7_000)


def finished(client: Client, request: dict[str, Any]) -> Job:
    """The job after its end, which is a good one."""
    job = list(client.follow(client.submit({"num_inference_steps": STEPS} | request).id))[-1]
    assert job.status == "succeeded", job.error
    return job


def heard(job: Job, name: str = ".flac") -> NDArray[np.float32]:
    """Samples of the job's sound, one channel."""
    url = next(one.url for one in job.outputs if one.name.endswith(name))
    samples, rate_hz = soundfile.read(io.BytesIO(httpx.get(url).content), dtype="float32")
    assert rate_hz == GRID.sample_rate_hz
    mono: NDArray[np.float32] = samples
    return mono


def mel_db(waveform: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mel amplitudes in decibels below the loudest, nothing below -50."""
    mel = mel_amplitudes_from_waveform(waveform[None], GRID)[0]
    level: NDArray[np.float64] = np.maximum(20 * np.log10(mel / mel.max() + 1e-9), -50)
    return level


@pytest.mark.parametrize("is_loop", [False, True])
def test_painted_joints_are_frames_too(farm: Farm, is_loop: bool) -> None:
    """A track with painted joints counts them, lasts as long as it should and sounds otherwise than a blended one."""
    keyframes = [{"prompt": "jazz piano", "seed": next(seeds)}, {"prompt": "techno synth", "seed": next(seeds)}]
    request = {"type": "track", "keyframes": keyframes, "duration_s": 20.48, "loop": is_loop}
    painted, blended = (finished(farm.client, request | {"joins": joins}) for joins in ("repaint", "blend"))
    assert painted.progress.frames_total == painted.progress.frames_done == (8 if is_loop else 7)
    assert blended.progress.frames_total == 4
    sounds = [heard(job) for job in (painted, blended)]
    assert [len(sound) for sound in sounds] == [4 * 512 * 441] * 2
    change_db = np.abs(np.subtract(*map(mel_db, sounds))).mean(axis=0)
    # Joints lie at 512, 1024, 1536: around them the sound differs, in the middle of a frame it hardly does.
    assert change_db[512 - 40 : 512 + 40].mean() > 3 * change_db[226:286].mean()


@pytest.fixture(scope="module")
def source(farm: Farm, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, NDArray[np.float32]]:
    """An uploaded sound of 12 s in 48 kHz stereo, as people have them; and what it is on the farm's grid."""
    mel = np.concatenate([mel_amplitudes_from_image(Image.open(FOLDER / "marim.png"), GRID)] * 3, axis=-1)[..., :1200]
    waveform, _ = waveform_from_mel_amplitudes(mel, GRID, quality="fast")
    waveform *= 0.5 / np.abs(waveform).max()
    path = tmp_path_factory.mktemp("source") / "source.flac"
    soundfile.write(path, np.stack([waveform[0]] * 2, axis=1), GRID.sample_rate_hz)
    return farm.client.upload(path), waveform[0]


def test_a_remix_of_strength_0_sounds_like_its_source(farm: Farm, source: tuple[str, NDArray[np.float32]]) -> None:
    """Only the part asked for, to the sample; window joints leave no trace."""
    upload, waveform = source
    request = {"type": "remix", "source": upload, "start_s": 2.5, "end_s": 11.25, "denoising_strength": 0.0}
    job = finished(farm.client, request | {"keyframes": [{"prompt": "rock guitar", "seed": 1}]})
    sound = heard(job)
    assert len(sound) == round(8.75 * 44_100)
    start = round(2.5 * 44_100)
    error_db = np.abs(mel_db(sound) - mel_db(waveform[start : start + len(sound)]))
    assert np.median(error_db) < 1.5
    # A window's joint is no worse than what lies between.
    assert error_db[:, 448 - 10 : 448 + 10].mean() < 1.3 * error_db.mean()


def test_a_remix_follows_its_prompt_and_its_strength(farm: Farm, source: tuple[str, NDArray[np.float32]]) -> None:
    """The stronger, the farther from the source; in length it stays the source's."""
    upload, waveform = source
    away = []
    for strength in (0.5, 0.95):
        keyframes = [{"prompt": "fast techno synth, four on the floor drums", "seed": 3}]
        request = {"type": "remix", "source": upload, "keyframes": keyframes, "denoising_strength": strength}
        sound = heard(finished(farm.client, request | {"num_inference_steps": 8}))
        assert len(sound) == len(waveform)
        away.append(float(np.abs(mel_db(sound) - mel_db(waveform)).mean()))
    assert 0.5 < away[0] < 0.8 * away[1]


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_2m_karras", "ddim", "pndm", "euler", "euler_a", "unipc", "lcm"])
def test_every_sampler_renders(farm: Farm, sampler: str) -> None:
    """By its name, on the farm."""
    request = {"type": "clip", "prompt": "jazz piano", "seed": next(seeds), "sampler": sampler, "duration_s": 1.0}
    job = finished(farm.client, request)
    assert job.input.sampler == sampler  # type: ignore[union-attr]
    assert np.abs(heard(job)).max() > 0.05


def picture(folder: Path, name: str, image: Image.Image) -> Path:
    image.save(folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"prompt": "a (piano"}, "prompt", "never closed"),
        ({"prompt": "piano) solo"}, "prompt", "closes no bracket"),
        ({"prompt": "(piano:loud)"}, "prompt", "no number"),
        ({"prompt": "word " * 10_000}, "prompt", "500 characters"),
        ({"negative_prompt": "[]"}, "negative_prompt", "nothing in it"),
        ({"sampler": "dpm++"}, "sampler", "dpmpp_2m"),
        ({"sampler": "lcm", "num_inference_steps": 60}, "num_inference_steps", "few steps"),
        ({"model": "nothing"}, "model", "unknown model"),
    ],
)
def test_what_cannot_be_rendered_is_refused_by_field(
    farm: Farm, change: dict[str, Any], field: str, words: str
) -> None:
    """Before anything is queued, with the field and what would be right."""
    with pytest.raises(FarmError) as raised:
        farm.client.submit({"type": "clip", "prompt": "piano"} | change)
    assert field in str(raised.value)
    assert words in str(raised.value)


def test_pictures_that_cannot_be_meant_are_refused(farm: Farm, tmp_path: Path) -> None:
    """A mask of another size, one that is all black, a seed image of one pixel; what is transparent is taken."""
    sizes = {
        name: farm.client.upload(picture(tmp_path, f"{name}.png", image))
        for name, image in {
            "small": Image.new("L", (256, 512), 255),
            "black": Image.new("L", (512, 512), 0),
            "dot": Image.new("L", (1, 1), 0),
            "clear": Image.open(FOLDER / "vibes.png").convert("RGBA"),
        }.items()
    }
    plain = {"type": "clip", "prompt": "piano", "seed_image": "og_beat", "num_inference_steps": STEPS}
    for fields, words in (
        ({"mask_image": sizes["small"]}, "256×512"),
        ({"mask_image": sizes["black"]}, "all black"),
        ({"seed_image": sizes["dot"]}, "too small"),
    ):
        with pytest.raises(FarmError, match=words):
            farm.client.submit(plain | fields)
    assert finished(farm.client, plain | {"seed_image": sizes["clear"], "duration_s": 1.0}).status == "succeeded"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"end_s": 13.0}, "end_s"),
        ({"start_s": 12.5}, "start_s"),
        ({"start_s": 5.0, "end_s": 5.0}, "end_s"),
        ({"source": "og_beat"}, "source"),
        ({"keyframes": [{"prompt": "a", "at_s": 3.0}, {"prompt": "b", "at_s": 1.0}]}, "keyframes[1].at_s"),
        ({"keyframes": [{"prompt": "a", "at_s": 3.0}, {"prompt": "b", "at_s": 99.0}]}, "keyframes[1].at_s"),
        ({"keyframes": [{"prompt": "a", "at_s": 5.0}, {"prompt": "b", "at_s": 5.5}]}, "keyframes[1].at_s"),
        ({"overlap_s": 5.0}, "overlap_s"),
    ],
)
def test_a_remix_of_what_is_not_there_is_refused(
    farm: Farm, source: tuple[str, NDArray[np.float32]], change: dict[str, Any], field: str
) -> None:
    """Beyond the source's end, nothing long, no sound, keyframes out of order, beyond the end or in one frame."""
    with pytest.raises(FarmError) as raised:
        farm.client.submit({"type": "remix", "source": source[0], "keyframes": [{"prompt": "a"}]} | change)
    assert field in str(raised.value)
