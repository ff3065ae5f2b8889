"""The repository on a folder: what was written comes back, and whatever is changed at the destination is named."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import until

from dbshield.backup import manifest as manifests
from dbshield.backup import sealing
from dbshield.backup.damage import Absent, Damaged, Taken, WrongKey
from dbshield.backup.keys import SigningKey
from dbshield.backup.manifest import Manifest, Member, Server
from dbshield.backup.reader import Reader
from dbshield.backup.repository import Repository, Writer
from dbshield.backup.store import Folder
from dbshield.errors import BackupError, ConfigError

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())
CONTENT = b"".join(b"row %d of a table that compresses well\n" % number for number in range(40_000))


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return SigningKey.create(tmp_path / "backup.key")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(Folder(tmp_path / "backups"))


def begin(repository: Repository, *, sealed: bool = True) -> Writer:
    return repository.begin("staging", NOW, recipients=[RECIPIENT] if sealed else [], level=3)


def facts(writer: Writer) -> Callable[[tuple[Member, ...]], Manifest]:
    return lambda members: Manifest(
        snapshot=writer.snapshot,
        environment=writer.environment,
        plan="nightly",
        engine="logical",
        kind="full",
        parent=None,
        began=manifests.moment(NOW),
        ended=manifests.moment(NOW),
        server=Server(version=180006, system="7", timeline=1, lsn="0/1"),
        recipients=writer.recipients,
        programs="18.6",
        dbshield="0",
        members=members,
    )


def snapshot(repository: Repository, key: SigningKey, *, sealed: bool = True) -> str:
    writer = begin(repository, sealed=sealed)
    writer.add("databases/5/data", io.BytesIO(CONTENT))
    writer.add("empty", io.BytesIO())
    writer.finish(facts(writer), key)
    return writer.snapshot


def opened(repository: Repository, key: SigningKey, name: str) -> Reader:
    return repository.open("staging", name, {key.name: key.public})


@pytest.mark.parametrize("sealed", [True, False])
def test_what_was_written_comes_back(repository: Repository, key: SigningKey, tmp_path: Path, sealed: bool) -> None:
    name = snapshot(repository, key, sealed=sealed)
    reader = opened(repository, key, name)
    identities = [IDENTITY] if sealed else []
    reader.extract_file("databases/5/data", tmp_path / "out", identities)
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert reader.read("empty", identities) == b""
    for member in reader.manifest.members:
        reader.check(member)
        reader.check(member, identities)
    assert reader.unknown() == ()
    assert reader.manifest.member("databases/5/data").stored < len(CONTENT) / 10
    (found,) = repository.list()
    assert (found.environment, found.snapshot, found.complete, found.objects) == ("staging", name, True, 5)
    on_disk = (tmp_path / "backups/staging" / name / "databases/5/data").read_bytes()
    assert on_disk.startswith(b"age-encryption.org/v1\n") is sealed
    assert b"compresses well" not in on_disk


def test_a_snapshot_without_a_manifest_is_none(repository: Repository, key: SigningKey) -> None:
    writer = begin(repository)
    writer.add("data", io.BytesIO(CONTENT))
    assert [found.complete for found in repository.list("staging")] == [False]
    with pytest.raises(Absent):
        opened(repository, key, writer.snapshot)
    assert writer.abandon() == ""
    assert repository.list() == ()


def test_a_source_that_fails_leaves_no_member(repository: Repository, key: SigningKey, tmp_path: Path) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1, /) -> bytes:
            raise TimeoutError("the server went away")

    writer = begin(repository)
    with pytest.raises(TimeoutError, match="the server went away"):
        writer.add("data", Broken())
    with pytest.raises(BackupError, match="not whole: data"):
        writer.finish(facts(writer), key)
    left = [path.name for path in (tmp_path / "backups").rglob("*") if path.is_file()]
    assert left == ["claim"]


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("place", [0, 30, 60, 120, 190, 400, -1])
def test_a_flipped_byte_is_named(repository: Repository, key: SigningKey, tmp_path: Path, place: int, sealed: bool) -> None:
    name = snapshot(repository, key, sealed=sealed)
    flip(tmp_path / "backups/staging" / name / "databases/5/data", place)
    reader = opened(repository, key, name)
    member = reader.manifest.member("databases/5/data")
    for identities in (None, [IDENTITY]):
        with pytest.raises(Damaged, match="databases/5/data is not what was written"):
            reader.check(member, identities)
    with pytest.raises(Damaged):
        reader.extract_file(member.name, tmp_path / "out", [IDENTITY])
    assert not list(tmp_path.glob("*out*")) + list(tmp_path.glob(".half*"))


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("left", [0, 100, -1])
def test_a_truncated_object_is_named(repository: Repository, key: SigningKey, tmp_path: Path, left: int, sealed: bool) -> None:
    name = snapshot(repository, key, sealed=sealed)
    path = tmp_path / "backups/staging" / name / "databases/5/data"
    path.write_bytes(path.read_bytes()[:left])
    reader = opened(repository, key, name)
    for identities in (None, [IDENTITY]):
        with pytest.raises(Damaged, match=r"databases/5/data has only \d+ of \d+ bytes"):
            reader.check(reader.manifest.member("databases/5/data"), identities)


def test_an_object_with_more_in_it_is_named(repository: Repository, key: SigningKey, tmp_path: Path) -> None:
    name = snapshot(repository, key)
    with (tmp_path / "backups/staging" / name / "databases/5/data").open("ab") as stream:
        stream.write(b"x" * 100)
    reader = opened(repository, key, name)
    for identities in (None, [IDENTITY]):
        with pytest.raises(Damaged, match="has more than"):
            reader.check(reader.manifest.member("databases/5/data"), identities)


def test_a_missing_object_and_a_strange_one_are_named(repository: Repository, key: SigningKey, tmp_path: Path) -> None:
    name = snapshot(repository, key)
    folder = tmp_path / "backups/staging" / name
    (folder / "empty").unlink()
    (folder / "databases/more").write_bytes(b"x")
    reader = opened(repository, key, name)
    with pytest.raises(Absent, match="empty of"):
        reader.check(reader.manifest.member("empty"))
    assert reader.unknown() == ("databases/more",)


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_named_and_not_waited_for(
    repository: Repository, key: SigningKey, tmp_path: Path, put: Callable[[Path], None]
) -> None:
    name = snapshot(repository, key)
    path = tmp_path / "backups/staging" / name / "databases/5/data"
    path.unlink()
    put(path)
    reader = opened(repository, key, name)
    with pytest.raises(Damaged, match="data is no file"):
        reader.check(reader.manifest.member("databases/5/data"))


def test_another_identity_does_not_open_it(repository: Repository, key: SigningKey, tmp_path: Path) -> None:
    reader = opened(repository, key, snapshot(repository, key))
    with pytest.raises(WrongKey, match="sealed for another key"):
        reader.extract_file("databases/5/data", tmp_path / "out", [pyrage.x25519.Identity.generate()])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", [5, 200, -5])
def test_a_changed_manifest_is_not_believed(repository: Repository, key: SigningKey, tmp_path: Path, place: int) -> None:
    name = snapshot(repository, key)
    flip(tmp_path / "backups/staging" / name / "manifest.json", place)
    with pytest.raises(Damaged, match=f"the manifest of {name} is not what was signed"):
        opened(repository, key, name)


def test_a_manifest_of_another_key_is_not_believed(repository: Repository, key: SigningKey, tmp_path: Path) -> None:
    stranger = SigningKey.create(tmp_path / "stranger.key")
    name = snapshot(repository, stranger)
    with pytest.raises(Damaged, match=f"signed by the key {stranger.name}, which is not known"):
        opened(repository, key, name)
    with pytest.raises(Damaged, match="not what was signed"):
        repository.open("staging", name, {stranger.name: key.public})


def test_a_swapped_snapshot_is_named(repository: Repository, key: SigningKey, tmp_path: Path) -> None:
    good, other = snapshot(repository, key), snapshot(repository, key)
    folder = tmp_path / "backups/staging"
    (folder / good).rename(folder / "away")
    (folder / other).rename(folder / good)
    with pytest.raises(Damaged, match=f"holds the manifest of staging/{other}"):
        opened(repository, key, good)


@pytest.mark.parametrize("text", [b"{}", b"null", b'{"key": 7, "signature": "?"}', b"x" * 2000, b"\xff"])
def test_a_signature_that_is_none_is_named(repository: Repository, key: SigningKey, tmp_path: Path, text: bytes) -> None:
    name = snapshot(repository, key)
    (tmp_path / "backups/staging" / name / "manifest.sig").write_bytes(text)
    with pytest.raises(Damaged):
        opened(repository, key, name)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    store = Folder(tmp_path / "backups")
    store.put_new("a/b", b"first")
    with pytest.raises(Taken):
        store.put_new("a/b", b"second")
    # Who began before the name was taken does not take it either.
    with pytest.raises(Taken), store.create("a/c") as sink:
        sink.write(b"slow")
        store.put_new("a/c", b"fast")
    assert (tmp_path / "backups/a/b").read_bytes() == b"first"
    assert (tmp_path / "backups/a/c").read_bytes() == b"fast"
    assert sorted(item.key for item in store.list("")) == ["a/b", "a/c"]
    assert (tmp_path / "backups/a").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "backups/a/b").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["../x", "a/../b", "/a", "a//b", "a/.hidden", "a\0b", "", "manifest.json"])
def test_no_member_leaves_its_folder(repository: Repository, name: str) -> None:
    writer = begin(repository)
    with pytest.raises(ValueError, match="is no name of a member"):
        writer.add(name, io.BytesIO())
    member = Member(name=name, bytes=0, stored=0, sha256="")
    tree = replace(facts(writer)((member,))).tree()
    if name != "manifest.json":
        with pytest.raises(Damaged):
            manifests.parse(json.dumps(tree).encode())


def test_a_full_destination_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    program = """
import io, os, resource, sys
from datetime import datetime, UTC
from pathlib import Path
from dbshield.backup.repository import Repository
from dbshield.backup import sealing
from dbshield.backup.store import Folder
from dbshield.errors import BackupError
writer = Repository(Folder(Path(sys.argv[1]))).begin("staging", datetime.now(UTC), recipients=[sys.argv[2]], level=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    writer.add("data", io.BytesIO(os.urandom(1_000_000)))
except BackupError as error:
    print(error.message, error.hint, sep="|")
# What is small is written by flush, and again by close.
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 100_000))
try:
    Folder(Path(sys.argv[1])).put_new("small", b"longer than that")
except BackupError as error:
    print(error.message, error.hint, sep="|")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "backups", RECIPIENT], capture_output=True, text=True, check=True, timeout=60
    )
    for line, name in zip(done.stdout.splitlines(), ("data", "small"), strict=True):
        message, hint = line.split("|")
        assert message.endswith(f"/{name}: File too large")
        assert hint.startswith("The destination is full")
    assert [path.name for path in (tmp_path / "backups").rglob("*") if path.is_file()] == ["claim"]


def test_a_writer_that_is_killed_leaves_no_member_and_what_it_left_can_be_removed(tmp_path: Path) -> None:
    program = """
import sys
from datetime import datetime, UTC
from pathlib import Path
from dbshield.backup.repository import Repository
from dbshield.backup.store import Folder
writer = Repository(Folder(Path(sys.argv[1]))).begin("staging", datetime.now(UTC), recipients=[], level=1)
writer.add("databases/5/data", sys.stdin.buffer)
"""
    folder = tmp_path / "backups"
    with subprocess.Popen([sys.executable, "-c", program, folder], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"x" * 100_000)
        process.stdin.flush()
        assert until(lambda: list((folder / "staging").glob("*/databases/5/.half-*")))
        process.kill()
        process.wait()
    repository = Repository(Folder(folder))
    (found,) = repository.list()
    assert (found.complete, found.objects) == (False, 1)
    assert repository.remove("staging", found.snapshot) == 1
    assert list(folder.iterdir()) == []


@given(st.binary(max_size=400))
def test_no_text_is_taken_for_a_manifest(text: bytes) -> None:
    with pytest.raises(Damaged):
        manifests.parse(text)


@pytest.fixture
def made(repository: Repository) -> Manifest:
    writer = begin(repository)
    return facts(writer)((writer.add("data", io.BytesIO(b"x")),))


def test_the_text_of_a_manifest_is_the_same_after_a_database_has_kept_it(made: Manifest) -> None:
    kept = json.loads(json.dumps(json.loads(made.text()), indent=2))
    assert manifests.parse(json.dumps(kept).encode()).text() == made.text()


def test_keys_are_for_their_owner(tmp_path: Path, key: SigningKey) -> None:
    path = tmp_path / "backup.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(path).public == key.public
    with pytest.raises(FileExistsError):
        SigningKey.create(path)
    path.chmod(0o640)
    with pytest.raises(BackupError, match="open to others"):
        SigningKey.load(path)
    with pytest.raises(BackupError, match="is not there"):
        SigningKey.load(tmp_path / "nothing")


def test_an_identity_file_is_read_as_age_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    path.write_text(f"# created: today\n# public key: {RECIPIENT}\n{IDENTITY}\n")
    path.chmod(0o600)
    assert [str(found.to_public()) for found in sealing.identities(path)] == [RECIPIENT]
    path.write_text("AGE-SECRET-KEY-1NONSENSE\n")
    with pytest.raises(ConfigError, match="something else") as caught:
        sealing.identities(path)
    assert "NONSENSE" not in str(caught.value)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="open to others"):
        sealing.identities(path)
