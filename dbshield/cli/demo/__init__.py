"""`dbshield demo`: the shield at work on a PostgreSQL of its own, told by the data and cleaned up afterwards."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Annotated

import typer

from dbshield.cli.demo.play import play
from dbshield.cli.demo.show import Show
from dbshield.cli.demo.stage import Stage

INTERRUPTED = 130
"""128 + SIGINT, what shells expect of a program that Ctrl-C ended."""

HELP = """Show the shield at work.

Starts an embedded PostgreSQL, puts dbshield in front of it, lets an agent work and try to destroy, and proves by the data
that nothing is lost. Needs no network, touches nothing of yours, and leaves nothing behind.

Exit status: 0 when all of it held, 1 when something did not.

Example: dbshield demo
"""


def demo(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the story.")] = False,
) -> None:
    began = time.monotonic()
    show = Show(silent=as_json)
    try:
        with _ends_as_ctrl_c_does(), Stage() as stage:
            outcome = play(stage, show)
    except KeyboardInterrupt:
        show.note("Interrupted. Everything that the demo started is gone.")
        raise typer.Exit(INTERRUPTED) from None
    seconds = time.monotonic() - began
    if as_json:
        typer.echo(json.dumps(outcome.report() | {"seconds": round(seconds, 2)}))
    else:
        show.end(outcome, seconds)
    if not outcome.held:
        raise typer.Exit(1)


demo.__doc__ = HELP


@contextlib.contextmanager
def _ends_as_ctrl_c_does() -> Iterator[None]:
    """A terminal that closes and a `kill` end the demo in order too."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
