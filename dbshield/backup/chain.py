"""Chains of physical snapshots: a full one, and incremental ones each upon the one before.

Laws:
- An incremental is made upon a snapshot that is complete, signed, at the destination with all that it needs itself, and that no
  drill has failed. Where there is none such, a full one is made and says why; nothing is made upon what may be bad.
- What a chain lacks is told by the name of the member that lacks it.

pg_basebackup needs the backup_manifest of the parent. The one at the destination is sealed for a key that is not on the machine
that makes backups, so that machine keeps a copy of its newest, whose SHA-256 is in the record of its snapshot.

Source: PostgreSQL manual, "Making an Incremental Backup", pg_available_wal_summaries().
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dbshield.backup import look
from dbshield.backup.catalogue import Catalogue, Snapshot
from dbshield.backup.damage import Absent, Damaged
from dbshield.backup.manifest import Manifest
from dbshield.backup.reader import Reader
from dbshield.backup.repository import Repository
from dbshield.backup.source import Connection
from dbshield.config import BackupConfig
from dbshield.errors import BackupError

FIRST_VERSION = 170000
"""PostgreSQL 17 has incremental base backups."""
LONGEST = 1000
"""Members of a chain that are looked at: more than any `full_every`."""
FULL, INCREMENTAL = "full", "incremental"
SUMMARIZED = """
    select current_setting('server_version_num')::int, coalesce(current_setting('summarize_wal', true), 'off') = 'on'
"""
BACK_TO = "select coalesce(min(start_lsn) <= %s::pg_lsn, false) from pg_available_wal_summaries() where tli = %s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """What an incremental is made upon. `manifest` is the local copy of its backup_manifest."""

    snapshot: str
    manifest: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Upon:
    """What the next snapshot of a plan is made upon; nothing, and why, for a full one. `members` is the whole chain so far."""

    parent: Parent | None = None
    members: tuple[str, ...] = ()
    why: str = ""


class NoParent(Exception):
    """Why a snapshot cannot be made upon the newest."""


# Making one ------------------------------------------------------------------------------------------------------------------


def require_summaries(connection: Connection) -> None:
    """Raises BackupError where the server cannot make incremental backups."""
    version, on = connection.execute(SUMMARIZED).fetchone() or (0, False)
    if version < FIRST_VERSION:
        raise BackupError(
            f"incremental = true needs PostgreSQL 17, and the server is {version // 10000}",
            hint="Take incremental out of the plan; or use the engine pgbackrest.",
        )
    if not on:
        raise BackupError(
            "incremental = true needs summarize_wal = on, and on the server it is off",
            hint="alter system set summarize_wal = on; select pg_reload_conf(); or take incremental out of the plan.",
        )


def next_upon(
    name: str, plan: BackupConfig, *, state: Path, catalogue: Catalogue, repository: Repository, connection: Connection
) -> Upon:
    """What the next snapshot of an incremental plan is made upon. Raises BackupError where nobody answers."""
    require_summaries(connection)
    try:
        return _upon(name, plan, state=state, catalogue=catalogue, repository=repository, connection=connection)
    except NoParent as reason:
        return Upon(why=str(reason))


def _upon(
    name: str, plan: BackupConfig, *, state: Path, catalogue: Catalogue, repository: Repository, connection: Connection
) -> Upon:
    environment = plan.environment or name
    there = {found.id: found for found in catalogue.list(environment=environment, plan=name, limit=LONGEST)}
    newest = next((one for one in there.values() if one.state == "complete" and one.pruned_at is None), None)
    if newest is None:
        raise NoParent("there is no snapshot of the plan yet")
    members = _known(newest, there)
    if len(members) >= plan.full_every:
        raise NoParent(f"the chain has {len(members)} snapshots, and full_every is {plan.full_every}")
    for found in members:
        if found.drilled == "failed":
            raise NoParent(f"{found.id} failed its drill")
        if found.engine != "physical" or found.destination != plan.destination:
            raise NoParent(f"{found.id} is of another engine, or at another destination")
    manifest, record = catalogue.details(newest.id)
    base = (record or {}).get("base") or {}
    if manifest is None or set(manifest["recipients"]) != set(plan.encrypt_to):
        raise NoParent(f"{newest.id} is sealed for other recipients")
    _same_server(newest, manifest, base, connection)
    copy = kept(state, name, newest.id)
    if not _is(copy, str(base.get("manifest_sha256", ""))):
        raise NoParent(f"the backup_manifest of {newest.id} is not kept on this machine")
    try:
        links(repository.open(environment, newest.id, catalogue.trusted()), repository, catalogue.trusted())
    except (Absent, Damaged) as error:
        raise NoParent(error.message) from error
    return Upon(parent=Parent(snapshot=newest.id, manifest=copy), members=tuple(found.id for found in members))


def _known(newest: Snapshot, there: Mapping[str, Snapshot]) -> list[Snapshot]:
    """The chain as the catalogue has it, the newest first."""
    members = [newest]
    while (parent := members[-1].parent) is not None:
        found = there.get(parent)
        if found is None or found.state != "complete" or found.pruned_at is not None or found in members:
            raise NoParent(f"{parent}, which {members[-1].id} was made upon, is not there")
        members.append(found)
    return members


def _same_server(newest: Snapshot, manifest: Mapping[str, Any], base: Mapping[str, Any], connection: Connection) -> None:
    now = look.server(connection)
    was = manifest["server"]
    if (was["system"], was["version"] // 10000) != (now.system, now.version // 10000):
        raise NoParent(f"{newest.id} is of another cluster")
    if now.timeline != base.get("timeline"):
        raise NoParent(f"the server is on timeline {now.timeline}, and {newest.id} is not")
    (reach,) = connection.execute(BACK_TO, [base["start"], now.timeline]).fetchone() or (False,)
    if not reach:
        raise NoParent(f"the server has no summaries of its WAL from {newest.id} on")


# The copy of the newest one's manifest ---------------------------------------------------------------------------------------


def kept(state: Path, plan: str, snapshot: str) -> Path:
    """Where the copy of a snapshot's backup_manifest is."""
    return state / "chains" / plan / snapshot


def keep(state: Path, plan: str, snapshot: str, manifest: bytes) -> None:
    """Keep the copy of the newest one, and no other of the plan. Raises BackupError."""
    target = kept(state, plan, snapshot)
    half = target.with_name(".half")
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        half.unlink(missing_ok=True)
        with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as stream:
            stream.write(manifest)
            stream.flush()
            os.fsync(stream.fileno())
        half.rename(target)
        for path in target.parent.iterdir():
            if path != target:
                path.unlink()
    except OSError as error:
        raise BackupError(
            f"{target} cannot be written: {error.strerror}", hint="The snapshot is whole; the next one will be a full one."
        ) from error


def _is(copy: Path, sha256: str) -> bool:
    """Whether there is a copy, and it is the one that the record knows."""
    found = ""
    with contextlib.suppress(OSError):
        found = hashlib.sha256(copy.read_bytes()).hexdigest()
    return bool(sha256) and hmac.compare_digest(found, sha256)


# Reading one -----------------------------------------------------------------------------------------------------------------


def links(reader: Reader, repository: Repository, trusted: Mapping[str, bytes]) -> tuple[Reader, ...]:
    """All snapshots that one needs, itself among them, the full one first; their manifests are believed, nothing else was read.

    Raises Absent, Damaged with the id of the one that is not there, or does not belong to the chain.
    """
    found = [reader]
    while (parent := found[-1].manifest.parent) is not None:
        below = found[-1].manifest
        if len(found) > LONGEST or parent in {each.manifest.snapshot for each in found}:
            raise Damaged(f"the chain of {reader.manifest.snapshot} does not end", hint="Use another snapshot.")
        try:
            above = repository.open(below.environment, parent, trusted)
        except Absent as error:
            raise Absent(f"{parent}, which {below.snapshot} was made upon, is not there", hint="Use another snapshot.") from error
        except Damaged as error:
            raise Damaged(f"{parent}, which {below.snapshot} was made upon: {error.message}", hint=error.hint) from error
        _fits(above.manifest, below)
        found.append(above)
    if reader.manifest.engine == "physical" and found[-1].manifest.kind != FULL:
        raise Damaged(f"the chain of {reader.manifest.snapshot} does not begin with a full one", hint="Use another snapshot.")
    return tuple(reversed(found))


def _fits(above: Manifest, below: Manifest) -> None:
    """Raises Damaged where one cannot have been made upon the other. Where each begins, pg_combinebackup compares."""
    same = replace(below.server, lsn="") == replace(above.server, lsn="", version=below.server.version)
    if not same or above.engine != below.engine or above.server.version // 10000 != below.server.version // 10000:
        raise Damaged(
            f"{above.snapshot}, which {below.snapshot} was made upon, is of another server or engine",
            hint="Use another snapshot.",
        )
