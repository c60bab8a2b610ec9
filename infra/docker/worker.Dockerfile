# syntax=docker/dockerfile:1
# A worker: renders on a GPU or a CPU, makes sound, delivers. The sweeper and the courier run from this image too.
# The base has no CUDA on purpose: torch's wheels bring the CUDA libraries that they were built with, and the driver comes
# from the host through NVIDIA's container toolkit. A CUDA base would only add a second, unused copy of several gigabytes.

FROM python:3.11.14-slim-bookworm AS packages
COPY requirements-worker.lock /tmp/requirements.lock
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement /tmp/requirements.lock

FROM python:3.11.14-slim-bookworm
# The two NVIDIA variables say what the toolkit puts into the container; without a GPU they do nothing.
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/home/riffarm/.cache/numba \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# The cache holds models fetched by hub id and compiled code; made here so that a volume on it belongs to the user.
RUN useradd --uid 10001 --create-home riffarm \
    && mkdir /home/riffarm/.cache \
    && chown riffarm:riffarm /home/riffarm/.cache
WORKDIR /app
COPY --from=packages /venv /venv
COPY shared shared
COPY workers workers
COPY infra/docker/worker_is_alive.py .
COPY infra/docker/sweeper_is_alive.py .
COPY infra/docker/courier_is_alive.py .
USER 10001
# Well is a worker whose child has reported to Redis within the last seconds; the first report follows the model's loading.
HEALTHCHECK --interval=15s --timeout=10s --start-period=5m --retries=3 \
    CMD ["python", "worker_is_alive.py"]
CMD ["python", "-m", "workers.main"]
