"""The command line's own parts: what it loads, durations, messages, exit codes."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import typer
from hypothesis import example, given
from hypothesis import strategies as st

from api.access import is_loopback
from api.durations import duration_s_from_text
from tests.conftest import free_port

SERVER_PARTS = ("boto3", "celery", "fastapi", "kombu", "numpy", "pydantic_settings", "redis", "torch")


@pytest.mark.parametrize(
    "client",
    ["import api.client", "import api.cli; api.cli._add_commands()"],
    ids=["the Python client", "the command line with all its commands"],
)
def test_a_client_loads_none_of_the_servers_parts(client: str) -> None:
    """Neither the time they take, nor what a program's machine may not have."""
    program = f"{client}; import sys; print([name for name in {SERVER_PARTS} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines() == ["[]"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("40.96s", 40.96),
        ("2m", 120),
        ("1m30s", 90),
        ("1h", 3_600),
        ("1.5h", 5_400),
        ("1h30m", 5_400),
        ("1h2m3.5s", 3_723.5),
        ("30d", 2_592_000),
        ("2w", 1_209_600),
        ("0s", 0),
    ],
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    """Weeks, days, hours, minutes and seconds in any sensible form."""
    assert duration_s_from_text(text, "--duration") == pytest.approx(seconds)


@given(st.text(max_size=8).filter(lambda text: not any(sign in text for sign in "0123456789")))
@example("٣")
def test_what_is_no_duration_is_refused_in_a_sentence(text: str) -> None:
    """Nothing without a digit passes for a duration."""
    with pytest.raises(typer.BadParameter, match="is no length of time"):
        duration_s_from_text(text, "--duration")


@pytest.mark.parametrize("text", ["1h30", "1m1h", "30s1s", "-1s", "1e3", "inf", "5x", "m5", "1 h"])
def test_a_duration_that_could_mean_two_things_is_refused(text: str) -> None:
    """Half an hour must not pass for half a minute."""
    with pytest.raises(typer.BadParameter, match="is no length of time"):
        duration_s_from_text(text, "--duration")


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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("show", "missing argument 'job_id'; see riffarm show --help"),
        ("render", "missing argument 'prompts'; see riffarm render --help"),
        ("render a --duration soon", "invalid value for --duration: 'soon' is no length of time"),
        ("job", "no such command 'job'; did you mean 'jobs'; see riffarm --help"),
        ("jobs --nope", "no such option: --nope; see riffarm jobs --help"),
        ("jobs --limit 0", "invalid value for '--limit': Input should be greater than or equal to 1; see riffarm jobs"),
        ("jobs --url", "option '--url' requires an argument"),
        ("keys", "missing command; see riffarm keys --help"),
        ("keys create", "missing option '--name'; see riffarm keys create --help"),
        ("keys create --name x --scope root", "invalid value for --scope: 'root' is no scope; there are read, submit"),
        ("keys create --name x --expires 30", "invalid value for --expires: '30' is no key's life"),
        ("keys rotate key_1 --overlap 6000w", "invalid value for --overlap: '6000w' is no key's life"),
        ("workers drain", "missing argument 'name'; see riffarm workers drain --help"),
        ("up --port 70000", "invalid value for '--port'"),
        ("convert a.png", "missing argument 'target'; see riffarm convert --help"),
    ],
)
def test_a_wrong_call_is_one_sentence_on_standard_error(arguments: str, sentence: str) -> None:
    """Of every command, those of sub-commands too: exit code 2, nothing on standard output, no box."""
    answer = riffarm(*arguments.split())
    (said,) = answer.stderr.splitlines()
    assert (answer.returncode, answer.stdout) == (2, "")
    assert said.startswith(f"riffarm: {sentence}")


def test_without_a_command_the_help_is_shown() -> None:
    """Whoever types only the name wants to know what there is."""
    assert riffarm().stdout == riffarm("--help").stdout != ""


def test_ctrl_c_ends_a_command_with_130() -> None:
    """While it waits for a farm that does not answer; without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "api.cli", "jobs", "--url", url]
        # Tests that run in the background have Ctrl-C ignored, which is handed down.
        heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
        with process, silent.accept()[0]:
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (130, "")
    assert "Traceback" not in errors


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
