"""Rendering against diffusers' stock pipeline: the built-in model on a CPU, Stable Diffusion 1.5's shape on CUDA.

    python -m tests.benchmarks.render [--quick] [--write]

Prints tables and, as its last line, one JSON object {"cpu": {...}, "cuda": {...} or null}; exits with 1 when a target
is missed. One command does all there is to do on the machine it is run on: without a CUDA device `cuda` is null.

cpu (`render_cpu`):
  speed_ratio   the farm's frames per CPU second over the stock pipeline's: above 1 is quicker
  unet_share    of the farm's time on the wall
cuda (`render_cuda`):
  speed_ratio_origin  the farm's frames per second over the origin's way: 50 steps, one by one, sound in line
  speed_ratio_stock   over the stock pipeline at the farm's steps
  idle_share      of the device's time, between its first and last kernel
  unet_rate_share the UNet's operations per second over those of large bfloat16 products, at the best batch size
  real_time       seconds of sound rendered in a second
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Final

import torch
from rich.console import Console

from tests.benchmarks import render_report as report
from tests.benchmarks.render_cpu import FRAMES, STEPS, Results, track
from tests.benchmarks.render_cpu import measured as measured_on_cpu
from tests.benchmarks.render_cuda import measured as measured_on_cuda
from tests.benchmarks.sound_targets import Target

TARGETS: Final = (
    Target("cpu.speed_ratio", 1.5, is_at_least=True),
    Target("cpu.unet_share", 0.85, is_at_least=True),
    Target("cuda.speed_ratio_origin", 8, is_at_least=True),
    Target("cuda.speed_ratio_stock", 2.5, is_at_least=True),
    Target("cuda.idle_share", 0.05),
    Target("cuda.unet_rate_share", 0.4, is_at_least=True),
    Target("cuda.real_time", 20, is_at_least=True),
)


def targets_of(results: Results) -> list[Target]:
    """The targets of what was measured."""
    return [target for target in TARGETS if results[target.figure.split(".")[0]] is not None]


def unmet(results: Results) -> list[Target]:
    """The targets that were measured and missed."""
    measured = [(target, target.value(results)) for target in targets_of(results)]
    return [one for one, value in measured if one.must is not None and not one.is_met(value, one.must)]


def main() -> int:
    """Run the benchmark and print its figures; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four frames on the CPU instead of 24")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/benchmarks.md")
    parser.add_argument("--rehearse", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=120)
    frames, steps = (1, 2) if options.rehearse else (4 if options.quick else FRAMES, STEPS)
    results: Results = {
        "cpu": measured_on_cpu(track(frames, steps), lambda: console.print("[dim]a batch of frames, both ways[/]")),
        "cuda": measured_on_cuda(rehearse=options.rehearse),
    }
    missed = unmet(results)
    report.show(console, results, targets_of(results))
    if options.write:
        report.write(results, targets_of(results))
    print(json.dumps(results))
    return 1 if missed and not options.rehearse else 0


if __name__ == "__main__":
    sys.exit(main())
