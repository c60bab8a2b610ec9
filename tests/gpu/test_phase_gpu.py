"""The same sound on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shared.contracts import Quality
from tests.unit.workers.test_phase import MONO, convergence_db, drawn, drums
from workers.phase import waveform_from_mel_amplitudes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("quality", ["fast", "standard", "high"])
def test_the_gpu_gives_the_same_sound(quality: Quality) -> None:
    """What differs from the compiled engine is 40 dB below the sound, and no worse by the metric."""
    mel = drawn(drums(5.12))
    compiled, _ = waveform_from_mel_amplitudes(mel, MONO, quality=quality)
    found, _ = waveform_from_mel_amplitudes(mel, MONO, quality=quality, device="cuda")
    snr_db = 10 * np.log10(np.square(compiled).sum() / np.square(found - compiled).sum())
    assert snr_db > 40
    assert abs(convergence_db(found, mel) - convergence_db(compiled, mel)) < 0.05
