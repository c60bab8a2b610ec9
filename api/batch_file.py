"""The file of `riffarm batch`: JSON Lines, one request on each, or the original Riffusion's batch JSON.

Owns reading it, what the original's fields become, and finding all that is wrong before anything is submitted. Leaves
out submitting (`api.batch_run`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from api.near_names import unknown
from api.transport import FarmError
from shared.catalogue import UPLOAD_PREFIX
from shared.contracts import JOB_REQUEST, REQUESTS

_SHOWN: Final = 5
"""So many wrong lines are named; the rest are counted."""
_SLUG_CHARACTERS: Final = 40
_SAMPLERS: Final = {
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "PNDMScheduler": "pndm",
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_a",
}
_PARAMS: Final = ("name", "checkpoint", "scheduler", "num_inference_steps", "guidance", "width", "seed")
_ENTRY: Final = ("prompt", "negative_prompt", "seed")
_USUAL: Final = {"num_inference_steps": 50, "guidance": 7.0, "width": 512, "seed": 42}
"""What the original takes where its file says nothing."""
_COLUMNS_PER_S: Final = 100


class Entry(NamedTuple):
    """One request of the file: where it stands, what it says, and a name for its files.

    id: the same as long as the request is the same and as many like it go before.
    """

    line: int
    id: str
    request: dict[str, Any]
    name: str


class Served(NamedTuple):
    """What the farm has, by name."""

    models: Collection[str]
    seed_images: Collection[str]


class _WrongError(Exception):
    """One line is wrong, and why."""


def entries_from_file(path: Path, served: Served) -> list[Entry]:
    """All requests of a file. Raises FarmError that names each wrong line, and for a file that is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FarmError(f"{path} cannot be read: {error}") from error
    found = list(_requests(path, text, served))
    if not found:
        raise FarmError(f'{path} holds no request; write one on each line, as {{"prompt": "jazz piano"}}')
    wrong: list[str] = []
    entries: list[Entry] = []
    seen: Counter[str] = Counter()
    for number, (line, read) in enumerate(found, start=1):
        try:
            request = _checked(read(), served)
        except _WrongError as error:
            wrong.append(f"line {line}: {error}")
            continue
        mark = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:32]
        entries.append(Entry(line, f"{mark}-{seen[mark]}", request, f"{number:04}-{_slug(request)}"))
        seen[mark] += 1
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise FarmError(f"{path}: {'; '.join(wrong[:_SHOWN])}{more}; nothing was submitted", "invalid_request")
    return entries


Read = Callable[[], Any]


def _requests(path: Path, text: str, served: Served) -> Iterator[tuple[int, Read]]:
    """Line and value of each request; a value that cannot be read raises when it is asked for."""
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if isinstance(whole, dict) and {"params", "entries"} & whole.keys():
        yield from _original(path, whole, text, served)
        return
    if isinstance(whole, list):
        raise FarmError(f"{path} is a JSON array; write one request on each line instead")
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, partial(_json, line)


def _json(line: str) -> Any:
    def refused(name: str) -> Any:
        raise _WrongError(f"{name} is no JSON number")

    try:
        return json.loads(line, parse_constant=refused)
    except ValueError as error:
        raise _WrongError(f"no JSON: {error}") from None


def _original(path: Path, whole: dict[str, Any], text: str, served: Served) -> Iterator[tuple[int, Read]]:
    """Each entry with each set of params, as the original renders them."""
    params, entries = whole.get("params"), whole.get("entries")
    sets = params if isinstance(params, list) else [params]
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in sets):
        raise FarmError(f"{path}: a batch needs an object or a list of objects as 'params', and a list as 'entries'")
    for line, entry in zip(_lines_of(text, "entries"), entries, strict=False):
        for one in sets:
            yield line, partial(_clip, entry, one, served)


def _lines_of(text: str, name: str) -> Iterator[int]:
    """The lines on which the elements of an array begin."""
    decoder = json.JSONDecoder()
    begin = re.search(rf'"{name}"\s*:\s*\[', text)
    place = begin.end() if begin else len(text)
    while found := re.compile(r"[\s,]*(?=[^\s,\]])").match(text, place):
        yield text.count("\n", 0, found.end()) + 1
        _, place = decoder.raw_decode(text, found.end())


def _clip(entry: Any, params: Any, served: Served) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise _WrongError("an entry is an object with a prompt")
    for given, known in ((entry, _ENTRY), (params, _PARAMS)):
        for name in given:
            if name not in known:
                raise _WrongError(_unknown(name, known))
    chosen = _USUAL | params | entry
    scheduler = chosen.get("scheduler")
    if scheduler is not None and scheduler not in _SAMPLERS:
        raise _WrongError(f"scheduler: {scheduler!r} is not there; allowed: {', '.join(_SAMPLERS)}")
    if not isinstance(chosen["width"], int):
        raise _WrongError("width: must be a whole number of columns")
    return {
        "type": "clip",
        **{name: chosen[name] for name in ("prompt", "negative_prompt", "seed") if chosen.get(name) is not None},
        "num_inference_steps": chosen["num_inference_steps"],
        "guidance_scale": chosen["guidance"],
        "duration_s": chosen["width"] / _COLUMNS_PER_S,
        **({"sampler": _SAMPLERS[scheduler]} if scheduler else {}),
        # Its own model is the only one that the original has; what is served here is named otherwise.
        **({"model": chosen["checkpoint"]} if chosen.get("checkpoint") in served.models else {}),
        "formats": ["mp3"],
    }


def _checked(request: Any, served: Served) -> dict[str, Any]:
    """The request, when the farm would take it as far as that can be known."""
    if not isinstance(request, dict):
        raise _WrongError('a request is an object, as {"prompt": "jazz piano"}')
    whole: dict[str, Any] = {"type": "track" if "keyframes" in request else "clip"} | request
    try:
        checked = JOB_REQUEST.validate_python(whole)
    except ValidationError as error:
        raise _WrongError(_sentence(error, whole)) from None
    model = getattr(checked, "model", None)
    if model is not None and model not in served.models:
        raise _WrongError(f"model: the farm does not serve {model!r}; allowed: {', '.join(served.models)}")
    picture = getattr(checked, "seed_image", None)
    if picture is not None and not picture.startswith(UPLOAD_PREFIX) and picture not in served.seed_images:
        known = ", ".join(served.seed_images)
        raise _WrongError(f"seed_image: there is no {picture!r}; allowed: {known}, or an upload's id")
    return whole


def _sentence(error: ValidationError, request: Mapping[str, Any]) -> str:
    """The first thing that is wrong with a request; an unknown name rather than the one that is missing for it."""
    found = min(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    kind = str(request["type"])
    if found["type"].startswith("union_tag"):
        return f"type: {kind!r} is none; allowed: {', '.join(REQUESTS)}"
    where = [part for part in found["loc"] if part != kind]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
    if found["type"] == "extra_forbidden":
        return _unknown(str(where[-1]), REQUESTS[kind].model_fields if len(where) == 1 else (), path)
    return f"{path}: {found['msg'].removeprefix('Value error, ')}"


def _unknown(name: str, known: Iterable[str], path: str | None = None) -> str:
    error = unknown("field", name, known, path)
    return f"{error.field}: {error.message}"


def _slug(request: Mapping[str, Any]) -> str:
    """A few words of the prompt that every file system takes."""
    keyframes = request.get("keyframes") or [{}]
    words = str(request.get("prompt") or keyframes[0].get("prompt") or request["type"])
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:_SLUG_CHARACTERS].strip("-") or request["type"]
