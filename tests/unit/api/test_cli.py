"""The command line's own parts: durations, messages, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from api.access import is_loopback
from api.render import duration_s_from_text
from tests.conftest import free_port


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("40.96s", 40.96), ("2m", 120), ("1m30s", 90), ("1h", 3_600), ("1h2m3.5s", 3_723.5)],
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    """Hours, minutes and seconds in any sensible form."""
    assert duration_s_from_text(text) == pytest.approx(seconds)


@given(st.text(max_size=8).filter(lambda text: not any(sign in text for sign in "0123456789")))
def test_what_is_no_duration_is_refused_in_a_sentence(text: str) -> None:
    """Nothing without a digit passes for a duration."""
    with pytest.raises(typer.BadParameter, match="is no duration"):
        duration_s_from_text(text)


CONTROLS = ("cancel", "pause", "resume", "retry")


def riffarm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line as a user runs it."""
    return subprocess.run([sys.executable, "-m", "api.cli", *arguments], capture_output=True, text=True, check=False)


def test_every_command_is_there_and_explains_itself() -> None:
    """Commands of all packages are mounted, each with a help text."""
    page = riffarm("--help").stdout
    for command in (
        "render",
        "up",
        "jobs",
        "show",
        *CONTROLS,
        "delete",
        "farm",
        "workers",
        "convert",
        "train",
        "evaluate",
        "doctor",
    ):
        assert f" {command} " in page
        answer = riffarm(command, "--help")
        assert answer.returncode == 0
        assert "Usage" in answer.stdout


@pytest.mark.parametrize(
    "command",
    [
        *("batch", "render", "remix", "jobs", "show", *CONTROLS, "delete", "farm", "workers drain", "workers lift"),
        *("keys create", "keys list", "keys revoke", "keys rotate", "recover", "train", "evaluate", "seed-image"),
        *("convert", "doctor"),
    ],
)
def test_every_command_speaks_to_programs(command: str) -> None:
    """All but `up`, which has a line of its own for them, take --json."""
    assert "--json" in riffarm(*command.split(), "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("jobs", "--url", "farm:8000"), "no address of a farm"),
        (("show", "job_0", "--url", "http://127.0.0.1:1"), "start one with: riffarm up"),
        (("batch", "no-such-file", "--url", "http://127.0.0.1:1"), "start one with: riffarm up"),
        (("remix", "no-such.wav", "rock", "-o", "{folder}/a.flac", "--url", "http://127.0.0.1:1"), "cannot be read"),
        (
            ("render", "a", "--seed-image", "no.png", "-o", "{folder}/a.flac", "--url", "http://127.0.0.1:1"),
            "no.png cannot be read",
        ),
        (("render", "a", "-o", "/proc/no/a.flac", "--url", "http://127.0.0.1:1"), "cannot write to"),
    ],
)
def test_an_error_is_one_sentence_on_standard_error(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    """In one line, however long: exit code 1, nothing on standard output, no traceback."""
    answer = riffarm(*(one.format(folder=tmp_path) for one in arguments))
    (sentence,) = answer.stderr.splitlines()
    assert (answer.returncode, answer.stdout) == (1, "")
    assert sentence.startswith("riffarm: ")
    assert words in sentence
    assert "Traceback" not in sentence


def test_without_a_farm_the_client_commands_say_how_to_start_one() -> None:
    """One sentence on standard error, exit code 1, nothing on standard output."""
    answer = riffarm("jobs", "--url", f"http://127.0.0.1:{free_port()}")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "start one with: riffarm up" in " ".join(answer.stderr.split())


def test_seeds_must_match_prompts() -> None:
    """A missing seed is named before anything starts."""
    answer = riffarm("render", "a", "b", "--seed", "1")
    assert answer.returncode == 2
    assert "2 prompts need 2 seeds" in answer.stderr


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("farm", False)],
)
def test_only_loopback_counts_as_this_machine(host: str, is_local: bool) -> None:
    """What a gateway without a key may listen on."""
    assert is_loopback(host) is is_local
