"""Restoring a snapshot of the engine pgbackrest: pgBackRest lays the files, then it is recovered as a physical one is.

pgBackRest's own recovery settings are not used: WAL comes into a folder first, from its archive up to the end of the backup and
from the snapshot's members after that, and the target is the record's. So a restored server never runs a program that could write
to the original's archive.

Source: pgBackRest's command reference, restore (`--type=none`, `--tablespace-map-all`), archive-get.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

from dbshield.backup.checks import Check, Outcome
from dbshield.backup.damage import Damaged
from dbshield.backup.pgbackrest import Backed, PgBackRest
from dbshield.backup.restore import Order, fetch
from dbshield.backup.restore_base import look_at_wal
from dbshield.backup.restore_physical import PhysicalRestorer
from dbshield.cluster.account import Account
from dbshield.errors import BackupError, ConfigError

WAL = "wal"


class PgBackRestRestorer(PhysicalRestorer):
    """The engine `pgbackrest`: its restore, then WAL, target and promotion as of the engine physical."""

    name = "pgbackrest"

    def fetched(self, order: Order, account: Account) -> tuple[Path, Path, Check]:
        """The data folder, the folder of its WAL, and the check that every file is what was backed up."""
        outside, plan = order.reader.manifest.outside, order.plan
        if outside is None:
            raise Damaged("the snapshot does not say where pgBackRest has it", hint="Use another snapshot.")
        if plan is None or not plan.stanza:
            raise ConfigError(
                f"no plan says how to reach pgBackRest's stanza {outside.stanza}",
                hint=f'Add [backup.{order.reader.manifest.plan}] with engine = "pgbackrest" to dbshield.toml.',
            )
        if plan.stanza != outside.stanza:
            raise ConfigError(f"the snapshot is of the stanza {outside.stanza}, and the plan's is {plan.stanza}")
        # The repository may have another number on this machine.
        tool = PgBackRest(plan, order.work, reading=True)
        begin = time.monotonic()
        made = tool.check(outside)
        folder = order.work.make("snapshot")
        fetch(order.reader, order.identities, folder, order.progress)
        data, wal = order.cluster / "data", order.cluster / WAL
        order.progress.step("pgbackrest restore", None)
        before = os.umask(0o077)
        try:
            for path in (order.cluster, data, wal):
                path.mkdir(mode=0o700)
            tool.restore(made.label, data, order.cluster / "tablespaces", jobs=order.jobs)
            _segments(order, tool, made, data, wal)
            for segment in sorted((folder / WAL).glob("*")) if (folder / WAL).is_dir() else ():
                shutil.move(segment, wal / segment.name)
            look_at_wal(order, data, wal)
            _give(order.cluster, account)
        except OSError as error:
            raise BackupError(f"the backup cannot be laid down: {error.strerror}", hint="Look at that disk.") from error
        finally:
            os.umask(before)
        return (
            data,
            wal,
            Check(
                name="base-backup",
                outcome=Outcome.PASSED,
                measure=f"every file of {made.label} as pgBackRest's manifest has it, whose SHA-256 was signed",
                seconds=time.monotonic() - begin,
            ),
        )


def _segments(order: Order, tool: PgBackRest, made: Backed, data: Path, wal: Path) -> None:
    """The WAL that the backup itself needs, from pgBackRest's archive. Raises Absent, Damaged, BackupError."""
    base = order.record.base
    if base is None:
        raise Damaged("the record does not say how far the WAL is to be replayed", hint="Use another snapshot.")
    for name in made.segments(base.segment_size):
        tool.segment(name, wal / name, data=data)
        # A snapshot that was made before its record had them is believed as pgBackRest does.
        if base.wal_sha1 and _sha1(wal / name) != base.wal_sha1.get(name):
            raise Damaged(
                f"the WAL segment {name} in pgBackRest's archive is not the one of the backup", hint="Use another snapshot."
            )


def _sha1(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()


def _give(folder: Path, account: Account) -> None:
    """All of it to the account that runs servers. pgBackRest as root gives files to whom they belonged."""
    if account.lent:
        for root, folders, files in os.walk(folder):
            for name in (".", *folders, *files):
                os.chown(Path(root) / name, account.uid, account.gid, follow_symlinks=False)
