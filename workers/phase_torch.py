"""Columns that have wanted mel amplitudes, computed by torch: `workers.phase_engine` for a GPU.

Owns the same block algorithm in batched operations, all channels at once. The pseudo-inverse and the first phase are
found by the compiled engine on the CPU, which takes a hundredth of a second a frame. Leaves out what the steps are and
why (`workers.phase_engine`). The waveforms agree: what differs is 60 dB below (docs/sound.md).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from workers.phase_engine import Effort, first_columns, floor_below, weight
from workers.phase_grid import Grid

Floats = NDArray[np.float32]
Columns = NDArray[np.complex64]


def solved_columns(
    wanted: Floats, past: Columns, future: Columns, grid: Grid, effort: Effort, *, device: str
) -> Columns:
    """What `workers.phase_engine.solved_columns` gives, computed on `device`; torch's errors where there is none."""
    columns, start = wanted.shape[-1], past.shape[-1]
    if columns == 0:
        return np.zeros((len(wanted), grid.bins, 0), np.complex64)
    on_device = _OnDevice(grid, torch.device(device))
    coarse = _OnDevice(grid.coarse or grid, torch.device(device))
    parts = np.array(first_columns(wanted, past, future, grid))
    first = (parts[:, 0] + 1j * parts[:, 1]).reshape(len(wanted), grid.bins, -1)[..., :columns]
    floor = torch.tensor([floor_below(channel) for channel in wanted], device=device)[:, None, None]
    goal = torch.from_numpy(wanted).to(device) + floor
    fixed = [on_device.signal(torch.from_numpy(np.ascontiguousarray(each)).to(device)) for each in (past, future)]
    hops = start + columns + future.shape[-1] + 2 * grid.half - 1
    base = _placed(fixed[0], 0, hops) + _placed(fixed[1], start + columns, hops)
    scale = torch.from_numpy(weight(grid.working, start + columns + future.shape[-1]).T.copy()).to(device)
    estimate = torch.from_numpy(first).to(device)
    previous = torch.zeros_like(base)
    momentum, stage = 0.0, on_device
    for its_stage in [coarse] * effort.coarse_steps + [on_device] * effort.steps:
        signal = (base + _placed(stage.signal(estimate), start, hops)) * scale
        ahead = signal + momentum * (signal - previous)
        previous, momentum, stage = signal, effort.momentum, its_stage
        found = stage.columns(ahead[:, start : start + columns + 2 * grid.half - 1])
        ratio = goal / (stage.mel @ found.abs() + floor)
        estimate = found * (stage.share @ ratio)
    solved: Columns = estimate.cpu().numpy()
    return solved


def _placed(signal: torch.Tensor, start: int, hops: int) -> torch.Tensor:
    """A signal (channel, hop, sample) among `hops` hops, from `start` on."""
    return torch.nn.functional.pad(signal, (0, 0, start, hops - start - signal.shape[1]))


class _OnDevice:
    """A grid's matrices on a device, and both ways between signal and columns there."""

    def __init__(self, grid: Grid, device: torch.device) -> None:
        self.hop, self.length = grid.working.hop, grid.working.plan.length
        self.window = torch.from_numpy(grid.working.window).to(device)
        self.mel = torch.from_numpy(grid.mel).to(device)
        self.share = torch.from_numpy(grid.share).to(device)

    def signal(self, columns: torch.Tensor) -> torch.Tensor:
        """Overlapped and added frames (channel, hop, sample) of complex columns (channel, bin, column)."""
        channels, _, count = columns.shape
        span = len(self.window) // self.hop
        signal = self.window.new_zeros((channels, count + span - 1, self.hop))
        if count:
            frames = torch.fft.irfft(columns.transpose(1, 2), n=self.length)[..., : len(self.window)] * self.window
            hops = frames.reshape(channels, count, span, self.hop)
            for lag in range(span):
                signal[:, lag : lag + count] += hops[:, :, lag]
        return signal

    def columns(self, signal: torch.Tensor) -> torch.Tensor:
        """Columns (channel, bin, column) of the frames in a signal (channel, hop, sample)."""
        frames = signal.flatten(1).unfold(-1, len(self.window), self.hop) * self.window
        found: torch.Tensor = torch.fft.rfft(frames, n=self.length).transpose(1, 2)
        return found
