"""`riffarm batch` as a user runs it: against a farm whose model costs nothing, killed and started again."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from api.batch_journal import NAME
from tests.conftest import Farm, running_farm, wait_until

seeds = itertools.count(1)
ORIGINAL = """\
{
  "params": [
    {"checkpoint": "riffusion/riffusion-model-v1", "scheduler": "DDIMScheduler", "num_inference_steps": 20,
     "guidance": 7.0, "width": 1024},
    {"name": "wild", "guidance": 12}
  ],
  "entries": [
    {"prompt": "Church bells", "seed": 42},
    {"prompt": "electronic beats", "negative_prompt": "drums", "seed": 100}
  ]
}
"""


@pytest.fixture(scope="module")
def stub_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """A farm with a stub worker that takes a moment for each frame."""
    folder = tmp_path_factory.mktemp("farm")
    environment = {"RIFFARM_WORKER_APP": "tests.stub_worker:app", "RIFFARM_STUB_FRAME_S": "0.1"}
    with running_farm(folder / "data", "--workers", "1", environment=environment) as farm:
        yield farm


def started(farm: Farm, file: Path, output: Path, *options: str) -> subprocess.Popen[str]:
    """The command, at work."""
    command = [sys.executable, "-m", "api.cli", "batch", str(file), "--output", str(output), "--url", farm.url]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(farm: Farm, file: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The command, once it has ended."""
    with started(farm, file, output, *options) as process:
        try:
            out, err = process.communicate(timeout=90)
        finally:
            process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, " ".join(err.split()))


def lines(*requests: dict[str, Any]) -> str:
    """JSON Lines."""
    return "".join(json.dumps(request) + "\n" for request in requests)


def clips(count: int) -> list[dict[str, Any]]:
    """Requests that nobody made before."""
    return [{"prompt": f"bells {number}", "seed": next(seeds)} for number in range(count)]


def jobs_of(farm: Farm) -> list[str]:
    """Ids of all jobs that the farm has."""
    return [job.id for job in farm.client.jobs(limit=200)]


def test_every_line_becomes_its_files(stub_farm: Farm, tmp_path: Path) -> None:
    """Clips with variations and tracks, each under a name of its own; paths on standard output; a second run does
    nothing."""
    file = tmp_path / "requests.jsonl"
    track = {"keyframes": [{"prompt": "strings"}, {"prompt": "techno"}], "duration_s": 10.24, "formats": ["mp3"]}
    file.write_text("\n" + lines(*clips(1), {"prompt": "Pizzicato, soft!", "variations": 2}, track))
    answer = ended(stub_farm, file, tmp_path / "out")
    assert answer.returncode == 0, answer.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        NAME,
        *(f"0001-bells-0{suffix}" for suffix in (".flac", ".png")),
        *(f"0002-pizzicato-soft-0{part}{suffix}" for part in (1, 2) for suffix in (".flac", ".png")),
        *(f"0003-strings{suffix}" for suffix in (".mp3", ".png")),
    }
    assert {Path(line).name for line in answer.stdout.splitlines()} == names - {NAME}
    assert soundfile.info(tmp_path / "out" / "0003-strings.mp3").duration == pytest.approx(10.24, abs=0.1)
    before = jobs_of(stub_farm)
    assert ended(stub_farm, file, tmp_path / "out").stdout == answer.stdout
    assert jobs_of(stub_farm) == before


def test_the_originals_batch_becomes_clips(stub_farm: Farm, tmp_path: Path) -> None:
    """Each entry with each set of params, with the original's defaults, as MP3."""
    file = tmp_path / "batch.json"
    file.write_text(ORIGINAL)
    answer = ended(stub_farm, file, tmp_path / "out", "--json")
    assert answer.returncode == 0, answer.stderr
    report = json.loads(answer.stdout)
    assert (report["succeeded"], report["failed"], [one["line"] for one in report["jobs"]]) == (4, 0, [8, 8, 9, 9])
    inputs = [stub_farm.client.job(one["id"]).input for one in report["jobs"]]
    found = [
        (one.prompt, one.seed, one.sampler, one.num_inference_steps, one.guidance_scale, one.duration_s)
        for one in inputs
    ]  # type: ignore[union-attr]
    assert found[0] == ("Church bells", 42, "ddim", 20, 7.0, 10.24)
    assert found[3][:2] == ("electronic beats", 100)
    assert found[3][3:] == (50, 12.0, 5.12)
    assert inputs[2].negative_prompt == "drums"  # type: ignore[union-attr]
    assert all(one["files"][0].endswith(".mp3") for one in report["jobs"])


@pytest.mark.parametrize("moment", ["submitted", "downloading"])
def test_killed_and_started_again_nothing_is_done_twice(stub_farm: Farm, tmp_path: Path, moment: str) -> None:
    """With the answer to what was submitted lost, and in the middle of downloads."""
    file, output = tmp_path / "requests.jsonl", tmp_path / "out"
    file.write_text(lines(*clips(12)))
    before = len(jobs_of(stub_farm))
    process = started(stub_farm, file, output)
    if moment == "submitted":
        wait_until(lambda: len(jobs_of(stub_farm)) >= before + 12, "the farm has all")
    else:
        wait_until(lambda: len([*output.glob("*.flac")]) >= 3, "some are here")
    process.kill()
    process.communicate()
    if moment == "submitted":
        # As if it had died before the answer came: the journal ends with what was to be sent.
        journal = (output / NAME).read_text().splitlines(keepends=True)
        (output / NAME).write_text(journal[0] + (journal[1][:40] if len(journal) > 1 else ""))
    kept = {path: path.stat().st_mtime_ns for path in output.glob("*.flac")} if moment == "downloading" else {}
    answer = ended(stub_farm, file, output)
    assert answer.returncode == 0, answer.stderr
    assert len(jobs_of(stub_farm)) == before + 12
    assert len([*output.glob("*.flac")]) == 12
    done = [line for line in (output / NAME).read_text().splitlines() if "downloaded" in line]
    assert len(done) == len({json.loads(line)["downloaded"] for line in done}) == 12
    recorded = sum(path.stat().st_mtime_ns == before_ns for path, before_ns in kept.items())
    assert recorded >= len(kept) - 1


def test_all_that_is_wrong_is_told_by_line_before_anything_is_submitted(stub_farm: Farm, tmp_path: Path) -> None:
    """JSON, names of fields, ranges, models and pictures that are not there."""
    file = tmp_path / "requests.jsonl"
    file.write_text(
        lines({"prompt": "bells"})
        + '{"prompt": \n'
        + lines({"promt": "bells"}, {"prompt": "a", "variations": 65}, {"prompt": "a", "model": "no-such"})
        + lines({"prompt": "a", "seed_image": "no_such"}, {"type": "song"}, {"prompt": "a", "duration_s": 1e400})
    )
    before = jobs_of(stub_farm)
    answer = ended(stub_farm, file, tmp_path / "out")
    assert (answer.returncode, answer.stdout) == (1, "")
    for words in ("line 2: no JSON", "line 3: promt: unknown field; did you mean 'prompt'?"):
        assert words in answer.stderr
    for words in ("line 4: variations", "line 5: model", "riffarm-mini", "line 6: seed_image", "and 2 more"):
        assert words in answer.stderr
    assert "nothing was submitted" in answer.stderr
    assert jobs_of(stub_farm) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no request"),
        ("[]", "one request on each line"),
        ('{"params": {}, "entries": {}}', "a list as 'entries'"),
        ('{"params": {"scheduler": "LMSDiscreteScheduler"},\n"entries": [\n{"prompt": "a"}]}', "line 3: scheduler"),
        (
            '{"params": {},\n"entries": [{"prompt": "a"},\n{"prompt": "a", "sed": 1}]}',
            "line 3: sed: unknown field",
        ),
    ],
)
def test_a_file_that_is_no_batch_is_refused(stub_farm: Farm, tmp_path: Path, text: str, words: str) -> None:
    """In one sentence."""
    file = tmp_path / "requests"
    file.write_text(text)
    answer = ended(stub_farm, file, tmp_path / "out")
    assert answer.returncode == 1
    assert words in answer.stderr


def test_what_fails_is_told_and_taken_up_after_a_retry(stub_farm: Farm, tmp_path: Path) -> None:
    """The others are there all the same; exit code 0 only when all succeeded."""
    file, output = tmp_path / "requests.jsonl", tmp_path / "out"
    file.write_text(lines(*clips(1), {"prompt": f"strings {next(seeds)}", "duration_s": 102.4}))
    with started(stub_farm, file, output, "--json") as process:
        wait_until(lambda: any(job.metrics.audio_s == 102.4 for job in stub_farm.client.jobs(limit=2)), "it is there")
        long = next(job for job in stub_farm.client.jobs(limit=2) if job.metrics.audio_s == 102.4)
        stub_farm.client.cancel(long.id)
        out, _ = process.communicate(timeout=120)
    report = json.loads(out)
    assert (process.returncode, report["succeeded"], report["failed"]) == (1, 1, 1)
    assert f"riffarm retry {long.id}" in report["jobs"][1]["error"]
    again = ended(stub_farm, file, output)
    assert (again.returncode, "line 2" in again.stderr) == (1, True)
    stub_farm.client.retry(long.id)
    last = ended(stub_farm, file, output)
    assert last.returncode == 0, last.stderr


def test_two_at_once_do_not_share_a_folder(stub_farm: Farm, tmp_path: Path) -> None:
    """The second one says so and does nothing."""
    file, output = tmp_path / "requests.jsonl", tmp_path / "out"
    file.write_text(lines({"prompt": f"strings {next(seeds)}", "duration_s": 102.4}))
    with started(stub_farm, file, output) as first:
        wait_until(lambda: (output / NAME).exists() and (output / NAME).stat().st_size > 0, "the first is at work")
        second = ended(stub_farm, file, output)
        first.kill()
        first.communicate()
    for job in stub_farm.client.jobs(limit=1):
        stub_farm.client.cancel(job.id)
    assert second.returncode == 1
    assert "another `riffarm batch` is at work" in second.stderr
