"""Sound against its baseline: quality and speed, joints, loops, beat, memory, growth and clipping, in one run.

    python -m tests.benchmarks.sound [--quick] [--audio FOLDER] [--write]

Prints tables and, as its last line, one JSON object; exits with 1 when something that must be is not.

For "fast", "standard" and "high", each against the baseline (torchaudio's InverseMelScale and GriffinLim, see
`sound_quality`) on the same held-out pictures in the same run:
  speed_ratio   baseline's CPU time / ours: above 1 is quicker
  sc_delta_db   ours - baseline, spectral convergence of mel amplitudes: below 0 is better
  pix_ratio     ours / baseline, mean error of the picture: below 1 is better
  mr_ratio, lsd_ratio  ours / baseline, spectral and log-spectral distance from the true sound: below 1 is better
  pix_ratio_true_sound  pix_ratio on the pictures of true sounds alone, none of them the model's
For a track:
  joint_ratio, loop_joint_ratio  error within 50 ms of a joint of equal frames (a loop's end and start) over the error
                where the same content has no joint: 1 when nobody can tell; *_worst is the worst picture,
                plain_* is over the error elsewhere in the same track, whatever the content there
  blend_joint_ratio  the worst joint of a track of four different frames of the model that blend: its error over that
                inside the two frames it joins, averaged over eight places of the frames that it may fall on;
                *_worst is the worst of such tracks of all kinds of pictures, blend_dip_db the largest drop in level
  drift_samples_per_hour  how far a beat slips, in samples; 0 is exact
  peak_rss_mib_10h  peak memory of making and mastering a track, measured on two hours and carried on to ten
  growth_exponent   CPU time over an hour's length against a minute's: 1 is linear
  clipped_samples   samples at the rail in all finished files
Targets are in `sound_targets`; the measures' formulas in `sound_metrics`.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import soundfile
import torch
from rich.console import Console

from shared.contracts import LOUDNESS_LUFS
from shared.plan import CHUNK_FRAMES
from shared.spectrogram_params import FRAME_COLUMNS, SpectrogramParams
from tests.benchmarks import sound_report as report
from tests.benchmarks.sound_metrics import clipped_samples
from tests.benchmarks.sound_quality import BASELINE, EVERYTHING, LEVELS, Mean, figures_of, means, measured
from tests.benchmarks.sound_set import Picture, pictures, pictures_from_folder
from tests.benchmarks.sound_stream import Joints, blends_of, joints_of
from tests.benchmarks.sound_targets import unmet
from workers import mastering
from workers.phase import waveform_from_mel_amplitudes

PARAMS: Final = SpectrogramParams()
LOUDNESSES_LUFS: Final = (LOUDNESS_LUFS, -9.0)
"""As delivered, and louder than anything should be."""
Results = dict[str, Any]


def quality_results(own: Sequence[Picture], more: Sequence[Picture], console: Console) -> tuple[Results, report.Means]:
    """Every method on every picture; the figures are those of our `own` pictures."""
    rows = measured(
        [*own, *more],
        PARAMS,
        lambda row: None if row.method != BASELINE else console.print(f"[dim]{row.kind}: {row.picture}[/]"),
    )
    known = {picture.name for picture in own}
    mine = [row for row in rows if row.picture in known]
    true = {picture.name for picture in own if picture.true_waveform is not None}
    table = means(mine) | {key: mean for key, mean in means(rows).items() if key[0] != EVERYTHING}
    true_table = means([row for row in mine if row.picture in true])
    results: Results = {}
    for level in LEVELS:
        results[level] = figures_of(table[EVERYTHING, level], table[EVERYTHING, BASELINE])
        results[level]["pix_ratio_true_sound"] = _against(true_table, EVERYTHING, level)["pix_ratio"]
    kinds = [kind for kind in dict.fromkeys(kind for kind, _ in table) if kind != EVERYTHING]
    results["by_kind"] = {kind: {level: _against(table, kind, level) for level in LEVELS} for kind in kinds}
    return results, table


def _against(table: dict[tuple[str, str], Mean], kind: str, level: str) -> dict[str, float | None]:
    """A level's figures on one kind of picture; None for what that kind has no true sound for."""
    figures = figures_of(table[kind, level], table[kind, BASELINE])
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def joint_results(own: Sequence[Picture], repetitions: int) -> Results:
    """Joints of equal frames and of loops: means over the pictures, and the worst."""
    found = [joints_of(picture.mel_amplitudes, PARAMS, repetitions) for picture in own]
    looping = [joints for picture, joints in zip(own, found, strict=True) if picture.kind != "model frames"]

    def mean(of: Sequence[Joints], name: str) -> float:
        return round(float(np.mean([getattr(joints, name) for joints in of])), 3)

    return {
        "joint_ratio": mean(found, "joint"),
        "joint_ratio_worst": round(max(joints.joint for joints in found), 3),
        "loop_joint_ratio": mean(found, "loop"),
        "loop_joint_ratio_worst": round(max(joints.loop for joints in found), 3),
        # A model's frame does not run into itself: what happens there is in the picture.
        "plain_joint_ratio": mean(looping, "plain_joint"),
        "plain_loop_joint_ratio": mean(looping, "plain_loop"),
    }


def blend_results(own: Sequence[Picture]) -> Results:
    """Tracks of four different frames: the first four of each kind, and of all kinds in turn.

    The figure that must be reached is the model's, which is what tracks are made of.
    """
    by_kind = [[picture for picture in own if picture.kind == kind] for kind in dict.fromkeys(one.kind for one in own)]
    mixed = [kind[index] for index in range(2) for kind in by_kind if index < len(kind)]
    tracks = {(kind[0].kind if kind is not mixed else "mixed"): kind[:4] for kind in (*by_kind, mixed) if len(kind) > 1}
    found = {name: blends_of([picture.mel_amplitudes for picture in four], PARAMS) for name, four in tracks.items()}
    return {
        "blend_joint_ratio": round(float(found["model frames"].ratios.max()), 3),
        "blend_joint_ratio_worst": round(max(float(blends.ratios.max()) for blends in found.values()), 3),
        "blend_joint_ratios": {
            name: [round(float(ratio), 2) for ratio in blends.ratios] for name, blends in found.items()
        },
        "blend_dip_db": round(max(blends.dip_db for blends in found.values()), 3),
    }


def long_results(hours: tuple[int, int]) -> tuple[Results, list[Results]]:
    """A track of one chunk and two long ones, each in a process of its own; `hours` are in chunks."""
    minute, first, last = (_long_track(chunks) for chunks in (1, *hours))
    exponent = math.log(first["cpu_s"] / minute["cpu_s"]) / math.log(first["chunks"])
    grown_mib = max(0.0, last["peak_rss_mib"] - first["peak_rss_mib"])
    chunk_s = CHUNK_FRAMES * PARAMS.frame_s
    to_come = (10 * 3_600 / chunk_s - last["chunks"]) / (last["chunks"] - first["chunks"])
    exact = [PARAMS.samples_from_columns(track["chunks"] * CHUNK_FRAMES * FRAME_COLUMNS) for track in (first, last)]
    results = {
        "drift_samples_per_hour": max(abs(track["drift_samples_per_hour"]) for track in (first, last)),
        "length_error_samples": sum(abs(track["samples"] - n) for track, n in zip((first, last), exact, strict=True)),
        "beat_jitter_samples": max(track["jitter_samples"] for track in (first, last)),
        "peak_rss_mib_10h": round(last["peak_rss_mib"] + grown_mib * to_come, 1),
        "peak_rss_mib": [first["peak_rss_mib"], last["peak_rss_mib"]],
        "peak_rss_last_to_first": round(last["peak_rss_mib"] / first["peak_rss_mib"], 4),
        "libraries_rss_mib": last["libraries_mib"],
        "growth_exponent": round(exponent, 4),
        "growth_deviation": round(abs(exponent - 1), 4),
        "cpu_s_per_minute": round(last["cpu_s"] / last["chunks"] * 60 / chunk_s, 3),
        "clipped_samples": sum(track["clipped_samples"] for track in (minute, first, last)),
    }
    return results, [first, last]


def _long_track(chunks: int) -> Results:
    command = [sys.executable, "-m", "tests.benchmarks.sound_long", "--chunks", str(chunks)]
    # A minute is short: the middle of several.
    repeats = ["--repeats", "9"] if chunks == 1 else []
    found: Results = json.loads(subprocess.run([*command, *repeats], check=True, stdout=subprocess.PIPE).stdout)
    return found


def clipped_in_files(own: Sequence[Picture]) -> int:
    """Samples at the rail in the finished file of each picture, at each of LOUDNESSES_LUFS."""
    clipped, rate_hz = 0, PARAMS.sample_rate_hz
    with tempfile.TemporaryDirectory(prefix="riffarm-") as folder:
        path = Path(folder) / "clip.flac"
        for picture in own:
            waveform, _ = waveform_from_mel_amplitudes(picture.mel_amplitudes, PARAMS)
            samples = waveform.shape[-1]
            levels = mastering.levels_from_chunks([waveform], rate_hz)
            for loudness_lufs in LOUDNESSES_LUFS:
                gain = mastering.gain_from_levels(levels, loudness_lufs)
                mastering.encode([waveform], {"flac": path}, sample_rate_hz=rate_hz, gain=gain, total_samples=samples)
                clipped += clipped_samples(soundfile.read(path, dtype="float32", always_2d=True)[0].T)
    return clipped


def main() -> int:
    """Run the benchmark and print its figures; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two pictures of each kind, and minutes instead of hours")
    parser.add_argument("--audio", type=Path, help="a folder of sound files to measure too, as a kind of their own")
    parser.add_argument("--write", action="store_true", help="put figures and plot into docs/benchmarks.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=120)
    own = pictures("held_out", PARAMS)
    if options.quick:
        kinds = dict.fromkeys(picture.kind for picture in own)
        own = [one for kind in kinds for one in [picture for picture in own if picture.kind == kind][:2]]
    more = pictures_from_folder(options.audio, PARAMS) if options.audio else []
    results, table = quality_results(own, more, console)
    results |= joint_results(own, 3 if options.quick else 20)
    results |= blend_results(own)
    long, tracks = long_results((5, 10) if options.quick else (60, 120))
    results |= long
    results["clipped_samples"] += clipped_in_files([*own, *more])
    missed = unmet(results)
    results["met"] = not missed
    report.show(console, results, table)
    if options.write:
        report.write(results, table, tracks)
    print(json.dumps(results))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
