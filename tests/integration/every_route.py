"""A gateway that is asked everything it can be asked, with secrets wherever they can stand: run by `test_secrecy`.

Prints each answer as a line of JSON on standard output; the log goes to standard error, as in a gateway.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from typing import Any

from fastapi.testclient import TestClient

from api.keys import Keys
from api.main import create_app
from shared.job_store import JobStore
from shared.logs import configure_logs
from shared.object_store import object_store_from_url
from shared.settings import settings_from_environment


def requests(document: dict[str, Any], secrets: list[str], job_id: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every operation as it is meant, and with a secret in its path, its query, its headers and its body."""
    for path, methods in document["paths"].items():
        for method in methods:
            right = re.sub(r"\{(job_id|prediction_id)\}", job_id, path)
            body = {"json": {"type": "clip", "prompt": "x"}} if method == "post" else {}
            yield method, re.sub(r"\{[^}]*\}", "x", right), body
            for secret in secrets:
                yield method, re.sub(r"\{[^}]*\}", secret, path), body
                wrong: dict[str, Any] = {
                    "params": {"cursor": secret, "limit": secret, "status": secret},
                    "headers": {"Idempotency-Key": secret, "Prefer": secret, "Last-Event-ID": secret},
                }
                if method == "post":
                    fields = {"type": secret, "source": secret, secret: secret, "webhook": {"url": secret}}
                    wrong |= {"json": {"type": "clip", "prompt": 3, **fields}}
                yield method, right, wrong


def main() -> None:
    """Ask, and print what is answered."""
    settings = settings_from_environment()
    configure_logs(settings.log_format, "gateway")
    app = create_app(settings)
    job_store = JobStore(settings.redis_url)
    keys = Keys(object_store_from_url(settings.storage_url), job_store.redis)
    made = keys.create("acme", "k", ("read", "submit", "admin"))
    key = str(made.text)
    print(key)

    @app.get("/v1/crash", include_in_schema=False)
    def crash(wanted: str) -> None:
        raise RuntimeError(f"no room for {wanted}")

    others = [str(settings.webhook_secret.get_secret_value()) if settings.webhook_secret else "", key]
    with TestClient(app, raise_server_exceptions=False, headers={"Authorization": f"Bearer {key}"}) as gateway:
        job_id = gateway.post("/v1/jobs", json={"type": "clip", "prompt": "x"}).json()["id"]
        gateway.post(f"/v1/jobs/{job_id}/cancel")
        document = gateway.get("/openapi.json").json()
        for method, path, options in requests(document, others, job_id):
            answer = gateway.request(method, path, **options)
            print(json.dumps([method, path, answer.status_code, answer.headers.get("content-type"), answer.text]))
        gateway.get("/v1/crash", params={"wanted": key})
        gateway.get("/v1/jobs", headers={"X-Request-Id": key})
        keys.revoke(made.record.id)
        answer = gateway.get("/v1/jobs")
        print(json.dumps(["get", "/v1/jobs", answer.status_code, answer.headers.get("content-type"), answer.text]))
        for event in job_store.events_after(job_id, "0", 100):
            print(json.dumps(["event", event.kind, 0, "", json.dumps(event.data)]))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
