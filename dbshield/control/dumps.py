"""The structure of relations as SQL, by PostgreSQL's own pg_dump of the server's major version.

Rows are not its business here: they are copied on the connection that destroys them. The password goes by the environment, which
only the same account and root can read, never by the command line.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from psycopg.conninfo import conninfo_to_dict

from dbshield.cluster.binaries import DEBIAN_ROOT, VERSION_TIMEOUT, embedded_binaries
from dbshield.control.witness import Relation
from dbshield.errors import ClusterError

VARIABLES: Final = {
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
}
BLOCK: Final = 1 << 16
REDHAT_ROOT: Final = "/usr/pgsql-{major}/bin"
_RESTRICT: Final = re.compile(rb"^\\(?:un)?restrict [A-Za-z0-9]+\n", re.MULTILINE)
"""What newer pg_dumps put around their script for psql, and no server understands. Each stands alone on its line; the key is new
in every dump, so that nothing in the database can look like it."""


def pg_dump(major: int, places: Sequence[Path] | None = None) -> Path:
    """pg_dump of this major version. ClusterError where there is none."""
    for folder in _places(major) if places is None else places:
        program = folder / "pg_dump"
        if program.is_file() and _major(program) == major:
            return program
    raise ClusterError(
        f"pg_dump of PostgreSQL {major} is not on this machine, and no other version makes a dump that this server surely takes",
        hint=f"Install postgresql-client-{major}, or approve the statement with --without-undo.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition whose parent is not in the dump: its name and its indexes as SQL has them, and what attaches it."""

    name: str
    indexes: tuple[str, ...]
    attach: str


def dump_structure(program: Path, dsn: str, relations: Sequence[Relation], *, section: str, snapshot: str) -> bytes:
    """A section (`pre-data`, `post-data`) of these relations as they are in the snapshot. ClusterError where it fails."""
    command = [str(program), "--schema-only", f"--section={section}", f"--snapshot={snapshot}", "--no-password"]
    command += [f"--table={_pattern(relation)}" for relation in relations]
    done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL, env=_environment(dsn), cwd="/")
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ClusterError(
            f"pg_dump could not read what the statement destroys: {lines[-1] if lines else 'no reason given'}",
            hint="The executor's role needs the right to read it.",
        )
    return _without_restrict(done.stdout)


def without_attaching(script: bytes, partitions: Iterable[Partition], section: str) -> tuple[bytes, list[str]]:
    """The script without the statements that attach these partitions and their indexes to a parent that stays; and what was taken
    out of it that is to be run when they are attached: the states of triggers, which come from the parent.

    pg_dump attaches a partition while it has no index yet, and the parent, which has its own already, would make them a second
    time. Attached last, it brings its indexes. ClusterError where the statement is not found exactly once.
    """
    later: list[str] = []
    for partition in partitions:
        if section == "pre-data":
            name = re.escape(partition.name.encode())
            script, found = re.subn(
                rb"^ALTER TABLE ONLY [^\n]+ ATTACH PARTITION " + name + rb" .*?;\n", b"", script, flags=re.M | re.S
            )
            if found != 1:
                raise ClusterError(
                    f"pg_dump's script does not say how {partition.name} is a partition", hint="This is a bug in dbshield."
                )
        else:
            for index in partition.indexes:
                name = re.escape(index.encode())
                script = re.sub(rb"^ALTER INDEX [^\n]+ ATTACH PARTITION " + name + rb";\n", b"", script, flags=re.M)
            states = re.compile(
                rb"^ALTER TABLE " + re.escape(partition.name.encode()) + rb" (?:DISABLE|ENABLE[A-Z ]*) TRIGGER [^\n]+;\n", re.M
            )
            later += [state.decode() for state in states.findall(script)]
            script = states.sub(b"", script)
    return script, later


def _without_restrict(script: bytes) -> bytes:
    keys = [line.split()[1] for line in _RESTRICT.findall(script)[:1]]
    for key in keys:
        script = script.replace(b"\\restrict " + key + b"\n", b"", 1).replace(b"\\unrestrict " + key + b"\n", b"", 1)
    return script


def _pattern(relation: Relation) -> str:
    """psql's pattern that matches this relation alone: within double quotes every sign but the quote is itself."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in (relation.schema, relation.name))


def _environment(dsn: str) -> dict[str, str]:
    given = {
        VARIABLES[name]: str(value) for name, value in conninfo_to_dict(dsn).items() if name in VARIABLES and value is not None
    }
    return given | {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "PGAPPNAME": "dbshield executor",
        "PGCLIENTENCODING": "UTF8",
    }


def _places(major: int) -> Iterator[Path]:
    yield DEBIAN_ROOT / str(major) / "bin"
    yield Path(REDHAT_ROOT.format(major=major))
    with contextlib.suppress(ClusterError):
        yield embedded_binaries().folder
    found = shutil.which("pg_dump")
    if found is not None:
        yield Path(found).resolve().parent


def _major(program: Path) -> int:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT, check=True, cwd="/"
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    match = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    return int(match[1]) if match else 0
