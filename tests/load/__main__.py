"""`make test-load`: measures, prints a table, and as the last line one JSON object.

`python -m tests.load [--quick]`. Figures of fuzzing are those that its newest run left in out/fuzz.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.load.measures import FULL, QUICK, measured
from tests.load.rig import running

_FUZZ: Final = Path("out/fuzz.json")
_FIGURES: Final = ("submit_rps", "submit_ratio", "submit_p99_ms", "get_rps", "sse_streams")


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a rehearsal: figures of a few seconds mean little")
    # Not in memory, where writing is for nothing: beside what is built here.
    parser.add_argument("--folder", type=Path, default=Path("out"), help="where storage is, on a disk")
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="load-") as folder, running(Path(folder)) as rig:
        found = measured(rig, QUICK if options.quick else FULL)
    for name, value in found.items():
        print(f"{name:24} {value}")
    print(json.dumps({name: found[name] for name in _FIGURES} | _fuzz()))


def _fuzz() -> dict[str, Any]:
    """What the newest fuzzing counted; null where there was none."""
    counted = json.loads(_FUZZ.read_text()) if _FUZZ.exists() else {}
    return {name: counted.get(name) for name in ("fuzz_cases", "fuzz_5xx")}


if __name__ == "__main__":
    main()
