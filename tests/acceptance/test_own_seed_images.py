"""A seed image of one's own, from the command line to the sound of a whole farm."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from tests.conftest import Farm
from workers.seed_beat import onsets_from_waveform
from workers.seed_images import GRID

BEATS = 8
NEAR_S = 0.02


def made(folder: Path, *options: str) -> Path:
    """The picture that `riffarm seed-image` makes; it says what tempo it has."""
    path = folder / "own.png"
    command = [sys.executable, "-m", "api.cli", "seed-image", *options, "-o", str(path), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert (told["files"], told["beats"], told["tempo_bpm"]) == ([str(path)], BEATS, 93.75)
    return path


@pytest.mark.parametrize("tempo_bpm", [None, 120.0])
def test_a_pattern_keeps_its_beat_through_a_farm(farm: Farm, tmp_path: Path, tempo_bpm: float | None) -> None:
    """Uploaded and painted over a little: kicks and snares lie within 20 ms of the grid, also at a tempo asked for."""
    pattern = "kick:X...X...X...X... snare:....X.......X..."
    picture = farm.client.upload(made(tmp_path, "--measures", "2", "--pattern", pattern))
    request = {"type": "clip", "prompt": "no melody, rock drums", "seed": 11, "seed_image": picture}
    request |= {"denoising_strength": 0.1, "num_inference_steps": 10, "duration_s": 10.0, "tempo_bpm": tempo_bpm}
    job = list(farm.client.follow(farm.client.submit(request).id))[-1]
    assert job.status == "succeeded", job.error
    url = next(one.url for one in job.outputs if one.name.endswith(".flac"))
    sound, rate_hz = soundfile.read(io.BytesIO(httpx.get(url).content), dtype="float32")
    assert rate_hz == GRID.sample_rate_hz
    onsets = onsets_from_waveform(sound).all
    beat_s = 60 / (tempo_bpm or 93.75)
    # From the second beat on: the sound's own start is no onset.
    for beat in range(1, BEATS):
        off_s, strength = beginning(onsets, len(sound) / rate_hz, beat * beat_s)
        assert abs(off_s) <= NEAR_S, (beat, off_s)
        assert strength > 3 * beginning(onsets, len(sound) / rate_hz, (beat + 0.5) * beat_s)[1]


def beginning(onsets: NDArray[np.float64], duration_s: float, at_s: float) -> tuple[float, float]:
    """How far from `at_s` the middle of what begins around there is, and how much that is; 0 and 0 for silence."""
    off_s = np.arange(-0.08, 0.08, duration_s / len(onsets))
    near = onsets[np.rint((off_s + at_s) * len(onsets) / duration_s).astype(int)] ** 2
    strength = float(near.sum())
    return float(np.sum(off_s * near)) / strength if strength else 0.0, strength


def test_wrong_calls_end_in_one_line_that_names_the_option(tmp_path: Path) -> None:
    """And leave no file behind."""
    path = tmp_path / "own.png"
    for options, words in (
        (("--tempo", "0", "--pattern", "kick:x"), "--tempo 0 is no tempo"),
        (("--tempo", "94", "--pattern", "kick:x", "--start", "1"), "--start needs --audio"),
        (("--tempo", "94"), "--tempo needs --pattern or --audio"),
        (("--tempo", "94", "--audio", str(tmp_path / "no.wav")), "no.wav cannot be read: No such file"),
    ):
        command = [sys.executable, "-m", "api.cli", "seed-image", *options, "-o", str(path)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 1
        assert run.stderr.startswith(f"riffarm: {words}" if words.startswith("--") else "riffarm: --audio ")
        assert words in run.stderr
        assert run.stderr.count("\n") == 1
    assert not path.exists()
