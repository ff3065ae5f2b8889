"""The metrics beside `dbshield up` and `dbshield proxy`: a process of their own, where an address is configured for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import structlog

from dbshield.cli.beside import Told, beside
from dbshield.config import Config
from dbshield.monitoring.listening import bound
from dbshield.telemetry.board import Board

AGAIN = 5.0
"""Seconds after a bug until the next attempt."""


@contextlib.contextmanager
def monitor_beside(settings: Config, dsn: str) -> Iterator[Sequence[Board]]:
    """The boards for the workers' numbers while the block runs, one each; none where no address is configured.

    Raises ConfigError where the address cannot be had.
    """
    address = settings.metrics.address
    if address is None:
        yield ()
        return
    with contextlib.ExitStack() as held:
        boards = [held.enter_context(contextlib.closing(Board())) for _ in range(settings.proxy.workers)]
        sock = held.enter_context(contextlib.closing(bound(address)))

        def serve(told: Told) -> None:
            # Nobody but this process needs a web server.
            from dbshield.monitoring import server  # noqa: PLC0415

            server.serve(settings, dsn, boards, sock, told.stop)

        held.enter_context(beside("monitor", serve, again=AGAIN))
        # Nothing here accepts, so that the address is free as soon as the monitor has ended.
        sock.close()
        structlog.get_logger("dbshield.monitor").info("listening", part="monitor", address=str(address))
        yield boards
