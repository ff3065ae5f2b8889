"""Reading a snapshot back: every object, every byte. It changes nothing."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from dbshield.backup import chain, record, sealing
from dbshield.backup.damage import Absent, Damaged, WrongKey
from dbshield.backup.engine import Progress
from dbshield.backup.manifest import RECORD, Manifest, Outside
from dbshield.backup.reader import Reader
from dbshield.backup.repository import Repository
from dbshield.errors import BackupError


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was read. `opened` when it was decrypted and unpacked as well; `problems` are empty where all is as written."""

    snapshot: str
    manifest: Manifest | None
    objects: int
    stored: int
    opened: bool
    problems: tuple[str, ...]
    locked_until: datetime | None = None


def verify(
    repository: Repository,
    environment: str,
    snapshot: str,
    trusted: Mapping[str, bytes],
    *,
    sha256: bytes | None,
    identities: Sequence[sealing.Identity] | None,
    progress: Progress,
    elsewhere: Callable[[Outside], object] | None = None,
    object_lock_days: int = 0,
) -> Verified:
    """Read every object of a snapshot and compare it with its manifest, and the manifest with the catalogue's `sha256`.

    Where the plan locks what it writes, every lock has to last for `object_lock_days` since the snapshot began.
    `elsewhere` looks at what another tool keeps of it. With identities (none are needed for a snapshot that is not encrypted)
    each member is opened as well. Raises BackupError where the destination does not answer, or no identity fits: then nothing is
    known.
    """
    problems: list[str] = []
    try:
        reader = repository.open(environment, snapshot, trusted, sha256=sha256)
    except (Absent, Damaged) as error:
        return Verified(snapshot=snapshot, manifest=None, objects=0, stored=0, opened=False, problems=(error.message,))
    manifest = reader.manifest
    if sha256 is not None and not hmac.compare_digest(sha256, manifest.sha256()):
        problems.append("the manifest is not the one that the catalogue knows")
    if not manifest.encrypted:
        identities = ()
    progress.step("verify", manifest.stored)
    for member in manifest.members:
        try:
            reader.check(member, identities)
        except WrongKey:
            raise
        except (Absent, Damaged) as error:
            problems.append(error.message)
        progress.advance(member.stored)
    if manifest.outside is not None:
        problems += _elsewhere(manifest.outside, elsewhere)
    problems += [f"{name} does not belong to it" for name in reader.unknown()]
    try:
        chain.links(reader, repository, trusted)
    except (Absent, Damaged) as error:
        problems.append(error.message)
    locked = _locked(reader, object_lock_days, problems)
    if identities is not None and not problems:
        try:
            record.parse(reader.read(RECORD, identities))
        except BackupError as error:
            problems.append(error.message)
    return Verified(
        snapshot=snapshot,
        manifest=manifest,
        objects=len(manifest.members),
        stored=manifest.stored,
        opened=identities is not None,
        problems=tuple(problems),
        locked_until=locked,
    )


def _locked(reader: Reader, days: int, problems: list[str]) -> datetime | None:
    """Until when all of it is locked; what is not as long as the plan says goes to `problems`."""
    found = reader.holds()
    if found is None:
        return None
    asked = datetime.fromisoformat(reader.manifest.began) + timedelta(days=days)
    for name, hold in found.items():
        if hold is None:
            problems.append(f"{name} is not locked")
        elif hold.until < asked or not hold.as_asked:
            problems.append(f"{name} is locked until {hold.until:%Y-%m-%dT%H:%M:%SZ}, and should be longer or more strictly")
    if any(hold is None for hold in found.values()):
        return None
    return min(hold.until for hold in found.values() if hold is not None)


def _elsewhere(outside: Outside, look: Callable[[Outside], object] | None) -> tuple[str, ...]:
    """What is wrong with what lies elsewhere. Raises BackupError where nobody can look."""
    if look is None:
        raise BackupError(
            f"{outside.label} is in pgBackRest's stanza {outside.stanza}, and no plan says how to reach it",
            hint='Add a plan with engine = "pgbackrest" to dbshield.toml.',
        )
    try:
        look(outside)
    except (Absent, Damaged) as error:
        return (error.message,)
    return ()
