"""`dbshield WORDS…` as its users run it, without a second of imports for each.

Each command is a process of its own, with its own arguments, environment, folder and standard streams: the fork of one that has
imported the command line and waits. What is about starting, signals or terminals starts `support.shield.COMMAND` instead.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO

REQUEST_BYTES = 1 << 17
"""Longest request: arguments and environment."""
TIMEOUT = 60.0
TESTS = Path(__file__).parents[1]
UNTOLD = 70
"""Exit code of a command that ended without saying its own: it was killed."""


def run_command(
    words: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None, timeout: float = TIMEOUT
) -> subprocess.CompletedProcess[str]:
    """What `dbshield WORDS…` answered. Raises TimeoutError after `timeout` seconds; the command is killed then."""
    request = json.dumps({"words": [*words], "env": dict(env), "cwd": str(cwd or Path.cwd())}).encode()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with theirs:
            socket.send_fds(_starter(os.getpid()), [request], [out.fileno(), err.fileno(), theirs.fileno()])
        ours.settimeout(timeout)
        pid = int.from_bytes(ours.recv(4), "big")
        try:
            told = ours.recv(1)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise
        said = [_text(out), _text(err)]
    return subprocess.CompletedProcess([*words], told[0] if told else UNTOLD, *said)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


@cache
def _starter(_pid: int) -> socket.socket:
    """The process that forks commands, one for each of ours; it ends when we do."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", f"from support.commands import serve; serve({theirs.fileno()})"],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=dict(os.environ)
            | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])},
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def serve(descriptor: int) -> None:
    """Forks a command for each request, until the other side is gone."""
    from dbshield.cli.main import COMMANDS  # noqa: PLC0415  (the tests that use this module need not pay for it)

    for command in COMMANDS:
        importlib.import_module(command.module)
    with socket.socket(fileno=descriptor) as channel:
        while True:
            request, descriptors, _, _ = socket.recv_fds(channel, REQUEST_BYTES, 3)
            if not request:
                return
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if os.fork() == 0:
                channel.close()
                _run(json.loads(request), *descriptors)
            for each in descriptors:
                os.close(each)


def _run(request: dict[str, object], out: int, err: int, reply: int) -> None:
    """In the fork: become the command, and tell its exit code."""
    from dbshield.cli.main import run  # noqa: PLC0415

    code = 2
    try:
        os.write(reply, os.getpid().to_bytes(4, "big"))
        os.dup2(out, 1)
        os.dup2(err, 2)
        for each in (out, err):
            os.close(each)
        os.set_inheritable(reply, False)
        environment, words = request["env"], request["words"]
        assert isinstance(environment, dict)
        assert isinstance(words, list)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(str(request["cwd"]))
        sys.argv = ["dbshield", *words]
        code = run(words)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os.write(reply, bytes([code]))
        os._exit(code)
