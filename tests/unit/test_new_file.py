"""A new file is there whole, for its owner alone, or not at all."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from dbshield.new_file import write_new


def test_a_new_file_is_its_owners_and_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_new(path, "ключ\n")
    assert (path.read_text(encoding="utf-8"), path.stat().st_mode & 0o777) == ("ключ\n", 0o600)
    with pytest.raises(FileExistsError):
        write_new(path, "another")
    assert path.read_text(encoding="utf-8") == "ключ\n"


def test_what_does_not_fit_leaves_nothing_that_would_be_kept(tmp_path: Path) -> None:
    """A limit of the process stands for a full disk: the same call fails, with EFBIG instead of ENOSPC."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_new(tmp_path / "key", "longer than that")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
