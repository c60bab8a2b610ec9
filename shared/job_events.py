"""What happened to a job, as it is kept in Redis and told to those who follow: an id, a kind, and data in JSON."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple, cast

EventKind = Literal["status", "progress", "frame", "preview", "log", "completed"]


class Event(NamedTuple):
    """Something that happened to a job; ids sort by time as pairs of integers."""

    id: str
    kind: EventKind
    data: dict[str, Any]


def event_from_entry(entry: tuple[str, dict[str, str]]) -> Event:
    """An event from what Redis keeps of it."""
    event_id, fields = entry
    return Event(event_id, cast("EventKind", fields["kind"]), json.loads(fields["data"]))
