"""What must hold in Redis after every move, whatever came before: looked up there and compared with the models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from shared.job_store import JobStore
from shared.quotas import audio_ms_from_s
from tests.integration.job_model import JobModel

QUEUES = ("deliver", "sound", "render.m")


def check(store: JobStore, jobs: Iterable[JobModel]) -> None:
    """Fail unless Redis holds what the models say, and nothing else."""
    # decode_responses makes texts of all answers; the client's types do not know.
    client: Any = store.redis
    models = {job.id: job for job in jobs if job.state != "gone"}
    for job in models.values():
        _check_job(client, job)
    _check_indexes(client, models)
    _check_queues(client, models)
    _check_counts(client, models)
    keys = {key.split(":")[2] for key in client.keys("riffarm:job:*")}
    assert keys == {*models}, "a deleted job left keys behind"


def _check_job(client: Any, job: JobModel) -> None:
    fields = client.hgetall(f"riffarm:job:{job.id}")
    ready = [item for kind in ("render", "sound", "deliver") for item in fields.get(f"ready:{kind}", "").split()]
    leases = client.hgetall(f"riffarm:job:{job.id}:leases")
    done = {int(one) for one in client.smembers(f"riffarm:job:{job.id}:done")}
    next_batch = int(fields.get("next_batch", 0))
    # Every item is in exactly one of the four places.
    places = Counter(
        [*ready, *leases, *(f"b{one}" for one in done), *(f"b{n}" for n in range(next_batch, job.batches))]
    )
    assert {*places.values()} <= {1}, f"{job.id}: doubled: {places}"
    assert {f"b{batch}" for batch in range(job.batches)} <= {*places}, f"{job.id}: a batch is nowhere: {places}"
    outstanding = {f"c{chunk}" for chunk in range(job.chunks_done, job.next_chunk)}
    assert {item for item in places if item.startswith("c")} == outstanding, f"{job.id}: chunks {places}"
    # And all is as the model has it.
    assert fields["status"] == job.status
    assert {*ready} == job.ready
    assert leases == {item: f"{one.token} {one.worker_id}" for item, one in job.leased.items()}
    assert done == job.done
    assert (next_batch, int(fields.get("batches_done", 0))) == (job.next_batch, len(job.done))
    assert int(fields.get("next_chunk", 0)) == job.next_chunk
    assert int(fields.get("chunks_done", 0)) == job.chunks_done
    assert bool(int(fields.get("delivering", 0))) == job.is_delivering
    assert {int(one) for one in client.hkeys(f"riffarm:job:{job.id}:frames")} == job.frames
    assert ("finished_ms" in fields) == (not job.is_live)


def _check_indexes(client: Any, models: dict[str, JobModel]) -> None:
    def ids(*statuses: str) -> set[str]:
        return {job.id for job in models.values() if job.status in statuses}

    assert {*client.zrange("riffarm:jobs", 0, -1)} == {*models}
    assert client.smembers("riffarm:jobs:active") == ids("queued", "running", "paused")
    assert client.smembers("riffarm:jobs:running") == ids("running")
    assert client.smembers("riffarm:jobs:ended") == ids("succeeded", "failed", "canceled")
    assert {*client.zrange("riffarm:jobs:queued", 0, -1)} == ids("queued")
    expiring = {job.id for job in models.values() if job.status == "queued" and job.expires_ms}
    assert {*client.zrange("riffarm:jobs:expiring", 0, -1)} == expiring
    leases = {f"{job.id} {item}" for job in models.values() for item in job.leased}
    assert {*client.zrange("riffarm:leases", 0, -1)} == leases


def _check_queues(client: Any, models: dict[str, JobModel]) -> None:
    expected: dict[str, dict[str, float]] = {}
    for job in models.values():
        for queue in QUEUES:
            if job.takeable(queue):
                place = f"riffarm:queue:{queue}:{job.priority}:{job.tenant}"
                expected.setdefault(place, {})[job.id] = job.remaining(queue)
    listed, lines = {}, {}
    for name in client.keys("riffarm:queue:*"):
        if client.type(name) == "list":
            lines[name] = client.lrange(name, 0, -1)
        elif not name.endswith(":age"):
            # A job that has expired may be listed until somebody looks there.
            found = dict(client.zrange(name, 0, -1, withscores=True))
            listed[name] = {one: score for one, score in found.items() if not models[one].has_expired}
            assert {*client.zrange(f"{name}:age", 0, -1)} == {*found}
            line, _, tenant = name.rpartition(":")
            assert client.lrange(line, 0, -1).count(tenant) == 1, "a tenant with work is not in turn, or twice"
    assert {name: jobs for name, jobs in listed.items() if jobs} == expected
    assert {f"{line}:{tenant}" for line, tenants in lines.items() for tenant in tenants} == {*listed}


def _check_counts(client: Any, models: dict[str, JobModel]) -> None:
    going = [job for job in models.values() if job.status in ("queued", "running")]
    left: dict[str, Callable[[JobModel, str], int]] = {
        "backlog": JobModel.remaining,
        "backlog:jobs": lambda job, queue: min(1, job.remaining(queue)),
        "backlog:audio": JobModel.audio_ms_left,
        "backlog:frames": JobModel.frames_left,
    }
    for name, of_job in left.items():
        expected = Counter({queue: sum(of_job(job, queue) for job in going) for queue in QUEUES})
        counted = {queue: int(count) for queue, count in client.hgetall(f"riffarm:{name}").items()}
        assert +Counter(counted) == +expected, name
        assert min(counted.values(), default=0) >= 0, name
    # What quotas are held against.
    audio: Counter[str] = Counter()
    for job in models.values():
        audio[job.tenant] += audio_ms_from_s(job.audio_s) if job.is_live else 0
    assert {tenant: int(ms) for tenant, ms in client.hgetall("riffarm:audio").items()} == +audio
    for tenant in ("a", "b"):
        live = {job.id for job in models.values() if job.is_live and job.tenant == tenant}
        assert {*client.zrange(f"riffarm:jobs:live:{tenant}", 0, -1)} == live
        for status in ("succeeded", "failed", "canceled"):
            ended = {job.id for job in models.values() if job.status == status and job.tenant == tenant}
            assert {*client.zrange(f"riffarm:jobs:{status}:{tenant}", 0, -1)} == ended
