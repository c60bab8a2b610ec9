"""Requests that nobody would think of, drawn from the OpenAPI document and sent to a live farm (`make test-fuzz`)."""
