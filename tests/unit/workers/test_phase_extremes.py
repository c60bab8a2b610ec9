"""Waveforms of pictures nobody means, of other grids, and of stereo."""

from __future__ import annotations

import numpy as np
import pytest

from shared.contracts import Quality
from shared.spectrogram_params import SpectrogramParams
from tests.unit.workers.test_phase import MONO, ODD, SMALL, convergence_db, drawn, drums, noise_picture, tones
from tests.unit.workers.test_phase import one_thread as one_thread
from workers.phase import waveform_from_mel_amplitudes
from workers.spectrogram import Array

WIDE = SpectrogramParams(f_min_hz=20.0, f_max_hz=20_000.0)
DENSE = SpectrogramParams(hop_length=220, win_length=3_000, n_fft=8_192, mel_bins=256)
PRIME = SpectrogramParams(
    sample_rate_hz=16_000, hop_length=163, win_length=1_630, n_fft=4_096, mel_bins=80, f_max_hz=7e3
)
QUALITIES: tuple[Quality, ...] = ("fast", "standard", "high")


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_what_is_no_amplitude_is_refused(value: float) -> None:
    """One such pixel is enough, and the sentence says what is right."""
    mel = noise_picture(40, SMALL)
    mel[0, 3, 7] = value
    with pytest.raises(ValueError, match="finite numbers from 0 up"):
        waveform_from_mel_amplitudes(mel, SMALL)


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("columns", [1, 2, 17, 200])
def test_extreme_pictures_sound(quality: Quality, columns: int) -> None:
    """All loud, one loud pixel, loud beside almost nothing, enormous and minute: finite, as loud as the picture."""
    loud = np.ones((1, SMALL.mel_bins, columns), np.float32)
    dot = np.zeros_like(loud)
    dot[0, 5, columns // 2] = 1.0
    range_ = noise_picture(columns, SMALL) ** 40
    for mel in (loud, dot, range_, 1e25 * loud, 1e-25 * loud):
        waveform, _ = waveform_from_mel_amplitudes(mel, SMALL, quality=quality)
        assert np.isfinite(waveform).all()
        assert 0 < np.abs(waveform).max() < 10 * mel.max()


def test_a_level_is_kept_exactly() -> None:
    """A picture four times as loud is the same waveform times four, bit for bit."""
    mel = noise_picture(200, SMALL)
    once, _ = waveform_from_mel_amplitudes(mel, SMALL)
    louder, _ = waveform_from_mel_amplitudes(4 * mel, SMALL)
    assert (louder == 4 * once).all()


@pytest.mark.parametrize("share", [0.25, 0.37])
def test_what_is_panned_stays_where_it_is(share: float) -> None:
    """Right a fixed share of left in the picture is right the same share of left in the sound."""
    left = drawn(drums(3, SMALL), SMALL)
    waveform, _ = waveform_from_mel_amplitudes(np.concatenate([left, np.float32(share) * left]), SMALL)
    np.testing.assert_allclose(waveform[1], share * waveform[0], atol=1e-3 * np.abs(waveform).max())
    correlation = np.vdot(waveform[0], waveform[1]) / np.linalg.norm(waveform[0]) / np.linalg.norm(waveform[1])
    assert correlation > 0.999999


def test_a_silent_channel_beside_a_loud_one_is_silent() -> None:
    """What is hard left is not on the right."""
    mel = noise_picture(150, SMALL, channels=2)
    mel[1] = 0
    waveform, _ = waveform_from_mel_amplitudes(mel, SMALL)
    assert not waveform[1].any()
    assert waveform[0].any()


@pytest.mark.parametrize("params", [WIDE, DENSE, PRIME, ODD])
def test_other_grids_sound_as_drawn(params: SpectrogramParams) -> None:
    """20 kHz wide, a hop that does not divide the window, a prime hop, nothing that divides."""
    sound = tones([220, 277, 330, 440], 1.5, params)
    mel = drawn(sound, params)
    waveform, _ = waveform_from_mel_amplitudes(mel, params)
    assert waveform.shape[-1] == mel.shape[-1] * params.hop_length
    assert convergence_db(waveform, mel, params) < -22


@pytest.mark.parametrize("quality", QUALITIES)
def test_notes_keep_pitch_and_onset(quality: Quality) -> None:
    """Within 5 cents and one hop, for notes of a scale a quarter second apart."""
    notes_hz = [220.0, 261.63, 329.63, 440.0, 523.25]
    note = round(0.32 * MONO.sample_rate_hz)
    silence = np.zeros((1, note), np.float32)
    sound = np.concatenate([part for hz in notes_hz for part in (silence, struck(hz, note))], axis=1)
    made, _ = waveform_from_mel_amplitudes(drawn(sound), MONO, quality=quality)
    for index, hz in enumerate(notes_hz):
        begin = (2 * index + 1) * note
        assert abs(1_200 * np.log2(pitch_hz(made[0, begin : begin + note]) / hz)) < 5
        level = np.convolve(np.abs(made[0, begin - note // 2 : begin + note // 2]), np.ones(100) / 100, "same")
        onset = int(np.argmax(level > 0.5 * level.max())) - note // 2
        original = np.convolve(np.abs(sound[0, begin - note // 2 : begin + note // 2]), np.ones(100) / 100, "same")
        assert abs(onset - (int(np.argmax(original > 0.5 * original.max())) - note // 2)) <= MONO.hop_length


def struck(frequency_hz: float, samples: int) -> Array:
    """A note that begins at once and fades, (1, sample)."""
    time_s = np.arange(samples) / MONO.sample_rate_hz
    partials = sum(np.sin(2 * np.pi * frequency_hz * n * time_s) / n for n in (1, 2, 3))
    return (0.3 * partials * np.exp(-6 * time_s))[None].astype(np.float32)


def pitch_hz(note: Array) -> float:
    """Where the spectrum of a note has its loudest place."""
    spectrum = np.abs(np.fft.rfft(note * np.hanning(len(note)), 1_048_576))
    return float(spectrum.argmax() * MONO.sample_rate_hz / 1_048_576)
