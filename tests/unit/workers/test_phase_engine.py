"""The compiled engine: its transform, its matrices, its cache, and that torch agrees with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contracts import Quality
from shared.spectrogram_params import SpectrogramParams
from tests.unit.workers.test_phase import MONO, ODD, SMALL, convergence_db, drawn, drums, noise_picture, tones
from tests.unit.workers.test_phase import one_thread as one_thread
from workers import fourier, lanes
from workers.phase import EFFORTS, waveform_from_mel_amplitudes
from workers.phase_engine import first_columns, solved_columns
from workers.phase_grid import grid_for
from workers.projection import packed_from_real, real_from_packed
from workers.spectrogram import Array


def snr_db(found: Array, wanted: Array) -> float:
    return float(10 * np.log10(np.square(wanted).sum() / np.square(found - wanted).sum()))


@settings(max_examples=30, deadline=None)
@given(half=st.integers(1, 400))
def test_the_transform_is_the_discrete_fourier_transform(half: int) -> None:
    """Of any even length, primes included, and the way back is the way back."""
    plan = fourier.plan(2 * half)
    frames = np.random.default_rng(half).standard_normal((2 * half, lanes.LANES)).astype(np.float32)
    re, im, other_re, other_im = (lanes.aligned_zeros(half * lanes.LANES) for _ in range(4))
    re[:], im[:] = frames[0::2].ravel(), frames[1::2].ravel()
    tables = plan.radices, plan.twiddle_re, plan.twiddle_im, False
    if fourier.transform(re, im, other_re, other_im, *tables):
        re, im, other_re, other_im = other_re, other_im, re, im
    amplitudes = lanes.aligned_zeros((half + 1) * lanes.LANES)
    real_from_packed(re, im, plan.turn_re, plan.turn_im, amplitudes)
    expected = np.fft.rfft(frames, axis=0)
    found = (re + 1j * im).reshape(half, lanes.LANES)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found[1:], expected[1:half], atol=2e-5 * largest)
    np.testing.assert_allclose(amplitudes.reshape(-1, lanes.LANES), np.abs(expected), atol=2e-5 * largest)
    packed_from_real(re, im, plan.turn_re, plan.turn_im)
    if fourier.transform(im, re, other_im, other_re, *tables):
        re, im = other_re, other_im
    np.testing.assert_allclose(re.reshape(half, -1) / (2 * half), frames[0::2], atol=1e-4)
    np.testing.assert_allclose(im.reshape(half, -1) / (2 * half), frames[1::2], atol=1e-4)


def test_a_frame_of_odd_length_is_refused() -> None:
    """Frames are pairs of samples."""
    with pytest.raises(ValueError, match="even"):
        fourier.plan(15)


@pytest.mark.parametrize("params", [MONO, SMALL, ODD])
def test_the_first_columns_have_the_amplitudes_of_the_pseudo_inverse(params: SpectrogramParams) -> None:
    """The banded factors do what the dense matrix would."""
    grid = grid_for(params, 1)
    mel = noise_picture(20, params)
    none = np.zeros((1, grid.bins, 0), np.complex64)
    ((re, im),) = first_columns(mel, none, none, grid)
    matrix = grid.mel.astype(np.float64)
    square = matrix @ matrix.T
    ridge = 1e-3 * np.trace(square) / len(square) * np.eye(len(square))
    expected = np.maximum(matrix.T @ np.linalg.solve(square + ridge, mel[0].astype(np.float64)), 0)
    found = np.hypot(re, im).reshape(grid.bins, -1)[:, :20]
    np.testing.assert_allclose(found, expected, atol=2e-5 * expected.max())


@pytest.mark.parametrize("params", [MONO, SMALL, ODD])
@pytest.mark.parametrize("quality", ["fast", "standard"])
def test_torch_gives_the_same_sound(params: SpectrogramParams, quality: Quality) -> None:
    """What differs between the compiled engine and torch's operations is 40 dB below the sound."""
    mel = drawn(drums(300 * params.hop_length / params.sample_rate_hz, params), params)
    mel = np.concatenate([mel, mel[..., ::-1]])
    compiled, _ = waveform_from_mel_amplitudes(mel, params, quality=quality)
    # Any name but "cpu" goes to torch.
    by_torch, _ = waveform_from_mel_amplitudes(mel, params, quality=quality, device="cpu:0")
    assert snr_db(by_torch, compiled) > 40
    assert abs(convergence_db(by_torch[:1], mel[:1], params) - convergence_db(compiled[:1], mel[:1], params)) < 0.05


def test_more_work_is_a_better_sound() -> None:
    """high before standard before fast, for tones and for drums."""
    for sound in (tones([220, 277, 330, 440], 1.28), drums(1.28)):
        mel = drawn(sound)
        fast, standard, high = (
            convergence_db(waveform_from_mel_amplitudes(mel, MONO, quality=quality)[0], mel)
            for quality in ("fast", "standard", "high")
        )
        assert high < standard - 0.3 < fast - 0.6


def test_nothing_to_solve_is_nothing() -> None:
    """No columns in, no columns out."""
    grid = grid_for(SMALL, 1)
    none = np.zeros((1, grid.bins, 0), np.complex64)
    assert solved_columns(noise_picture(0, SMALL), none, none, grid, EFFORTS["fast"]).shape == (1, grid.bins, 0)


def test_it_works_where_nothing_can_be_written(tmp_path: Path) -> None:
    """Without a folder for compiled code it is compiled anew."""
    code = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "from workers.lanes import compiled\n"
        "assert compiled(lambda value: value + 1)(1) == 2\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
