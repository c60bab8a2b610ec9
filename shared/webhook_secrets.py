"""The secrets that sign webhooks: one for each tenant, made when it is first needed, kept in storage.

After a rotation the one before signs too, for a day. RIFFARM_WEBHOOK_SECRET is the secret of the tenant "default" until
that is rotated; when the setting changes, it counts anew. Leaves out signing (`workers.webhooks`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Callable
from typing import Final, NamedTuple, cast

import redis
from redis.exceptions import LockError

from shared.errors import ObjectNotFoundError, QueueUnavailableError
from shared.job_moves import PREFIX
from shared.object_store import ObjectStore, webhook_secret_key
from shared.redis_connection import reachable
from shared.settings import Settings

ROTATION_S: Final = 86_400.0
"""How long the secret before signs beside the new one."""
_CACHED_S: Final = 60.0
_TURN_S: Final = 30.0
DEFAULT_TENANT: Final = "default"


class WebhookSecret(NamedTuple):
    """A tenant's secret (`whsec_…`) and, while it rotates, the one before and until when (Unix seconds) that signs."""

    secret: str
    previous: str | None
    rotates_until_s: float
    setting: str

    def signing(self, now_s: float) -> tuple[str, ...]:
        """What signs at this time, the newest first."""
        is_rotating = self.previous is not None and now_s < self.rotates_until_s
        return (self.secret, cast("str", self.previous)) if is_rotating else (self.secret,)

    def __repr__(self) -> str:
        return "WebhookSecret(…)"


class WebhookSecrets:
    """Every tenant's secret. Methods raise TransientError while storage or Redis do not answer."""

    def __init__(self, settings: Settings, client: redis.Redis, object_store: ObjectStore) -> None:
        self._setting = settings.webhook_secret.get_secret_value() if settings.webhook_secret else None
        self._redis = client
        self._objects = object_store
        self._cache: dict[str, tuple[str | None, float, WebhookSecret]] = {}

    def of(self, tenant: str) -> WebhookSecret:
        """A tenant's secret, made now if it has none. Known for a minute; what another process rotates, at once."""
        with reachable():
            version = cast("str | None", self._redis.hget(f"{PREFIX}webhook_secrets", tenant))
        known = self._cache.get(tenant)
        if known and known[0] == version and time.monotonic() < known[1]:
            return known[2]
        found = self._read(tenant) or self._changed(tenant, lambda before: before or self._drawn(tenant))
        self._cache[tenant] = (version, time.monotonic() + _CACHED_S, found)
        return found

    def rotate(self, tenant: str) -> WebhookSecret:
        """Draw a new secret; the one until now signs too for a day, one before that no more."""

        def rotated(before: WebhookSecret | None) -> WebhookSecret:
            drawn = self._drawn(tenant)
            if before is None:
                return drawn
            return drawn._replace(previous=before.secret, rotates_until_s=time.time() + ROTATION_S)

        return self._changed(tenant, rotated)

    def _changed(self, tenant: str, change: Callable[[WebhookSecret | None], WebhookSecret]) -> WebhookSecret:
        """What a change makes of a tenant's secret; one process at a time, so that all make it of the same."""
        try:
            with reachable(), self._redis.lock(f"{PREFIX}webhook_secrets:{tenant}", _TURN_S, blocking_timeout=_TURN_S):
                before = self._read(tenant)
                after = change(before)
                if after != before:
                    data = json.dumps(after._asdict()).encode()
                    self._objects.put(webhook_secret_key(tenant), data, "application/json")
                    self._redis.hset(f"{PREFIX}webhook_secrets", tenant, secrets.token_hex(8))
        except LockError as error:
            raise QueueUnavailableError("The webhook secret is being changed by another; try again.") from error
        return after

    def _read(self, tenant: str) -> WebhookSecret | None:
        setting = self._setting if tenant == DEFAULT_TENANT else None
        try:
            kept = WebhookSecret(**json.loads(self._objects.get(webhook_secret_key(tenant))))
        except ObjectNotFoundError:
            kept = None
        if setting and (kept is None or kept.setting != _fingerprint(setting)):
            return WebhookSecret(setting, None, 0.0, _fingerprint(setting))
        return kept

    def _drawn(self, tenant: str) -> WebhookSecret:
        setting = _fingerprint(self._setting) if self._setting and tenant == DEFAULT_TENANT else ""
        drawn = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
        return WebhookSecret(drawn, None, 0.0, setting)


def _fingerprint(setting: str) -> str:
    """Tells whether the setting is still the one that a rotated secret came after."""
    return hashlib.sha256(setting.encode()).hexdigest()
