"""The contract written out: docs/openapi.json and docs/api.md, from the gateway's own document (`make openapi`)."""
