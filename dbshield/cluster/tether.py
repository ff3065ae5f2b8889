"""What ends a server when the process that started it is gone, in whatever way."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from dbshield.cluster.account import Account

WAIT = 'read -r _ || exit 1; exec "$@" </dev/null'
"""A server to be: it waits for a word from us, and is none where we end before that."""
WATCH = (
    'read -r _; tries=0; until "$1" stop --silent --mode=immediate -D "$2" >/dev/null 2>&1;'
    ' do kill -0 "$3" 2>/dev/null || break; tries=$((tries + 1)); [ "$tries" -lt 600 ] || break; sleep 0.1; done;'
    ' shift 3; [ $# = 0 ] || rm -rf -- "$@"'
)
"""What a watcher does. A server that has just begun has no postmaster.pid yet: it tries for a minute while there is a process."""


class Watcher:
    """A process of the server's account that reads a pipe until we are gone, and then stops the server `pid` of the folder `data`
    and removes the folders in `gone`."""

    def __init__(self, pg_ctl: Path, data: Path, pid: int, gone: Sequence[Path], account: Account) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", WATCH, "dbshield-watcher", pg_ctl, data, str(pid), *gone],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **account.process(),
        )

    def end(self) -> None:
        """The server is on its own from here on."""
        self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
