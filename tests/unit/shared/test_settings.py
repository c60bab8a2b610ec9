"""Settings: secrets that would not protect are refused by name, and never shown."""

from __future__ import annotations

import pytest

from shared.settings import settings_from_environment
from tests.conftest import SECRET, WEBHOOK_SECRET

RIGHT = {"REDIS_URL": "redis://x", "STORAGE_URL": "file:x", "SECRET": SECRET, "WEBHOOK_SECRET": WEBHOOK_SECRET}


def set_environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in (RIGHT | variables).items():
        monkeypatch.setenv(f"RIFFARM_{name}", value)


def test_right_settings_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variable reaches its field; the address for clients follows from host and port."""
    set_environment(monkeypatch, PORT="9000", GATEWAY_KEY="k" * 32)
    settings = settings_from_environment()
    assert settings.base_url == "http://127.0.0.1:9000"
    assert settings.gateway_key
    assert "k" * 32 not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECRET", "short"),
        ("GATEWAY_KEY", ""),
        ("GATEWAY_KEY", "short"),
        ("WEBHOOK_SECRET", ""),
        ("WEBHOOK_SECRET", "whsec_c2hvcnQ="),
        ("WEBHOOK_SECRET", SECRET),
        ("PORT", "70000"),
        ("LOG_FORMAT", "runes"),
        ("OUTPUT_BUCKETS", "client, farm"),
    ],
)
def test_a_wrong_variable_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """An empty key would let everybody in, a short one soon."""
    set_environment(monkeypatch, **{"STORAGE_URL": "s3://farm/x", name: value})
    with pytest.raises(SystemExit) as ended:
        settings_from_environment()
    assert f"RIFFARM_{name}: " in str(ended.value)
    assert not value or value not in str(ended.value)
