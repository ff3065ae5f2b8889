"""Restoring a physical snapshot: the base backup, then its WAL up to the place that was counted, then a server of its own.

- What starts servers is not believed when it says that all is well: with a hole in the WAL it says so too (tried). There is
  always a target, recovery pauses there, and only that state, asked of the server, counts as reached.
- Where the WAL asks for settings that are as high as the original's, the server is started again with them, and goes on
  (`recovery_settings.py`).
- The settings of the server that it was are put aside while it recovers: its archive, its certificates and its workers are the
  original's. What is kept is put back in the end (`Standing.tidy`).

Source: PostgreSQL manual, "Recovering Using a Continuous Archive Backup", "Recovery Target", pg_verifybackup.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg

from dbshield.backup import wal_restore
from dbshield.backup.checks import Check, Outcome
from dbshield.backup.damage import Damaged
from dbshield.backup.record import Record
from dbshield.backup.recovery_settings import LABELS, raised, require_given, too_low, wanted, words
from dbshield.backup.restore import Order, Standing, quiet
from dbshield.backup.restore_base import lay
from dbshield.cluster import Cluster
from dbshield.cluster.account import Account
from dbshield.errors import BackupError, ClusterError, DbshieldError

PUT_ASIDE = ("postgresql.auto.conf", "pg_hba.conf", "pg_ident.conf")
"""Files of the data folder that a throwaway server must not read, or that dbshield writes itself."""
ALWAYS_THERE = ("postgres", "template1")
"""Databases that a server has, unless somebody dropped them: what is asked of it before those of the snapshot."""
NOT_OURS = ("standby.signal", "recovery.signal", "postmaster.pid", "postmaster.opts")
TOO_SHORT = "recovery ended before configured recovery target was reached"
NO_CHECKPOINT = "could not locate required checkpoint record"
START_SECONDS = 3600.0
"""Until the server answers: it replays what the base backup needs to be consistent first."""
STANDSTILL = 600.0
"""Seconds without any progress of the replay after which nobody waits on."""
POLL = 0.2
MIN_WAL_MB, MAX_WAL_MB = 80, 1024
"""What min_wal_size and max_wal_size are where nobody says anything (PostgreSQL manual, "WAL Configuration")."""
STATE = """
    select pg_is_in_recovery(), pg_get_wal_replay_pause_state() = 'paused', pg_last_wal_replay_lsn()::text,
        pg_last_xact_replay_timestamp()
"""


class PhysicalRestorer:
    """The engine `physical`: base backup, WAL, target, promotion."""

    name = "physical"

    def restore(self, order: Order) -> Standing:
        base = order.record.base
        if base is None:
            raise Damaged("the record does not say how far the WAL is to be replayed", hint="Use another snapshot.")
        if order.tables:
            raise BackupError("single tables come from logical snapshots alone", hint="Restore all of it beside, and copy them.")
        account = _account(order)
        with order.laps.phase("download"):
            route = wal_restore.look(order, base)
            data, wal, verified = self.fetched(order, account)
            if route is not None:
                wal_restore.fetch(order, route, wal, account)
        kept = _put_aside(order, data)
        target = str(order.goal) or base.target
        settings = {**_settings(order, wal), **wal_restore.target(order.goal, base, route)}
        done = _recovered(order, account, settings, target)
        more = f"; with {words(done.raised)}" if done.raised else ""
        replayed = Check(
            name="replay",
            outcome=Outcome.PASSED,
            measure=f"to {done.reached}, before {target}{more}",
            seconds=order.laps.seconds["restore"],
        )
        return Standing(
            cluster=done.cluster,
            checks=(verified, replayed),
            reached=done.newest if order.goal else "",
            archived_until=route.newest.marked_at if route is not None else "",
            tidy=lambda: _put_back(data, kept, account),
        )

    def fetched(self, order: Order, account: Account) -> tuple[Path, Path, Check]:
        """The data folder, the folder of its WAL, and the check that every file in it is what was backed up."""
        laid = lay(order, account)
        return laid.data, laid.wal, laid.check


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recovered:
    """A server that has replayed to its target and was promoted. `newest` is the time of the newest transaction in it, `raised`
    what it has more of than the original had when the snapshot was made."""

    cluster: Cluster
    reached: str
    newest: str
    raised: Mapping[str, int]


def _recovered(order: Order, account: Account, settings: Mapping[str, str], target: str) -> _Recovered:
    """Start a server on the data folder, as often as its WAL asks for more. Raises Damaged, BackupError, ClusterError."""
    known = dict(settings)
    needed = wanted(order.cluster / "data", order.binaries, account)
    while True:
        require_given(needed, order.settings)
        known = {**raised(known, needed), **order.settings}
        cluster = Cluster(
            order.cluster,
            binaries=order.binaries,
            settings=known,
            superuser=_superuser(order.record),
            start_timeout=START_SECONDS,
            databases=(*ALWAYS_THERE, *(database.name for database in order.record.databases)),
        )
        try:
            with order.laps.phase("start"):
                order.progress.step("start", None)
                cluster.start(tethered=True, throwaway=True)
            with order.laps.phase("restore"):
                order.progress.step("replay", None)
                lacks = partial(_lacks, order, account, known)
                reached, newest = _replay(cluster, target, lacks)
                _promote(cluster)
        except (ClusterError, psycopg.Error) as error:
            cluster.stop("immediate")
            # Each time there is more of something, so it ends.
            needed = _lacks(order, account, known)
            if not needed:
                raise _problem(order, cluster, target, known, error) from error
        except BaseException:
            cluster.stop("immediate")
            raise
        else:
            return _Recovered(
                cluster=cluster, reached=reached, newest=newest, raised=too_low(_numbers(known), order.record.settings)
            )


def _lacks(order: Order, account: Account, settings: Mapping[str, str]) -> Mapping[str, int]:
    """What the WAL that was replayed so far asks for more of."""
    return too_low(wanted(order.cluster / "data", order.binaries, account), settings)


def _problem(order: Order, cluster: Cluster, target: str, known: Mapping[str, str], error: Exception) -> DbshieldError:
    """Who is to blame when recovery did not end, by what the server said."""
    said = _said(cluster)
    if TOO_SHORT in said:
        return Damaged(f"the WAL of the snapshot ends before {target}", hint="Use another snapshot.")
    if NO_CHECKPOINT in said:
        return Damaged("the WAL of the snapshot has no checkpoint that recovery could begin at", hint="Use another snapshot.")
    if wal_restore.TOO_EARLY in said:
        return BackupError(f"the snapshot {order.reader.manifest.snapshot} ends after {target}", hint="Name an older one.")
    more = too_low(_numbers(known), order.record.settings)
    needs = f" It needs {words(more)}, which this machine may not have room for." if more else ""
    return ClusterError(f"recovery did not end: {error}", hint=f"Look at {cluster.log}.{needs}")


def _numbers(settings: Mapping[str, str]) -> Mapping[str, int]:
    return {name: int(settings[name]) for name in LABELS if name in settings}


def _account(order: Order) -> Account:
    return Cluster(order.cluster).account


def _put_aside(order: Order, data: Path) -> Path:
    """Move the settings of the original out of the way, and ask for recovery."""
    kept = order.cluster / "kept"
    kept.mkdir(mode=0o700)
    for name in NOT_OURS:
        (data / name).unlink(missing_ok=True)
    for name in PUT_ASIDE:
        if (data / name).is_file():
            (data / name).rename(kept / name)
    (order.cluster / "postgresql.conf").write_text("# Written by dbshield: settings are on the command line.\n")
    (data / "recovery.signal").touch()
    account = _account(order)
    for path in (order.cluster / "postgresql.conf", data / "recovery.signal"):
        account.own(path, 0o600)
    return kept


def _put_back(data: Path, kept: Path, account: Account) -> None:
    """What was put aside, for a server that is to be used."""
    for name in PUT_ASIDE:
        if (kept / name).is_file():
            (kept / name).replace(data / name)
    if not (data / "postgresql.conf").exists():
        # Debian has it elsewhere; without one no server starts.
        (data / "postgresql.conf").touch()
        account.own(data / "postgresql.conf", 0o600)


def _settings(order: Order, wal: Path) -> Mapping[str, str]:
    at_least = {name: order.record.settings[name] for name in LABELS if name in order.record.settings}
    folder = str(wal).replace("%", "%%").replace("'", "'\\''")
    return {
        **quiet(order.binaries.major),
        **at_least,
        **_room_for_wal(order.record),
        "config_file": str(order.cluster / "postgresql.conf"),
        "hot_standby": "on",
        "primary_conninfo": "",
        "restore_command": f"cp '{folder}/%f' \"%p\"",
        "fsync": "off",
        "full_page_writes": "off",
    }


def _room_for_wal(kept: Record) -> Mapping[str, str]:
    """A server whose segments are large does not start with the usual bounds: both have to be two of them at least."""
    least = 2 * (kept.base.segment_size >> 20) if kept.base is not None else 0
    return {name: f"{max(least, usual)}MB" for name, usual in (("min_wal_size", MIN_WAL_MB), ("max_wal_size", MAX_WAL_MB))}


def _superuser(kept: Record) -> str:
    """Who the server is asked as: a superuser that it has."""
    names = [name for name, role in kept.roles.items() if role.get("superuser") and role.get("login")]
    return "postgres" if "postgres" in names or not names else names[0]


def _replay(cluster: Cluster, target: str, lacks: Callable[[], Mapping[str, int]]) -> tuple[str, str]:
    """Wait until recovery has paused at its target; the LSN that it has replayed to, and the time of the newest transaction in it
    (RFC 3339), if there is one. Raises psycopg.Error, ClusterError; that as well where it has paused for want of what it `lacks`.
    """
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        last, since = "", time.monotonic()
        while True:
            recovering, paused, reached, newest = connection.execute(STATE).fetchone() or (False, False, "", None)
            if not recovering:
                # Nobody may end recovery but us: it means that there was no target.
                raise ClusterError("the server left recovery by itself", hint=f"Look at {cluster.log}.")
            if paused:
                if needed := lacks():
                    raise ClusterError(f"recovery needs {words(needed)}")
                return str(reached), newest.isoformat() if newest is not None else ""
            if reached != last:
                last, since = reached, time.monotonic()
            elif time.monotonic() - since > STANDSTILL:
                raise ClusterError(f"the replay stands still at {reached}, before {target}", hint=f"Look at {cluster.log}.")
            time.sleep(POLL)


def _promote(cluster: Cluster) -> None:
    """From here on it is a server of its own, on a timeline of its own."""
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        connection.execute("select pg_promote(wait => false)")
        begin = time.monotonic()
        while (connection.execute("select pg_is_in_recovery()").fetchone() or (True,))[0]:
            if time.monotonic() - begin > STANDSTILL:
                raise ClusterError("the server does not leave recovery", hint=f"Look at {cluster.log}.")
            time.sleep(POLL)


def _said(cluster: Cluster) -> str:
    try:
        return cluster.log.read_text("utf-8", "replace")
    except OSError:
        return ""
