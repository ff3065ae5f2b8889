"""A snapshot whose manifest is believed, to be read member by member.

Laws:
- What is read is believed only after its size and SHA-256 are those of the manifest. Where the store has kept what was written
  over or hidden, that is what is read (`versions.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dbshield.backup import sealing
from dbshield.backup.damage import Absent, Damaged, WrongKey
from dbshield.backup.download import Downloads
from dbshield.backup.keys import Signature
from dbshield.backup.manifest import CLAIM, MANIFEST, SIGNATURE, Manifest, Member
from dbshield.backup.store import Hold, Holding, Sink, Source, Store
from dbshield.backup.versions import Originals
from dbshield.errors import BackupError

OWN = frozenset({MANIFEST, SIGNATURE, CLAIM})
"""Objects of a snapshot that are no members."""


class Reader:
    """A snapshot whose manifest is believed."""

    def __init__(
        self,
        store: Store,
        found: Manifest,
        signature: Signature,
        downloads: Downloads | None = None,
        originals: Originals | None = None,
    ) -> None:
        self.manifest = found
        self.signature = signature
        self._store = store
        self._downloads = downloads
        self._originals = originals

    def through(self, downloads: Downloads) -> Reader:
        """The same; what is read is fetched to this disk first, and kept there."""
        return Reader(self._store, self.manifest, self.signature, downloads, self._originals)

    def extract(self, name: str, sink: Sink, identities: Sequence[sealing.Identity]) -> None:
        """Write one member, unpacked, to `sink`. Only when this returns is what was written what was backed up.

        Raises Absent, Damaged, WrongKey, and what the sink raises.
        """
        member = self.manifest.member(name)
        with self._source(member) as source:
            try:
                sealing.unseal(source, sink, encrypted=self.manifest.encrypted, keys=identities, expected=member.bytes, name=name)
            except (Damaged, WrongKey):
                # What was changed may look like another key; the hash tells.
                source.finish()
                raise
            source.finish()

    def extract_file(self, name: str, target: Path, identities: Sequence[sealing.Identity]) -> None:
        """The same into a new file, which has its name only when it is whole."""
        half = target.with_name(f".half-{secrets.token_hex(8)}")
        try:
            try:
                with half.open("xb") as stream:
                    half.chmod(0o600)
                    self.extract(name, stream, identities)
                half.rename(target)
            except OSError as error:
                raise BackupError(
                    f"{target} cannot be written: {error.strerror or error}",
                    hint="Look at that disk; nothing there is to be used.",
                ) from error
        finally:
            with contextlib.suppress(OSError):
                half.unlink(missing_ok=True)

    def read(self, name: str, identities: Sequence[sealing.Identity], *, limit: int = 256 << 20) -> bytes:
        """A small member. Raises Damaged beyond `limit` bytes."""
        if self.manifest.member(name).bytes > limit:
            raise Damaged(f"{name} has more than {limit} bytes, which is not what it is")
        whole = _Whole()
        self.extract(name, whole, identities)
        return bytes(whole.data)

    def check(self, member: Member, identities: Sequence[sealing.Identity] | None = None) -> None:
        """Read a member back: its size, its SHA-256, and with identities that it opens. Raises Absent, Damaged, WrongKey."""
        if identities is not None:
            self.extract(member.name, _Nowhere(), identities)
            return
        with self._source(member) as source:
            while source.read(sealing.CHUNK):
                pass
            source.finish()

    def holds(self) -> Mapping[str, Hold | None] | None:
        """How the store keeps each object of the snapshot from being deleted; nothing where it cannot. Raises BackupError."""
        if not isinstance(self._store, Holding) or self._originals is None:
            return None
        prefix = f"{self.manifest.environment}/{self.manifest.snapshot}"
        found: dict[str, Hold | None] = {}
        for name in (*sorted(OWN), *(each.name for each in self.manifest.members)):
            version = self._originals.version(name)
            found[name] = self._store.held(f"{prefix}/{name}", version.id) if version is not None else None
        return found

    def unknown(self) -> tuple[str, ...]:
        """Objects below the snapshot that are neither members nor its own."""
        prefix = f"{self.manifest.environment}/{self.manifest.snapshot}/"
        known = OWN | {member.name for member in self.manifest.members}
        return tuple(sorted(name for item in self._store.list(prefix) if (name := item.key.removeprefix(prefix)) not in known))

    @contextlib.contextmanager
    def _source(self, member: Member) -> Iterator[_Checked]:
        key = f"{self.manifest.environment}/{self.manifest.snapshot}/{member.name}"
        try:
            with self._opened(key, member) as source:
                yield _Checked(source, member)
        except Absent as error:
            raise Absent(f"{member.name} of {self.manifest.snapshot} is not there", hint="Use another snapshot.") from error

    @contextlib.contextmanager
    def _opened(self, key: str, member: Member) -> Iterator[Source]:
        store = self._store if self._originals is None else self._originals.pinned(member, self._store)
        if self._downloads is None:
            with store.open(key) as source:
                yield source
        else:
            with self._downloads.open(store, key, member) as path, path.open("rb") as stream:
                yield stream


class _Checked:
    """A source that is compared with the manifest while it is read."""

    def __init__(self, source: Source, member: Member) -> None:
        self._source = source
        self._member = member
        self._count = 0
        self._digest = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size if size >= 0 else self._member.stored + 1)
        self._digest.update(data)
        self._count += len(data)
        return data

    def finish(self) -> None:
        """Read what is left, and raise Damaged unless all of it was what was written."""
        while self._count <= self._member.stored and self.read(sealing.CHUNK):
            pass
        if self._count != self._member.stored:
            raise Damaged(
                f"{self._member.name} has {'more than' if self._count > self._member.stored else 'only'}"
                f" {min(self._count, self._member.stored)} of {self._member.stored} bytes",
                hint="It was changed at the destination; use another snapshot.",
            )
        if self._digest.hexdigest() != self._member.sha256:
            raise Damaged(
                f"{self._member.name} is not what was written: its SHA-256 differs",
                hint="It was changed at the destination; use another snapshot.",
            )


class _Nowhere:
    def write(self, data: bytes, /) -> int:
        return len(data)


class _Whole:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes, /) -> int:
        self.data += data
        return len(data)
