"""Hostile requests by the hundred: each is refused as it should be, queues and tells nothing, and the gateway lives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain

import pytest

from shared.settings import Settings
from tests.conftest import Valkey
from tests.hostile import cases_bodies, cases_ids, cases_wires
from tests.hostile.cases_ids import Case
from tests.hostile.rig import SECRET, Rig, is_alive, under_attack

CASES: list[Case] = [
    *chain(
        cases_ids.others(),
        cases_ids.keys(),
        cases_ids.links(),
        cases_ids.names(),
        cases_bodies.documents(),
        cases_bodies.fields(),
        cases_bodies.webhooks(),
        cases_bodies.uploads(),
        cases_wires.lines(),
        cases_wires.headers(),
        cases_wires.paths(),
    )
]


@pytest.fixture(scope="module")
def rig(valkey_server: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One gateway process for all cases: none may hurt the next."""
    folder = tmp_path_factory.mktemp("attacked")
    (folder / "storage").mkdir()
    valkey_server.empty()
    settings = Settings(redis_url=valkey_server.url, storage_url=f"file:{folder / 'storage'}", secret=SECRET)
    with under_attack(settings, folder / "gateway.log") as attacked:
        yield attacked
        log = (folder / "gateway.log").read_text(encoding="utf-8", errors="replace")
        assert [line[:200] + line[-500:] for line in log.splitlines() if "Traceback" in line] == []
        assert not any(secret in log for secret in (attacked.key, attacked.victims_key, SECRET)), "a secret in the log"


def test_there_are_many_cases() -> None:
    """Each of its own name."""
    assert len({case.name for case in CASES}) == len(CASES) > 300


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_it_is_refused_and_nothing_comes_of_it(rig: Rig, case: Case) -> None:
    """The right status, as a problem that says what to do; no job, nobody's secret, and a gateway that answers."""
    rig.own_job()
    before = rig.jobs()
    answer = case.send(rig)
    assert answer.status in case.wanted, answer
    assert rig.jobs() == before
    said = answer.body.decode("utf-8", "replace") + str(answer.headers)
    assert [secret for secret in rig.goods.secrets if secret in said] == []
    assert "<script>alert" not in said
    if answer.headers.get("content-type") == "application/problem+json":
        problem = json.loads(answer.body)
        # What is hardly HTTP is refused before it is a request.
        assert (problem["status"], problem["instance"]) == (answer.status, answer.headers.get("x-request-id", ""))
        assert problem["detail"]
    assert is_alive(rig.http)


def test_the_victim_has_what_it_had(rig: Rig) -> None:
    """After all of it: its job waits, its output is there, its upload serves."""
    goods, key = rig.goods, rig.victims_key
    assert json.loads(rig.call("GET", f"/v1/jobs/{goods.waiting}", key=key).body)["status"] == "queued"
    assert rig.call("GET", goods.link, key=None).body == b"the victim's sound"
    assert rig.call("POST", "/v1/jobs", key=key, json={"type": "convert", "source": goods.upload}).status == 202
