"""Keys: made, kept as hashes, known at once everywhere, and never let in again once revoked, whatever Redis forgets."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from fastapi.testclient import TestClient

from api.keys import FRESH_S, Changed, Keys, redis_key
from api.main import create_app
from shared.job_store import JobStore
from shared.object_store import LocalDiskStore
from shared.settings import Settings
from tests.conftest import SECRET, Valkey, wait_until
from tests.integration.gateway_probes import CLIP, KEY, served


class CountingStore(LocalDiskStore):
    """Storage that counts how often it is read."""

    reads = 0

    def get(self, key: str) -> bytes:
        self.reads += 1
        return super().get(key)


@pytest.fixture
def client(valkey: Valkey) -> Iterator[redis.Redis]:
    with redis.Redis(port=valkey.port, decode_responses=True) as client:
        yield client


@pytest.fixture
def keys(settings: Settings, client: redis.Redis) -> Keys:
    return Keys(LocalDiskStore(_folder(settings)), client)


def _folder(settings: Settings) -> Path:
    return Path(settings.storage_url.removeprefix("file:"))


def _status(gateway: TestClient, key: str | Changed | None, path: str = "/v1/models") -> int:
    text = key.text if isinstance(key, Changed) else key
    return gateway.get(path, headers={"Authorization": f"Bearer {text}"} if text else {}).status_code


def test_a_key_is_kept_as_a_hash_alone(settings: Settings, keys: Keys, client: redis.Redis) -> None:
    """256 bits of secret, whose digits stand neither in storage nor in Redis."""
    made = keys.create("acme", "ci", ["read"])
    assert made.text is not None
    secret = made.text.rpartition("_")[2]
    assert len(secret) == 64
    stored = "".join(path.read_text() for path in _folder(settings).rglob("*.json"))
    kept = "".join(str(client.get(name)) for name in client.scan_iter())  # type: ignore[union-attr]
    for text in (stored, kept):
        assert made.record.sha256 in text
        assert secret not in text


def test_ids_sort_by_time(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list is newest first."""
    clock = itertools.count(1_700_000_000_000_000_000, 1_000_000)
    monkeypatch.setattr("api.keys.time.time_ns", lambda: next(clock))
    ids = [keys.create("acme", str(number), ["read"]).record.id for number in range(3)]
    assert [record.id for record in keys.all()] == ids[::-1]


def test_the_first_key_locks_a_running_farm_and_lets_its_owner_in(gateway: TestClient, keys: Keys) -> None:
    """At once, without a restart; revoking it does not open the farm again."""
    assert _status(gateway, None) == 200
    made = keys.create("acme", "ci", ["read"])
    assert _status(gateway, made) == 200
    assert _status(gateway, None) == 401
    keys.revoke(made.record.id)
    assert _status(gateway, made) == 401
    assert _status(gateway, None) == 401


def test_a_revoked_key_works_on_no_gateway_from_then_on(settings: Settings, keys: Keys) -> None:
    """Two gateways that have both let it in."""
    made = keys.create("acme", "ci", ["read"])
    with TestClient(create_app(settings)) as one, TestClient(create_app(settings)) as other:
        assert [_status(gateway, made) for gateway in (one, other)] == [200, 200]
        keys.revoke(made.record.id)
        assert [_status(gateway, made) for gateway in (one, other)] == [401, 401]


def test_a_redis_that_lost_everything_changes_nothing(gateway: TestClient, keys: Keys, client: redis.Redis) -> None:
    """Good keys come in, revoked ones stay out, and nobody comes in without."""
    good, bad = keys.create("acme", "good", ["read"]), keys.create("acme", "bad", ["read"])
    keys.revoke(bad.record.id)
    for _ in range(2):
        client.flushall()
        assert [_status(gateway, key) for key in (good, bad, None)] == [200, 401, 401]


def test_a_redis_set_back_to_before_a_revocation_mends_itself(
    gateway: TestClient, keys: Keys, client: redis.Redis
) -> None:
    """A copy a minute old is compared with storage while it serves, also one that storage has no record for."""
    made, gone = keys.create("acme", "ci", ["read"]), keys.create("acme", "old", ["read"])
    old = {one.record.id: f"{time.time() - FRESH_S - 1:.0f} {one.record.model_dump_json()}" for one in (made, gone)}
    keys.revoke(made.record.id)
    keys._objects.delete(f"keys/{gone.record.id}.json")
    for key_id, copy in old.items():
        client.set(redis_key(key_id), copy)
    for key in (made, gone):
        wait_until(lambda key=key: _status(gateway, key) == 401, "the key is out again", 10)  # type: ignore[misc]


def test_a_copy_that_was_read_before_the_key_was_revoked_does_not_outlive_it(
    gateway: TestClient, keys: Keys, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that has read the old record from storage does not write it over the new one."""
    made = keys.create("acme", "ci", ["read"])
    client.flushall()
    read, go_on = threading.Event(), threading.Event()
    slow = LocalDiskStore.get

    def get(self: LocalDiskStore, key: str) -> bytes:
        data = slow(self, key)
        if threading.current_thread() is not threading.main_thread():
            read.set()
            go_on.wait(10)
        return data

    monkeypatch.setattr(LocalDiskStore, "get", get)
    found: list[int] = []
    asking = threading.Thread(target=lambda: found.append(_status(gateway, made)))
    asking.start()
    assert read.wait(10)
    keys.revoke(made.record.id)
    go_on.set()
    asking.join()
    assert found == [401]
    assert _status(gateway, made) == 401


def test_a_revoked_key_ends_its_streams(
    settings: Settings, keys: Keys, job_store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the next event, or the next quarter of a minute; other keys' streams go on."""
    monkeypatch.setattr("api.events._ASK_AGAIN_S", 0.0)
    bad, good = (keys.create("acme", name, ["read", "submit"]) for name in ("bad", "good"))
    told: dict[str, list[str]] = {"bad": [], "good": []}

    def follow(name: str, key: Changed, url: str) -> None:
        with httpx.stream("GET", url, headers={"Authorization": f"Bearer {key.text}"}, timeout=30) as stream:
            for line in stream.iter_lines():
                told[name] += [line] if line.startswith("event:") else []

    with served(settings) as url:
        job_id = httpx.post(f"{url}/v1/jobs", json=CLIP, headers={"Authorization": f"Bearer {good.text}"}).json()["id"]
        events = f"{url}/v1/jobs/{job_id}/events"
        threads = [
            threading.Thread(target=follow, args=(name, key, events)) for name, key in (("bad", bad), ("good", good))
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: all(told.values()), "both streams are open")
        keys.revoke(bad.record.id)
        job_store.pause(job_id)
        threads[0].join(20)
        assert not threads[0].is_alive()
        assert threads[1].is_alive()
        job_store.finish(job_id, "canceled")
        threads[1].join(20)
    assert "event: completed" not in told["bad"]
    assert told["good"][-1] == "event: completed"


def test_expired_keys_are_out_and_rotated_ones_overlap(gateway: TestClient, keys: Keys) -> None:
    """The new key has the old one's tenant, name, scopes and length of life; who holds the old one hears why."""
    old = keys.create("acme", "ci", ["submit", "read"], expires_in_s=3_600)
    new, ending = keys.rotate(old.record.id, overlap_s=600)
    for field in ("tenant", "name", "scopes"):
        assert getattr(new.record, field) == getattr(old.record, field)
    assert new.record.expires_at
    assert ending.record.expires_at
    assert round((new.record.expires_at - new.record.created_at).total_seconds()) == 3_600
    assert 590 < (ending.record.expires_at - new.record.created_at).total_seconds() < 610
    assert [_status(gateway, key) for key in (old, new)] == [200, 200]
    newest, _ = keys.rotate(new.record.id, overlap_s=0)
    assert [_status(gateway, key) for key in (old, new, newest)] == [200, 401, 200]
    answer = gateway.get("/v1/models", headers={"Authorization": f"Bearer {new.text}"})
    assert answer.json()["detail"] == "This key is expired."


def test_a_guessed_secret_is_no_key_and_says_nothing(gateway: TestClient, keys: Keys) -> None:
    """The right id with another secret gets the same answer as an id that is not there, also of a revoked key."""
    made = keys.create("acme", "ci", ["read"])
    keys.revoke(made.record.id)
    public = made.record.id.removeprefix("key_")
    answers = set()
    for text in (f"rf_{public}_{'0' * 64}", f"rf_{'0' * 20}_{'0' * 64}", "rf_", "x" * 5_000, "é", "rf_\u0660"):
        answer = gateway.get("/v1/models", headers={"Authorization": f"Bearer {text}".encode()})
        answers.add((answer.status_code, answer.json()["detail"], answer.headers["www-authenticate"]))
    assert len(answers) == 1
    assert answers.pop()[0] == 401


def test_guessing_one_id_asks_storage_once(settings: Settings, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not there is remembered."""
    keys.create("acme", "ci", ["read"])
    monkeypatch.setattr("api.main.object_store_from_url", lambda *_: store)
    store = CountingStore(_folder(settings))
    with TestClient(create_app(settings)) as gateway:
        for _ in range(20):
            assert _status(gateway, f"rf_{'0' * 20}_{'0' * 64}") == 401
    assert store.reads == 1


def test_scopes_are_all_that_a_key_may(gateway: TestClient, keys: Keys) -> None:
    """Each call needs its own scope; the one that is missing is named."""
    reader, submitter = keys.create("acme", "r", ["read"]), keys.create("acme", "s", ["submit"])
    assert _status(gateway, submitter) == 403
    answer = gateway.post("/v1/jobs/job_0/cancel", headers={"Authorization": f"Bearer {reader.text}"})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert "'submit'" in answer.json()["detail"]
    answer = gateway.post("/v1/farm/workers/w/drain", headers={"Authorization": f"Bearer {submitter.text}"})
    assert "'admin'" in answer.json()["detail"]


def test_the_operators_key_stays_valid_beside_stored_ones(settings: Settings, keys: Keys) -> None:
    """It has all scopes of the default tenant; nobody else gets in without a key."""
    made = keys.create("acme", "ci", ["read"])
    keyed = Settings.model_validate({**settings.model_dump(), "gateway_key": KEY, "secret": SECRET})
    with TestClient(create_app(keyed)) as gateway:
        assert [_status(gateway, key) for key in (KEY, made, None, KEY + "k")] == [200, 200, 401, 401]


def test_without_redis_or_storage_nobody_is_let_in(settings: Settings, tmp_path: Path) -> None:
    """Redis away is 503, and so is an empty Redis in front of a storage that is away: with an id, not with a guess."""
    (tmp_path / "valkey").mkdir()
    server = Valkey(tmp_path / "valkey")
    own = settings.model_copy(update={"redis_url": server.url})
    with redis.Redis(port=server.port) as client:
        made = Keys(LocalDiskStore(_folder(settings)), client).create("acme", "ci", ["read"])
        with TestClient(create_app(own)) as gateway:
            assert _status(gateway, made) == 200
            _folder(settings).rename(tmp_path / "away")
            assert _status(gateway, made) == 200
            client.flushall()
            assert _status(gateway, made) == 503
            (tmp_path / "away").rename(_folder(settings))
            assert _status(gateway, made) == 200
            server.stop()
            answer = gateway.get("/v1/models", headers={"Authorization": f"Bearer {made.text}"})
            assert (answer.status_code, answer.json()["code"]) == (503, "queue_unavailable")
            assert "retry-after" in answer.headers


def _riffarm(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {
        "RIFFARM_REDIS_URL": settings.redis_url,
        "RIFFARM_STORAGE_URL": settings.storage_url,
        "RIFFARM_SECRET": SECRET,
    }
    command = [sys.executable, "-m", "api.cli", "keys", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | variables)


def test_the_command_line_makes_lists_rotates_and_revokes(settings: Settings, gateway: TestClient) -> None:
    """As JSON for programs; the text is shown once, and errors are one sentence."""

    def said(*arguments: str) -> Any:
        done = _riffarm(settings, *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    made = said("create", "--tenant", "acme", "--name", "ci", "--scope", "read", "--expires", "30d")
    assert (made["tenant"], made["name"], made["scopes"], made["state"]) == ("acme", "ci", ["read"], "active")
    assert _status(gateway, made["key"]) == 200
    new = said("rotate", made["id"], "--overlap", "0s")
    assert (new["replaces"]["id"], new["replaces"]["state"]) == (made["id"], "expired")
    assert [_status(gateway, one["key"]) for one in (made, new)] == [401, 200]
    assert said("revoke", new["id"])["state"] == "revoked"
    assert _status(gateway, new["key"]) == 401
    listed = said("list")
    assert {one["id"] for one in listed} == {made["id"], new["id"]}
    assert not any("key" in one or "sha256" in one for one in listed)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("revoke", "key_1"), "There is no key key_1"),
        (("revoke", "../manifest"), "There is no key"),
        (("create", "--name", "x", "--tenant", "Acme"), "lower-case letters"),
        (("create", "--name", "x", "--tenant", "a:b"), "lower-case letters"),
        (("create", "--name", "x", "--tenant", "\u0430cme"), "lower-case letters"),
        (("create", "--name", "a\nb"), "in one line"),
        (("create", "--name", "x", "--scope", "root"), "no scope"),
        (("create", "--name", "x", "--expires", "soon"), "30d"),
    ],
)
def test_the_command_line_says_what_is_wrong(settings: Settings, arguments: tuple[str, ...], sentence: str) -> None:
    """And makes nothing."""
    done = _riffarm(settings, *arguments)
    assert done.returncode != 0
    assert sentence in " ".join(done.stderr.replace("│", " ").split())
    assert not _folder(settings).joinpath("keys").exists()


def test_a_key_is_made_and_ended_while_redis_is_away(settings: Settings) -> None:
    """Storage has it; the command says that gateways may take a minute, and that is no success."""
    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    made = _riffarm(away, "create", "--name", "ci", "--json")
    assert (made.returncode, "may take 60 s" in " ".join(made.stderr.split())) == (1, True)
    revoked = _riffarm(away, "revoke", json.loads(made.stdout)["id"], "--json")
    assert (revoked.returncode, json.loads(revoked.stdout)["state"]) == (1, "revoked")
