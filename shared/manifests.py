"""A job's manifest: what storage has of it before its client is told that it is accepted, so that it cannot be lost.

Its request as resolved, with what its names stood for. Owns how manifests are kept: on the local disk those that come
at the same time are one file with a line and a name for each, since making a file and having it safe on the disk costs
ten times what writing it does; on S3 each is an object. Leaves out what a manifest says (`api.intake`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from shared.errors import ObjectNotFoundError, StorageUnavailableError
from shared.object_store import LocalDiskStore, ObjectStore, job_manifest_key

_FOLDER: Final = "manifests/"
_MEDIA_TYPE: Final = "application/json"
_WRITERS: Final = 16
"""Objects on their way to S3 at a time."""


def put_manifests(
    object_store: ObjectStore, manifests: Mapping[str, Mapping[str, Any]]
) -> dict[str, StorageUnavailableError | None]:
    """Keep the manifests of these jobs, by id, safe from a loss of power; for each the error that kept it away."""
    lines = {job_id: _line(job_id, manifest) for job_id, manifest in manifests.items()}
    if isinstance(object_store, LocalDiskStore):
        try:
            object_store.put_linked([job_manifest_key(job_id) for job_id in lines], b"".join(lines.values()))
        except StorageUnavailableError as error:
            return dict.fromkeys(lines, error)
        return dict.fromkeys(lines)

    def put(job_id: str) -> StorageUnavailableError | None:
        try:
            object_store.put(job_manifest_key(job_id), lines[job_id], _MEDIA_TYPE)
        except StorageUnavailableError as error:
            return error
        return None

    if len(lines) == 1:
        return {job_id: put(job_id) for job_id in lines}
    with ThreadPoolExecutor(_WRITERS) as pool:
        return dict(zip(lines, pool.map(put, lines), strict=True))


def manifest(object_store: ObjectStore, job_id: str) -> dict[str, Any]:
    """A job's manifest. Raises ObjectNotFoundError, and ValueError when it cannot be read."""
    data = object_store.get(job_manifest_key(job_id))
    found: dict[str, Any] = json.loads(data[slice(*_place(data, job_id))])
    return found


def ids_of_manifests(object_store: ObjectStore, prefix: str = "") -> Iterator[str]:
    """The ids that begin so of all jobs with a manifest, in order."""
    for key in object_store.keys(f"{_FOLDER}{prefix}"):
        yield key.removeprefix(_FOLDER).removesuffix(".json")


def delete_manifest(object_store: ObjectStore, job_id: str) -> None:
    """Forget a job's manifest; an absent one is fine. Nothing of it is left in a file that it shared with others."""
    key = job_manifest_key(job_id)
    if isinstance(object_store, LocalDiskStore):
        try:
            start, stop = _place(object_store.get(key), job_id)
            object_store.blank(key, start, stop)
        except (ObjectNotFoundError, ValueError):
            pass
    object_store.delete(key)


def _line(job_id: str, said: Mapping[str, Any]) -> bytes:
    return json.dumps({"id": job_id, **said}).encode() + b"\n"


def _place(data: bytes, job_id: str) -> Sequence[int]:
    """Where a job's line begins and ends, its end of line left out. Raises ValueError when there is none."""
    start = data.find(f'{{"id": "{job_id}"'.encode())
    if start < 0:
        raise ValueError(f"the manifest of {job_id} does not name it")
    stop = data.find(b"\n", start)
    return start, stop if stop >= 0 else len(data)
