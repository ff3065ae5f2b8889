"""`dbshield up` for a newcomer: an empty folder, no configuration, one command."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import httpx
import psutil
import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from support.ports import free_port
from support.shield import COMMAND
from support.waiting import until

from dbshield.cluster import temporary_folder

PASTE = re.compile(r'psql "([^"]+)"')


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder, in reach of the account that PostgreSQL runs as."""
    folder = temporary_folder("up-test-")
    yield folder
    shutil.rmtree(folder)


def start(place: Path, port: int, log: IO[bytes], console: int = 0) -> subprocess.Popen[bytes]:
    """Only what keeps two runs of the tests apart is said: the ports and the state's folder. Without a port, no console."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DBSHIELD_", "PG"))}
    environment |= {"DBSHIELD_STATE": str(place / "state"), "DBSHIELD_PROXY__LISTEN": f"127.0.0.1:{port}"}
    environment["DBSHIELD_CONSOLE__LISTEN"] = f"127.0.0.1:{console}" if console else ""
    return subprocess.Popen(
        [*COMMAND, "up"], cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
    )


def left(place: Path) -> list[str]:
    """Processes that have anything to do with the folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "pid"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(place) in line:
            found.append(line)
    return found


def test_the_string_works_a_second_start_too_and_nothing_is_left(place: Path) -> None:
    port, console = free_port(), free_port()
    tokens = []
    for number in (1, 2):
        path = place / f"log-{number}"
        with path.open("wb") as log:
            process = start(place, port, log, console)
        try:
            assert until(lambda: process.poll() is not None or PASTE.search(path.read_text()), deadline=90)  # noqa: B023
            found = PASTE.search(path.read_text())
            assert found, path.read_text()
            dsn = found[1]
            assert until(lambda: gets_in(dsn)), path.read_text()  # noqa: B023
            with psycopg.connect(dsn, autocommit=True) as conn:
                assert conn.execute("select count(*) from orders").fetchone() == (1000,)
                for attack in ("delete from orders", "drop table orders", "truncate orders"):
                    with pytest.raises(errors.InsufficientPrivilege):
                        conn.execute(attack)
                conn.execute("update orders set customer = 'kept' where id = 7")
            assert until(lambda: opens(console)), path.read_text()
            tokens.append(str(conninfo_to_dict(dsn)["password"]))
            if number == 1:
                process.send_signal(signal.SIGHUP)
                # By the proxy, and by the console, which has no number that anybody knows.
                assert until(lambda: path.read_text().count("configuration reloaded") == 2), path.read_text()  # noqa: B023
                assert gets_in(dsn), "the trial's database, which stands in no file, is there still"
            assert left(place)
            assert [line for line in left(place) if any(token in line for token in tokens)] == []
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
        said = path.read_text()
        assert "Traceback" not in said
        # Once, for who is to paste it.
        assert said.count(tokens[-1]) == 1
        assert until(lambda: not left(place)), left(place)
    assert tokens[0] != tokens[1]
    audit = (place / "state" / "audit.jsonl").read_text()
    assert audit
    assert not [token for token in tokens if token in audit]


def test_ended_while_it_starts_it_leaves_nothing_behind(place: Path) -> None:
    """SIGTERM at the moment that the first server runs."""
    port = free_port()
    with (place / "log").open("wb") as log:
        process = start(place, port, log)
    try:
        assert until(lambda: process.poll() is not None or list(place.glob("state/*/data/postmaster.pid")), deadline=90)
        assert process.poll() is None, (place / "log").read_text()
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    assert until(lambda: not left(place)), left(place)


def opens(port: int) -> bool:
    """Whether a browser would be shown a form."""
    try:
        return "Sign in" in httpx.get(f"http://127.0.0.1:{port}/sign-in", timeout=30).text
    except httpx.TransportError:
        return False


def gets_in(dsn: str) -> bool:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:
        return False
    return True
