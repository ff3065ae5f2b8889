"""What a restore has fetched from a store, kept for the next try: an interrupted restore goes on where it was.

A folder for each snapshot, below the work folder:

    downloads/<snapshot>/owner             which manifest it belongs to
    downloads/<snapshot>/lock              held by who fetches
    downloads/<snapshot>/<sha256>          a member as it lies at the destination: still sealed
    downloads/<snapshot>/<sha256>.part     the beginning of one

Laws:
- What is kept is as it lies at the destination: nothing is here in clear that is not there in clear.
- A member counts as fetched when its SHA-256 is the one of the signed manifest, which is looked at each time; a beginning is
  continued, and if it does not turn out to be that member it is fetched from its first byte again.
- A folder that says that it is something else, or that is somebody else's, is not touched.
- When the restore is done, it goes. What nobody has asked for in a week goes with the next restore.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from dbshield.backup.manifest import SNAPSHOT_ID, Manifest, Member
from dbshield.backup.sealing import CHUNK
from dbshield.backup.versions import Opens
from dbshield.errors import BackupError

FOLDER = "downloads"
OWNER = "owner"
LOCK = "lock"
PART = ".part"
KEPT_SECONDS = 7 * 86_400
"""Since somebody last fetched."""


class Downloads:
    """The members of one snapshot that were fetched."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def open(self, store: Opens, key: str, member: Member) -> Iterator[Path]:
        """A member, on this disk: fetched as far as it is not there. Raises what the store raises, BackupError for this disk.

        What is at the destination may be another thing than the manifest says: the reader compares it, as it does without us,
        and it is not kept.
        """
        whole = self._folder / member.sha256
        path = whole
        try:
            if not whole.exists() or not _is(whole, member):
                path = self._fetched(store, key, member)
            yield path
        except OSError as error:
            raise BackupError(
                f"{path} cannot be written: {error.strerror or error}",
                hint="Make room; what was fetched is kept for the next try.",
            ) from error
        finally:
            if path != whole:
                path.unlink(missing_ok=True)

    def _fetched(self, store: Opens, key: str, member: Member) -> Path:
        """The member under its own name; under another one what is there in its place."""
        whole = self._folder / member.sha256
        part = whole.with_name(whole.name + PART)
        for _ in range(2):
            began = part.stat().st_size if part.exists() else 0
            if hmac.compare_digest(_append(store, key, part, limit=member.stored), member.sha256):
                part.rename(whole)
                return whole
            if not began:
                break
            # The beginning was of something else.
            part.unlink()
        return part


def _is(path: Path, member: Member) -> bool:
    """Whether what was fetched is still what it was: this disk is not believed either."""
    with path.open("rb") as stream:
        return hmac.compare_digest(hashlib.file_digest(stream, "sha256").hexdigest(), member.sha256)


def _append(store: Opens, key: str, part: Path, *, limit: int) -> str:
    """Fetch what is missing of an object; the SHA-256 of all of it, up to a byte more than `limit`."""
    digest = hashlib.sha256()
    count = 0
    with contextlib.suppress(FileNotFoundError), part.open("rb") as there:
        while data := there.read(CHUNK):
            digest.update(data)
            count += len(data)
    with store.open(key, start=count) as source, part.open("ab") as stream:
        while count <= limit and (data := source.read(min(CHUNK, limit + 1 - count))):
            stream.write(data)
            digest.update(data)
            count += len(data)
    return digest.hexdigest()


@contextlib.contextmanager
def downloads(base: Path, manifest: Manifest) -> Iterator[Downloads]:
    """What is kept of a snapshot, for as long as the block lasts, and no longer if it ends well.

    Raises BackupError where the folder is not its own, or another restore of the snapshot holds it.
    """
    assert SNAPSHOT_ID.fullmatch(manifest.snapshot), "a manifest that was believed"
    _forget_old(base / FOLDER)
    folder = base / FOLDER / manifest.snapshot
    own = manifest.sha256().hex()
    with _locked(folder, own):
        yield Downloads(folder)
        shutil.rmtree(folder)


@contextlib.contextmanager
def _locked(folder: Path, own: str) -> Iterator[None]:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        _require_own(folder)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise BackupError(f"{folder} cannot be used: {error.strerror}", hint="Look at the work folder's disk.") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BackupError(f"another restore fetches into {folder}", hint="Wait until it ends.") from error
        _claim(folder, own)
        yield
    finally:
        os.close(lock)


def _require_own(folder: Path) -> None:
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        raise BackupError(f"{folder} is not a private folder of this account", hint="Look at it, and move it away.")


def _claim(folder: Path, own: str) -> None:
    """Say whose it is, or see that it says so. What others have put there has no owner, and stays."""
    owner = folder / OWNER
    there = {path.name for path in folder.iterdir()} - {LOCK}
    if not there:
        owner.write_text(own)
    elif not owner.is_file() or owner.is_symlink() or owner.read_text("utf-8", "replace") != own:
        raise BackupError(
            f"{folder} is not what was fetched of this snapshot, and nothing is written into it",
            hint="Look at it, and move it away.",
        )
    os.utime(folder)


def _forget_old(base: Path) -> None:
    """Remove what was kept of other snapshots for a try that never came."""
    with contextlib.suppress(OSError):
        for folder in base.iterdir():
            facts = folder.lstat()
            mine = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and (folder / OWNER).is_file()
            if not mine or SNAPSHOT_ID.fullmatch(folder.name) is None or time.time() - facts.st_mtime < KEPT_SECONDS:
                continue
            with _unheld(folder) as free:
                if free:
                    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _unheld(folder: Path) -> Iterator[bool]:
    """Whether nobody fetches into it, and nobody begins to for as long as the block lasts."""
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(lock)
