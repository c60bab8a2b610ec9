"""What schemathesis cannot know of itself: how JSON Lines are sent."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def json_lines(context: Any, value: Any) -> bytes:
    """The text as it was drawn: the document describes it as a string."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
