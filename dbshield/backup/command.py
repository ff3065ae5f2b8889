"""PostgreSQL's programs, run so that they end with us and say what went wrong."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import IO, Any

from dbshield.backup.work import Work
from dbshield.cluster.account import Account
from dbshield.errors import BackupError

LAST_LINES = 5
"""Of what a program said before it failed."""
END_TIMEOUT = 30.0
"""Seconds that a program gets after SIGTERM."""
PIPE_BYTES = 1 << 20
"""Of a pipe that data comes through, so that the program goes on while we compress; what Linux lets everybody have."""
TETHER = (
    'exec 3<&0; "$@" 3<&- </dev/null & child=$!; (read -r _ <&3; kill -TERM "$child") & guard=$!; exec 3<&-;'
    ' wait "$child"; status=$?; kill "$guard" 2>/dev/null; exit "$status"'
)
"""A program that ends when our end of a pipe closes, which even SIGKILL does: one that streams on would never notice."""


class Command:
    """A program that runs. Its standard error goes to a file in the work folder, since a pipe that nobody reads fills up.

    With `piped` its standard output is `stdout`. With `tethered` it gets SIGTERM when this process is gone, or calls `end`.
    With an `account` it runs as that, and not in the work folder, which is closed to it.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        work: Work,
        variables: Mapping[str, str],
        output: Path | None = None,
        piped: bool = False,
        tethered: bool = False,
        account: Account | None = None,
    ) -> None:
        self._name = Path(arguments[0]).name
        self._said = work.folder / f"{self._name}-{id(self):x}.log"
        as_account: dict[str, Any] = {}
        if account is not None:
            as_account = {"user": account.uid, "group": account.gid, "extra_groups": []}
        with contextlib.ExitStack() as stack:
            said = stack.enter_context(self._said.open("wb"))
            out = stack.enter_context(output.open("wb")) if output is not None else said
            tether = ["/bin/sh", "-c", TETHER, self._name] if tethered else []
            try:
                self._process = subprocess.Popen(
                    [*tether, *arguments],
                    stdin=subprocess.PIPE if tethered else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if piped else out,
                    stderr=said,
                    env=dict(variables),
                    cwd=work.folder if account is None else "/",
                    pass_fds=(work.lock,),
                    pipesize=PIPE_BYTES if piped else -1,
                    **as_account,
                )
            except OSError as error:
                raise BackupError(f"{self._name} does not run: {error.strerror}", hint=f"Look at {arguments[0]}.") from error

    def wait(self) -> None:
        """Until it ends. Raises BackupError with its last lines."""
        status = self._process.wait()
        if status:
            raise BackupError(f"{self._name} failed ({_status(status)}): {self.last_lines()}", hint="Mend what it names.")

    @property
    def stdout(self) -> IO[bytes]:
        """What it prints, with `piped`."""
        assert self._process.stdout is not None
        return self._process.stdout

    def poll(self) -> int | None:
        return self._process.poll()

    def end(self) -> None:
        """Stop it, if it still runs."""
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.poll() is None:
            if self._process.stdin is None:
                self._process.terminate()
            try:
                self._process.wait(END_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def forget(self) -> None:
        """Remove what it said."""
        self._said.unlink(missing_ok=True)

    def everything(self) -> str:
        """What it said on its standard error so far."""
        return self._said.read_text("utf-8", "replace")

    def last_lines(self) -> str:
        lines = self.everything().strip().splitlines()[-LAST_LINES:]
        return " / ".join(line.strip() for line in lines) or "it said nothing"


@contextlib.contextmanager
def running(
    arguments: Sequence[str | Path], *, work: Work, variables: Mapping[str, str], failed: Callable[[], None] | None = None
) -> Iterator[Command]:
    """A program beside the block: waited for at its end, stopped where the block raises. `failed` is called when it fails before.

    Raises BackupError where the program fails, whatever the block raised because of it.
    """
    command = Command(arguments, work=work, variables=variables)
    over = Event()

    def watch() -> None:
        while not over.wait(0.1):
            if command.poll():
                if failed is not None:
                    failed()
                return

    watcher = Thread(target=watch, name="watch-program", daemon=True)
    watcher.start()
    try:
        yield command
        command.wait()
    except Exception:
        if command.poll():
            command.wait()
        raise
    finally:
        over.set()
        watcher.join()
        command.end()


def run(arguments: Sequence[str | Path], *, work: Work, variables: Mapping[str, str], output: Path | None = None) -> None:
    """A program until it ends. Raises BackupError with its last lines."""
    command = Command(arguments, work=work, variables=variables, output=output)
    try:
        command.wait()
    finally:
        command.end()


def _status(status: int) -> str:
    return f"killed by signal {-status}" if status < 0 else f"exit code {status}"
