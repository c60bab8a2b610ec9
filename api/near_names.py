"""What is said of a name that is none: the one that was meant, or all there are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

from shared.errors import FieldError

_SHOWN_CHARACTERS: Final = 80


def unknown(what: str, name: str, known: Iterable[str], field: str | None = None) -> FieldError:
    """The error that `name` is none of the `known` names of a kind, as in "field"; with the nearest of them.

    known: one may end in a placeholder, as `label.<name>`. field: where the name is, if that is not the name alone.
    """
    names = {one.partition("<")[0]: one for one in known}
    near = [names[one] for one in difflib.get_close_matches(name, names, n=1)]
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return FieldError(field or name[:_SHOWN_CHARACTERS], f"unknown {what}{hint}", name, near or [*names.values()])
