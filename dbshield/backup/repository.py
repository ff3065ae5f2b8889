"""Snapshots at a destination: `<environment>/<snapshot>/<member>`, with `claim` written first and `manifest.json` last.

Laws:
- A snapshot without a manifest is none. The manifest is written when every member is there and durable.
- Who writes has claimed the prefix: of two with the same id one is refused before anything is written.
- A manifest is believed only when a known key signed it; what reader.py reads, only when it is what that manifest says.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Lock

from dbshield.backup import keys, manifest, sealing, versions
from dbshield.backup.damage import Damaged
from dbshield.backup.download import Downloads
from dbshield.backup.keys import Signature, SigningKey
from dbshield.backup.manifest import CLAIM, MANIFEST, SIGNATURE, Manifest, Member
from dbshield.backup.reader import Reader
from dbshield.backup.store import Folder, Holding, Sink, Source, Store, Version
from dbshield.backup.versions import Originals
from dbshield.config import BackupConfig
from dbshield.errors import BackupError

SIGNATURE_BYTES = 1024
"""Of the small JSON object with the signature."""
ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


def open_store(plan: BackupConfig) -> Store:
    """The store of a plan. Raises ConfigError where it is described wrongly; it is not asked yet."""
    if plan.folder is not None:
        return Folder(plan.folder)
    if plan.object_lock != "none":
        from dbshield.backup.object_lock import LockedObjects  # noqa: PLC0415  (boto3 is an extra, and half a second)

        return LockedObjects.of(plan)
    from dbshield.backup.objects import Objects  # noqa: PLC0415  (a tenth of a second that a folder does not need)

    return Objects.of(plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A snapshot at a destination, as its folder shows it: nothing in it was checked. `modified` is the store's own time."""

    environment: str
    snapshot: str
    complete: bool
    objects: int
    stored: int
    modified: datetime


class Repository:
    """All snapshots at one destination."""

    def __init__(self, store: Store, downloads: Downloads | None = None) -> None:
        self.store = store
        self._downloads = downloads

    @classmethod
    def of(cls, plan: BackupConfig) -> Repository:
        return cls(open_store(plan))

    def through(self, downloads: Downloads) -> Repository:
        """The same; what is read is fetched to this disk first, and kept there."""
        return Repository(self.store, downloads)

    def begin(self, environment: str, now: datetime, *, recipients: Sequence[str], level: int) -> Writer:
        """Claim a new snapshot. Raises BackupError where the destination cannot be written, ConfigError for a recipient."""
        to = sealing.recipients(recipients)
        snapshot = manifest.snapshot_id(now, "".join(secrets.choice(ALPHABET) for _ in range(8)))
        claim = json.dumps({"snapshot": snapshot, "began": manifest.moment(now), "nonce": secrets.token_hex(16)})
        self.store.put_new(f"{environment}/{snapshot}/{CLAIM}", claim.encode())
        return Writer(self.store, environment, snapshot, recipients=tuple(recipients), to=to, level=level)

    def open(self, environment: str, snapshot: str, trusted: Mapping[str, bytes], *, sha256: bytes | None = None) -> Reader:
        """A snapshot whose manifest was signed by one of the trusted public keys (by name). Raises Absent, Damaged.

        Where the store keeps what was written over, the oldest manifest that is right; the one with this SHA-256, if it is known
        and one has it.
        """
        prefix = f"{environment}/{snapshot}/"
        if isinstance(self.store, Holding):
            return self._original(Originals(self.store, prefix), environment, snapshot, trusted, sha256)
        with self.store.open(prefix + MANIFEST) as source:
            text = _small(source, MANIFEST, manifest.MAX_BYTES)
        with self.store.open(prefix + SIGNATURE) as source:
            signature = _signature(_small(source, SIGNATURE, SIGNATURE_BYTES))
        return Reader(self.store, _believed(text, signature, environment, snapshot, trusted), signature, self._downloads)

    def _original(
        self, originals: Originals, environment: str, snapshot: str, trusted: Mapping[str, bytes], sha256: bytes | None
    ) -> Reader:
        """By the versions that a store has kept."""
        problems: list[Damaged] = []
        signatures = list(_signatures(originals, problems))
        right: list[tuple[Version, Version, Signature, Manifest]] = []
        for version in originals.candidates(MANIFEST):
            for beside, signature in signatures:
                try:
                    with originals.open(MANIFEST, version) as source:
                        text = _small(source, MANIFEST, manifest.MAX_BYTES)
                    right.append((version, beside, signature, _believed(text, signature, environment, snapshot, trusted)))
                    break
                except Damaged as error:
                    problems.append(error)
            if right and (sha256 is None or hmac.compare_digest(right[-1][3].sha256(), sha256)):
                right = right[-1:]
                break
        if not right:
            raise problems[0]
        version, beside, signature, found = right[0]
        originals.choose(MANIFEST, version)
        originals.choose(SIGNATURE, beside)
        originals.tell(snapshot, iter((MANIFEST, SIGNATURE, CLAIM, *(member.name for member in found.members))))
        return Reader(self.store, found, signature, self._downloads, originals)

    def covered(self) -> tuple[str, ...]:
        """What lies over something that was read here, a sentence each: somebody who could not delete has written there."""
        return self.store.covered() if isinstance(self.store, Holding) else ()

    def list(self, environment: str | None = None) -> tuple[Found, ...]:
        """What lies there, the oldest id first. What is no snapshot is left out."""
        grouped: dict[tuple[str, str], list[tuple[str, int, datetime]]] = {}
        for item in versions.there(self.store, f"{environment}/" if environment else ""):
            where, _, rest = item.key.partition("/")
            snapshot, _, name = rest.partition("/")
            if manifest.SNAPSHOT_ID.fullmatch(snapshot) and name:
                grouped.setdefault((where, snapshot), []).append((name, item.size, item.modified))
        return tuple(
            Found(
                environment=where,
                snapshot=snapshot,
                complete=any(name == MANIFEST for name, _, _ in objects),
                objects=len(objects),
                stored=sum(size for _, size, _ in objects),
                modified=max(modified for _, _, modified in objects),
            )
            for (where, snapshot), objects in sorted(grouped.items(), key=lambda item: item[0][1])
        )

    def remove(self, environment: str, snapshot: str) -> int:
        """Remove a snapshot, its manifest first, so that what is half removed is none. The objects that went."""
        prefix = f"{environment}/{snapshot}"
        if manifest.SNAPSHOT_ID.fullmatch(snapshot) is None:
            raise BackupError(f"{snapshot!r} is no snapshot")
        if isinstance(self.store, Holding):
            # Delete markers as well, under which nothing may be left.
            found = list(self.store.versions(prefix + "/"))
        else:
            found = [item.key for item in self.store.list(prefix + "/")]
        for key in sorted(found, key=lambda key: (key != f"{prefix}/{MANIFEST}", key)):
            self.store.delete(key)
        return len(found)

    def is_there(self, environment: str, snapshot: str) -> bool:
        """Whether a snapshot has a manifest. Raises BackupError where the destination does not answer."""
        prefix = f"{environment}/{snapshot}/"
        return prefix + MANIFEST in {item.key for item in versions.there(self.store, prefix)}

    def held_until(self, environment: str, snapshot: str) -> datetime | None:
        """Until when the store keeps a snapshot from being removed; nothing where it does not. Raises BackupError."""
        if not isinstance(self.store, Holding):
            return None
        prefix = f"{environment}/{snapshot}/"
        holds = [
            self.store.held(key, version.id)
            for key, found in self.store.versions(prefix).items()
            if key in {prefix + MANIFEST, prefix + CLAIM}
            for version in found.kept[: versions.TRIED]
        ]
        return max((hold.until for hold in holds if hold is not None), default=None)

    def hold_again(self, environment: str, snapshots: Sequence[str]) -> None:
        """Keep snapshots for as long as one that is made now, which needs them. Raises BackupError."""
        if isinstance(self.store, Holding):
            for snapshot in snapshots:
                self.store.hold([item.key for item in versions.there(self.store, f"{environment}/{snapshot}/")])


class Writer:
    """A snapshot under way. Members may be added from several threads; it is a snapshot only after `finish`."""

    def __init__(
        self,
        store: Store,
        environment: str,
        snapshot: str,
        *,
        recipients: tuple[str, ...],
        to: Sequence[sealing.Recipient],
        level: int,
    ) -> None:
        self.environment = environment
        self.snapshot = snapshot
        self.recipients = recipients
        self._store = store
        self._to = to
        self._level = level
        self._lock = Lock()
        self._members: dict[str, Member | None] = {}

    @property
    def encrypted(self) -> bool:
        return bool(self._to)

    def add(
        self, name: str, source: Source, *, expected: int = 0, threads: int = 0, passed: Callable[[int], None] | None = None
    ) -> Member:
        """Compress, seal and write one member from a stream; bounded memory. `expected` are the bytes that are likely to come,
        `threads` how many compress at once.

        Raises BackupError where the destination fails, and what `source` raises; there is no such member then.
        """
        manifest.check_name(name)
        with self._lock:
            if name in self._members:
                raise ValueError(f"the member {name} is there already")
            self._members[name] = None
        with self._store.create(f"{self.environment}/{self.snapshot}/{name}", expected=expected) as sink:
            hashed = _Hashed(sink)
            read = sealing.seal(source, hashed, to=self._to, level=self._level, threads=threads, passed=passed)
        member = Member(name=name, bytes=read, stored=hashed.count, sha256=hashed.digest.hexdigest())
        with self._lock:
            self._members[name] = member
        return member

    def add_file(self, name: str, path: Path, *, passed: Callable[[int], None] | None = None) -> Member:
        with path.open("rb") as stream:
            return self.add(name, stream, expected=os.fstat(stream.fileno()).st_size, passed=passed)

    def finish(self, facts: Callable[[tuple[Member, ...]], Manifest], key: SigningKey) -> tuple[Manifest, Signature]:
        """Write signature and manifest. `facts` makes the manifest of all members, sorted by name."""
        with self._lock:
            unfinished = [name for name, member in self._members.items() if member is None]
            members = tuple(member for _, member in sorted(self._members.items()) if member is not None)
        if unfinished or not members:
            raise BackupError(f"the snapshot {self.snapshot} is not whole: {', '.join(unfinished) or 'nothing is in it'}")
        made = facts(members)
        if (made.snapshot, made.environment, made.members) != (self.snapshot, self.environment, members):
            raise ValueError("the manifest is that of another snapshot")
        signature = key.sign(keys.PURPOSE_MANIFEST, made.text())
        written = {"key": signature.key, "signature": base64.b64encode(signature.value).decode("ascii")}
        prefix = f"{self.environment}/{self.snapshot}"
        self._store.put_new(f"{prefix}/{SIGNATURE}", json.dumps(written).encode())
        if isinstance(self._store, Holding):
            # Before it is a snapshot: one that is to be locked is none without.
            self._store.hold([f"{prefix}/{name}" for name in (CLAIM, SIGNATURE, *(member.name for member in members))])
        self._store.put_new(f"{prefix}/{MANIFEST}", made.text())
        if isinstance(self._store, Holding):
            self._store.hold([f"{prefix}/{MANIFEST}"])
        return made, signature

    def abandon(self) -> str:
        """Remove what was written, as far as that is allowed; what went wrong with that, or nothing."""
        try:
            Repository(self._store).remove(self.environment, self.snapshot)
        except BackupError as error:
            return error.message
        return ""


class _Hashed:
    """A sink that counts and hashes what goes through."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.count = 0
        self.digest = hashlib.sha256()

    def write(self, data: bytes, /) -> int:
        self._sink.write(data)
        self.digest.update(data)
        self.count += len(data)
        return len(data)


def _small(source: Source, name: str, limit: int) -> bytes:
    text = b""
    while len(text) <= limit and (data := source.read(limit + 1 - len(text))):
        text += data
    if len(text) > limit:
        raise Damaged(f"{name} is longer than anything that dbshield writes there")
    return text


def _believed(text: bytes, signature: Signature, environment: str, snapshot: str, trusted: Mapping[str, bytes]) -> Manifest:
    """The manifest that a text is. Raises Damaged unless a trusted key signed it, for this place."""
    keys.check(signature, keys.PURPOSE_MANIFEST, text, trusted, what=f"the manifest of {snapshot}")
    found = manifest.parse(text)
    if (found.environment, found.snapshot) != (environment, snapshot):
        raise Damaged(
            f"{environment}/{snapshot} holds the manifest of {found.environment}/{found.snapshot}",
            hint="Somebody moved snapshots at the destination; use another one.",
        )
    return found


def _signatures(originals: Originals, problems: list[Damaged]) -> Iterator[tuple[Version, Signature]]:
    for version in originals.candidates(SIGNATURE):
        try:
            with originals.open(SIGNATURE, version) as source:
                yield version, _signature(_small(source, SIGNATURE, SIGNATURE_BYTES))
        except Damaged as error:
            problems.append(error)


def _signature(text: bytes) -> Signature:
    try:
        tree = json.loads(text)
        return Signature(key=str(tree["key"]), value=base64.b64decode(tree["signature"], validate=True))
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged("the signature of the manifest cannot be read", hint="Use another snapshot.") from error
