"""Traces of real processes: a gateway and a worker send them to a receiver that speaks OTLP over HTTP."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from shared.settings import Settings
from tests.conftest import wait_until
from tests.integration.gateway_probes import CLIP
from tests.integration.test_logs import environment, gateway_process, running

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Receiver:
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    import gzip

                    body = gzip.decompress(body)
                sent = ExportTraceServiceRequest.FromString(body)
                for resource in sent.resource_spans:
                    receiver.spans += [span for scope in resource.scope_spans for span in scope.spans]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def names(self, trace: str) -> dict[str, list[Span]]:
        """A trace's spans by name."""
        found = defaultdict(list)
        for span in self.spans:
            if span.trace_id.hex() == trace:
                found[span.name].append(span)
        return found


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    try:
        yield receiver
    finally:
        receiver.close()


@pytest.mark.parametrize("variable", ["RIFFARM_TRACES_URL", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_a_job_is_one_trace_from_its_request_to_its_uploads(tmp_path: Path, settings: Settings, variable: str) -> None:
    """Below the caller's own span: request, plan, record; then in a worker each item, its rendering, its uploads."""
    with receiving() as receiver:
        traced = {variable: receiver.url}
        worker = environment(settings, RIFFARM_WORKER_APP="tests.stub_worker:app", **traced)
        with (
            gateway_process(tmp_path / "gateway.log", settings, **traced) as url,
            running(tmp_path / "worker.log", worker, "workers.main", "--name", "w1", "--models", "riffarm-mini"),
        ):
            headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
            answer = httpx.post(f"{url}/v1/jobs", json={**CLIP, "formats": ["wav"]}, headers=headers).json()
            wanted = {"POST /v1/jobs", "plan", "record", "batch", "chunk", "deliver", "render", "upload"}
            wait_until(lambda: wanted <= {*receiver.names(TRACE)}, "the whole job is traced")
    found = receiver.names(TRACE)
    (request,) = found["POST /v1/jobs"]
    assert request.parent_span_id.hex() == CALLER
    (record,), (deliver,), (batch,) = found["record"], found["deliver"], found["batch"]
    assert record.parent_span_id == batch.parent_span_id == deliver.parent_span_id == request.span_id
    assert {upload.parent_span_id for upload in found["upload"]} <= {
        deliver.span_id,
        *(one.span_id for one in found["render"]),
    }
    marks = {one.key: one.value.string_value for one in batch.attributes}
    assert (marks["riffarm.job"], marks["riffarm.item"]) == (answer["id"], "b0")


def test_off_nothing_of_opentelemetry_is_imported() -> None:
    """A process that sends no traces pays nothing for them."""
    code = (
        "import sys; from shared import telemetry; telemetry.configure_traces('p', None)\n"
        "with telemetry.span('a', {'b': 'c'}) as span: assert span is None\n"
        "assert telemetry.traceparent() == ''\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
        # FastAPI and redis-py import parts of it by themselves, where it is installed.
        "import api.main, workers.attempts\n"
        "heavy = ('opentelemetry.sdk.trace', 'opentelemetry.exporter')\n"
        "assert not [name for name in sys.modules if name.startswith(heavy)]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_receiver_that_is_away_harms_nothing(tmp_path: Path, settings: Settings) -> None:
    """Requests are answered as fast as ever, and the gateway ends when it is told to."""
    with gateway_process(tmp_path / "gateway.log", settings, RIFFARM_TRACES_URL="http://127.0.0.1:9/v1/traces") as url:
        for _ in range(20):
            assert httpx.get(f"{url}/v1/jobs", timeout=2).status_code == 200
