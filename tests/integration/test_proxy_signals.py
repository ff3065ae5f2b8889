"""A proxy that is told to end at a bad moment, or cannot begin: it ends, and says why."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from support import servers
from support.servers import Server
from support.shield import COMMAND, Shield, prepared_shield

ENDED_AT_A_BAD_MOMENT = """
import os, signal, sys
import dbshield.app as app
from dbshield.cli import main

class Gone:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100):
            pass  # the handler runs here, where nothing that it raises gets out

warm_up = app._warm_up
app._warm_up = lambda: (Gone(), warm_up())
sys.exit(main())
"""


@pytest.fixture(scope="module")
def prepared(server18: Server, worker_id: str) -> Iterator[Shield]:
    with prepared_shield(server18, f"signals_{worker_id}", servers.here() / f"signals-{worker_id}", agents=()) as shield:
        yield shield


def run(shield: Shield, *command: str) -> tuple[int, str]:
    """The exit code, and what was said."""
    done = subprocess.run(
        [*command, "proxy", "--config", str(shield.config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout


def test_regression_sigterm_where_the_interpreter_ignores_what_a_handler_raises(prepared: Shield) -> None:
    """In a finalizer, as in a callback of an import: the proxy ran on and had to be killed."""
    prepared.write_config(workers=1)
    code, said = run(prepared, sys.executable, "-c", ENDED_AT_A_BAD_MOMENT)
    assert "Exception ignored in" in said
    assert "draining" in said
    assert code == 0, said


@pytest.mark.parametrize("workers", [1, 2])
def test_regression_a_proxy_whose_workers_cannot_begin_gives_up(prepared: Shield, workers: int) -> None:
    """Several were started again for ever, once a second, each with the same error."""
    prepared.write_config(workers=workers)
    sockets = prepared.folder / "state" / "run"
    sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
    for worker in range(workers):
        (sockets / f"cancel-{worker}.sock").mkdir()
    try:
        code, said = run(prepared, *COMMAND)
    finally:
        for worker in range(workers):
            (sockets / f"cancel-{worker}.sock").rmdir()
    assert code == 2
    assert "the proxy cannot go on" in said
    assert "the workers cannot hear each other" in said
    assert ("no worker can begin" in said) == (workers > 1)
    assert "Traceback" not in said
