"""pg_basebackup: the whole cluster, or what changed since another base backup, and what it says of itself.

Members: `base.tar`, `tablespaces/<oid>.tar` for each tablespace, and `backup_manifest`.

- Without tablespaces it streams to the destination, and lies on no disk of ours in clear.
- With tablespaces pg_basebackup writes one archive for each, and into a folder alone: all of it lies in the work folder, in clear
  and uncompressed, until it is stored.

Source: PostgreSQL manual, pg_basebackup (`--incremental` since 17), "Backup Manifests".
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dbshield.backup import moment
from dbshield.backup.chain import Parent
from dbshield.backup.command import Command
from dbshield.backup.engine import Task
from dbshield.backup.tarball import LABEL, MANIFEST, Tarball
from dbshield.errors import BackupError

BASE = "base.tar"
TABLESPACES = "tablespaces"
SAID = {
    "start": re.compile(rb"^START WAL LOCATION: ([0-9A-F]+/[0-9A-F]+) ", re.MULTILINE),
    "checkpoint": re.compile(rb"^CHECKPOINT LOCATION: ([0-9A-F]+/[0-9A-F]+)$", re.MULTILINE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What the base backup says of itself. LSNs as PostgreSQL writes them. `manifest` is the text of its backup_manifest,
    `tablespaces` are names by OID."""

    label: str
    start: str
    end: str
    checkpoint: str
    timeline: int
    manifest: bytes = field(repr=False)
    tablespaces: Mapping[str, str]

    @property
    def manifest_sha256(self) -> str:
        return hashlib.sha256(self.manifest).hexdigest()


def base_backup(task: Task, tablespaces: Mapping[str, str], parent: Parent | None) -> Base:
    """Put the cluster's files into the snapshot. `tablespaces` are those of the server, names by OID.

    Raises BackupError where pg_basebackup fails, the destination does, or what comes is not whole.
    """
    label = f"dbshield {task.writer.snapshot}"
    text, manifest = _by_folder(task, label, parent, tablespaces) if tablespaces else _streamed(task, label, parent)
    base = _told(label, text, manifest, tablespaces)
    task.writer.add(MANIFEST, io.BytesIO(manifest), expected=len(manifest))
    return base


def _arguments(task: Task, label: str, parent: Parent | None, target: str) -> list[str | Path]:
    return [
        task.programs.program("pg_basebackup"),
        f"--pgdata={target}",
        "--format=tar",
        "--wal-method=fetch",
        "--checkpoint=fast",
        "--manifest-checksums=SHA256",
        f"--label={label}",
        "--no-password",
        *([f"--incremental={parent.manifest}"] if parent is not None else []),
    ]


def _streamed(task: Task, label: str, parent: Parent | None) -> tuple[bytes, bytes]:
    """One archive, from pg_basebackup's output to the destination; its label and its manifest."""
    command = Command(
        _arguments(task, label, parent, "-"),
        work=task.work,
        variables=task.source.variables(task.source.databases[0]),
        piped=True,
    )
    try:
        watched = Tarball(command.stdout, command.wait)
        task.writer.add(BASE, watched, threads=task.jobs, passed=task.progress.advance)
        # Where the destination stops taking it, nobody has read to the end.
        command.wait()
    finally:
        command.end()
    return bytes(watched.files[LABEL]), bytes(watched.files[MANIFEST])


def _by_folder(task: Task, label: str, parent: Parent | None, tablespaces: Mapping[str, str]) -> tuple[bytes, bytes]:
    """An archive for each tablespace, into the work folder and from there to the destination; the label and the manifest."""
    folder = task.work.make("base")
    command = Command(
        _arguments(task, label, parent, str(folder)),
        work=task.work,
        variables=task.source.variables(task.source.databases[0]),
        tethered=True,
    )
    try:
        command.wait()
    finally:
        command.end()
    archives = sorted(folder.glob("*.tar"))
    wanted = {BASE, *(f"{oid}.tar" for oid in tablespaces)}
    if {path.name for path in archives} != wanted:
        raise BackupError("tablespaces were made or dropped meanwhile", hint="Make another backup.")
    task.progress.step("store", sum(path.stat().st_size for path in archives))
    text = b""
    for path in archives:
        name = path.name if path.name == BASE else f"{TABLESPACES}/{path.name}"
        with path.open("rb") as stream:
            watched = Tarball(stream, lambda: None, kept=(LABEL,) if path.name == BASE else ())
            task.writer.add(name, watched, expected=path.stat().st_size, passed=task.progress.advance)
        text = bytes(watched.files.get(LABEL, text))
        path.unlink()
    return text, (folder / MANIFEST).read_bytes()


def _told(label: str, text: bytes, manifest: bytes, tablespaces: Mapping[str, str]) -> Base:
    """What backup_label and backup_manifest say. Raises BackupError."""
    places = {name: match[1].decode() for name, pattern in SAID.items() if (match := pattern.search(text)) is not None}
    try:
        last = json.loads(manifest)["WAL-Ranges"][-1]
        timeline, end = int(last["Timeline"]), str(last["End-LSN"])
        moment.lsn(end)
        return Base(label=label, end=end, timeline=timeline, manifest=manifest, tablespaces=tablespaces, **places)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise BackupError(
            "the base backup does not say where it begins and ends", hint="Look at which pg_basebackup runs."
        ) from error
