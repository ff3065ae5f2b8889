"""Unpacking the archives of a base backup while they are fetched and opened, so that each byte is written once.

Laws:
- What is unpacked is used only when `streamed` has ended well: the archive was what the signed manifest says, to its last byte.
- Files and folders go below the given folder, with no rights but ours, and nothing else is taken.
- No more is unpacked than the manifest says that there is.
"""

from __future__ import annotations

import contextlib
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import IO

from dbshield.backup.damage import Damaged
from dbshield.backup.reader import Reader
from dbshield.backup.sealing import CHUNK, Identity


def extract(archive: IO[bytes], name: str, folder: Path) -> None:
    """Unpack what comes from `archive` below a new `folder`. A base backup has files and folders in it. Raises Damaged, OSError.

    Python knows filters for this since 3.11.4 only.
    """
    folder.mkdir(parents=True, mode=0o700)
    try:
        with tarfile.open(fileobj=archive, mode="r|", bufsize=CHUNK) as found:
            found.copybufsize = CHUNK  # type: ignore[attr-defined]
            found.extraction_filter = lambda member, _path: member
            for member in found:
                place = PurePosixPath(member.name)
                if not (member.isreg() or member.isdir()) or place.is_absolute() or ".." in place.parts:
                    raise Damaged(f"{name} has {member.name!r} in it, which no base backup has", hint="Use another snapshot.")
                found.extract(member, folder, set_attrs=False)
    except tarfile.TarError as error:
        raise Damaged(f"{name} is no base backup: {error}", hint="Use another snapshot.") from error


@contextlib.contextmanager
def streamed(reader: Reader, name: str, identities: Sequence[Identity]) -> Iterator[IO[bytes]]:
    """What is in a member, fetched and opened by a thread of its own. Whether it is what was backed up is known at the end.

    Raises what opening it raises (Absent, Damaged, WrongKey, BackupError) rather than the block's own Damaged, its consequence.
    """
    reading, writing = os.pipe()
    failed: list[BaseException] = []

    def fetch() -> None:
        try:
            with os.fdopen(writing, "wb", buffering=CHUNK) as sink:
                reader.extract(name, sink, identities)
        except BaseException as error:  # noqa: BLE001  (it is raised where the thread is waited for)
            failed.append(error)

    thread = Thread(target=fetch, name="fetch-archive", daemon=True)
    thread.start()
    problem: Damaged | None = None
    try:
        with os.fdopen(reading, "rb", buffering=0) as stream:
            try:
                yield stream
            except Damaged as error:
                problem = error
            # What comes after the archive's own end is of the member as well; where the block failed otherwise, nobody reads on.
            while stream.read(CHUNK):
                pass
    finally:
        thread.join()
    if failed:
        raise failed[0] from problem
    if problem is not None:
        raise problem
