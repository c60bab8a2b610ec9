"""Where a job's outputs are: with all else that the farm keeps, or in a bucket that the job's request names.

Previews are always the farm's. Leaves out which buckets may be named (`api.planning`) and what the outputs are
(`workers.delivery`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from shared.contracts import OutputPlace
from shared.object_store import ObjectStore, delivered_key, delivered_prefix, output_key


def output_object(
    object_store: ObjectStore, place: OutputPlace | None, job_id: str, output: Mapping[str, object]
) -> tuple[ObjectStore, str]:
    """The store and the key of an output, as its record names it, of a job whose finished files go to `place`."""
    name = str(output["name"])
    if place and not output.get("is_preview") and (other := object_store.beside(place.bucket, place.prefix)):
        return other, delivered_key(job_id, name)
    return object_store, output_key(job_id, name)


def place_of(fields: Mapping[str, str]) -> OutputPlace | None:
    """Where the finished files go of the job with these fields; None: they stay with the farm."""
    # Most have none, and a request may be long.
    if '"output":{' not in fields["input"]:
        return None
    found = json.loads(fields["input"]).get("output")
    return OutputPlace.model_validate(found) if found else None


def remove_delivered(object_store: ObjectStore, fields: Mapping[str, str]) -> None:
    """Remove what was delivered of the job with these fields to a bucket that its request names.

    Raises StorageUnavailableError.
    """
    place = place_of(fields)
    if place and (bucket := object_store.beside(place.bucket, place.prefix)):
        for key in list(bucket.keys(delivered_prefix(fields["id"]))):
            bucket.delete(key)
