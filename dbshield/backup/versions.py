"""What was written, whatever lies over it now: the versions of objects in a store that keeps them from being deleted.

An object of dbshield's has one version, for nothing is ever written over. Another one, or a delete marker, is somebody's who may
write there and could not delete. What was written is found below it: a manifest by its signature, a member by the size and the
SHA-256 that the manifest says. That something lies over it is noted with the store, for whoever reads to tell.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from dbshield.backup.damage import Absent
from dbshield.backup.manifest import Member
from dbshield.backup.sealing import CHUNK
from dbshield.backup.store import Holding, Source, Store, Stored, Version, Versions

TRIED = 100
"""Versions of one object that are looked at, from the oldest on. Who has put more before ours there has spoiled that object."""


class Opens(Protocol):
    """As much of a store as reading one object takes."""

    def open(self, key: str, *, start: int = 0) -> AbstractContextManager[Source]: ...


def there(store: Store, prefix: str) -> Iterator[Stored]:
    """The objects below a prefix, those among them that a delete marker hides."""
    if not isinstance(store, Holding):
        yield from store.list(prefix)
        return
    for key, found in store.versions(prefix).items():
        if found.kept:
            yield Stored(key=key, size=found.kept[-1].size, modified=found.kept[-1].written)


class Originals:
    """The objects of one snapshot as they were written. `prefix` ends with a slash."""

    def __init__(self, store: Holding, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._found: Mapping[str, Versions] = store.versions(prefix)
        self._chosen: dict[str, Version | None] = {}

    def candidates(self, name: str) -> tuple[Version, ...]:
        """What may be an object of the snapshot's own, the oldest first. Raises Absent where there is nothing."""
        found = self._found.get(self._prefix + name)
        if found is None or not found.kept:
            raise Absent(
                f"{self._store.place}/{self._prefix}{name} is not there", hint="`dbshield backup list` shows what there is."
            )
        return found.kept[:TRIED]

    def open(self, name: str, version: Version) -> AbstractContextManager[Source]:
        return self._store.open_version(self._prefix + name, version)

    def choose(self, name: str, version: Version) -> None:
        """This one is what was written."""
        self._chosen[name] = version

    def version(self, name: str) -> Version | None:
        """What was written under a name, if it was chosen or there is no doubt; else the oldest that is there."""
        if name in self._chosen:
            return self._chosen[name]
        found = self._found.get(self._prefix + name)
        return found.kept[0] if found is not None and found.kept else None

    def of(self, member: Member) -> Version | None:
        """The version that is a member: of its size, and of its SHA-256 where several are; nothing where none is."""
        if member.name not in self._chosen:
            found = self._found.get(self._prefix + member.name)
            fitting = [each for each in found.kept if each.size == member.stored] if found is not None else []
            if len(fitting) > 1:
                fitting = [each for each in fitting[:TRIED] if hmac.compare_digest(self._sha256(member, each), member.sha256)]
            self._chosen[member.name] = fitting[0] if fitting else None
        return self._chosen[member.name]

    def pinned(self, member: Member, store: Store) -> Opens:
        """Where the member is read from: the version that it is; what is there now where none is, for what that says."""
        version = self.of(member)
        return store if version is None else _Pinned(self._store, version)

    def tell(self, snapshot: str, names: Iterator[str]) -> None:
        """Note with the store what lies over the objects of these names."""
        for name in names:
            found = self._found.get(self._prefix + name)
            if found is None or not found.kept:
                continue
            if found.hidden is not None:
                self._store.cover(f"{name} of {snapshot} was hidden by a delete marker at {found.hidden:%Y-%m-%dT%H:%M:%SZ}")
            if len(found.kept) > 1:
                last = found.kept[-1].written
                self._store.cover(f"{name} of {snapshot} was written over, last at {last:%Y-%m-%dT%H:%M:%SZ}")

    def _sha256(self, member: Member, version: Version) -> str:
        digest = hashlib.sha256()
        with self.open(member.name, version) as source:
            while data := source.read(CHUNK):
                digest.update(data)
        return digest.hexdigest()


class _Pinned:
    """One version of one object."""

    def __init__(self, store: Holding, version: Version) -> None:
        self._store = store
        self._version = version

    def open(self, key: str, *, start: int = 0) -> AbstractContextManager[Source]:
        return self._store.open_version(key, self._version, start=start)
