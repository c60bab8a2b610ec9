"""Who gets in: keys, host names, origins, signed links, request ids."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from shared.settings import Settings
from tests.conftest import SECRET
from tests.integration.gateway_probes import KEY

_SITE = "https://studio.example"


def test_with_a_key_only_the_key_gets_in(settings: Settings) -> None:
    """Missing, wrong and right key; health and documentation stay open."""
    keyed = Settings.model_validate({**settings.model_dump(), "gateway_key": KEY, "secret": SECRET})
    with TestClient(create_app(keyed)) as gateway:
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}):
            answer = gateway.get("/v1/models", headers=header)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert gateway.get("/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
        assert gateway.get("/health").status_code == 200


def test_what_changes_a_job_needs_the_key_and_our_own_pages(gateway: TestClient, settings: Settings) -> None:
    """Every action, also on a job that is not there: 401 comes before 404."""
    keyed = Settings.model_validate({**settings.model_dump(), "gateway_key": KEY, "secret": SECRET})
    calls = [("POST", f"/v1/jobs/job_0/{action}") for action in ("cancel", "pause", "resume", "retry")]
    with TestClient(create_app(keyed)) as guarded:
        for method, path in [*calls, ("DELETE", "/v1/jobs/job_0")]:
            assert guarded.request(method, path).status_code == 401
            assert gateway.request(method, path, headers={"Origin": "https://evil.example"}).status_code == 401
            assert gateway.request(method, path).status_code == 404


def test_without_a_key_other_host_names_are_refused(settings: Settings) -> None:
    """A web page that points its own name at this machine gets nothing; this machine's own names do."""
    with TestClient(create_app(settings)) as gateway:
        for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "", "[::1"):
            assert gateway.get("/v1/models", headers={"Host": host}).status_code == 401
        for host in ("localhost", "localhost:8000", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000"):
            assert gateway.get("/v1/models", headers={"Host": host}).status_code == 200


def test_without_a_key_nobody_is_let_in_from_elsewhere(settings: Settings) -> None:
    """A gateway that listens everywhere since there were keys serves nobody once they are gone."""
    everywhere = settings.model_copy(update={"host": "0.0.0.0"})
    with TestClient(create_app(everywhere), base_url="http://localhost") as gateway:
        assert gateway.get("/v1/models").status_code == 401


def test_outputs_need_a_fresh_and_untouched_signature(gateway: TestClient) -> None:
    """Expired, tampered or missing signatures are refused without saying whether the file exists."""
    for query in ("expires=1&signature=00", f"expires=99999999999&signature={'0' * 64}"):
        answer = gateway.get(f"/v1/jobs/job_x/outputs/track.flac?{query}")
        assert (answer.status_code, answer.json()["code"]) == (403, "url_expired")


def test_a_request_id_is_kept_or_made(gateway: TestClient) -> None:
    """The caller's id comes back; one that could forge a log line does not."""
    assert gateway.get("/health", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert gateway.get("/health", headers={"X-Request-Id": "a b"}).headers["x-request-id"].startswith("req_")


def test_pages_of_other_sites_may_not_use_a_farm_without_a_key(gateway: TestClient) -> None:
    """A form in a browser needs no permission to be sent, so its origin is looked at."""
    for origin, status in (("https://evil.example", 401), ("null", 401), ("http://127.0.0.1:8000", 200)):
        assert gateway.get("/v1/models", headers={"Origin": origin}).status_code == status


@pytest.mark.parametrize(
    ("origins", "status"), [("", 401), ("*", 401), ("https://b.example", 401), (f"{_SITE},x", 200)]
)
def test_pages_of_sites_that_are_named_may_use_it(settings: Settings, origins: str, status: int) -> None:
    """Each by its name: all sites are too many."""
    named = settings.model_copy(update={"cors_origins": origins})
    with TestClient(create_app(named), base_url="http://localhost") as gateway:
        assert gateway.get("/v1/models", headers={"Origin": _SITE}).status_code == status
