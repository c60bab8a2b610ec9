"""The classical way, kept for comparison: exact lengths and equal bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.workers.test_phase import MONO, SMALL, convergence_db, drawn, noise_picture, tones
from tests.unit.workers.test_phase import one_thread as one_thread
from workers.griffin_lim import waveform_from_mel_amplitudes
from workers.phase import LOOK_AHEAD_COLUMNS
from workers.phase import waveform_from_mel_amplitudes as stream


@pytest.mark.parametrize("columns", [1, 2, 3, 511, 512, 513])
def test_a_column_is_a_hop_of_samples(columns: int) -> None:
    """The hop that torchaudio leaves out at the end of a clip is there."""
    waveform = waveform_from_mel_amplitudes(noise_picture(columns, SMALL, 2), SMALL)
    assert waveform.shape == (2, columns * SMALL.hop_length)
    assert np.isfinite(waveform).all()


def test_equal_pictures_give_equal_bits() -> None:
    """Its random phase is always the same one, and torch's own chance is left alone."""
    mel = noise_picture(40, SMALL)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = waveform_from_mel_amplitudes(mel, SMALL)
    assert torch.rand(1) == expected
    assert (waveform_from_mel_amplitudes(mel, SMALL) == first).all()


def test_it_is_a_quality_of_the_stream() -> None:
    """Chosen by name, cut into chunks, with a state that holds no phase; progress is told."""
    mel = noise_picture(600 + LOOK_AHEAD_COLUMNS, SMALL)
    told: list[float] = []
    first, state = stream(mel, SMALL, quality="griffin_lim", is_last=False, on_block=told.append)
    assert first.shape == (1, 600 * SMALL.hop_length)
    assert told == [512 / 600, 1.0]
    assert state is not None
    assert state.columns_done == 600
    last, state = stream(mel[..., 600:], SMALL, quality="griffin_lim", state=state)
    assert last.shape == (1, LOOK_AHEAD_COLUMNS * SMALL.hop_length)
    assert state is None


def test_it_is_worse_than_the_least_of_the_others() -> None:
    """What the other qualities are measured against."""
    mel = drawn(tones([220, 277, 330, 440], 1.28))
    classical = convergence_db(waveform_from_mel_amplitudes(mel, MONO), mel)
    assert convergence_db(stream(mel, MONO, quality="fast")[0], mel) < classical
