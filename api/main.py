"""The gateway's entry: HTTP in, messages out.

Puts the parts together and starts the server. Leaves out every route's work.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import socket
import sys
from collections.abc import AsyncIterator
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from fastapi_swagger import patch_fastapi
from starlette.middleware.cors import CORSMiddleware

from api import (
    batches,
    catalogue,
    control,
    deliveries,
    events,
    farm,
    jobs,
    problem_pages,
    replicate,
    riffusion,
    uploads,
)
from api.access import Access, is_loopback
from api.connection import GuardedProtocol
from api.document import install_document, operation_id
from api.event_reader import EventReader
from api.guard import RequestGuard
from api.header_words import HEADERS
from api.intake import Jobs
from api.job_reader import JobReader
from api.metrics import RequestMetrics
from api.problems import install_problems
from api.quick import QuickRoutes
from api.redis_line import RedisLine
from api.watch import RequestWatch
from shared.catalogue import models
from shared.dispatch import Dispatcher, celery_app
from shared.errors import StorageUnavailableError
from shared.job_store import JobStore
from shared.logs import Lines, configure_logs
from shared.object_store import has_keys, object_store_from_url
from shared.redis_connection import async_redis_from_url
from shared.settings import Settings, settings_from_environment
from shared.telemetry import configure_traces

_SWITCH_S: Final = 0.0002


def create_app(settings: Settings) -> FastAPI:
    """The gateway over the farm that `settings` name."""
    job_store = JobStore(settings.redis_url, settings.lease_s)
    object_store = object_store_from_url(
        settings.storage_url, settings.s3_endpoint_url, settings.s3_public_endpoint_url
    )
    celery = celery_app(settings)
    client, line = async_redis_from_url(settings.redis_url), RedisLine(settings.redis_url)
    dispatcher = Dispatcher(celery)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with EventReader(settings.redis_url) as app.state.event_reader:
            yield
        await client.aclose()
        line.close()
        job_store.redis.close()
        celery.close()

    app = FastAPI(
        title="riffarm",
        lifespan=lifespan,
        version="0.1.0",
        summary="A render farm for music made by diffusion.",
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        generate_unique_id_function=operation_id,
    )
    app.state.settings = settings
    app.state.metrics = RequestMetrics()
    app.state.redis_line = line
    app.state.job_reader = JobReader(line)
    app.state.access = Access(settings, client, line, object_store)
    app.state.jobs = Jobs(settings, job_store, object_store, dispatcher, models(settings.models_file))
    install_problems(app)
    app.include_router(jobs.router)
    app.include_router(batches.router)
    app.include_router(control.router)
    app.include_router(deliveries.router)
    app.include_router(events.router)
    app.include_router(uploads.router)
    app.include_router(catalogue.router)
    app.include_router(farm.router)
    app.include_router(problem_pages.router)
    for face in (*replicate.ROUTERS, riffusion.router):
        app.include_router(face)
    app.add_api_route("/", lambda: RedirectResponse("/docs"), include_in_schema=False)
    # Swagger's files come with the package: the documentation works without the Internet.
    patch_fastapi(app, docs_url="/docs")
    install_document(app)
    app.add_middleware(QuickRoutes, router=jobs.router)
    app.add_middleware(RequestGuard, settings=settings)
    if origins := settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=[name for name in HEADERS if name != "WWW-Authenticate"],
        )
    app.add_middleware(riffusion.OpenToPages)
    app.add_middleware(RequestWatch, metrics=app.state.metrics)
    return app


class GatewayServer(uvicorn.Server):
    """A server that minds slow clients, and ends its streams of events when it is told to stop; left alone, they last
    as long as their jobs."""

    def __init__(self, config: uvicorn.Config, lines: Lines | None = None) -> None:
        """`lines`: the log's, to be written in between."""
        super().__init__(config)
        self._lines = lines

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; once a second, end the connections of clients that take too long."""
        if self._lines:
            self._lines.flush()
        if counter % 10 == 0:
            now_s = asyncio.get_running_loop().time()
            for connection in [*self.server_state.connections]:
                if isinstance(connection, GuardedProtocol):
                    connection.check(now_s)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop serving once all requests are answered."""
        app: Any = self.config.app
        app.state.event_reader.close()
        await super().shutdown(sockets)


def server_options() -> dict[str, Any]:
    """How uvicorn serves."""
    return {
        "http": GuardedProtocol,
        # None of ours: what asks for it is answered as any other request.
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_keep_alive": 30,
        # For those who do not read what they are sent.
        "timeout_graceful_shutdown": 10,
    }


def _require_a_key(settings: Settings) -> None:
    """End the process unless there is a key that strangers would need."""
    try:
        is_locked = has_keys(object_store_from_url(settings.storage_url, settings.s3_endpoint_url))
    except (StorageUnavailableError, ValueError) as error:
        sys.exit(f"riffarm: whether there are keys cannot be known: {error}")
    if not is_locked:
        sys.exit(
            f"riffarm: refusing to listen on {settings.host} without a key; "
            "set RIFFARM_GATEWAY_KEY, or make one with: riffarm keys create"
        )


def _write_log(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def main() -> None:
    """Serve until told to stop."""
    settings = settings_from_environment()
    lines = Lines(_write_log)
    atexit.register(lines.flush)
    configure_logs(settings.log_format, "gateway", lines)
    configure_traces("gateway", settings.traces_url)
    if settings.gateway_key is None and not is_loopback(settings.host):
        _require_a_key(settings)
    config = uvicorn.Config(create_app(settings), host=settings.host, port=settings.port, **server_options())
    server = GatewayServer(config, lines)
    # What is there now stays: looking through it for garbage again and again would take a fifth of the time.
    gc.collect()
    gc.freeze()
    # Of this process' threads most wait for a disk or for Redis, and need Python for a moment in between: five
    # milliseconds, which is usual, is what a whole request takes.
    sys.setswitchinterval(_SWITCH_S)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit("riffarm: the gateway did not start")


if __name__ == "__main__":
    main()
