"""The file of the audit: its rights, its rotation, and what a full disk does not lose."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
from support.audit_log import DROP, NOW, READ, connect, lines

from dbshield.control import audit as module
from dbshield.control.audit import AuditLog
from dbshield.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "audit.jsonl"


def test_the_file_is_for_its_owner_and_is_continued(path: Path) -> None:
    for _ in range(2):
        log = AuditLog(path)
        connect(log)
        log.close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(lines(path)) == 2


def test_a_file_that_cannot_be_opened_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        AuditLog(tmp_path)


def test_after_a_rotation_it_goes_on_in_a_new_file(path: Path) -> None:
    log = AuditLog(path)
    session = connect(log)
    session.statement(NOW, READ)
    old = path.rename(path.with_suffix(".1"))
    session.statement(NOW, DROP)
    log.reopen()
    session.statement(NOW, READ)
    log.close()
    assert [line.get("verdict") for line in lines(old)] == [None, "allow", "hold"]
    assert [line.get("verdict") for line in lines(path)] == ["allow"]


def test_where_the_new_file_cannot_be_opened_the_old_one_goes_on(path: Path) -> None:
    log = AuditLog(path)
    old = path.rename(path.with_suffix(".1"))
    path.mkdir()
    with structlog.testing.capture_logs() as logs:
        log.reopen()
    connect(log)
    log.close()
    assert [entry["event"] for entry in logs] == ["audit.not_reopened"]
    assert len(lines(old)) == 1


def test_standard_output_takes_it_too(capfd: pytest.CaptureFixture[str]) -> None:
    log = AuditLog(None)
    connect(log)
    log.reopen()
    log.close()
    assert json.loads(capfd.readouterr().out)["event"] == "connected"


class Disk:
    """A disk that takes so many bytes more, then is full."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.real: Callable[[int, bytes], int] = os.write

    def write(self, descriptor: int, data: bytes) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.real(descriptor, data[: self.room])
        self.room -= written
        return written


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(1 << 30)
    monkeypatch.setattr("dbshield.control.audit.os.write", disk.write)
    return disk


def test_a_full_disk_is_said_once_and_loses_nothing(path: Path, disk: Disk) -> None:
    log = AuditLog(path)
    session = connect(log)
    session.statement(NOW, READ)
    disk.room = 300
    with structlog.testing.capture_logs() as logs:
        log.flush()
        assert [log.healthy] == [False]
        for _ in range(3):
            session.statement(NOW, DROP)
            log.flush()
        assert [entry["event"] for entry in logs] == ["audit.not_written"]
        assert logs[0]["reason"] == "No space left on device"
        disk.room = 1 << 30
        log.flush()
        assert [log.healthy] == [True]
        assert [entry["event"] for entry in logs] == ["audit.not_written", "audit.written_again"]
    log.close()
    assert [line.get("verdict") for line in lines(path)] == [None, "allow", "hold", "hold", "hold"]


def test_a_line_that_a_full_disk_cut_stands_whole_in_the_new_file(path: Path, disk: Disk) -> None:
    log = AuditLog(path)
    connect(log)
    log.flush()
    disk.room = 50
    connect(log, session=8)
    connect(log, session=9)
    log.flush()
    disk.room = 10
    log.flush()
    old = path.rename(path.with_suffix(".1"))
    log._healthy = True
    disk.room = 0
    log.reopen()
    disk.room = 1 << 30
    log.close()
    assert [line["session"] for line in lines(path)] == [8, 9]
    assert len(old.read_bytes().splitlines()) == 2


def test_a_reload_without_a_rotation_goes_on_in_the_middle_of_the_line(path: Path, disk: Disk) -> None:
    log = AuditLog(path)
    disk.room = 50
    connect(log)
    log.flush()
    log.reopen()
    disk.room = 1 << 30
    log.close()
    assert [line["session"] for line in lines(path)] == [7]


def test_what_does_not_fit_in_memory_is_counted(path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", 1_000)
    log = AuditLog(path)
    session = connect(log)
    disk.room = 0
    for _ in range(20):
        session.statement(NOW, READ)
        log.flush()
    lost = log.lost
    assert 0 < lost < 20
    disk.room = 1 << 30
    log.flush()
    session.statement(NOW, DROP)
    log.close()
    written = lines(path)
    assert log.lost == 0
    assert [line["event"] for line in written[-2:]] == ["audit-gap", "statement"]
    assert written[-2]["lost"] == lost
    assert len(written) == 1 + (20 - lost) + 2


def test_what_cannot_be_written_at_the_end_is_said(path: Path, disk: Disk) -> None:
    log = AuditLog(path)
    connect(log)
    disk.room = 0
    with structlog.testing.capture_logs() as logs:
        log.close()
    assert logs[-1]["event"] == "audit.lost"
    assert logs[-1]["events"] == 1
