"""The last line of defence of secrets: what looks like one is hidden wherever text leaves a process.

Nothing of ours writes a key into a log line or an answer; this is for what was not thought of, such as an error whose
message quotes what a client sent. Leaves out where keys are checked and kept (`api.access`, `api.keys`).
"""

from __future__ import annotations

import re
from typing import Final

# Keys of ours, webhook secrets, signatures of links.
_FORMS: Final = re.compile(r"\b(rf_|whsec_|signature=)[0-9A-Za-z+/=_-]{8,}")
_MIN_CHARACTERS: Final = 16
_hidden: set[str] = set()


def hide(*secrets: str) -> None:
    """Have these hidden too from now on, whatever they look like: this process's own."""
    # A short one could be a part of anything.
    _hidden.update(secret for secret in secrets if len(secret) >= _MIN_CHARACTERS)


def masked(text: str) -> str:
    """The text with every secret in it replaced by its first letters and an ellipsis."""
    for secret in _hidden:
        if secret in text:
            text = text.replace(secret, "…")
    return _FORMS.sub(r"\1…", text)
