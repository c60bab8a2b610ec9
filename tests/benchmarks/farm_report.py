"""The farm benchmark's figures as tables for a terminal. Leaves out what the figures are (`farm`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.farm_paper import WORKERS
from tests.benchmarks.sound_targets import Target

Results = dict[str, Any]
Rows = list[tuple[object, ...]]


def show(console: Console, results: Results, figures: Results, targets: Sequence[Target]) -> None:
    """Print all tables."""
    for head, rows in _tables(results, figures, targets):
        shown = Table(*head)
        for row in rows:
            shown.add_row(*map(str, row))
        console.print(shown)


def _tables(results: Results, figures: Results, targets: Sequence[Target]) -> Iterator[tuple[Sequence[str], Rows]]:
    yield _batches(results["batches"])
    yield _throughput(results["batches_per_s"])
    yield (
        ("a move's cost", "Valkey's CPU, µs"),
        [(move, cost) for move, cost in results["moves_us"].items()],
    )
    yield from _growth(results["growth"])
    yield _queue(results["queue"])
    yield from _paper(results["paper"], results["worker"])
    yield (
        ("figure", "is", "must", ""),
        [_target_row(target, figures) for target in targets],
    )


def _batches(rows: Sequence[Results]) -> tuple[Sequence[str], Rows]:
    head = ("a batch of", *(f"{row['size']} frames" for row in rows))
    lines = {
        "overhead through Celery, ms": lambda row: row["overhead_ms"],
        "…of the workers' CPU, ms": lambda row: row["overhead_cpu_ms"],
        "…in one process, ms": lambda row: row["alone"]["overhead_ms"],
        "…in one process, of the CPU, ms": lambda row: row["alone"]["overhead_cpu_ms"],
        "Valkey's CPU, ms": lambda row: row["valkey_cpu_ms"],
        "commands sent by clients": lambda row: row["sent"],
        "commands within scripts": lambda row: row["within"],
        "bytes to and from Valkey": lambda row: row["traffic_bytes"],
        "Redis' memory a frame, bytes": lambda row: row["memory_bytes_per_frame"],
    }
    return head, [(name, *map(value, rows)) for name, value in lines.items()]


def _throughput(by_workers: dict[int, dict[int, float]]) -> tuple[Sequence[str], Rows]:
    sizes = [*next(iter(by_workers.values()))]
    head = ("workers", *(f"batches of {size} a second" for size in sizes))
    return head, [(workers, *found.values()) for workers, found in by_workers.items()]


def _growth(growth: Results) -> Iterator[tuple[Sequence[str], Rows]]:
    def each_ms(row: Results, name: str) -> str:
        return f"{1_000 * row[name] / row['frames']:.3f}"

    names = ("wall_s", "cpu_s", "moves_s")
    exponents = [growth[f"growth_exponent_{name}"] for name in ("frames", "cpu", "moves")]
    yield (
        ("a job of", "ms a frame", "CPU ms a frame", "moves alone, ms a frame"),
        [
            *((f"{row['frames']} frames", *(each_ms(row, name) for name in names)) for row in growth["rows"]),
            ("exponent", *exponents),
        ],
    )
    yield (
        ("a move in the long job", "its first tenth, ms", "its last tenth, ms"),
        [(move, *tenths) for move, tenths in growth["tenths_ms"].items()],
    )


def _queue(rows: Sequence[Results]) -> tuple[Sequence[str], Rows]:
    names = {
        "submit_p50_ms": "submit p50, ms",
        "submit_p99_ms": "p99",
        "take_p50_ms": "take p50, ms",
        "take_p99_ms": "p99",
        "mend_us": "sweeper's look at a job, µs",
        "bytes_per_job": "bytes a job",
    }
    return ("jobs queued", *names.values()), [(row["queued"], *(row[name] for name in names)) for row in rows]


def _paper(paper: Results, worker: Results) -> Iterator[tuple[Sequence[str], Rows]]:
    rows: Rows = [(row["what"], row["per_s"], row["core"]) for row in paper["rows"]]
    yield (f"{WORKERS} workers, on paper", "a second", "share of Valkey's core"), rows
    yield (
        ("together", ""),
        [
            ("batches begun a second (wake-ups)", paper["wakeups_per_s"]),
            ("commands sent a second", paper["commands_per_s"]),
            ("…of which an idle worker sends", worker["idle_per_s"]),
            ("…and CPU time, ms a second", worker["idle_cpu_ms_per_s"]),
            ("connections of each worker", worker["connections"]),
            ("to and from Valkey, MB/s", paper["megabytes_per_s"]),
            ("the sweeper's looks at jobs in one sweep, s", paper["sweep_s"]),
            *((f"share of {limit}", share) for limit, share in paper["shares"].items()),
            ("first bottleneck", paper["first_bottleneck"]),
            ("…which is met with so many workers", paper["workers_at_the_limit"]),
        ],
    )


def _target_row(target: Target, figures: Results) -> tuple[object, ...]:
    if figures[target.figure] is None:
        return target.figure, "–", f"≤ {target.must:g}", "not measured: make test-faults"
    value = target.value(figures)
    return target.figure, f"{value:.4g}", f"≤ {target.must:g}", target.verdict(value, target.must)
