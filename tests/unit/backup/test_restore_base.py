"""What is unpacked of a base backup: files and folders below the new data folder, and nothing else."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from dbshield.backup.damage import Damaged
from dbshield.backup.unpack import extract


def packed(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            content = b"x" * 9 if member.isreg() else b""
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def test_files_and_folders_are_ours_alone(tmp_path: Path) -> None:
    archive = packed(tmp_path / "base.tar", member("base", tarfile.DIRTYPE, mode=0o777), member("base/1", mode=0o4777, uid=4711))
    folder = tmp_path / "data"
    with archive.open("rb") as stream:
        extract(stream, "base.tar", folder)
    assert (folder / "base" / "1").read_bytes() == b"x" * 9
    assert (folder / "base" / "1").stat().st_mode & 0o7111 == 0


@pytest.mark.parametrize(
    "hostile",
    [
        member("../outside"),
        member("base/../../outside"),
        member("/etc/outside"),
        member("link", tarfile.SYMTYPE, linkname="/etc"),
        member("hard", tarfile.LNKTYPE, linkname="../outside"),
        member("pipe", tarfile.FIFOTYPE),
        member("disk", tarfile.BLKTYPE),
    ],
    ids=lambda found: found.name,
)
def test_what_no_base_backup_has_is_refused(tmp_path: Path, hostile: tarfile.TarInfo) -> None:
    archive = packed(tmp_path / "base.tar", hostile)
    folder = tmp_path / "deep" / "data"
    with archive.open("rb") as stream, pytest.raises(Damaged, match="no base backup has"):
        extract(stream, "base.tar", folder)
    assert list(folder.iterdir()) == []
    assert not (tmp_path / "deep" / "outside").exists()
    assert not (tmp_path / "outside").exists()
