"""A cluster is made, started, found again, stopped, and never outlives what should end it. All on real servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from dbshield.cluster import Cluster, temporary_folder
from dbshield.cluster.account import server_account
from dbshield.errors import ClusterError

FAST = {"fsync": "off", "shared_buffers": "1MB", "max_connections": "20"}
DEADLINE = 30.0


def until(what: Callable[[], bool]) -> bool:
    """Whether the condition came true before the deadline."""
    end = time.monotonic() + DEADLINE
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """One folder with a made and stopped cluster, shared by the tests that leave it usable."""
    folder = temporary_folder()
    cluster = Cluster(folder / "c", settings=FAST)
    cluster.ensure()
    yield folder / "c"
    cluster.remove()
    folder.rmdir()


@pytest.fixture
def cluster(made: Path) -> Iterator[Cluster]:
    cluster = Cluster(made, settings=FAST)
    yield cluster
    cluster.stop("immediate")


def test_a_new_cluster_is_utf8_with_checksums_and_the_same_order_everywhere(cluster: Cluster) -> None:
    cluster.start()
    with psycopg.connect(cluster.dsn()) as conn:
        row = conn.execute(
            "select current_setting('server_encoding'), current_setting('data_checksums'), 'a' < 'B', upper('é'),"
            " current_setting('password_encryption')"
        ).fetchone()
    assert row == ("UTF8", "on", False, "É", "scram-sha-256")


def test_start_and_stop_may_be_called_again(cluster: Cluster) -> None:
    cluster.start()
    first = cluster.pid
    cluster.start()
    assert cluster.pid == first
    cluster.stop()
    cluster.stop()
    assert not cluster.running
    with pytest.raises(ClusterError, match="no server runs"):
        cluster.dsn()


def test_another_object_for_the_same_folder_sees_and_stops_the_server(cluster: Cluster, made: Path) -> None:
    cluster.start()
    other = Cluster(made)
    assert other.running
    assert other.dsn() == cluster.dsn()
    other.stop()
    assert not cluster.running


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_every_mode_stops(cluster: Cluster, mode: str) -> None:
    cluster.start()
    cluster.stop(mode)
    assert not cluster.running


def test_an_unknown_mode_is_refused(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="gently"):
        cluster.stop("gently")


def test_what_was_committed_survives_a_crash(cluster: Cluster) -> None:
    cluster.start()
    with psycopg.connect(cluster.dsn()) as conn:
        conn.execute("create table if not exists kept (id int)")
        conn.execute("insert into kept values (1)")
    cluster.kill()
    assert not cluster.running
    cluster.start()
    with psycopg.connect(cluster.dsn()) as conn:
        assert conn.execute("select id from kept").fetchone() == (1,)


def test_a_pid_file_whose_number_now_belongs_to_a_stranger_is_no_server(cluster: Cluster, made: Path) -> None:
    """After a restart of a container the number in postmaster.pid is often that of another process of the same account."""
    stranger = subprocess.Popen(["sleep", "60"], **server_account().process())
    try:
        (made / "data" / "postmaster.pid").write_text(f"{stranger.pid}\n{made}/data\n0\n5432\n/tmp\n\n  0 0\n")
        assert not Cluster(made).running
        cluster.start()
        assert cluster.running
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_server_that_died_and_was_not_reaped_is_no_server(made: Path) -> None:
    """Its number still answers to kill(pid, 0), so PostgreSQL takes it for a running one; here it is another object's child."""
    first, second = Cluster(made, settings=FAST), Cluster(made, settings=FAST)
    try:
        first.start()
        second.kill()
        second.start()
        assert second.running
    finally:
        second.stop("immediate")
        first.stop("immediate")


def test_only_root_and_the_owner_reach_the_socket(cluster: Cluster) -> None:
    cluster.start()
    found = cluster.socket_folder.stat()
    assert found.st_mode & 0o777 == 0o700
    assert found.st_uid == server_account().uid


def test_a_role_that_is_not_the_superuser_needs_its_password_even_over_the_socket(cluster: Cluster) -> None:
    cluster.start()
    with psycopg.connect(cluster.dsn()) as conn:
        conn.execute("drop role if exists agent")
        conn.execute("create role agent login password 'right'")
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(cluster.dsn(user="agent"))
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(cluster.dsn(user="agent"), password="wrong")
    with psycopg.connect(cluster.dsn(user="agent"), password="right") as conn:
        assert conn.execute("select current_user").fetchone() == ("agent",)


def test_without_listen_there_is_no_tcp(cluster: Cluster) -> None:
    cluster.start()
    with psycopg.connect(cluster.dsn()) as conn:
        assert conn.execute("show listen_addresses").fetchone() == ("",)
    with pytest.raises(ClusterError, match="does not listen"):
        _ = cluster.host


def test_with_listen_it_answers_on_the_loopback_only(made: Path) -> None:
    cluster = Cluster(made, settings=FAST, listen=True)
    try:
        cluster.start()
        with pytest.raises(psycopg.OperationalError, match="no password supplied"):
            psycopg.connect(host=cluster.host, port=cluster.port, user="postgres", dbname="postgres")
        with psycopg.connect(cluster.dsn()) as conn:
            assert conn.execute("show listen_addresses").fetchone() == ("127.0.0.1",)
    finally:
        cluster.stop("immediate")


def test_a_server_that_cannot_start_shows_the_end_of_its_log(made: Path) -> None:
    cluster = Cluster(made, settings={"shared_buffers": "banana"})
    with pytest.raises(ClusterError, match="banana"):
        cluster.start()
    assert not cluster.running


def test_a_long_path_gets_a_short_socket_elsewhere_that_goes_with_the_cluster() -> None:
    folder = temporary_folder()
    cluster = Cluster(folder / ("long" * 30), settings=FAST)
    try:
        cluster.start()
        sockets = cluster.socket_folder
        assert len(str(sockets)) < 60
        assert sockets.stat().st_mode & 0o777 == 0o700
        cluster.stop()
        cluster.start()
        assert cluster.socket_folder == sockets
    finally:
        cluster.remove()
    assert not sockets.exists()
    assert not cluster.folder.exists()
    folder.rmdir()


def test_half_a_data_folder_is_made_again() -> None:
    folder = temporary_folder()
    cluster = Cluster(folder, settings=FAST)
    try:
        (folder / "data.half").mkdir()
        (folder / "data.half" / "PG_VERSION").write_text("18\n")
        cluster.start()
        assert cluster.running
        assert not (folder / "data.half").exists()
    finally:
        cluster.remove()


PARENT = """
import sys
from pathlib import Path
from dbshield.cluster import Cluster
cluster = Cluster(Path(sys.argv[1]), settings={"fsync": "off", "shared_buffers": "1MB", "max_connections": "20"})
cluster.start(tethered=True, throwaway=True)
print(cluster.pid, flush=True)
sys.stdin.read()
"""


def test_a_throwaway_server_does_not_outlive_a_parent_that_was_killed() -> None:
    folder = temporary_folder()
    parent = subprocess.Popen([sys.executable, "-c", PARENT, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        os.kill(server, 0)
        parent.send_signal(signal.SIGKILL)
    finally:
        parent.communicate()
    assert until(lambda: not Path(f"/proc/{server}").exists())
    assert until(lambda: not folder.exists())


KILLED = """
import os, signal, sys
from pathlib import Path
from dbshield.cluster import Cluster
cluster = Cluster(Path(sys.argv[1]) / "made", settings={"fsync": "off"})
cluster.ensure()
setattr(cluster, sys.argv[2], lambda *given: os.kill(os.getpid(), signal.SIGKILL))
cluster.start(tethered=True, throwaway=True)
"""


def naming(folder: Path) -> list[str]:
    """Processes with a folder on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in text:
            found.append(text.replace(b"\0", b" ").decode())
    return found


# Before there is a watcher, and when the server has just been told to begin.
@pytest.mark.parametrize("step", ["_tether", "_wait"])
def test_a_parent_that_is_killed_while_it_starts_one_leaves_none(step: str) -> None:
    folder = temporary_folder()
    try:
        parent = subprocess.run([sys.executable, "-c", KILLED, folder, step], capture_output=True, text=True, check=False)
        assert parent.returncode == -signal.SIGKILL, parent.stderr
        assert until(lambda: not naming(folder))
        assert Cluster(folder / "made").pid is None
    finally:
        Cluster(folder / "made").remove()
        folder.rmdir()


def test_two_processes_that_start_one_cluster_get_one_server() -> None:
    folder = temporary_folder()
    script = PARENT.replace("tethered=True, throwaway=True", "")
    parents = [
        subprocess.Popen([sys.executable, "-c", script, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        pids = {parent.communicate("")[0] for parent in parents}
        assert len(pids) == 1
        assert pids == {f"{Cluster(folder).pid}\n"}
    finally:
        Cluster(folder).remove()
