# syntax=docker/dockerfile:1
# The gateway: HTTP in, messages out. No torch: its lock has none, and `api` and `shared` import none.

FROM python:3.11.14-slim-bookworm AS packages
COPY requirements-gateway.lock /tmp/requirements.lock
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement /tmp/requirements.lock

FROM python:3.11.14-slim-bookworm
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RIFFARM_HOST=0.0.0.0 \
    RIFFARM_PORT=8000
RUN useradd --uid 10001 --create-home riffarm
WORKDIR /app
COPY --from=packages /venv /venv
COPY shared shared
COPY api api
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=3)"]
CMD ["python", "-m", "api.main"]
