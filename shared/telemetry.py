"""Traces by OpenTelemetry, if wanted: one for each job, from the request that submitted it to its last upload.

Off, nothing of OpenTelemetry is imported and a span costs a comparison. Owns where spans go and how a job's record
carries its trace. Leaves out which steps have spans: that is theirs to say, with `span`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Literal

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_EXPORT_EVERY_MS: Final = 1_000
"""What a killed process takes with it: no more than that."""
Kind = Literal["server", "consumer", "internal"]
_tracers: list[Any] = []


def configure_traces(process: str, url: str | None) -> None:
    """From now on send this process' spans to `url`, an OTLP/HTTP receiver's address for traces.

    Without one the standard variables (OTEL_EXPORTER_OTLP_ENDPOINT and others) decide; with neither, traces stay off.
    Ends the process when traces are wanted and the extra `telemetry` is not installed.
    """
    if not url and not any(os.environ.get(name) for name in _ENDPOINTS):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        sys.exit("riffarm: traces need OpenTelemetry: install riffarm[telemetry], or unset RIFFARM_TRACES_URL")
    provider = TracerProvider(resource=Resource.create({"service.name": "riffarm", "service.instance.id": process}))
    processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=url), schedule_delay_millis=_EXPORT_EVERY_MS)
    provider.add_span_processor(processor)
    _tracers[:] = [provider.get_tracer("riffarm")]


def is_traced() -> bool:
    """Whether this process sends spans."""
    return bool(_tracers)


@contextmanager
def span(
    name: str, attributes: Mapping[str, str | int] | None = None, *, parent: str | None = None, kind: Kind = "internal"
) -> Iterator[Any]:
    """A step of a trace, as long as the block lasts: below the step around it, or below `parent`, a traceparent.

    Gives OpenTelemetry's span, None when traces are off. An error that leaves the block is noted in it.
    """
    if not _tracers:
        yield None
        return
    from opentelemetry.trace import SpanKind

    kinds = {"server": SpanKind.SERVER, "consumer": SpanKind.CONSUMER, "internal": SpanKind.INTERNAL}
    context = _context(parent) if parent is not None else None
    with _tracers[0].start_as_current_span(name, context, kinds[kind], attributes) as current:
        yield current


def traceparent() -> str:
    """The present step as W3C Trace Context writes it, to go on from elsewhere; "" when there is none."""
    if not _tracers:
        return ""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent", "")


def _context(parent: str) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": parent}, Context())
