"""What the built-in model makes, heard through the whole farm: prompts lead, and the beat is steady."""

from __future__ import annotations

import io

import httpx
import numpy as np
import soundfile
from numpy.typing import NDArray

from tests.conftest import Farm

FRAME_SAMPLES = 512 * 441
HOP = 441
BEAT_COLUMNS = 512 / 12
"""A fast frame has twelve beats."""


def onset_strength(waveform: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much louder each column's spectrum is than the one before; shape (column,)."""
    windows = np.lib.stride_tricks.sliding_window_view(waveform, 2_048)[::HOP] * np.hanning(2_048)
    spectra = np.log1p(100 * np.abs(np.fft.rfft(windows)))
    onsets: NDArray[np.float64] = np.maximum(0, np.diff(spectra, axis=0)).mean(axis=1)
    return onsets - onsets.mean()


def periodicity(onsets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Autocorrelation of onsets by lag in columns, 1 at lag 0."""
    correlation = np.correlate(onsets, onsets, "full")[len(onsets) - 1 :]
    return correlation / correlation[0]


def test_the_two_ends_of_a_track_follow_their_prompts(farm: Farm) -> None:
    """Strings without drums hardly strike; a techno beat strikes hard, and on the twelve beats it was asked for."""
    request = {
        "type": "track",
        "duration_s": 10.24,
        "keyframes": [
            {"prompt": "slow ambient strings, no drums", "seed": 4},
            {"prompt": "fast techno synth, four on the floor drums", "seed": 2},
        ],
    }
    job = list(farm.client.follow(farm.client.submit(request).id))[-1]
    assert job.status == "succeeded", job.error
    samples, _ = soundfile.read(io.BytesIO(httpx.get(job.outputs[0].url).content))
    ambient, techno = (onset_strength(part) for part in (samples[:FRAME_SAMPLES], samples[FRAME_SAMPLES:]))
    assert techno.std() > 1.5 * ambient.std()
    lags = periodicity(techno)[20:160]
    strongest = 20 + int(np.argmax(lags))
    assert lags.max() > 0.4
    beats = strongest / BEAT_COLUMNS
    assert abs(beats - round(beats)) < 0.06
