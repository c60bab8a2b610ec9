"""Audio of any rate and any number of channels as the waveform the signal path takes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from shared.audio_source import open_audio
from tests.tiny_audio import RATE_HZ, tone, write_tone
from workers.audio_files import Array, waveforms_from_source

OUT_HZ = 44_100


def waveform_of(path: Path, *, is_stereo: bool = False) -> tuple[Array, list[str]]:
    """The whole waveform (channel, sample) and what was warned of."""
    warnings: list[str] = []
    with open_audio(path) as source:
        blocks = list(waveforms_from_source(source, OUT_HZ, is_stereo=is_stereo, warn=warnings.append))
    return np.concatenate(blocks, axis=1), warnings


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 44_100, 48_000, 192_000])
def test_any_rate_keeps_length_level_and_pitch(tmp_path: Path, rate_hz: int) -> None:
    """To the nearest sample, to 1 %, to a tenth of a hertz."""
    soundfile.write(tmp_path / "a.wav", tone(2.0, rate_hz) * 0.9, rate_hz)
    waveform, warnings = waveform_of(tmp_path / "a.wav")
    assert waveform.shape == (1, 2 * OUT_HZ)
    spectrum = np.abs(np.fft.rfft(waveform[0] * np.hanning(2 * OUT_HZ)))
    assert spectrum.argmax() / 2 == pytest.approx(440, abs=0.1)
    assert np.sqrt(np.mean(waveform**2)) == pytest.approx(0.45 / np.sqrt(2), rel=0.01)
    assert warnings == []


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_any_depth_is_the_same_sound(tmp_path: Path, subtype: str) -> None:
    """To the step of 8 bits."""
    soundfile.write(tmp_path / "a.wav", tone(0.5, OUT_HZ), OUT_HZ, subtype=subtype)
    waveform, _ = waveform_of(tmp_path / "a.wav")
    assert np.abs(waveform[0] - tone(0.5, OUT_HZ)[:, 0]).max() < 2**-7


def test_stereo_and_mono_become_each_other(tmp_path: Path) -> None:
    """Stereo keeps its sides, or gives their mean; mono is the same on both, which is said."""
    sides = np.stack([np.full(900, 0.5), np.full(900, -0.1)], axis=1)
    soundfile.write(tmp_path / "a.wav", sides, OUT_HZ, subtype="FLOAT")
    assert waveform_of(tmp_path / "a.wav", is_stereo=True)[0][:, 5] == pytest.approx([0.5, -0.1])
    assert waveform_of(tmp_path / "a.wav")[0][:, 5] == pytest.approx([0.2])
    soundfile.write(tmp_path / "b.wav", sides[:, 0], OUT_HZ, subtype="FLOAT")
    waveform, warnings = waveform_of(tmp_path / "b.wav", is_stereo=True)
    assert waveform[:, 5] == pytest.approx([0.5, 0.5])
    assert warnings == ["The audio is mono: both channels are the same."]


def test_eight_channels_are_mixed_by_their_places(tmp_path: Path) -> None:
    """Front left goes left, the centre to both sides, the bass channel nowhere; nothing can clip."""
    pulses = np.eye(8).repeat(10, axis=0) * 0.9
    soundfile.write(tmp_path / "a.wav", pulses, OUT_HZ, subtype="FLOAT")
    waveform, warnings = waveform_of(tmp_path / "a.wav", is_stereo=True)
    left, right = waveform[:, 5::10]
    assert (left > 0).tolist() == [True, False, True, False, True, False, True, False]
    assert (right > 0).tolist() == [False, True, True, False, False, True, False, True]
    assert (left.sum(), right.sum()) == pytest.approx((0.9, 0.9))
    assert "8 channels are mixed down to stereo" in warnings[0]
    mono, warnings = waveform_of(tmp_path / "a.wav")
    assert mono[0, 5::10] == pytest.approx((left + right) / 2)
    assert "8 channels are mixed down to mono" in warnings[0]


def test_silence_and_a_constant_work(tmp_path: Path) -> None:
    """No sound and no movement are sounds too."""
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE_HZ), RATE_HZ)
    waveform, warnings = waveform_of(tmp_path / "silent.wav")
    assert (np.abs(waveform).max(), warnings) == (0.0, [])
    soundfile.write(tmp_path / "constant.wav", np.full(RATE_HZ, 0.25), RATE_HZ)
    waveform, warnings = waveform_of(tmp_path / "constant.wav")
    assert waveform[0, 9_000:-9_000] == pytest.approx(0.25, abs=1e-4)
    assert warnings == []


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
def test_clipping_is_said(tmp_path: Path, subtype: str) -> None:
    """A clipped tone with its share of samples at the rail; a loud one without a word."""
    soundfile.write(tmp_path / "a.wav", np.clip(tone(1.0, level=2.0), -1, 1), RATE_HZ, subtype=subtype)
    _, warnings = waveform_of(tmp_path / "a.wav")
    assert "clipped: 6" in warnings[0]
    soundfile.write(tmp_path / "a.wav", tone(1.0, level=0.9), RATE_HZ, subtype=subtype)
    assert waveform_of(tmp_path / "a.wav")[1] == []


def test_floats_beyond_one_are_not_clipped(tmp_path: Path) -> None:
    """They are kept as they are: the picture's scale has no rail."""
    soundfile.write(tmp_path / "a.wav", tone(1.0, OUT_HZ, level=4.0), OUT_HZ, subtype="FLOAT")
    waveform, warnings = waveform_of(tmp_path / "a.wav")
    assert np.abs(waveform).max() > 3.9
    assert warnings == []


def test_a_long_file_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    """A minute of stereo at 48 kHz within a few blocks."""
    path = write_tone(tmp_path / "a.flac", 60.0, channels=2)
    tracemalloc.start()
    with open_audio(path) as source:
        samples = sum(
            block.shape[1] for block in waveforms_from_source(source, OUT_HZ, is_stereo=True, warn=lambda text: None)
        )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert samples == 60 * OUT_HZ
    assert peak < 8e6
