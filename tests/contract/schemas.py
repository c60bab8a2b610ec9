"""JSON Schema in words and tables: what a field may be, its default, what it means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_SIGNS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "{} or more characters",
    "maxLength": "at most {} characters",
    "minItems": "{} or more",
    "maxItems": "at most {}",
    "maxProperties": "at most {}",
    "pattern": "`{}`",
    "format": "{}",
}
_FORMATS = {"date-time": "RFC 3339", "binary": "a file"}


def name_of(schema: dict[str, Any]) -> str | None:
    """The name of the component that a schema refers to."""
    place, _, name = str(schema.get("$ref", "")).rpartition("/")
    return name if place == "#/components/schemas" else None


def kind(schema: dict[str, Any]) -> str:
    """What a value may be, with its range."""
    if name := name_of(schema):
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(kind(one) for one in schema[several]))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    return ", ".join([_plain(schema), *_limits(schema)])


def _plain(schema: dict[str, Any]) -> str:
    match schema.get("type"):
        case "array":
            return f"list of {kind(schema.get('items', {}))}"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"object of {kind(schema['additionalProperties'])}"
        case None:
            return "anything"
        case other:
            return str(other)


def _limits(schema: dict[str, Any]) -> Iterator[str]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        yield f"{_number(low)}..{_number(high)}"
    for key, sign in _SIGNS.items():
        if key in schema and not (low is not None and high is not None and key in ("minimum", "maximum")):
            yield sign.format(_FORMATS.get(schema[key]) or _number(schema[key]))


def _number(value: Any) -> str:
    """Whole numbers as such: the document has all limits as floats."""
    return f"{int(value):,}" if isinstance(value, int | float) and value == int(value) else str(value)


def table(schema: dict[str, Any]) -> Iterator[str]:
    """A table of an object's fields."""
    required = schema.get("required", ())
    yield "| field | may be | default | meaning |"
    yield "|---|---|---|---|"
    for field, content in schema.get("properties", {}).items():
        default = f"`{json.dumps(content['default'], ensure_ascii=False)}`" if "default" in content else ""
        if field in required:
            default = "**required**"
        yield f"| `{field}` | {_cell(kind(content))} | {default} | {_cell(content.get('description', ''))} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def reachable(schema: Any, components: dict[str, Any], found: dict[str, None]) -> None:
    """Add to `found` the names of all components that a schema leads to, in the order in which one meets them."""
    if isinstance(schema, list):
        for one in schema:
            reachable(one, components, found)
    elif isinstance(schema, dict):
        name = name_of(schema)
        if name and name not in found:
            found[name] = None
            reachable(components[name], components, found)
        for key, one in schema.items():
            if key not in ("example", "examples", "mapping"):
                reachable(one, components, found)
