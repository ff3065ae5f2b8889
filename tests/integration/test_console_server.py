"""The console as a process: by the command line, on a real port, with pages that follow what happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest
from sqlalchemy import text
from support.commands import Command, run_command
from support.consoles import FORM, PASSWORD
from support.control import registered, tables_database
from support.people import Phone
from support.ports import free_port
from support.servers import Server
from support.waiting import until

from dbshield.console.security import csrf_token
from dbshield.control.approvals import Approvals
from dbshield.control.asking import Ask
from dbshield.control.audit_store import record
from dbshield.model import AccessLevel
from dbshield.store.database import Database

PATIENCE = 60.0
"""Seconds for what takes a fraction of one on a machine that does nothing else."""


class Site:
    """A console that runs, with Ann, who was made by the commands that people type."""

    def __init__(self, database: Database, dsn: str, folder: Path) -> None:
        self.database = database
        self.folder = folder
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.config = folder / "dbshield.toml"
        self.config.write_text(
            f'state = "{folder / "state"}"\n[control]\nurl = {json.dumps(dsn)}\n[console]\nlisten = "127.0.0.1:{self.port}"\n'
            '[environments.staging]\nupstream = "postgresql://app@db.example.com/shop?sslmode=verify-full"\n'
        )
        self.log = folder / "console.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.phone = self.people()

    def run(self, *words: str, fails: bool = False, **variables: str) -> str:
        done = run_command([*words, "--config", str(self.config)], env={"PATH": os.environ["PATH"], **variables})
        assert (done.returncode != 0) == fails, f"{words}: {done.stdout}{done.stderr}"
        return done.stderr if fails else done.stdout

    def people(self) -> Phone:
        """Ann with a password."""
        self.run("init")
        phone = Phone("ann", json.loads(self.run("user", "add", "ann", "--json"))["secret"])
        # Each code is the newest one: that of the half minute before is none any more where the next begins meanwhile.
        self.run("user", "confirm", "ann", "--code-env", "CODE", CODE=phone.code(datetime.now(UTC)))
        self.forget_codes()
        self.run(
            *("user", "password", "ann", "--password-env", "SECRET", "--code-env", "CODE"),
            SECRET=PASSWORD,
            CODE=phone.code(datetime.now(UTC)),
        )
        self.forget_codes()
        return phone

    def forget_codes(self) -> None:
        """As if half a minute had gone by since the last one."""
        with self.database.transaction() as connection:
            connection.execute(text("update dbshield.people set last_step = 0"))

    def start(self) -> None:
        with self.log.open("ab") as log:
            words = ["console", "--config", str(self.config)]
            self.process = Command(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        assert until(self.answers, deadline=PATIENCE), self.log.read_text()

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.base}/sign-in", timeout=PATIENCE).status_code == 200
        except httpx.TransportError:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            return False

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def sign_in(self, client: httpx.Client, phone: Phone) -> None:
        client.get("/sign-in")
        self.forget_codes()
        said = {"name": "ann", "password": PASSWORD, "code": phone.code(datetime.now(UTC))}
        assert self.post(client, "/sign-in", **said).status_code == 303

    def post(self, client: httpx.Client, path: str, **fields: str) -> httpx.Response:
        cookie = client.cookies.get("dbshield") or client.cookies.get("dbshield-form") or ""
        body = urlencode({"csrf": csrf_token(cookie), **fields})
        return client.post(path, content=body, headers={"origin": self.base, "content-type": FORM})


@pytest.fixture(scope="module")
def site(server18: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("console")
    with tables_database(server18) as dsn, registered(dsn) as database:
        made = Site(database, dsn, folder)
        made.start()
        try:
            yield made
        finally:
            code = made.stop()
        assert code == 0, made.log.read_text()
        assert "Traceback" not in made.log.read_text(), made.log.read_text()


@pytest.fixture
def client(site: Site) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=site.base, timeout=PATIENCE) as found:
        site.sign_in(found, site.phone)
        yield found


class Stream:
    """A page that follows what happens, in a thread of its own."""

    def __init__(self, client: httpx.Client, path: str) -> None:
        self.text = ""
        self.status = 0
        self.ended = threading.Event()
        # A client of its own: the other one goes on asking meanwhile.
        self._client = httpx.Client(base_url=client.base_url, cookies=dict(client.cookies), timeout=PATIENCE)
        self._path = path
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            with self._client.stream("GET", self._path, headers={"accept": "text/event-stream"}) as answer:
                self.status = answer.status_code
                for part in answer.iter_text():
                    self.text += part
        finally:
            self.ended.set()

    def close(self) -> None:
        self._thread.join(PATIENCE)
        self._client.close()
        assert not self._thread.is_alive()


def ask(database: Database, statement: str) -> str:
    now = datetime.now(UTC)
    wanted = Ask(
        environment="staging",
        agent="claude",
        access=AccessLevel.WRITE,
        database="shop",
        session=7,
        application="psql",
        statement=statement,
        normal=statement,
        effects=(),
        findings=(),
    )
    return Approvals(database).request(wanted, now=now, ttl=timedelta(hours=1), needed=1).id


def test_what_happens_comes_to_every_open_page_until_its_session_is_over(site: Site, client: httpx.Client) -> None:
    with httpx.Client(base_url=site.base, timeout=PATIENCE) as other:
        site.sign_in(other, site.phone)
        streams = [Stream(client, "/approvals/stream"), Stream(other, "/approvals/stream")]
        now = Stream(client, "/stream")
        assert until(lambda: all("event: approvals" in stream.text for stream in streams) and "event: feed" in now.text)
        number = ask(site.database, "drop table a")
        assert until(lambda: all(number in stream.text for stream in streams) and number in now.text)
        record(site.database, kind="statement", agent="claude", environment="staging", statement="select fresh", verdict="allow")
        assert until(lambda: "select fresh" in now.text)
        page = Stream(other, f"/approvals/{number}/stream")
        assert until(lambda: "event: state" in page.text)
        assert "event: form" not in page.text, "somebody may be typing"
        Approvals(site.database).previewed(number, {"rows": 4711})
        assert until(lambda: "<b>4,711</b>" in page.text), "the executor looks at it while somebody reads it"
        site.forget_codes()
        decided = site.post(client, f"/approvals/{number}/deny", reason="not today", code=site.phone.code(datetime.now(UTC)))
        assert decided.status_code == 303, decided.text
        assert until(lambda: "not today" in page.text and "event: form" in page.text)
        assert site.post(client, "/sign-out").status_code == 303
        for stream in (streams[0], now):
            assert stream.ended.wait(PATIENCE)
            assert "event: over" in stream.text
        assert not page.ended.is_set()
        site.run("user", "role", "ann", "admin", "--vouch", "ann", "--code-env", "CODE", CODE=fresh_code(site))
        for stream in (*streams, now, page):
            assert stream.ended.wait(PATIENCE), "another role ends what is open"
            stream.close()
        assert other.get("/approvals").status_code == 303


def fresh_code(site: Site) -> str:
    site.forget_codes()
    return site.phone.code(datetime.now(UTC))


def test_streams_are_for_who_is_signed_in(site: Site) -> None:
    with httpx.Client(base_url=site.base, timeout=PATIENCE) as stranger:
        for path in ("/stream", "/approvals/stream", "/approvals/apr-aaaaaaaa/stream"):
            answer = stranger.get(path, headers={"accept": "text/event-stream"})
            assert (answer.status_code, answer.text) == (204, ""), path


def test_it_says_nothing_of_itself_to_strangers(site: Site) -> None:
    answer = httpx.get(f"{site.base}/static/console.css", timeout=PATIENCE)
    assert answer.status_code == 200
    assert "server" not in answer.headers
    assert httpx.get(f"{site.base}/", headers={"host": "rebound.example"}, timeout=PATIENCE).status_code == 421


def test_a_port_that_is_taken_is_an_answer(site: Site) -> None:
    said = site.run("console", fails=True)
    assert f"cannot listen on 127.0.0.1:{site.port}" in said
    assert "Stop what listens there" in said


def test_a_certificate_that_is_none_is_an_answer(site: Site) -> None:
    files = {"DBSHIELD_CONSOLE__TLS_CERTIFICATE": str(site.config), "DBSHIELD_CONSOLE__TLS_KEY": str(site.folder / "none.key")}
    assert "cannot be used" in site.run("console", fails=True, **files)


def test_sighup_reads_the_configuration_again(site: Site, client: httpx.Client) -> None:
    """With a session that stands, and a file that is wrong on the way."""
    before = site.config.read_text()

    def reloaded(text: str, said: str) -> None:
        count = site.log.read_text().count(said)
        site.config.write_text(text)
        assert site.process is not None
        site.process.send_signal(signal.SIGHUP)
        assert until(lambda: site.log.read_text().count(said) > count, deadline=PATIENCE), site.log.read_text()

    try:
        assert "canary" not in client.get("/policy").text
        more = before.replace("[console]\n", '[console]\naddress = "http://shield.example.com"\n')
        more += '[environments.canary]\nupstream = "postgresql://app@db.example.com/shop?sslmode=verify-full"\n'
        reloaded(more, "configuration reloaded")
        assert "canary" in client.get("/policy").text
        named = httpx.get(f"{site.base}/sign-in", headers={"host": "shield.example.com"}, timeout=PATIENCE)
        assert named.status_code == 200
        reloaded(more + "[nonsense\n", "the configuration was not reloaded")
        assert "canary" in client.get("/policy").text
        reloaded(before.replace(f":{site.port}", ":7999"), "these settings change at the next start")
        page = client.get("/policy")
        assert page.status_code == 200
        assert "canary" not in page.text
    finally:
        reloaded(before, "configuration reloaded")


def test_people_are_made_by_commands(site: Site) -> None:
    listed = json.loads(site.run("user", "list", "--json"))
    assert [(one["person"], one["role"], one["password"]) for one in listed] == [("ann", "admin", True)]
    weak = site.run(
        "user", "password", "ann", "--password-env", "SECRET", "--code-env", "CODE", SECRET="short", CODE="1", fails=True
    )
    assert "12 to 1024 characters" in weak
    wrong = site.run("user", "role", "ann", "viewer", "--vouch", "ann", "--code-env", "CODE", CODE="000", fails=True)
    assert "the code is not the one of ann" in wrong
    assert "is not one of" in site.run("user", "role", "ann", "king", fails=True)
    plain = site.run("user", "list")
    assert plain.split()[:3] == ["person", "role", "state"]
