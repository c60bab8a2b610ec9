"""Replicate's published clients, unmodified, against a running farm: with a key, by HTTPS, from environments of their
own. Each client makes all its calls once; the tests look at what it saw."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from shared.predictions import RIFFUSION, version_of
from tests.clients.environments import HERE, node_modules, python_with
from tests.clients.tls import certificate, https
from tests.conftest import WEBHOOK_SECRET, free_port, running_farm

KEY = "0123456789abcdef0123456789abcdef-key"
PICTURE = Path(__file__).parents[2] / "shared" / "seed_images" / "og_beat.png"
CLIENTS = ("replicate_1", "replicate_2", "node")
Observed = dict[str, Any]


def _environment(client: str, url: str, pem: Path) -> dict[str, str]:
    # As the clients' own documentation has it: only the second Python client and JavaScript name the version there.
    base_url = url if client == "replicate_1" else f"{url}/v1"
    return os.environ | {
        "REPLICATE_API_TOKEN": KEY,
        "REPLICATE_BASE_URL": base_url,
        "REPLICATE_POLL_INTERVAL": "0.05",
        "SSL_CERT_FILE": str(pem),
        "NODE_EXTRA_CA_CERTS": str(pem),
    }


def _command(client: str) -> tuple[list[str], dict[str, str]]:
    if client == "node":
        return ["node", str(HERE / "node" / "replicate.js")], {"NODE_PATH": str(node_modules() / "node_modules")}
    return [str(python_with(client)), str(HERE / f"{client}.py")], {}


def _seen(client: str, url: str, pem: Path) -> Observed:
    command, more = _command(client)
    variables = _environment(client, url, pem) | more
    done = subprocess.run([*command, PICTURE], env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3_000:]
    seen: Observed = json.loads(done.stdout)
    return seen


@pytest.fixture(scope="module")
def all_seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Observed]]:
    """What each client saw; all of them were there at the same time."""
    folder = tmp_path_factory.mktemp("replicate")
    pem, port, gateway_port = certificate(folder), free_port(), free_port()
    environment = {
        "RIFFARM_GATEWAY_KEY": KEY,
        "RIFFARM_API_KEY": KEY,
        "RIFFARM_PUBLIC_URL": f"https://localhost:{port}",
        "RIFFARM_WORKER_APP": "tests.stub_worker:app",
        "RIFFARM_STUB_FRAME_S": "0.3",
    }
    options = ("--workers", "2", "--port", str(gateway_port))
    with (
        running_farm(folder / "data", *options, environment=environment),
        https(port, gateway_port, pem),
        ThreadPoolExecutor(len(CLIENTS)) as pool,
    ):
        seen = pool.map(partial(_seen, url=f"https://localhost:{port}", pem=pem), CLIENTS)
        yield dict(zip(CLIENTS, seen, strict=True))


@pytest.fixture(params=CLIENTS)
def seen(request: pytest.FixtureRequest, all_seen: dict[str, Observed]) -> Observed:
    """What one client saw."""
    found = all_seen[request.param]
    raised = {name: told for name, told in found.items() if isinstance(told, dict) and "raised" in told}
    assert not raised
    return found


def test_run_gives_the_published_models_two_files(seen: Observed) -> None:
    """By the version that programs in the field name; both files are read through the client."""
    audio, spectrogram = seen["run"]["audio"], seen["run"]["spectrogram"]
    assert audio[:2] == ["FileOutput", "RIFF"]
    assert audio[2] > 44_100 * 5.12 * 2
    assert spectrogram[:2] == ["FileOutput", "\x89PNG"]


def test_run_gives_a_list_of_files_for_the_farms_own_models(seen: Observed) -> None:
    """The sound first, then its picture; read at once or in pieces it is the same."""
    told = seen["run_model"]
    assert told["first"][:2] == ["FileOutput", "RIFF"]
    assert told["others"] == 1
    assert told.get("in_pieces", told["first"][2]) == told["first"][2]


def test_the_asynchronous_clients_run_too(all_seen: dict[str, Observed]) -> None:
    """Both Python clients have one."""
    for client in ("replicate_1", "replicate_2"):
        assert all_seen[client]["run_async"] == [True, True]


def test_a_prediction_is_made_followed_and_got(seen: Observed) -> None:
    """Its logs only grow, its output are links of the gateway's own, its input is complete."""
    told = seen["create_wait_get"]
    assert (told["first"], told["last"]) == ("starting", "succeeded")
    assert all(after.startswith(before) for before, after in pairwise(told["logs"]))
    assert told["logs"][-1].endswith("| 50/50")
    assert [url.split("?")[0].rpartition("/")[2] for url in told["output"]] == ["track.wav", "track.png"]
    assert told["input"]["sampler"]
    assert 0 < told["metrics"]["predict_time"] <= told["metrics"]["total_time"]


def test_progress_is_read_from_the_logs(all_seen: dict[str, Observed]) -> None:
    """By the clients' own parsers: it rises from nothing to all, by way of something."""
    for client in ("replicate_1", "node"):
        progress = all_seen[client]["create_wait_get"]["progress"]
        assert progress == sorted(progress)
        assert progress[-1] == 1
        assert any(0 < one < 1 for one in progress)


def test_a_wait_that_runs_out_answers_starting(seen: Observed) -> None:
    """The clients take any other status for the end. Then it is canceled."""
    told = seen["wait_runs_out"]
    assert (told["answered"], told["canceled"]) == ("starting", "canceled")
    assert told["really"] in ("starting", "processing")


def test_run_gives_the_output_also_when_it_takes_longer_than_the_wait(seen: Observed) -> None:
    """What a `processing` in the first answer would have lost."""
    assert [one[:2] for one in seen["run_longer_than_the_wait"]] == [["FileOutput", "RIFF"], ["FileOutput", "\x89PNG"]]


def test_a_prediction_is_canceled_at_its_deadline(all_seen: dict[str, Observed]) -> None:
    """`Cancel-After: 2s`, found by the sweeper within its pace."""
    told = all_seen["replicate_2"]["cancel_after"]
    assert (told["given_s"], told["status"]) == (2, "canceled")
    assert 2 <= told["took_s"] < 12


def test_a_failure_is_raised_with_its_reason(seen: Observed) -> None:
    """As an error of the model."""
    assert seen["fails"]["status"] == "failed"
    assert "told to refuse" in seen["fails"]["error"]


def test_bad_input_names_the_field(seen: Observed) -> None:
    """In the fields that the clients read."""
    told = seen["bad_input"]
    assert (told["status"], told["title"]) == (422, "A field is not right")
    assert told["detail"] == "promt: unknown input; did you mean 'prompt'?"


def test_a_stream_tells_logs_and_outputs_and_ends(all_seen: dict[str, Observed]) -> None:
    """The JavaScript client sends no key to it; what it is told of as output are files."""
    for client in ("replicate_1", "node"):
        events = all_seen[client]["stream"]
        kinds = [kind for kind, _ in events]
        assert kinds == ["logs"] * (len(events) - 3) + ["output", "output", "done"]
        assert [data for kind, data in events if kind == "output"] == ["FileOutput", "FileOutput"]
        assert events[-4][1] == "100%|██████████| 10/10"
        assert "told to refuse" in all_seen[client]["stream_of_a_failure"]


def test_models_are_used_as_functions(all_seen: dict[str, Observed]) -> None:
    """The second Python client reads their schema and downloads what they make, without a key."""
    assert all_seen["replicate_2"]["use"] == {"files": ["RIFF", "\x89PNG"], "streamed": 2}


def test_lists_come_page_by_page(seen: Observed) -> None:
    """Newest first, each prediction once; the clients follow `next`."""
    told = seen["lists"]
    ids = [one for page in told["pages"] for one in page]
    assert len(set(ids)) == len(ids) == 4
    assert ids == sorted(ids, reverse=True)
    assert told["default"] > 4
    assert told.get("previous") is None


def test_files_are_uploaded_used_and_deleted(seen: Observed) -> None:
    """As files of their own, as inputs, and written into the input; the same file is the same upload."""
    told = seen["files"]
    assert told["made"] == ["og_beat.png", "image/png", PICTURE.stat().st_size]
    assert told["converted"][:2] == ["FileOutput", "RIFF"]
    assert (told["same"], told["is_same_inline"]) == (True, True)
    assert (told["is_listed"], told["deleted"], told["is_still_listed"]) == (True, True, False)


def test_models_tell_their_inputs(seen: Observed) -> None:
    """And whose key this is."""
    told = seen["models"]
    assert (told["name"], told["latest"], told["required"]) == ("riffarm/clip", True, ["prompt"])
    assert {"prompt", "seed", "alpha", "seed_image", "formats"} <= {*told["inputs"]}
    assert "webhook" not in told["inputs"]
    assert (told["account"], told["hardware"]) == ("default", ["riffarm"])


def test_webhooks_carry_the_prediction_and_are_validated(seen: Observed) -> None:
    """By the clients' own validation, with the secret that they ask for."""
    told = seen["webhook"]
    bodies = [json.loads(body) for body in told["bodies"]]
    assert {body["id"] for body in bodies} == {told["id"]}
    last = next(body for body in bodies if body["status"] == "succeeded")
    assert [url.split("?")[0].rpartition("/")[2] for url in last["output"]] == ["clip.wav", "clip.png"]
    assert told.get("is_tampered_refused", True)
    assert told.get("are_valid", True)
    assert told.get("key", WEBHOOK_SECRET) == WEBHOOK_SECRET


def test_the_published_models_version_is_the_one_that_programs_name() -> None:
    """It is written in their sources."""
    assert (HERE / "observing.py").read_text().count(f"{RIFFUSION}:{version_of(RIFFUSION)}") == 1
