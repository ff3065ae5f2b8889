"""The data folder of a physical snapshot: fetched, unpacked, compared with the server's own manifest, and put together.

- Archives are unpacked while they are fetched (`unpack.py`); nothing of them is used before all of them were what was backed up.
- pg_combinebackup believes what it is given (tried), so each member of a chain is verified before, and the result after.
- Tablespaces lie below the data folder (`tablespaces.py`).

Source: PostgreSQL manual, pg_verifybackup, pg_combinebackup.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dbshield.backup import chain, tablespaces, unpack
from dbshield.backup.base_backup import BASE, TABLESPACES
from dbshield.backup.checks import MACHINE_SAID, Check, Outcome
from dbshield.backup.damage import Absent, Damaged
from dbshield.backup.manifest import Member
from dbshield.backup.reader import Reader
from dbshield.backup.restore import DamagedMembers, Order, fetch
from dbshield.backup.tarball import MANIFEST
from dbshield.cluster import Cluster
from dbshield.cluster.account import Account
from dbshield.errors import BackupError

WAL = "wal"
CHAIN = "chain"
LINKED_VERSION = 18
"""PostgreSQL 18's pg_combinebackup can link what is the same, instead of copying it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Laid:
    """A data folder, the folder with the WAL that belongs to it, and the check that every file is what was backed up."""

    data: Path
    wal: Path
    check: Check


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """The data folder of one member of a chain, and the folder with its tablespaces."""

    data: Path
    spaces: Path


def lay(order: Order, account: Account) -> Laid:
    """Raises DamagedMembers, Absent, Damaged where the snapshot is bad, BackupError for key, destination and this machine."""
    begin = time.monotonic()
    links = chain.links(order.reader, order.repository, order.trusted)
    data, wal = order.cluster / "data", order.cluster / WAL
    order.cluster.mkdir(mode=0o700)
    if len(links) == 1:
        _unpack(order, order.reader, _Part(data=data, spaces=tablespaces.home(data)), wal)
        _lend(order.cluster, account)
        _verify(order, data, account)
    else:
        parts = []
        for reader in links:
            folder = order.cluster / CHAIN / reader.manifest.snapshot
            parts.append(_Part(data=folder / "data", spaces=folder / tablespaces.FOLDER))
            _unpack(order, reader, parts[-1], wal)
            _lend(order.cluster, account)
            _verify(order, parts[-1].data, account, of=reader.manifest.snapshot)
        _combine(order, parts, data, account)
        _verify(order, data, account, of="what was put together")
        shutil.rmtree(order.cluster / CHAIN)
    look_at_wal(order, data, wal)
    tablespaces.write_map(data, account)
    said = "every file as the server's own manifest has it"
    measure = said if len(links) == 1 else f"{said}, in each of a chain of {len(links)}"
    return Laid(
        data=data,
        wal=wal,
        check=Check(name="base-backup", outcome=Outcome.PASSED, measure=measure, seconds=time.monotonic() - begin),
    )


def _unpack(order: Order, reader: Reader, part: _Part, wal: Path) -> None:
    """Fetch one member of the chain, and make a data folder of it; the WAL of the newest comes as well."""
    newest = reader is order.reader or reader.manifest.snapshot == order.reader.manifest.snapshot
    folder = order.work.make(f"snapshot-{reader.manifest.snapshot}")
    archives = [each for each in reader.manifest.members if each.name == BASE or each.name.startswith(f"{TABLESPACES}/")]
    others = tuple(each.name for each in reader.manifest.members if each not in archives and (newest or each.name == MANIFEST))
    before = os.umask(0o077)
    try:
        try:
            fetch(reader, order.identities, folder, order.progress, only=others)
            _unpack_archives(order, reader, archives, part)
        except DamagedMembers as error:
            # What was unpacked of others shows nothing about it, and holds data in clear.
            shutil.rmtree(order.cluster)
            raise DamagedMembers(error.problems if newest else [_of(reader, problem) for problem in error.problems]) from error
        if not (part.data / MANIFEST).exists():
            shutil.move(folder / MANIFEST, part.data / MANIFEST)
        if newest:
            wal.mkdir(mode=0o700)
            for segment in sorted((folder / WAL).glob("*")) if (folder / WAL).is_dir() else ():
                shutil.move(segment, wal / segment.name)
    except FileNotFoundError as error:
        raise Damaged(f"{BASE} is no base backup: {error}", hint="Use another snapshot.") from error
    except OSError as error:
        raise BackupError(f"the base backup cannot be unpacked: {error.strerror}", hint="Look at that disk.") from error
    finally:
        os.umask(before)
        shutil.rmtree(folder, ignore_errors=True)


def _unpack_archives(order: Order, reader: Reader, archives: Sequence[Member], part: _Part) -> None:
    """The data folder and its tablespaces, while they are fetched. Raises DamagedMembers, Damaged, BackupError, OSError."""
    order.progress.step("unpack", sum(member.stored for member in archives))
    # The data folder first: links go into it.
    for member in sorted(archives, key=lambda member: (member.name != BASE, member.name)):
        name = PurePosixPath(member.name).stem
        target = part.data if member.name == BASE else part.spaces / name
        archive_is_bad: Damaged | None = None
        try:
            with unpack.streamed(reader, member.name, order.identities) as archive:
                try:
                    unpack.extract(archive, member.name, target)
                except Damaged as error:
                    archive_is_bad = error
                    raise
        except (Absent, Damaged) as error:
            if error is archive_is_bad:
                raise
            raise DamagedMembers([error.message]) from error
        if member.name != BASE:
            tablespaces.link(part.data, name, target)
        order.progress.advance(member.stored)


def _of(reader: Reader, problem: str) -> str:
    name = reader.manifest.snapshot
    return problem if name in problem else f"{name}: {problem}"


def _lend(folder: Path, account: Account) -> None:
    """Give all of it to the account that runs servers."""
    if account.lent:
        for root, folders, files in os.walk(folder):
            for name in (".", *folders, *files):
                os.chown(Path(root) / name, account.uid, account.gid, follow_symlinks=False)


def _verify(order: Order, data: Path, account: Account, *, of: str = "") -> None:
    """pg_verifybackup: every file has the checksum of the manifest that the server itself wrote."""
    _run(order, account, "pg_verifybackup", [f"--ignore={tablespaces.FOLDER}", data], of=of)


def _combine(order: Order, parts: Sequence[_Part], data: Path, account: Account) -> None:
    """Put a chain together."""
    order.progress.step("combine", None)
    newest = parts[-1]
    places = [
        f"--tablespace-mapping={_mapped(place)}={_mapped(tablespaces.home(data) / place.name)}"
        for place in (sorted(newest.spaces.iterdir()) if newest.spaces.is_dir() else ())
    ]
    linked = ["--link"] if order.binaries.major >= LINKED_VERSION else []
    folders = [part.data for part in parts]
    arguments: list[str | Path] = ["--no-sync", "--manifest-checksums=SHA256", *linked, *places, "--output", data, *folders]
    _run(order, account, "pg_combinebackup", arguments)


def _mapped(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace("=", "\\=")


def look_at_wal(order: Order, data: Path, wal: Path) -> None:
    """Raises Damaged where replaying the snapshot's own WAL would make a tablespace outside."""
    base = order.record.base
    if base is None:
        return
    folder = order.work.make("look")
    for segment in (*(data / "pg_wal").iterdir(), *wal.iterdir()):
        if segment.is_file():
            link = folder / segment.name
            # The archive's has more in it than the one that the base backup ended in.
            link.unlink(missing_ok=True)
            link.symlink_to(segment)
    program = order.binaries.program("pg_waldump")
    tablespaces.require_none_made(program, folder, timeline=base.timeline, start=base.start, end=base.target)


def _run(order: Order, account: Account, name: str, arguments: Sequence[str | Path], *, of: str = "") -> None:
    """One of PostgreSQL's programs. Raises Damaged with what it says, or BackupError where that is about the machine."""
    program = Cluster(order.cluster, binaries=order.binaries).binaries.program(name)
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, **account.process())
    if done.returncode:
        last = " / ".join((done.stdout + done.stderr).strip().splitlines()[:5])
        what = f"{of}: {name}: {last}" if of else f"{name}: {last}"
        if MACHINE_SAID.search(last):
            raise BackupError(what, hint="Look at this machine's disk and memory.")
        raise Damaged(what, hint="Use another snapshot.")
