"""Entries on the disk: what is there after a crash, in which order, and whose it is."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbshield.control import audit_spool
from dbshield.control.audit_spool import Spool, SpoolFull
from dbshield.errors import ConfigError

BIG = 1 << 30


def drained(spool: Spool) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    while not spool.empty:
        first, entries = spool.next()
        found += enumerate(entries, first)
        spool.taken()
    return found


def left(folder: Path) -> list[tuple[UUID, list[tuple[int, str]]]]:
    found = []
    for spool in Spool.left_over(folder):
        found.append((spool.writer, drained(spool)))
        spool.close()
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(batches=st.lists(st.lists(st.integers(0, 3_000), min_size=1, max_size=5), max_size=8), gap=st.integers(0, 2))
def test_what_goes_in_comes_out_in_order(tmp_path: Path, batches: list[list[int]], gap: int) -> None:
    spool = Spool.create(tmp_path, uuid4(), max_bytes=BIG)
    spool_bytes, audit_spool.BATCH_BYTES = audit_spool.BATCH_BYTES, 1_000  # type: ignore[misc]
    try:
        expected: list[tuple[int, str]] = []
        number = 1
        for lengths in batches:
            entries = ["x" * length for length in lengths]
            spool.add(number, entries)
            expected += enumerate(entries, number)
            number += len(entries) + gap
        assert drained(spool) == expected
        spool.add(number, ["again"])
        assert drained(spool) == [(number, "again")]
    finally:
        audit_spool.BATCH_BYTES = spool_bytes  # type: ignore[misc]
        spool.close()
    assert not spool.path.exists()


def test_what_was_not_taken_is_given_again(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, uuid4(), max_bytes=BIG)
    spool.add(1, ["a", "b"])
    assert spool.next() == spool.next() == (1, ["a", "b"])
    spool.add(3, ["c"])
    spool.taken()
    assert not spool.empty
    assert drained(spool) == [(3, "c")]
    spool.close()


@pytest.mark.parametrize("torn", [b"", b"3", b'3 {"a":', b"3 x" * 1_000_000])
def test_a_line_that_a_crash_cut_is_left_out(tmp_path: Path, torn: bytes) -> None:
    writer = uuid4()
    (tmp_path / f"{writer}.spool").write_bytes(b"1 a\n2 b\n" + torn)
    assert left(tmp_path) == [(writer, [(1, "a"), (2, "b")])]
    assert list(tmp_path.iterdir()) == []


def test_the_living_keep_theirs_and_the_dead_are_found(tmp_path: Path) -> None:
    living = Spool.create(tmp_path, uuid4(), max_bytes=BIG)
    living.add(1, ["mine"])
    program = (
        "import os, sys, uuid; from pathlib import Path; from dbshield.control.audit_spool import Spool;"
        "spool = Spool.create(Path(sys.argv[1]), uuid.UUID(int=7), max_bytes=1000);"
        "spool.add(5, ['e', 'f']); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == -9
    assert left(tmp_path) == [(UUID(int=7), [(5, "e"), (6, "f")])]
    assert left(tmp_path) == []
    assert drained(living) == [(1, "mine")]
    living.close()


def test_what_is_no_spool_is_left_alone(tmp_path: Path) -> None:
    for name in ("notes.spool", f"{uuid4()}.damaged", f"{uuid4()}.new"):
        (tmp_path / name).write_text("1 a\n")
    assert left(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 3


def test_its_limit_takes_a_batch_whole_or_not_at_all(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, uuid4(), max_bytes=20)
    spool.add(1, ["abcdef"])
    with pytest.raises(SpoolFull, match="spool_max_bytes"):
        spool.add(2, ["abcdef", "abcdef"])
    spool.add(2, ["abcdef"])
    assert drained(spool) == [(1, "abcdef"), (2, "abcdef")]
    spool.add(3, ["abcdef"])
    assert drained(spool) == [(3, "abcdef")]
    spool.close()


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool.create(tmp_path, uuid4(), max_bytes=BIG)
    spool.add(1, ["a"])
    real = os.pwrite

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if offset > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data[:2], offset)

    with monkeypatch.context() as full:
        full.setattr("dbshield.control.audit_spool.os.pwrite", pwrite)
        with pytest.raises(SpoolFull, match="No space left"):
            spool.add(2, ["b" * 100])
    assert spool.path.read_bytes() == b"1 a\n"
    spool.add(2, ["c"])
    assert drained(spool) == [(1, "a"), (2, "c")]
    spool.close()


def test_a_folder_that_cannot_be_written_to_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be written to"):
        Spool.create(tmp_path / "audit", uuid4(), max_bytes=BIG)
