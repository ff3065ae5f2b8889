"""Which files are read, and that none is read twice or waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dbshield.errors import ConfigError
from dbshield.scan import walk as module
from dbshield.scan.walk import Skipped, Text, walk


def seen(*paths: Path) -> tuple[dict[str, str], dict[str, str]]:
    files = list(walk(paths))
    return (
        {file.path.name: file.text for file in files if isinstance(file, Text)},
        {file.path.name: file.reason for file in files if isinstance(file, Skipped)},
    )


def test_hidden_and_ignored_files_are_read(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text(".env\n")
    (tmp_path / ".env").write_text("A=1\n")
    (tmp_path / "node_modules" / "x").mkdir(parents=True)
    (tmp_path / "node_modules" / "x" / "y.js").write_text("y")
    assert list(seen(tmp_path)[0]) == [".env", ".gitignore", "y.js"]


def test_circles_of_links_end_and_what_is_linked_is_read_once(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("found")
    (inside / "loop").symlink_to(inside)
    (inside / "out").symlink_to(outside)
    (inside / "again").symlink_to(outside / "secret")
    (inside / "dangling").symlink_to(tmp_path / "nowhere")
    (inside / "itself").symlink_to(inside / "itself")
    os.link(outside / "secret", inside / "hard")
    texts = [file for file in walk([inside, inside]) if isinstance(file, Text)]
    assert [file.text for file in texts] == ["found"]
    assert set(seen(inside)[1]) == {"dangling", "itself"}


def test_what_is_not_read_is_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_MAX_BYTES", 1 << 20)
    (tmp_path / "binary").write_bytes(b"abc\0def")
    (tmp_path / "huge").write_bytes(b"x" * ((1 << 20) + 1))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("x")
    texts, skipped = seen(tmp_path)
    assert list(texts) == ["text"]
    assert skipped == {"binary": "binary", "huge": "larger than 1 MB", "pipe": "no regular file"}


def test_texts_of_other_encodings_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("PGPASSWORD=ä1".encode("utf-16"))
    (tmp_path / "b").write_bytes(b"\xef\xbb\xbfPGPASSWORD=b1")
    (tmp_path / "c").write_bytes("PGPASSWORD=ä1".encode("latin-1"))
    texts, _ = seen(tmp_path)
    assert (texts["a"], texts["b"]) == ("PGPASSWORD=ä1", "PGPASSWORD=b1")
    assert texts["c"].startswith("PGPASSWORD=")


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing is not there"):
        list(walk([tmp_path / "nothing"]))
