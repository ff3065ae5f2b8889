"""`dbshield WORDS…` as its users run it, without a second of imports for each.

Each command is a process of its own, with its own arguments, environment, folder, standard streams, signals and exit status: the
fork of one that has imported the command line and waits. What is about starting itself, terminals, lists of processes or memory
starts `support.shield.COMMAND` instead.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import resource
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

REQUEST_BYTES = 1 << 17
"""Longest request: arguments and environment."""
TIMEOUT = 60.0
TESTS = Path(__file__).parents[1]
UNTOLD = 70
"""Exit code of a command of which nobody can tell how it ended."""


class Command(subprocess.Popen[Any]):
    """`dbshield WORDS…` under way, as subprocess.Popen has it; only how it is started and waited for is another.

    The process is no child of ours: its parent, which forks all commands, tells how it ended, and leaves it a zombie until
    somebody here has asked, so that its number means no other process before.
    """

    _reply: socket.socket

    def __init__(self, words: Sequence[str], *, file_bytes: int | None = None, **streams: Any) -> None:
        """No file that it writes grows beyond `file_bytes`; everything else as for Popen."""
        self._file_bytes = file_bytes
        super().__init__([*words], **streams)

    def _execute_child(self, args: Sequence[str], *given: Any) -> None:
        """What CPython's own does, by its name and order of arguments."""
        _, _, _, _, cwd, env, _, _, _, stdin, p2cwrite, c2pread, stdout, errread, stderr, _, _, _, _, _, session, *_ = given
        request: dict[str, Any] = {"words": [*args], "session": session, "file_bytes": self._file_bytes}
        request |= {"env": dict(os.environ if env is None else env), "cwd": str(cwd or Path.cwd())}
        named = {0: stdin, 1: stdout, 2: stderr}
        request["streams"] = [number for number, descriptor in named.items() if descriptor != -1]
        passed = [descriptor for descriptor in named.values() if descriptor != -1]
        self._reply, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            socket.send_fds(_starter(os.getpid()), [json.dumps(request).encode()], [theirs.fileno(), *passed])
        self._close_pipe_fds(stdin, p2cwrite, c2pread, stdout, errread, stderr)  # type: ignore[attr-defined]
        told = self._reply.recv(4)
        # Who signals the process 0 signals everybody here.
        assert told, "the process that forks commands is gone"
        self.pid = int.from_bytes(told, "big")
        self._child_created = True

    def _internal_poll(self, *_: object, **__: object) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._wait(0)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None and not select.select([self._reply], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        with self._waitpid_lock:  # type: ignore[attr-defined]
            if self.returncode is None:
                told = self._reply.recv(4)
                self.returncode = int.from_bytes(told, "big", signed=True) if told else UNTOLD
                self._reply.close()
        return self.returncode


def run_command(
    words: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None, timeout: float = TIMEOUT
) -> subprocess.CompletedProcess[str]:
    """What `dbshield WORDS…` answered. Raises TimeoutError after `timeout` seconds; the command is killed then."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        command = Command(words, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        try:
            status = command.wait(timeout)
        except subprocess.TimeoutExpired as late:
            command.kill()
            command.wait()
            raise TimeoutError(f"dbshield {' '.join(words)} takes more than {timeout} s\n{_text(out)}\n{_text(err)}") from late
        return subprocess.CompletedProcess([*words], status, _text(out), _text(err))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


@cache
def _starter(_pid: int) -> socket.socket:
    """The process that forks commands, one for each of ours; it ends when we do, with all that it has started."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", f"from support.commands import serve; serve({theirs.fileno()})"],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=dict(os.environ) | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
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
    importlib.import_module("alembic.command")  # which a command imports when it migrates
    # What is there now is looked through by no collection of a fork's, which would make it a copy of its own.
    gc.collect()
    gc.freeze()
    channel = socket.socket(fileno=descriptor)
    family = _Family()
    while True:
        if channel not in family.readable(channel):
            continue
        message, descriptors, _, _ = socket.recv_fds(channel, REQUEST_BYTES, 4)
        if not message:
            family.end()
            return
        reply, *streams = descriptors
        pid = os.fork()
        if pid == 0:
            channel.close()
            os.close(reply)
            family.forget()
            _become(json.loads(message), streams)
        for each in streams:
            os.close(each)
        family.add(pid, socket.socket(fileno=reply))


class _Family:
    """The commands that were forked and not asked for yet: those that run, by a descriptor of the process, and those that ended,
    by the socket on which nobody has heard it."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._running: dict[int, tuple[int, socket.socket]] = {}
        self._ended: dict[socket.socket, int] = {}

    def add(self, pid: int, reply: socket.socket) -> None:
        reply.send(pid.to_bytes(4, "big"))
        process = os.pidfd_open(pid)
        self._running[process] = (pid, reply)
        self._selector.register(process, selectors.EVENT_READ)

    def readable(self, channel: socket.socket) -> list[object]:
        """What there is to read, after those that ended were seen to."""
        if channel not in self._selector.get_map():
            self._selector.register(channel, selectors.EVENT_READ)
        found = [key.fileobj for key, _ in self._selector.select()]
        for one in found:
            if one in self._running:
                self._tell(int(str(one)))
            elif isinstance(one, socket.socket) and one in self._ended:
                self._bury(one)
        return list(found)

    def _tell(self, process: int) -> None:
        pid, reply = self._running.pop(process)
        self._selector.unregister(process)
        os.close(process)
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert found is not None
        status = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        self._ended[reply] = pid
        self._selector.register(reply, selectors.EVENT_READ)
        with contextlib.suppress(OSError):
            reply.send(status.to_bytes(4, "big", signed=True))

    def _bury(self, reply: socket.socket) -> None:
        """Somebody has heard how it ended, or nobody will."""
        os.waitpid(self._ended.pop(reply), 0)
        self._selector.unregister(reply)
        reply.close()

    def forget(self) -> None:
        """In a fork: the others are none of its own."""
        self._selector.close()
        for process, (_, reply) in self._running.items():
            os.close(process)
            reply.close()
        for reply in self._ended:
            reply.close()

    def end(self) -> None:
        """Nobody is left who could ask or stop them. One that is told to end takes along what it has started."""
        for process, (pid, _) in self._running.items():
            os.kill(pid, signal.SIGTERM)
            if not select.select([process], [], [], TIMEOUT)[0]:
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _become(request: dict[str, Any], streams: Sequence[int]) -> NoReturn:
    """In the fork: be the command, and end as one does, but for the tenth of a second in which an interpreter forgets modules."""
    from dbshield.cli.main import run  # noqa: PLC0415

    code = UNTOLD
    try:
        for number, descriptor in zip(request["streams"], streams, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        if request["session"]:
            os.setsid()
        if request["file_bytes"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"], request["file_bytes"]))
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        sys.argv = ["dbshield", *request["words"]]
        code = run(request["words"])
        # Waits for threads that are no daemons, once those that serve others are told to end.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
