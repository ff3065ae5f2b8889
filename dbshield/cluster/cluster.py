"""One PostgreSQL cluster that dbshield runs itself: made, started, stopped, and found again after a crash.

    folder/
      data/            PostgreSQL's own folder
      socket/          the Unix socket, unless the path is too long for one (then `socket-folder` names a folder in /tmp)
      server.log
      lock             held while the cluster is made, started or stopped

Laws:
- Only the account that the server runs as and root get in without a password, and only as the superuser: the folder of the
  socket admits nobody else (0700), and `peer` asks the kernel who connects. Every other role needs its password (SCRAM).
- A half-made data folder is never used: initdb works under another name and the result is moved.
- A server is recognised by its working folder, not by a number in a file: after a crash that number may be somebody else's.
- A tethered server does not outlive the process that started it, not even after SIGKILL: a watcher waits on a pipe that only
  that process holds open, and stops the server when the pipe closes. The server becomes one only when its watcher is there.

Source: the PostgreSQL manual, chapters 18 (server setup), 20.1 (pg_hba.conf), `storage-file-layout` for postmaster.pid.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from dbshield.cluster import files
from dbshield.cluster.account import Account, server_account
from dbshield.cluster.binaries import Binaries, embedded_binaries
from dbshield.cluster.tether import WAIT, Watcher
from dbshield.errors import ClusterError

SOCKET_PORT = 5432
"""The number in the socket's name where the server does not listen on TCP; the folder is private, so it never clashes."""

START_TIMEOUT = 60.0
"""Seconds, pg_ctl's own default."""
STOP_TIMEOUT = 60.0
"""Seconds for each of the modes that a stop tries, pg_ctl's own default."""
INITDB_TIMEOUT = 300.0
POLL = 0.02
"""Seconds between two looks at a server that starts or stops."""
PORT_TRIES = 5
"""A free port can be taken by another process between choosing it and listening on it."""

COPIES = Path("/var/cache/dbshield")
"""Where root copies binaries that the lent account cannot reach."""

STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class Cluster:
    """A cluster in `folder`. Making the object does nothing; every method may be called again.

    `port` counts only with `listen`, which opens 127.0.0.1; None takes a free one at each start. `settings` are given on the
    server's command line and so win over the files. `hba` are lines put before the cluster's own in pg_hba.conf.
    `copies` is where root copies binaries that the server's account cannot reach. `start_timeout` in seconds: one that recovers
    takes its time. `databases` are those that it is asked through, the first that lets the superuser in: one that was restored
    need not have `postgres`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        binaries: Binaries | None = None,
        port: int | None = None,
        listen: bool = False,
        settings: Mapping[str, str] | None = None,
        hba: Sequence[str] = (),
        superuser: str = "postgres",
        copies: Path = COPIES,
        start_timeout: float = START_TIMEOUT,
        databases: Sequence[str] = ("postgres",),
    ) -> None:
        self.folder = folder.resolve()
        self.data = self.folder / "data"
        self.log = self.folder / "server.log"
        self.superuser = superuser
        self._given = binaries
        self._wanted_port = port
        self._listen = listen
        self._settings = dict(settings or {})
        self._hba = tuple(hba)
        self._copies = copies
        self._start_timeout = start_timeout
        self._databases = tuple(databases)
        self._database = self._databases[0]
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: Watcher | None = None

    @property
    def account(self) -> Account:
        """The account that the server runs as."""
        return server_account()

    @property
    def binaries(self) -> Binaries:
        """The programs this cluster runs, where its account can run them."""
        self._given = (self._given or embedded_binaries()).readable_by(self.account, self._copies)
        return self._given

    @property
    def running(self) -> bool:
        """Whether a server works on the data folder, whoever started it."""
        return files.server_pid(self.data) is not None

    @property
    def pid(self) -> int | None:
        """The process id of the server, None when it does not run."""
        return files.server_pid(self.data)

    @property
    def host(self) -> str:
        """The address that the server listens on.

        Raises:
            ClusterError: the cluster has its Unix socket only.
        """
        if not self._listen:
            raise ClusterError(f"the server in {self.folder} does not listen on TCP", hint="Connect through its socket.")
        return "127.0.0.1"

    @property
    def port(self) -> int:
        """The port of the server that runs now, also the number in its socket's name.

        Raises:
            ClusterError: it does not run, so there is none.
        """
        return self._lock_file().port

    @property
    def socket_folder(self) -> Path:
        """The folder of the Unix socket of the server that runs now."""
        return self._lock_file().socket_folder

    def dsn(self, dbname: str | None = None, user: str | None = None) -> str:
        """libpq's connection string over the Unix socket; roles other than the superuser need their password added. Without a
        database it names the one that let us in."""
        return make_conninfo(
            host=str(self.socket_folder), port=self.port, dbname=dbname or self._database, user=user or self.superuser
        )

    def ensure(self) -> None:
        """Make the data folder if there is none.

        Raises:
            ClusterError: the folder cannot be used by the server's account, or initdb failed (with its last lines).
        """
        with self._locked():
            if (self.data / "PG_VERSION").is_file():
                self._check_version()
                return
            self._make()

    def start(self, *, tethered: bool = False, throwaway: bool = False) -> None:
        """Make the cluster if needed, start the server, and wait until it answers. Nothing happens when it runs already.

        With `tethered` the server is stopped when this process ends in whatever way; with `throwaway` as well its folder
        is removed then.

        Raises:
            ClusterError: the server did not come up in time; the message carries the last lines of its log.
        """
        self.ensure()
        with self._locked():
            if self.running:
                self._wait(time.monotonic() + self._start_timeout)
                return
            sockets = files.socket_folder(self.folder, self.account)
            files.forget_stale(self.data, sockets)
            files.roll(self.log)
            files.write_hba(self.data, self.account, self.superuser, self._hba)
            self._launch(sockets, tethered=tethered, throwaway=throwaway)

    def stop(self, mode: str = "fast") -> None:
        """Stop the server and wait until it is gone; a mode that does not end in time gives way to `immediate`.

        Raises:
            ClusterError: an unknown mode, or the server did not end in either mode's time.
        """
        if mode not in STOP_SIGNALS:
            raise ClusterError(f"there is no way to stop called {mode!r}", hint=f"Use {', '.join(STOP_SIGNALS)}.")
        for way in dict.fromkeys((mode, "immediate")):
            if self._end(STOP_SIGNALS[way], STOP_TIMEOUT):
                self._untether()
                return
        raise ClusterError(f"the server in {self.folder} does not stop", hint="Look at its log:\n" + files.tail(self.log))

    def kill(self) -> None:
        """End the postmaster as a crash would (SIGKILL); its children notice and go. For tests."""
        self._end(signal.SIGKILL, STOP_TIMEOUT)
        self._untether()

    def remove(self) -> None:
        """Stop the server and delete the folder with everything in it."""
        if self.data.exists():
            self.stop("immediate")
        files.forget_socket_folder(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _lock_file(self) -> files.LockFile:
        found = files.lock_file(self.data)
        if found is None or not self.running:
            raise ClusterError(f"no server runs in {self.folder}", hint="Start it first; its log is " + str(self.log))
        return found

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time makes or starts the cluster."""
        account = self.account
        fresh = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        if fresh:
            account.own(self.folder, 0o700)
        if not account.may("-w", self.folder):
            raise ClusterError(
                f"the account {account.name}, which runs PostgreSQL, cannot write to {self.folder}",
                hint=f"Choose a folder outside of private homes, such as /var/lib/dbshield, and give it to {account.name}.",
            )
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _check_version(self) -> None:
        made_by = (self.data / "PG_VERSION").read_text().strip()
        if made_by != str(self.binaries.major):
            raise ClusterError(
                f"{self.data} was made by PostgreSQL {made_by}, and these programs are {self.binaries.major}",
                hint="Use programs of the same major version, or move the data with pg_upgrade.",
            )

    def _make(self) -> None:
        """initdb under another name, then a rename. The locale has UTF-8's letters and C's order, on every machine alike."""
        half = self.folder / "data.half"
        shutil.rmtree(half, ignore_errors=True)
        locale = ["--locale=C.UTF-8"]
        if self.binaries.major >= 17:
            locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command: list[str | Path] = [
            self.binaries.program("initdb"),
            "--pgdata",
            half,
            "--username",
            self.superuser,
            "--encoding=UTF8",
            *locale,
        ]
        # `reject` until our own pg_hba.conf is written at the first start.
        command += ["--auth=reject", "--data-checksums", "--no-instructions"]
        if self._settings.get("fsync") == "off":
            command.append("--no-sync")
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=INITDB_TIMEOUT,
                umask=0o077,
                **self.account.process(),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ClusterError(
                f"initdb did not run: {error}", hint="Check the machine's memory and the folder's disk."
            ) from error
        if done.returncode:
            shutil.rmtree(half, ignore_errors=True)
            last = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
            raise ClusterError(f"initdb could not make {self.data}:\n{last}", hint="Mend what its last lines name.")
        half.rename(self.data)

    def _launch(self, sockets: Path, *, tethered: bool, throwaway: bool) -> None:
        """Start the server, with another port when the chosen one was taken meanwhile."""
        deadline = time.monotonic() + self._start_timeout
        tries = PORT_TRIES if self._wanted_port is None else 1
        while True:
            begin = self.log.stat().st_size if self.log.exists() else 0
            tether = (lambda pid: self._tether(pid, throwaway, sockets)) if tethered or throwaway else None
            try:
                self._spawn(sockets, (self._wanted_port or _free_port()) if self._listen else SOCKET_PORT, tether)
                self._wait(deadline)
            except BaseException as error:
                self._end(signal.SIGQUIT, STOP_TIMEOUT)
                self._untether()
                said = files.tail(self.log, begin=begin)
                # The second is all that a server says which logs nothing but what ends it.
                taken = "Address already in use" in said or "could not create any TCP/IP sockets" in said
                tries -= taken
                # What a killed server's children still hold is let go of as soon as they have noticed.
                passing = "pre-existing shared memory block" in said or (taken and tries > 0)
                if not isinstance(error, ClusterError) or not passing or time.monotonic() > deadline:
                    raise
                time.sleep(POLL)
            else:
                return

    def _spawn(self, sockets: Path, port: int, tether: Callable[[int], None] | None) -> None:
        """Start the server. With a `tether`, which is given its number, it waits before it is one until that has returned."""
        options = {
            "listen_addresses": "127.0.0.1" if self._listen else "",
            "port": str(port),
            "unix_socket_directories": str(sockets),
            "unix_socket_permissions": "0700",
            "password_encryption": "scram-sha-256",
            "logging_collector": "off",
            **self._settings,
        }
        command: list[str | Path] = [self.binaries.program("postgres"), "-D", self.data]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        waiting = ["/bin/sh", "-c", WAIT, "dbshield-server"] if tether is not None else []
        with self.log.open("ab") as log:
            self.log.chmod(0o600)
            # A session of its own, so that Ctrl-C in a terminal reaches dbshield, which then stops the server in order.
            self._process = subprocess.Popen(
                [*waiting, *command],
                stdin=subprocess.PIPE if tether is not None else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self.account.process(),
            )
        if tether is not None and self._process.stdin is not None:
            try:
                tether(self._process.pid)
                self._process.stdin.write(b"go\n")
            finally:
                # Without the word it ends by itself.
                with contextlib.suppress(BrokenPipeError):
                    self._process.stdin.close()

    def _wait(self, deadline: float) -> None:
        """Until the server answers a query."""
        last: Exception | None = None
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                break
            for name in self._databases:
                try:
                    with psycopg.connect(self.dsn(name), connect_timeout=5, autocommit=True) as conn:
                        conn.execute("select 1")
                except (psycopg.OperationalError, ClusterError) as error:
                    last = error
                else:
                    self._database = name
                    return
            time.sleep(POLL)
        raise ClusterError(
            f"the server in {self.folder} did not come up ({last}); the last lines of its log:\n{files.tail(self.log)}",
            hint=f"The whole log is {self.log}.",
        )

    def _tether(self, pid: int, throwaway: bool, sockets: Path) -> None:
        gone = [self.folder, sockets] if throwaway else []
        self._watcher = Watcher(self.binaries.program("pg_ctl"), self.data, pid, gone, self.account)

    def _untether(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.end()

    def _end(self, number: signal.Signals, timeout: float) -> bool:
        """Send the signal and wait; True when the server is gone."""
        pid = self._alive()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + timeout
        while self._alive() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL)
        self._process = None
        return True

    def _alive(self) -> int | None:
        """The server, which before it has written postmaster.pid is known only as our own child."""
        if self._process is not None and self._process.poll() is None:
            return self._process.pid
        return files.server_pid(self.data)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
