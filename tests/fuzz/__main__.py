"""`make test-fuzz`: at least 20,000 cases, seeded, against one live farm; its figures go to out/fuzz.json.

The last line is JSON, and the exit code 0 only when nothing was found.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.fuzz.rig import Result, fuzzed_farm, run

CASES = 20_000
OUT = Path("out")
_FIRST = (("examples,coverage", 1), ("stateful", 1_000))
_EXAMPLES = 100


def main() -> None:
    """Run until there are enough cases."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="riffarm-fuzz-") as name, fuzzed_farm(Path(name)) as url:
        while sum(one.cases for one in results) < CASES:
            number = len(results)
            phases, examples = _FIRST[number] if number < len(_FIRST) else ("fuzzing", _EXAMPLES)
            results.append(run(url, Path(name), phases, examples, seed=number + 1))
            _tell(phases, results[-1])
    is_good = not any(one.failures or one.errors for one in results)
    figures = {
        "fuzz_cases": sum(one.cases for one in results),
        "fuzz_5xx": sum(one.server_errors for one in results),
        "is_good": is_good,
    }
    OUT.mkdir(exist_ok=True)
    (OUT / "fuzz.json").write_text(json.dumps(figures) + "\n", encoding="utf-8")
    print(json.dumps(figures))
    sys.exit(not is_good)


def _tell(phases: str, result: Result) -> None:
    print(f"{phases}: {result.cases} cases, {len(result.failures)} kinds of failures, {len(result.errors)} of errors")
    if result.failures or result.errors:
        print(result.output)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
