"""What schemathesis cannot know of itself: how JSON Lines are sent."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def json_lines(context: Any, value: Any) -> bytes:
    """The text as it was drawn: the document describes it as a string."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Leave the farm its worker: one that was drained takes nothing more until it is started anew."""
    if case.operation.path.endswith("/drain"):
        case.path_parameters["name"] = f"no-{case.path_parameters['name']}"
