"""/metrics, /healthz and /readyz, in a process of their own: a look at them costs no session anything, and a worker that hangs is
told of by somebody else.

No handler waits for a database: what takes time is looked at in threads, and what is not known yet is absent.
"""

from __future__ import annotations

import contextlib
import platform
import socket
import threading
import time
from collections.abc import Generator, Sequence
from typing import Final

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import dbshield
from dbshield.config import Config
from dbshield.monitoring import upstreams
from dbshield.monitoring.asked import AskedByName
from dbshield.monitoring.exposition import exposed
from dbshield.monitoring.facts import facts
from dbshield.monitoring.fresh import PATIENCE, Fresh
from dbshield.monitoring.health import health, readiness, turning
from dbshield.monitoring.prompt import prompt
from dbshield.store.database import Database
from dbshield.telemetry.board import Board
from dbshield.telemetry.counts import Histogram, Series, read, together

PING_AGE: Final = 5.0
"""Seconds for which an answer of a protected server is told again."""
AT_ONCE: Final = 64
"""Connections; one more is told to come back later."""
SILENT: Final = 32
"""Of them that have not asked for anything yet."""


class Monitor:
    """What is known of one proxy: its workers by their boards, the control database, and the protected servers."""

    def __init__(self, config: Config, database: Database, boards: Sequence[Board]) -> None:
        self._config = config
        self._boards = boards
        self._facts = Fresh(lambda: facts(config, database))
        self._pings = {
            name: Fresh(lambda one=environment: upstreams.answers(one), age=PING_AGE)  # type: ignore[misc]
            for name, environment in config.environments.items()
        }

    def metrics(self, accept: str) -> tuple[bytes, str]:
        """The text for Prometheus, and its media type."""
        self._facts.begin()
        asked = self.upstreams()
        readings = [read(board) for board in self._boards]
        now = time.monotonic()
        standing = [reading for reading in readings if turning(reading, now)]
        values, histograms = together(readings, standing)
        known = self._facts.get()
        values |= {
            ("dbshield_build_info", (dbshield.__version__, platform.python_version())): 1.0,
            ("dbshield_workers", ()): float(len(standing)),
            ("dbshield_workers_configured", ()): float(len(self._boards)),
            ("dbshield_worker_starts_total", ()): float(sum(reading.starts for reading in readings)),
            ("dbshield_control_database_up", ()): float(known is not None),
        }
        for name, up in asked.items():
            if up is not None:
                values["dbshield_upstream_up", (name,)] = float(up)
        values |= known or {}
        for series in self._zeros():
            values.setdefault(series, 0.0)
        histograms.setdefault(("dbshield_durable_wait_seconds", ()), Histogram())
        return exposed(values, histograms, accept)

    def upstreams(self) -> dict[str, bool | None]:
        """Of each environment whether its server answers; nothing where it is not known yet. All are asked at once: several that
        hang would otherwise take longer than a Prometheus waits, and a probe of another environment."""
        for ping in self._pings.values():
            ping.begin()
        until = time.monotonic() + PATIENCE
        return {name: ping.get(until=until) for name, ping in self._pings.items()}

    def healthz(self, request: Request) -> Response:
        answer = health([read(board) for board in self._boards], time.monotonic())
        return JSONResponse(dict(answer.said), status_code=200 if answer.yes else 503)

    def readyz(self, request: Request) -> Response:
        environment = request.query_params.get("environment", "")
        if environment and environment not in self._pings:
            return JSONResponse({"ready": False, "why": "this environment is not configured"}, status_code=404)
        asked = self.upstreams()
        answer = readiness([read(board) for board in self._boards], time.monotonic(), upstreams=asked, environment=environment)
        return JSONResponse(dict(answer.said), status_code=200 if answer.yes else 503)

    def _zeros(self) -> list[Series]:
        """Counters that begin at 0 rather than with what they count first, which no rate would see."""
        names = [*self._config.environments]
        return [
            *(("dbshield_logins_refused_total", (stage,)) for stage in ("client", "token", "throttled")),
            *(("dbshield_upstream_errors_total", (name, stage)) for name in names for stage in ("login", "session")),
            *(("dbshield_verdict_cache_hits_total", (name,)) for name in names),
            *(("dbshield_verdict_cache_misses_total", (name,)) for name in names),
        ]


def build(monitor: Monitor, names: Sequence[str] = ()) -> Starlette:
    """The application, for who asks by an address or one of these names. Its answers are for machines, and for nobody's cache."""

    async def metrics(request: Request) -> Response:
        text, media_type = await run_in_threadpool(monitor.metrics, request.headers.get("accept", ""))
        return Response(text, headers={"content-type": media_type, "cache-control": "no-store"})

    return Starlette(
        routes=[
            Route("/metrics", metrics, methods=["GET"]),
            Route("/healthz", monitor.healthz, methods=["GET"]),
            Route("/readyz", monitor.readyz, methods=["GET"]),
        ],
        middleware=[Middleware(AskedByName, names=names)],
    )


def serve(config: Config, dsn: str, boards: Sequence[Board], sock: socket.socket, stop: threading.Event) -> None:
    """Answers on a socket until `stop` is set."""
    database = Database(dsn)
    try:
        application = build(Monitor(config, database, boards), config.metrics.names)
        settings = uvicorn.Config(
            application,
            http=prompt(SILENT),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=AT_ONCE,
        )
        _Server(settings, stop).run(sockets=[sock])
    finally:
        database.close()


class _Server(uvicorn.Server):
    """Told to end by an event. uvicorn's own handlers miss a signal that comes before they are there, and a proxy that cannot
    begin would then wait for its monitor for ever."""

    def __init__(self, config: uvicorn.Config, stop: threading.Event) -> None:
        super().__init__(config)
        self._stop = stop

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if self._stop.is_set():
            self.should_exit = True
        return await super().on_tick(counter)
