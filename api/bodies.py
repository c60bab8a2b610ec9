"""JSON bodies, read strictly: in UTF-8, every name once in its object, nothing nested without end.

Leaves out what a body may say (`shared.contracts`) and how large it may be (`api.guard`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any, Final

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

_UTF_8: Final = frozenset({None, "utf-8", "utf8", "us-ascii"})


class Repeated:
    """Stands for an object in which a name is given twice. No schema takes it, so whoever checks the body finds it."""

    def __init__(self, name: str) -> None:
        self.name = name


def value_from_json(content: bytes) -> Any:
    """The value of a JSON text; objects with a name given twice come as `Repeated`.

    NaN and infinite numbers come as such: what may not be one is named with its field. Raises JSONDecodeError with one
    sentence for everything else that is no JSON.
    """
    try:
        return json.loads(content.decode(), object_pairs_hook=_object_from_pairs)
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("not UTF-8", "", error.start) from None
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", "", 0) from None
    except ValueError:
        raise json.JSONDecodeError("a number has too many digits", "", 0) from None


def _object_from_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Repeated:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    return Repeated(next(name for name in names if names.count(name) > 1))


def media_type_of(request: Request) -> str:
    """What a body is said to be, in lower case without parameters. Raises a 415 for a charset other than UTF-8."""
    header = Message()
    header["content-type"] = request.headers.get("content-type", "")
    if header.get_content_charset() not in _UTF_8:
        raise HTTPException(415, "Only UTF-8 is taken here: leave the charset out, or send 'charset=utf-8'.")
    return header.get_content_type()


class _StrictRequest(Request):
    async def json(self) -> Any:
        media_type_of(self)
        return value_from_json(await self.body())


class StrictRoute(APIRoute):
    """A route whose JSON body is read by `value_from_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return handle_strictly
