"""The server of the console: uvicorn, on a socket that is there, until it is told to end."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Generator
from typing import Final

import uvicorn
from starlette.applications import Starlette

from dbshield.config.console import ConsoleConfig
from dbshield.console.app import build
from dbshield.console.frame import Parts
from dbshield.console.reloading import Load, reload
from dbshield.monitoring.prompt import prompt

GRACE: Final = 5
"""Seconds that answers under way get when the console ends; pages that follow what happens end at once."""
CONNECTIONS: Final = 500
"""At once: each open page that follows what happens is one."""
SILENT: Final = 100
"""Of them that have not asked for anything yet."""


def run(parts: Parts, sock: socket.socket, stop: threading.Event, reload: threading.Event, load: Load) -> None:
    """Answers until `stop` is set; each time that `reload` is, `load` reads the configuration again."""
    app = build(parts)
    _Server(settings(parts.config.console, app), app, stop, reload, load).run(sockets=[sock])


def settings(console: ConsoleConfig, app: Starlette) -> uvicorn.Config:
    trusted = list(console.trusted_proxies)
    return uvicorn.Config(
        app,
        http=prompt(SILENT),
        ssl_certfile=console.tls_certificate,
        ssl_keyfile=console.tls_key,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=bool(trusted),
        forwarded_allow_ips=trusted,
        lifespan="on",
        ws="none",
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE,
    )


class _Server(uvicorn.Server):
    """Told by events instead of signals, which somebody else hears."""

    def __init__(
        self, config: uvicorn.Config, app: Starlette, stop: threading.Event, reload: threading.Event, load: Load
    ) -> None:
        super().__init__(config)
        self._app = app
        self._stop = stop
        self._reload = reload
        self._load = load

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if self._stop.is_set():
            self.should_exit = True
            # Else they would be waited for.
            self._app.state.live.end()
        elif self._reload.is_set():
            self._reload.clear()
            reload(self._app, self._load, self.config.ssl)
        return await super().on_tick(counter)
