"""The pictures of docs/sound.md: what a picture becomes in each quality, how frames meet, where a loop turns.

    python -m tests.benchmarks.sound_pictures

Owns how they are drawn. Leaves out all figures (`sound`) and what they mean (docs/sound.md).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import torch

from shared.contracts import Joins
from shared.spectrogram_params import FRAME_COLUMNS, SpectrogramParams
from tests.benchmarks.sound_metrics import column_errors, heard, matched, quality
from tests.benchmarks.sound_quality import BASELINE, LEVELS, baseline, ours
from tests.benchmarks.sound_set import pictures
from tests.benchmarks.sound_stream import layout, track
from workers.joins import joined_mel_amplitudes
from workers.spectrogram import Array

mpl.use("Agg")
import matplotlib.pyplot as plt

FOLDER: Final = Path(__file__).parents[2] / "docs" / "pictures"
GRID: Final = SpectrogramParams()
_HALF: Final = 100
"""Columns shown on either side of a joint."""


def main() -> None:
    """Draw all three."""
    torch.set_num_threads(1)
    found = pictures("held_out", GRID)
    clip = max((one for one in found if one.kind == "synthesised clips"), key=lambda one: _onset(one.mel_amplitudes))
    frames = [one.mel_amplitudes / one.mel_amplitudes.max() for one in found if one.kind == "model frames"]
    _draw_qualities(clip.mel_amplitudes, clip.true_waveform, FOLDER / "sound-qualities.png")
    _draw_joints(frames[:2], FOLDER / "sound-joints.png")
    _draw_loop(frames[1], FOLDER / "sound-loop.png")


def _onset(mel_amplitudes: Array) -> float:
    return float(np.maximum(np.diff(mel_amplitudes / mel_amplitudes.max(), axis=-1), 0).sum())


def _show(axes: Any, mel_amplitudes: Array, top: float) -> None:
    shades = 1 - np.clip(mel_amplitudes[0] / top, 0, 1) ** GRID.power
    axes.imshow(shades, cmap="gray", aspect="auto", origin="lower", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_qualities(mel_amplitudes: Array, true_waveform: Array | None, path: Path) -> None:
    """A second of a clip as it was drawn, as each method's sound draws it, and by how much that is off."""
    methods = {BASELINE: baseline(GRID)} | {level: ours(GRID, level) for level in LEVELS}
    figure, rows = plt.subplots(2, len(methods) + 1, figsize=(12, 5), layout="constrained")
    shown = slice(60, 160)
    top = float(mel_amplitudes.max())
    _show(rows[0, 0], mel_amplitudes[..., shown], top)
    rows[0, 0].set_title("the picture, 1 s of it", fontsize=9)
    rows[1, 0].axis("off")
    rows[1, 0].text(0.5, 0.5, "distance from\nthe picture\n(black: 25 shades)", ha="center", va="center", fontsize=9)
    for column, (name, method) in enumerate(methods.items(), start=1):
        waveform = method(mel_amplitudes)
        drawn = matched(heard(waveform, GRID, mel_amplitudes.shape[-1]), mel_amplitudes)
        figures = quality(waveform, mel_amplitudes, true_waveform, GRID)
        _show(rows[0, column], drawn[..., shown], top)
        shades = [255 * np.clip(one / top, 0, 1) ** GRID.power for one in (drawn, mel_amplitudes)]
        off = np.abs(shades[0] - shades[1])[0, :, shown]
        rows[1, column].imshow(off, cmap="gray_r", aspect="auto", origin="lower", vmin=0, vmax=25)
        rows[1, column].set_xticks([])
        rows[1, column].set_yticks([])
        rows[0, column].set_title(f"{name}: {figures.pix:.1f} shades off", fontsize=9)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _draw_joints(frames: list[Array], path: Path) -> None:
    """Two frames that meet, side by side and blended: the picture of the sound, and its error in time."""
    figure, rows = plt.subplots(2, 2, figsize=(10, 5), layout="constrained", height_ratios=(2, 1), sharey="row")
    around = slice(FRAME_COLUMNS - _HALF, FRAME_COLUMNS + _HALF)
    kinds: tuple[Joins, ...] = ("cut", "blend")
    for column, joins in enumerate(kinds):
        where = replace(layout(2), joins=joins)
        wanted = joined_mel_amplitudes(frames.__getitem__, where, range(where.columns))
        found = heard(track(frames.__getitem__, where, GRID), GRID, where.columns)
        _show(rows[0, column], matched(found, wanted)[..., around], float(wanted.max()))
        rows[0, column].set_title(f"{joins}: 2 s around the joint", fontsize=9)
        times_s = np.arange(-_HALF, _HALF) / GRID.columns_per_s
        rows[1, column].plot(times_s, column_errors(found, wanted)[around], color="black", linewidth=1)
        rows[1, column].axvline(0, color="tab:red", linewidth=0.8, linestyle=":")
        rows[1, column].set_xlabel("seconds from the joint", fontsize=8)
        rows[1, column].margins(x=0)
    rows[1, 0].set_ylabel("error of log mel\namplitudes", fontsize=8)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _draw_loop(frame: Array, path: Path) -> None:
    """The same frame three times in a row, as a loop and as a clip that is merely repeated."""
    figure, rows = plt.subplots(2, 2, figsize=(10, 5), layout="constrained", width_ratios=(3, 1))
    for row, (name, is_loop) in enumerate((("a clip, repeated", False), ("a loop", True))):
        once = track(lambda index: frame, layout(1, is_loop=is_loop), GRID)
        waveform = np.tile(once / np.abs(once).max(), (1, 3))
        _show(rows[row, 0], heard(waveform, GRID, 3 * FRAME_COLUMNS), float(heard(waveform, GRID, FRAME_COLUMNS).max()))
        rows[row, 0].set_title(f"{name}: three turns", fontsize=9)
        wrap, near = once.shape[-1], GRID.sample_rate_hz // 200
        times_ms = np.arange(-near, near) / GRID.sample_rate_hz * 1_000
        rows[row, 1].plot(times_ms, waveform[0, wrap - near : wrap + near], color="black", linewidth=0.8)
        rows[row, 1].axvline(0, color="tab:red", linewidth=0.8, linestyle=":")
        rows[row, 1].set_title("10 ms around the first wrap", fontsize=9)
        rows[row, 1].set_yticks([])
        for turn in (1, 2):
            rows[row, 0].axvline(turn * FRAME_COLUMNS, ymin=0.97, color="tab:red", linewidth=1)
    rows[1, 1].set_xlabel("ms", fontsize=8)
    figure.savefig(path, dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    main()
