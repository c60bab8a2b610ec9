"""`riffarm keys create|list|revoke|rotate`: keys from the operator's shell, straight on the farm's storage and Redis.

Owns options and what is printed. Leaves out the work (`api.keys`), imported with Redis' client only when a command
runs: every command loads this module.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from api.durations import duration_s_from_text
from shared.errors import RequestError, RiffarmError

if TYPE_CHECKING:
    from api.keys import Changed, KeyRecord, Keys, Scope

commands = typer.Typer(
    help="Make, list and end the keys that let others in. Storage and Redis are those of the farm's settings "
    "(RIFFARM_REDIS_URL, RIFFARM_STORAGE_URL), or with --data those of a farm that riffarm up runs there; the gateways "
    "know of every change at once.",
)
_MAX_S: Final = 100 * 365 * 86_400

AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
Data = Annotated[Path | None, typer.Option(help="Folder of the farm, when riffarm up runs it: as with its --data.")]
KeyId = Annotated[str, typer.Argument(help="The key's id, key_…: see riffarm keys list.", metavar="KEY_ID")]


def _life_s(text: str, option: str) -> float:
    """Seconds that a key works. Raises typer.BadParameter, also without a unit: 30 would be seconds, and meant days."""
    seconds = duration_s_from_text(text, option)
    if text.strip()[-1].isdigit() or seconds > _MAX_S:
        right = "write 90s, 30m, 24h, 30d or 2w, 100 years at most"
        raise typer.BadParameter(f"{text!r} is no key's life; {right}", param_hint=option)
    return seconds


@commands.command()
def create(
    name: Annotated[str, typer.Option(help="Whose it is or what for, as you will read it in the list.")],
    tenant: Annotated[
        str, typer.Option(help="Who sees the same jobs and uploads: lower-case letters, digits and hyphens.")
    ] = "default",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="What it may do: read, submit or admin; may be given again. read and submit when left out."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="How long it works: 90s, 30m, 24h, 30d, 2w; for ever when left out.")
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it: this once, for only its hash is kept."""
    scopes, life_s = _scopes(scope), None if expires is None else _life_s(expires, "--expires")
    with _keys(data) as keys:
        changed = keys.create(tenant, name, scopes, life_s)
    _show_new(changed, {}, as_json=as_json)
    _end(changed)


@commands.command("list")
def list_keys(data: Data = None, as_json: AsJson = False) -> None:
    """List all keys, newest first, also those that let nobody in any more."""
    with _keys(data) as keys:
        found = keys.all()
    if as_json:
        typer.echo(json.dumps([_shown(record) for record in found]))
        return
    table = Table(box=None)
    for heading in ("Key", "Tenant", "Name", "Scopes", "Made", "Works until"):
        table.add_column(heading, no_wrap=heading == "Key")
    for one in found:
        life = _minute(one.expires_at) if one.expires_at else "for ever"
        until = life if one.state == "active" else one.state
        table.add_row(one.id, one.tenant, one.name, " ".join(one.scopes), _minute(one.created_at), until)
    Console().print(table)


@commands.command()
def revoke(key_id: KeyId, data: Data = None, as_json: AsJson = False) -> None:
    """Let nobody in with this key any more: at once, on every gateway, for good."""
    with _keys(data) as keys:
        changed = keys.revoke(key_id)
    typer.echo(json.dumps(_shown(changed.record)) if as_json else f"{key_id} revoked")
    _end(changed)


@commands.command()
def rotate(
    key_id: KeyId,
    overlap: Annotated[str, typer.Option(help="How long the old one still works: 90s, 30m, 24h, 30d, 2w.")] = "24h",
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make and print a key of the same tenant, name, scopes and length of life; the old one works on for a while."""
    overlap_s = _life_s(overlap, "--overlap")
    with _keys(data) as keys:
        new, old = keys.rotate(key_id, overlap_s)
    _show_new(new, {"replaces": _shown(old.record)}, as_json=as_json)
    if not as_json and old.record.expires_at:
        typer.echo(f"{key_id} works until {_minute(old.record.expires_at)}.", err=True)
    _end(new, old)


def _scopes(names: list[str] | None) -> list[Scope]:
    known: dict[str, Scope] = {"read": "read", "submit": "submit", "admin": "admin"}
    if unknown := [name for name in names or () if name not in known]:
        raise typer.BadParameter(f"{unknown[0]!r} is no scope; there are {', '.join(known)}", param_hint="--scope")
    return [known[name] for name in names] if names else ["read", "submit"]


@contextmanager
def _keys(data: Path | None) -> Iterator[Keys]:
    from api.keys import Keys
    from shared.object_store import object_store_from_url
    from shared.redis_connection import redis_from_url
    from shared.settings import settings_from_environment

    settings = settings_from_environment(data)
    with redis_from_url(settings.redis_url) as client:
        try:
            yield Keys(object_store_from_url(settings.storage_url, settings.s3_endpoint_url), client)
        except ValidationError as error:
            wrong = error.errors()[0]
            raise RequestError(f"--{wrong['loc'][0]}: {_RIGHT.get(str(wrong['loc'][0]), wrong['msg'])}") from None
        except ValueError as error:
            raise RequestError(str(error)) from None


_RIGHT: Final = {
    "tenant": "1 to 63 lower-case letters, digits and hyphens, not beginning with a hyphen",
    "name": "1 to 100 characters in one line",
}


def _show_new(changed: Changed, more: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_shown(changed.record) | {"key": changed.text} | more))
        return
    one = changed.record
    typer.echo(changed.text)
    life = f" until {_minute(one.expires_at)}" if one.expires_at else ""
    typer.echo(f"{one.id} of {one.tenant} may {', '.join(one.scopes)}{life}. It is shown this once.", err=True)


def _shown(record: KeyRecord) -> dict[str, Any]:
    """What may be seen of a key: all but its hash."""
    return record.model_dump(mode="json", exclude={"sha256"}) | {"state": record.state}


def _minute(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _end(*changed: Changed) -> None:
    from api.keys import FRESH_S

    if not all(one.is_at_once for one in changed):
        raise RiffarmError(f"Redis does not answer: it is done, but gateways may take {FRESH_S} s to know.")
