"""The checks of a restored server that PostgreSQL's own programs make: pg_amcheck, pg_checksums, and a dump that is read back.

Source: PostgreSQL manual, pg_amcheck (`--heapallindexed`, `--install-missing`), pg_checksums, amcheck.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from dbshield.backup.checks import Found, NotChecked
from dbshield.backup.command import run
from dbshield.backup.record import DatabaseRecord, Record, compare_properties
from dbshield.backup.restore_logical import Target, schema_digest
from dbshield.backup.source import Connection, named, told
from dbshield.cluster import Cluster
from dbshield.errors import BackupError, ClusterError

EVENT_TRIGGERS = "select quote_ident(evtname), evtenabled::text from pg_event_trigger where evtenabled <> 'D' order by 1"
ENABLED = {"O": "enable", "R": "enable replica", "A": "enable always"}
AVAILABLE = "select exists (select from pg_available_extensions where name = 'amcheck')"
SCANNED = re.compile(r"(Files|Blocks) scanned:\s+(\d+)")
BAD = re.compile(r"Bad checksums:\s+(\d+)")
FOUND_CORRUPTION = 2
"""pg_amcheck's exit code when it ran and found something."""


def schema(target: Target, kept: Record, found: Sequence[DatabaseRecord]) -> Found:
    """The text of each schema, grants included, is the one that the snapshot was made with; and each database has its own owner,
    locale, rights and settings, as far as it was `found`."""
    if not all(database.schema_sha256 for database in kept.databases):
        raise NotChecked("the snapshot has no schema to compare with")
    problems = []
    there = {database.name: database for database in found}
    for database in kept.databases:
        digest = schema_digest(target, database.name)
        if digest != database.schema_sha256:
            was = database.schema_sha256
            problems.append(f"{database.name}: the schema is another one: SHA-256 {digest[:16]}…, not {was[:16]}…")
        if database.name in there:
            problems += map(str, compare_properties(database, there[database.name]))
    return Found(measure=f"{len(kept.databases)} databases, grants included", problems=tuple(problems))


def amcheck(target: Target, kept: Record, *, jobs: int) -> Found:
    """Tables and B-tree indexes are what they should be inside, and every row is in its indexes.

    It installs the extension amcheck in the restored databases, so whatever compares schemas comes before.
    """
    source, programs, work = target.source, target.programs, target.work
    try:
        program = programs.program("pg_amcheck")
    except ClusterError as error:
        raise NotChecked(error.message) from error
    problems: list[str] = []
    for database in kept.databases:
        with source.connect(database.name) as connection, told("amcheck"):
            if not (connection.execute(AVAILABLE).fetchone() or (False,))[0]:
                raise NotChecked("the extension amcheck is not installed on this machine")
            _install(connection)
        said = work.folder / f"amcheck-{database.folder}.txt"
        command: list[str | Path] = [
            program, "--heapallindexed", "--no-password", f"--jobs={jobs}", named(database.name),
        ]  # fmt: skip
        with said.open("wb") as out:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=work.folder, check=False,
                env=dict(source.variables(database.name)), pass_fds=(work.lock,),
            )  # fmt: skip
        lines = [line.strip() for line in said.read_text("utf-8", "replace").splitlines() if line.strip()]
        if done.returncode == FOUND_CORRUPTION:
            problems += [f"{database.name}: {line}" for line in lines]
        elif done.returncode:
            raise BackupError(f"pg_amcheck failed: {' / '.join(lines[-3:])}", hint="Mend what it names.")
    return Found(measure=f"{len(kept.databases)} databases, every row looked up in every index", problems=tuple(problems))


def _install(connection: Connection) -> None:
    """Install amcheck past event triggers of the source, which may refuse an extension: that says nothing of the backup."""
    triggers = connection.execute(EVENT_TRIGGERS).fetchall()
    with connection.transaction():
        for name, _ in triggers:
            connection.execute(f"alter event trigger {name} disable".encode())
        connection.execute("create extension if not exists amcheck with schema pg_catalog")
        for name, enabled in triggers:
            connection.execute(f"alter event trigger {name} {ENABLED[enabled]}".encode())


def page_checksums(cluster: Cluster) -> Found:
    """Every page's checksum, in the data folder of a server that has been stopped in order."""
    done = subprocess.run(
        [cluster.binaries.program("pg_checksums"), "--check", "-D", cluster.data],
        capture_output=True,
        text=True,
        check=False,
        **cluster.account.process(),
    )
    said = done.stdout + done.stderr
    if "data checksums are not enabled" in said:
        raise NotChecked("the cluster has no checksums of pages")
    counts = {what: int(count) for what, count in SCANNED.findall(said)}
    bad = BAD.search(said)
    if bad is not None and int(bad[1]):
        wrong = [line.strip() for line in said.splitlines() if "checksum verification failed" in line]
        return Found(measure=f"{counts.get('Blocks', 0)} pages", problems=tuple(wrong) or (f"{bad[1]} bad pages",))
    if done.returncode or "Blocks" not in counts:
        last = " / ".join(said.strip().splitlines()[-3:])
        raise ClusterError(f"pg_checksums failed: {last}", hint="Mend what it names.")
    return Found(measure=f"{counts['Blocks']} pages in {counts.get('Files', 0)} files")


def read_back(target: Target, kept: Record) -> Found:
    """Everything in it can be read, by a dump that goes nowhere."""
    for database in kept.databases:
        run(
            [target.programs.program("pg_dump"), "--format=plain", "--no-password", "--file=/dev/null"],
            work=target.work,
            variables=target.source.variables(database.name),
        )
    return Found(measure=f"{len(kept.databases)} databases dumped")
