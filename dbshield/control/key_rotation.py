"""The exchange of the key that seals stored secrets: prepared, carried out, and the old key retired.

Laws:
- At every moment the key file opens every stored secret: the next key stands in it before anything is sealed with it, the old one
  stays until nothing is. A crash between two steps leaves what the step before left; the same command goes on from there.
- All secrets are sealed anew in one transaction, or none.
- What the old key signed is still checked with it: by the file while it stands there, and by its public half in the audit
  for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, select, update

from dbshield.control import key_file
from dbshield.control.audit_read import public_key
from dbshield.control.audit_store import Entry, append
from dbshield.control.key_file import KeyRing, key_name
from dbshield.control.second_factor import totp_identity
from dbshield.control.vault import Vault, password_identity, sealed_by
from dbshield.errors import ConfigError, StoreError
from dbshield.store.database import Database
from dbshield.store.schema import agents, people

STEPS: Final[Mapping[str, str]] = {
    "idle": "one key seals and opens everything; `dbshield key prepare` begins an exchange",
    "prepared": "a next key is prepared: copy the file to every machine that has one, then `dbshield key rotate`",
    "sealed": "secrets are sealed with the next key, and the file still seals with the one before: `dbshield key rotate` goes on",
    "rotated": "the old key opens still: copy the file to every machine, restart what runs there, then `dbshield key retire`",
    "mixed": "some secrets are sealed with an old key: `dbshield key rotate` seals them anew",
    "foreign": "some secrets are sealed with a key that is not in the file: it is not this installation's, or an old copy",
}
"""Where an exchange stands, and what comes next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where an exchange stands: a word of STEPS. `secrets` counts stored secrets by the name of their key."""

    step: str
    secrets: Mapping[bytes, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Secret:
    """One that is stored. `gone`: of an agent or a person that was removed, so nobody misses it."""

    what: str
    identity: str
    sealed: bytes
    gone: bool
    table: Any
    where: Any


def look(database: Database, path: Path) -> Standing:
    """Where the exchange stands, by the file and the database."""
    ring = key_file.read(path)
    with database.transaction() as connection:
        stored = [each for each in _stored(connection) if not each.gone]
    counts = Counter(sealed_by(each.sealed) for each in stored)
    return Standing(step=_step(ring, counts), secrets=counts)


def prepare(path: Path) -> KeyRing:
    """Puts a next key into the file; the one that is prepared already stays. What seals does not change."""
    ring = key_file.read(path)
    if ring.following is not None:
        return ring
    ring = ring.prepared()
    _exchange(path, key_file.staged(path, ring))
    return ring


def rotate(database: Database, path: Path, *, now: datetime, by: str) -> int:
    """Seals every stored secret with the next key, which takes the place of the one in use; how many were not yet.

    ConfigError where no next key is prepared and nothing is left to do; StoreError where a secret cannot be opened: nothing has
    changed then.
    """
    ring = key_file.read(path)
    if ring.following is None and look(database, path).step != "mixed":
        raise ConfigError(
            "no next key is prepared",
            hint="`dbshield key prepare`, then copy the file to every machine that has one, then this command again.",
        )
    after = ring.switched() if ring.following is not None else ring
    # Where it cannot be written nothing is begun.
    beside = key_file.staged(path, after)
    count = reseal(database, ring, after, now=now, by=by)
    _exchange(path, beside)
    return count


def reseal(database: Database, ring: KeyRing, after: KeyRing, *, now: datetime, by: str) -> int:
    """The part of `rotate` that is in the database: all in one transaction."""
    old, new = Vault.of(ring), Vault.of(after)
    with database.transaction() as connection:
        count = 0
        for each in _stored(connection, lock=True):
            if sealed_by(each.sealed) == new.name:
                continue
            try:
                secret = old.unseal(each.sealed, identity=each.identity)
            except StoreError as error:
                if each.gone:
                    continue
                raise StoreError(
                    f"the key was not exchanged: {error.message}",
                    hint=f"Nothing has changed. Give {each.what} another secret, or the file the key that it is sealed with.",
                ) from error
            column = "sealed_password" if each.table is agents else "sealed_totp"
            again = {column: new.seal(secret, identity=each.identity)}
            connection.execute(update(each.table).where(each.where).values(again))
            count += 1
        fields = {
            "person": by,
            "old": key_name(ring.current).hex(),
            "new": new.name.hex(),
            "secrets": count,
            "old_public_key": public_key(old),
            "public_key": public_key(new),
        }
        append(connection, [Entry(at=now, kind="key-rotated", fields=fields)])
    return count


def retire(database: Database, path: Path, *, now: datetime, by: str) -> tuple[str, ...]:
    """Takes the old keys out of the file: their names. ConfigError where something is sealed with one of them."""
    ring = key_file.read(path)
    if not ring.older:
        return ()
    names = {key_name(key) for key in ring.older}
    with database.transaction() as connection:
        if held := [each for each in _stored(connection, lock=True) if not each.gone and sealed_by(each.sealed) in names]:
            raise ConfigError(
                f"the secret of {held[0].what} is sealed with an old key",
                hint="`dbshield key rotate` seals it anew; then this again.",
            )
        beside = key_file.staged(path, ring.retired())
        told = tuple(name.hex() for name in sorted(names))
        public = [public_key(Vault(key)) for key in ring.older]
        append(connection, [Entry(at=now, kind="key-retired", fields={"person": by, "keys": list(told), "public_keys": public})])
    _exchange(path, beside)
    return told


def _exchange(path: Path, beside: Path) -> None:
    try:
        key_file.replace(path, beside)
    except OSError as error:
        raise StoreError(
            f"{beside} could not take the name {path}: {error.strerror or error}",
            hint="The file as it is opens everything still. `dbshield key show` says where the exchange stands.",
        ) from error


def _step(ring: KeyRing, counts: Mapping[bytes, int]) -> str:
    current, older = key_name(ring.current), {key_name(key) for key in ring.older}
    following = key_name(ring.following) if ring.following is not None else None
    if not set(counts) <= {key_name(key) for key in ring.every}:
        return "foreign"
    if following is not None:
        return "sealed" if counts.get(following) else "prepared"
    if set(counts) - {current}:
        return "mixed"
    return "rotated" if older else "idle"


def _stored(connection: Connection, *, lock: bool = False) -> list[_Secret]:
    """Every secret that is sealed; with `lock` nobody else changes one meanwhile."""
    of_agents = select(agents.c.id, agents.c.name, agents.c.environment, agents.c.sealed_password, agents.c.removed_at)
    of_agents = of_agents.where(agents.c.sealed_password.is_not(None)).order_by(agents.c.id)
    of_people = select(people.c.name, people.c.sealed_totp, people.c.removed_at).order_by(people.c.name)
    if lock:
        of_agents, of_people = of_agents.with_for_update(), of_people.with_for_update()
    found = [
        _Secret(
            what=f"the agent {row.name} in {row.environment}",
            identity=password_identity(row.id),
            sealed=bytes(row.sealed_password),
            gone=row.removed_at is not None,
            table=agents,
            where=agents.c.id == row.id,
        )
        for row in connection.execute(of_agents)
    ]
    return found + [
        _Secret(
            what=f"the person {row.name}",
            identity=totp_identity(row.name),
            sealed=bytes(row.sealed_totp),
            gone=row.removed_at is not None,
            table=people,
            where=people.c.name == row.name,
        )
        for row in connection.execute(of_people)
    ]
