"""pgBackRest, the program: what it knows of a stanza, and what is asked of it. It must be installed; dbshield brings none.

- Each backup that we order has the snapshot's id as its annotation, so that it is found whatever became of us.
- No secret is in an argument: pgBackRest reads its own configuration, and PGBACKREST_… variables.
- What it prints about a repository that it cannot decrypt is not repeated; it may be anything.

Source: pgBackRest's command and configuration references; src/common/error.auto.c for the numbers of errors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbshield.backup import moment, pgbackrest_config
from dbshield.backup.command import Command
from dbshield.backup.damage import Absent, Damaged
from dbshield.backup.manifest import Outside
from dbshield.backup.source import KEPT
from dbshield.backup.work import Work
from dbshield.cluster.account import Account
from dbshield.config import BackupConfig
from dbshield.errors import BackupError

ANNOTATION = "dbshield"
PROGRAM = "pgbackrest"
CODE = re.compile(r"ERROR: \[(\d{3})\]")
OK, NO_STANZA, NO_BACKUPS, NO_STANZA_DATA, OTHER = 0, 1, 2, 3, 99
"""Of a repository's status in `info`."""
UNREADABLE = f'"status":{{"code":{OTHER},'
BAD = {26: "a checksum differs", 29: "a file has not its format", 55: "a file is missing", 95: "a file does not decrypt"}
"""Errors of a restore that speak of the backup. The repository's own lists were opened before: the passphrase is right."""
NOT_THERE = 1
"""archive-get's exit code where the archive has no such segment."""
SEGMENT = re.compile(r"[0-9A-F]{24}")
ARCHIVED = re.compile(r"(?P<name>[0-9A-F]{24})-(?P<sha1>[0-9a-f]{40})(?:\.\w+)?")
"""A segment in the archive: the SHA-1 is of what it holds, before compression and encryption."""
ARCHIVE_TIMEOUT = 60.0
"""Seconds in which a whole segment gets into the archive; pgBackRest's own default."""
POLL = 0.5
PIECE = 1 << 20
HINTS = {
    37: "Add the stanza with its pg1-path to pgBackRest's configuration.",
    41: "Look at the permissions of its repository, and at pgbackrest_account.",
    50: "Another pgBackRest works on the stanza; wait until it ends.",
    55: "Make the stanza: pgbackrest --stanza={stanza} stanza-create",
    56: "Look at pg1-path, pg1-port and pg1-socket-path in its configuration, and that the server runs.",
    82: "Look at archive_command and pg_stat_archiver; `pgbackrest --stanza={stanza} check` tells more.",
    87: "Set archive_mode = on and archive_command = 'pgbackrest --stanza={stanza} archive-push %p'; restart the server.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Backed:
    """One backup in a stanza. `first` and `last` are its segments of WAL; `snapshot` is ours, or empty. Bytes as of `Outside`."""

    label: str
    type: str
    prior: str | None
    references: tuple[str, ...]
    first: str
    last: str
    start: str
    stop: str
    bytes: int
    stored: int
    damaged: bool
    snapshot: str

    @property
    def timeline(self) -> int:
        return int(self.last[:8], 16)

    def segments(self, size: int) -> tuple[str, ...]:
        """The segments of WAL that it needs itself, of so many bytes each."""
        first, last = moment.lsn(self.start) // size, (moment.lsn(self.stop) - 1) // size
        return tuple(moment.segment_name(self.timeline, number, size) for number in range(first, last + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stanza:
    """A stanza in one repository. `system` and `version` are of the cluster that it is for now, in digits; `archive` is the name
    of the folder with its WAL."""

    encrypted: bool
    system: str
    version: str
    archive: str
    backups: tuple[Backed, ...]

    def labelled(self, label: str) -> Backed:
        """Raises Absent."""
        for each in self.backups:
            if each.label == label:
                return each
        raise Absent(f"pgBackRest's repository has no {label}", hint="It was expired there; use another snapshot.")

    def of(self, snapshot: str) -> tuple[Backed, ...]:
        """What was made for a snapshot: one, or none."""
        return tuple(each for each in self.backups if each.snapshot == snapshot)


class PgBackRest:
    """The program, told about one stanza in one repository of a plan. `work` takes what it says."""

    def __init__(self, plan: BackupConfig, work: Work, *, reading: bool = False) -> None:
        """With `reading` it runs as ourselves and leaves no log and no lock where others work."""
        self.stanza_name = plan.stanza
        self.place = pgbackrest_config.place(plan, _variables(plan))
        self._plan = plan
        self._work = work
        self._program = _program(plan)
        self._account: Account | None = None if reading else pgbackrest_config.account(plan, self.place)
        self._own = [f"--lock-path={work.folder / 'locks'}", "--log-level-file=off"] if reading else []

    # Asking -----------------------------------------------------------------------------------------------------------------

    def stanza(self) -> Stanza:
        """What the repository has. Raises BackupError where there is no such stanza, or it cannot be read."""
        said = self._text("info", "--output=json").decode("utf-8", "replace")
        try:
            # A repository that does not decrypt is quoted in it, and then it is no JSON.
            (tree,) = json.loads(said) if UNREADABLE not in said else [{"repo": [{"status": {"code": OTHER}}]}]
            (repository,) = tree["repo"]
            code = int(repository["status"]["code"])
            if code in {NO_STANZA, NO_STANZA_DATA}:
                raise BackupError(
                    f"pgBackRest has no stanza {self.stanza_name} in repository {self._plan.pgbackrest_repository}",
                    hint=f"Make it: pgbackrest --stanza={self.stanza_name} stanza-create",
                )
            if code not in {OK, NO_BACKUPS}:
                raise BackupError(
                    f"pgBackRest cannot read the stanza {self.stanza_name} (status {code})",
                    hint=f"Look at the passphrase and credentials: pgbackrest --stanza={self.stanza_name} info",
                )
            database = max(tree["db"], key=lambda each: int(each["id"]))
            return Stanza(
                encrypted=str(repository["cipher"]) != "none",
                system=str(database["system-id"]),
                version=str(database["version"]),
                archive=f"{database['version']}-{database['id']}",
                backups=tuple(_backed(each) for each in tree["backup"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackupError(
                f"what pgBackRest says of the stanza {self.stanza_name} is not understood",
                hint="dbshield needs pgBackRest 2.41 or newer.",
            ) from error

    def manifest_sha256(self, label: str) -> str:
        """The SHA-256 of a backup's manifest, which has the checksum of each of its files. Raises Absent, BackupError."""
        digest = hashlib.sha256()
        with self._started("repo-get", f"backup/{self.stanza_name}/{label}/backup.manifest", piped=True) as command:
            while piece := command.stdout.read(PIECE):
                digest.update(piece)
            self._ended(command, absent=f"pgBackRest's repository has no manifest of {label}")
        return digest.hexdigest()

    def wal_sha1(self, names: Sequence[str]) -> Mapping[str, str]:
        """The SHA-1 of segments of WAL, by name, as the archive tells them. Raises Absent, BackupError."""
        archive = self.stanza().archive
        found: dict[str, str] = {}
        for folder in sorted({name[:16] for name in names}):
            listed = self._text("repo-ls", f"archive/{self.stanza_name}/{archive}/{folder}").decode("utf-8", "replace")
            found |= {each["name"]: each["sha1"] for line in listed.split() if (each := ARCHIVED.fullmatch(line)) is not None}
        if missing := [name for name in names if name not in found]:
            raise Absent(f"pgBackRest's archive has no WAL segment {missing[0]}", hint="Look at archive_command.")
        return {name: found[name] for name in names}

    def check(self, outside: Outside) -> Backed:
        """The backup of a snapshot is there, and its manifest is the one that was signed. Raises Absent, Damaged, BackupError."""
        found = self.stanza().labelled(outside.label)
        if self.manifest_sha256(outside.label) != outside.sha256:
            raise Damaged(
                f"pgBackRest's manifest of {outside.label} is not the one that was signed", hint="Use another snapshot."
            )
        return found

    # Doing ------------------------------------------------------------------------------------------------------------------

    def back_up(self, snapshot: str, *, jobs: int) -> Backed:
        """Make one backup for a snapshot. pgBackRest expires nothing meanwhile. Raises BackupError."""
        options = [f"--type={self._plan.pgbackrest_type}", f"--annotation={ANNOTATION}={snapshot}", f"--process-max={jobs}"]
        with self._started("backup", "--start-fast", "--no-expire-auto", *options, tethered=True) as command:
            self._ended(command)
        made = self.stanza().of(snapshot)
        if len(made) != 1:
            raise BackupError(f"pgBackRest made {len(made)} backups for {snapshot}", hint="Look at `pgbackrest info`.")
        if made[0].damaged:
            raise BackupError(
                f"pgBackRest found damaged pages while it made {made[0].label}",
                hint="The server's disk is damaged: keep the backups that are there, and look at it with pg_amcheck.",
            )
        return made[0]

    def restore(self, label: str, data: Path, tablespaces: Path, *, jobs: int) -> None:
        """The files of a backup into an empty folder, each compared with its checksum. Raises Absent, Damaged, BackupError."""
        options = [f"--pg1-path={data}", f"--tablespace-map-all={tablespaces}", f"--process-max={jobs}", "--type=none"]
        # It empties the stanza's queue of WAL, which may be that of a server at work, or be of another account.
        options.append(f"--spool-path={tablespaces}/spool")
        with self._started("restore", f"--set={label}", *options, tethered=True) as command:
            self._ended(command, absent=f"pgBackRest's repository has no {label}", bad=f"pgBackRest's backup {label}")

    def segment(self, name: str, target: Path, *, data: Path | None = None, patience: float = 0.0) -> None:
        """A segment of WAL from the archive; `data` is the folder of the cluster whose it is, where the configuration's is not.

        Raises Absent after `patience` seconds without it, BackupError.
        """
        options = [f"--pg1-path={data}"] if data is not None else []
        deadline = time.monotonic() + patience
        while True:
            with self._started("archive-get", name, str(target), "--no-archive-async", *options) as command:
                with contextlib.suppress(BackupError):
                    command.wait()
                status = command.poll()
                if status == 0:
                    return
                if status != NOT_THERE:
                    self._ended(command, bad=f"the WAL segment {name} in pgBackRest's archive")
            if time.monotonic() > deadline:
                raise Absent(f"pgBackRest's archive has no WAL segment {name}", hint="Use another snapshot.")
            time.sleep(POLL)

    def forget(self, snapshot: str) -> bool:
        """Expire what was made for a snapshot; whether there was something. Raises BackupError where another was made upon it."""
        stanza = self.stanza()
        for found in stanza.of(snapshot):
            upon = [each.label for each in stanza.backups if found.label in each.references]
            if upon:
                raise BackupError(
                    f"pgBackRest's {upon[0]} was made upon {found.label}", hint="It goes when nothing needs it any more."
                )
            with self._started("expire", f"--set={found.label}") as command:
                self._ended(command)
        return bool(stanza.of(snapshot))

    # The program --------------------------------------------------------------------------------------------------------------

    def _text(self, *words: str) -> bytes:
        with self._started(*words, piped=True) as command:
            said = command.stdout.read()
            self._ended(command)
        return said

    @contextlib.contextmanager
    def _started(self, verb: str, *words: str, piped: bool = False, tethered: bool = False) -> Iterator[Command]:
        options = [f"--stanza={self.stanza_name}", f"--repo={self._plan.pgbackrest_repository}"]
        if self._plan.pgbackrest_config is not None:
            options.append(f"--config={self._plan.pgbackrest_config}")
        if verb in {"info", "repo-get", "repo-ls"}:
            own: Sequence[str] = []
        else:
            own = self._own
        variables = dict(_variables(self._plan))
        if self._account is not None:
            variables["HOME"] = "/"
        command = Command(
            [self._program, *options, "--log-level-console=off", "--log-level-stderr=error", *own, verb, *words],
            work=self._work,
            variables=variables,
            piped=piped,
            tethered=tethered,
            account=self._account,
        )
        try:
            yield command
        finally:
            command.end()
            command.forget()

    def _ended(self, command: Command, *, absent: str = "", bad: str = "") -> None:
        """Wait for its end, and say what went wrong as a person can act on it."""
        try:
            command.wait()
        except BackupError as error:
            found = [int(code) for code in CODE.findall(command.everything())]
            if absent and (75 in found or (55 in found and not bad)):
                raise Absent(absent, hint="It was expired there; use another snapshot.") from error
            if bad and (known := [code for code in found if code in BAD]):
                raise Damaged(f"{bad} is damaged: {BAD[known[0]]}", hint="Use another snapshot.") from error
            hint = next((HINTS[code] for code in found if code in HINTS), "Mend what it names.")
            raise BackupError(_first_sentence(error.message), hint=hint.format(stanza=self.stanza_name)) from error


def local_repository(plan: BackupConfig) -> Path | None:
    """The folder of a plan's repository where it is on this machine. Raises ConfigError."""
    return pgbackrest_config.place(plan, _variables(plan)).repository


def _first_sentence(message: str) -> str:
    """On one line, whatever bytes it repeats."""
    return "".join(letter if letter.isprintable() else "?" for letter in message)[:500]


def _program(plan: BackupConfig) -> Path:
    """Raises BackupError where it is not installed."""
    found = shutil.which(plan.pgbackrest_program or PROGRAM)
    if found is None:
        named = plan.pgbackrest_program
        raise BackupError(
            f"{named} is no program that runs" if named is not None else "pgBackRest is not installed on this machine",
            hint="Install the package pgbackrest, or set pgbackrest_program to its path.",
        )
    return Path(found)


def _variables(plan: BackupConfig) -> Mapping[str, str]:
    """What pgBackRest gets of our environment, and its own settings from the credentials_file."""
    prefix = pgbackrest_config.PREFIX
    found = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(prefix)}
    if plan.credentials_file is not None:
        from dbshield.backup.objects import credentials  # noqa: PLC0415  (a tenth of a second that most plans do not need)

        # Its names are in lower case.
        given = {name.upper(): value for name, value in credentials(plan.credentials_file).items()}
        found |= {name: value for name, value in given.items() if name.startswith(prefix)}
    return found | {"LC_ALL": "C"}


def _backed(tree: Mapping[str, Any]) -> Backed:
    """One backup of `info`. Raises ValueError, KeyError, TypeError."""
    size, archive, lsn = tree["info"], tree["archive"], tree["lsn"]
    first, last = str(archive["start"]), str(archive["stop"])
    if SEGMENT.fullmatch(first) is None or SEGMENT.fullmatch(last) is None:
        raise ValueError("no segments of WAL")
    for place in (lsn["start"], lsn["stop"]):
        moment.lsn(str(place))
    return Backed(
        label=str(tree["label"]),
        type=str(tree["type"]),
        prior=str(tree["prior"]) if tree["prior"] else None,
        references=tuple(map(str, tree["reference"] or ())),
        first=first,
        last=last,
        start=str(lsn["start"]),
        stop=str(lsn["stop"]),
        bytes=int(size["size"]),
        stored=int(size["repository"]["delta"]),
        damaged=bool(tree["error"]),
        snapshot=str((tree.get("annotation") or {}).get(ANNOTATION, "")),
    )
