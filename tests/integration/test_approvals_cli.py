"""`dbshield user` and `dbshield approvals`, against a real control database, with real codes."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import select
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from support.command_line import Result
from support.control import tables_database
from support.people import Phone, enrol
from support.servers import Server
from support.waiting import until

from dbshield.cli.main import run
from dbshield.cli.options import person as login_name
from dbshield.config import load_config
from dbshield.control.approval import Approval, State
from dbshield.control.approvals import Approvals
from dbshield.control.asking import Ask, Parameter
from dbshield.control.people import People
from dbshield.control.vault import Vault
from dbshield.model import AccessLevel, Effect, Finding, Hold, ObjectKind, ObjectName, Operation
from dbshield.store.database import Database

pytestmark = pytest.mark.one_server

UPSTREAM = "postgresql://app@db.example.com/shop?sslmode=verify-full"
DELETE = Effect(operation=Operation.DELETE, kind=ObjectKind.TABLE, name=ObjectName(name="orders"))
FINDING = Finding(
    rule="DS201", name="rows.unbounded-delete", verdict=Hold(), message="No bound.", hint="Bound it.", effect=DELETE
)
ASK = Ask(
    environment="staging",
    agent="claude",
    access=AccessLevel.WRITE,
    database="shop",
    application="psql\x1b[2J",
    statement="delete from orders\nwhere id > $1 -- fine\x1b[2K",
    parameters=(Parameter(type=23, format=1, value=b"\x00\x00\x00\x07"),),
    normal="delete from orders where id > $1",
    effects=(DELETE,),
    findings=(FINDING,),
)


@dataclass(slots=True)
class Desk:
    """The command line of somebody, with the parts behind it. `call` runs a command with a code on standard input or none."""

    call: Callable[..., Result]
    folder: Path
    database: Database
    approvals: Approvals
    people: People

    def enrol(self, name: str, *, voucher: Phone | None = None) -> Phone:
        """Somebody who enrolled a while ago, so that today's codes are unused."""
        past = now() - timedelta(minutes=10 if voucher is None else 8)
        return enrol(self.people, name, past, None if voucher is None else voucher.vouch(past))

    def ask(self, wanted: Ask = ASK, needed: int = 1) -> Approval:
        return self.approvals.request(wanted, now=now(), ttl=timedelta(hours=1), needed=needed)


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def desk(server: Server, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    for name in list(os.environ):
        if name.startswith("DBSHIELD_") and "TEST" not in name:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def call(*words: str, code: str | None = None) -> Result:
        capfd.readouterr()
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{code}\n" if code is not None else ""))
        returned = run([*words, *(["--code-stdin"] if code is not None else [])])
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return Result(code=returned, out=said.out, err=said.err)

    with tables_database(server) as dsn:
        (tmp_path / "dbshield.toml").write_text(
            f"""
            state = "state"
            [control]
            url = "{dsn}"
            [environments.staging]
            upstream = "{UPSTREAM}"
            executor = "postgresql://executor@db.example.com/shop?sslmode=verify-full"
            [environments.production]
            upstream = "{UPSTREAM}"
            approvals_needed = 2
            owners_may_approve = false
            """,
            encoding="utf-8",
        )
        assert call("init").code == 0
        database = Database(dsn)
        vault = Vault.load(load_config(None).secret_key)
        yield Desk(call=call, folder=tmp_path, database=database, approvals=Approvals(database), people=People(database, vault))
        database.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_people_from_the_first_to_the_last(desk: Desk) -> None:
    assert desk.call("user", "list").err == "There is nobody; `dbshield user add NAME` adds one.\n"
    made = desk.call("user", "add", "ann", "--json")
    assert (made.code, made.json["person"], made.json["confirmed"]) == (0, "ann", False)
    assert made.json["uri"].startswith("otpauth://totp/dbshield:ann?secret=")
    ann = Phone("ann", made.json["secret"])
    assert desk.call("user", "confirm", "ann", code="abcdef").code == 1
    confirmed = desk.call("user", "confirm", "ann", code=ann.code(now()))
    assert (confirmed.code, confirmed.out) == (0, "ann is enrolled and may decide.\n")

    alone = desk.call("user", "add", "bob", "--vouch", "eve")
    assert (alone.code, "eve is not enrolled and cannot vouch" in alone.err, "one of: ann" in alone.err) == (1, True, True)
    nobody = desk.call("user", "add", "bob", "--vouch", "ann")
    assert (nobody.code, "--code-stdin or --code-env" in nobody.err) == (2, True)
    code = ann.code(now(), steps=1)
    added = desk.call("user", "add", "bob", "--vouch", "ann", code=code)
    assert (added.code, added.out.count("\n"), "dbshield user confirm bob" in added.err) == (0, 1, True)
    listed = desk.call("user", "list", "--json").json
    assert [(one["person"], one["state"], one["vouched_by"]) for one in listed] == [
        ("ann", "enrolled", None),
        ("bob", "not confirmed", "ann"),
    ]
    assert ann.totp.secret not in desk.call("user", "list").out
    again = desk.call("user", "remove", "bob", "--vouch", "ann", code=code)
    assert (again.code, "used before" in again.err) == (1, True)


def test_a_person_is_reset_and_removed_with_a_code(desk: Desk) -> None:
    ann = desk.enrol("ann")
    desk.enrol("bob", voucher=ann)
    reset = desk.call("user", "reset", "bob", "--vouch", "ann", "--json", code=ann.code(now()))
    assert (reset.code, reset.json["person"]) == (0, "bob")
    removed = desk.call("user", "remove", "bob", "--vouch", "ann", code=ann.code(now(), steps=1))
    assert (removed.code, "no longer decides" in removed.out) == (0, True)
    assert [one["person"] for one in desk.call("user", "list", "--json").json] == ["ann"]


def test_what_waits_is_listed_and_what_destroys_is_marked(desk: Desk) -> None:
    assert desk.call("approvals", "list").err == "Nothing waits for a human.\n"
    made = desk.ask()
    create = Effect(operation=Operation.CREATE, kind=ObjectKind.TABLE, name=ObjectName(name="t"))
    harmless = desk.ask(Ask(**{**fields(ASK), "statement": "create table t ()", "normal": "", "effects": (create,)}))
    listed = desk.call("approvals", "list").out.splitlines()
    assert listed[0].split()[:5] == ["id", "state", "age", "agent", "environment"]
    assert re.fullmatch(rf"{made.id} +waiting +\d+s +claude +staging +destroys +delete from orders where id > \$1", listed[1])
    assert re.fullmatch(rf"{harmless.id} +waiting +\d+s +claude +staging +- +create table t \(\)", listed[2])
    desk.approvals.withdraw(harmless.id, now())
    assert [one["id"] for one in desk.call("approvals", "list", "--json").json] == [made.id]
    assert [one["id"] for one in desk.call("approvals", "list", "--all", "--json").json] == [made.id, harmless.id]
    assert [one["id"] for one in desk.call("approvals", "list", "-s", "withdrawn", "--json").json] == [harmless.id]
    assert desk.call("approvals", "list", "--environment", "production", "--json").json == []


def fields(ask: Ask) -> dict[str, Any]:
    return {name: getattr(ask, name) for name in Ask.__dataclass_fields__}


def test_a_human_sees_exactly_what_would_run(desk: Desk) -> None:
    made = desk.ask()
    tables = [{"name": "public.orders\x1b[2J", "rows": 82, "bytes": 8192}]
    preview = {"rows": 41, "share": 0.5, "objects": ["public.orders"], "tables": tables, "notes": ["a note"]}
    desk.approvals.previewed(made.id, preview)
    shown = desk.call("approvals", "show", made.id)
    assert shown.code == 0
    assert "\x1b" not in shown.out
    lines = shown.out.splitlines()
    assert lines[0].startswith(f"waiting  {made.id}, asked ")
    assert lines[1] == "destroys  data may be gone after it"
    assert "agent        claude (write) in staging, database shop" in lines
    assert f"digest       {made.digest.hex()}" in lines
    start = lines.index("statement, exactly as it would run")
    assert lines[start + 1 : start + 9] == [
        "    delete from orders",
        "    where id > $1 -- fine\\x1b[2K",
        "    $1 = 7 (int4)",
        "the same, laid out",
        "    DELETE FROM orders",
        "    WHERE",
        "      id > $1",
        "held by      DS201 rows.unbounded-delete: No bound.",
    ]
    assert "rows now      41 (50.0% of the table)" in lines
    assert "note          a note" in lines
    told = desk.call("approvals", "show", made.id, "--json").json
    assert (told["statement"], told["intact"], told["destructive"]) == (ASK.statement, True, True)
    assert told["parameters"] == [{"type": 23, "format": 1, "value": "AAAABw=="}]
    unknown = desk.call("approvals", "show", "apr-none")
    assert (unknown.code, "there is no approval apr-none" in unknown.err) == (1, True)


def test_an_approval_is_given_with_a_code_and_once(desk: Desk) -> None:
    ann, made = desk.enrol("ann"), desk.ask()
    words = ("approvals", "approve", made.id, "--person", "ann")
    nobody = desk.call(*words)
    assert (nobody.code, "--code-stdin or --code-env" in nobody.err) == (2, True)
    wrong = desk.call(*words, code="abcdef")
    assert (wrong.code, "the code is not the one of ann" in wrong.err, "4 tries are left" in wrong.err) == (1, True, True)
    other = desk.call(*words, "--digest", "00", code=ann.code(now()))
    assert (other.code, "is not the one that was shown" in other.err) == (1, True)
    approved = desk.call(
        *words, "--digest", made.digest.hex()[:6].upper(), "-r", "agreed", "--without-undo", code=ann.code(now())
    )
    assert (approved.code, approved.err) == (0, "")
    assert approved.out.startswith(f"{made.id} is approved; it runs once, before ")
    found = desk.approvals.get(made.id)
    assert (found.state, found.without_undo, found.decisions[0].reason) == (State.APPROVED, True, "agreed")
    again = desk.call(*words, code=ann.code(now(), steps=1))
    assert (again.code, "cannot be decided: it is approved" in again.err) == (1, True)


def test_a_code_comes_from_the_environment_and_never_as_an_argument(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    ann, made = desk.enrol("ann"), desk.ask()
    assert desk.call("approvals", "approve", made.id, "--person", "ann", "--code", ann.code(now())).code == 2
    unset = desk.call("approvals", "approve", made.id, "--person", "ann", "--code-env", "CODE")
    assert (unset.code, "CODE is not set" in unset.err) == (2, True)
    monkeypatch.setenv("CODE", ann.code(now()))
    both = desk.call("approvals", "approve", made.id, "--person", "ann", "--code-env", "CODE", code="123456")
    assert (both.code, "Keep one" in both.err) == (2, True)
    told = desk.call("approvals", "approve", made.id, "--person", "ann", "--code-env", "CODE", "--json")
    assert (told.code, told.json["state"], told.json["decisions"][0]["person"]) == (0, "approved", "ann")


def test_the_person_at_the_keyboard_decides_where_nobody_is_named(desk: Desk) -> None:
    ann, made = desk.enrol("ann"), desk.ask()
    stranger = desk.call("approvals", "approve", made.id, code=ann.code(now()))
    assert (stranger.code, f"there is no person {login_name()}" in stranger.err) == (1, True)
    me = desk.enrol(login_name(), voucher=ann)
    assert desk.call("approvals", "approve", made.id, code=me.code(now())).code == 0


def test_two_people_approve_in_production(desk: Desk) -> None:
    ann = desk.enrol("ann")
    bob = desk.enrol("bob", voucher=ann)
    made = desk.ask(Ask(**{**fields(ASK), "environment": "production"}), needed=2)
    first = desk.call("approvals", "approve", made.id, "--person", "ann", "--wait", code=ann.code(now()))
    assert (first.code, "one more person must approve" in first.out) == (0, True)
    second = desk.call("approvals", "approve", made.id, "--person", "bob", "--wait", code=bob.code(now()))
    assert (second.code, "dbshield runs nothing in production" in second.out) == (0, True)


def test_a_denial_has_a_reason_that_the_agent_reads(desk: Desk) -> None:
    ann, made = desk.enrol("ann"), desk.ask()
    assert desk.call("approvals", "deny", made.id, "--person", "ann", code=ann.code(now())).code == 2
    empty = desk.call("approvals", "deny", made.id, "--person", "ann", "--reason", " ", code=ann.code(now()))
    assert (empty.code, "a denial needs a reason" in empty.err) == (2, True)
    denied = desk.call("approvals", "deny", made.id, "--person", "ann", "--reason", "still needed", code=ann.code(now()))
    assert (denied.code, denied.out) == (0, f"{made.id} is denied; claude is told: still needed\n")
    shown = desk.call("approvals", "show", made.id).out
    assert re.search(r"^denied by +ann, .*: still needed$", shown, flags=re.MULTILINE)
    late = desk.call("approvals", "approve", made.id, "--person", "ann", code=ann.code(now(), steps=1))
    assert (late.code, "it is denied" in late.err) == (1, True)


@pytest.mark.parametrize("failed", [False, True])
def test_who_waits_sees_what_came_of_it(desk: Desk, failed: bool) -> None:
    ann, made = desk.enrol("ann"), desk.ask()

    def executor() -> None:
        assert until(lambda: desk.approvals.claim("executor", environments=["staging"], now=now()))
        if failed:
            desk.approvals.failed(made.id, {"sqlstate": "23503", "message": "violates it", "hint": "Look."}, now=now())
        else:
            desk.approvals.finished(made.id, tag="DELETE 41", undo="undo-abc", now=now())

    thread = threading.Thread(target=executor)
    thread.start()
    waited = desk.call("approvals", "approve", made.id, "--person", "ann", "--wait", code=ann.code(now()))
    thread.join(60)
    assert waited.code == (1 if failed else 0)
    assert (
        "It did not run: violates it\n  Look.\n" if failed else "It ran: DELETE 41.\n`dbshield undo undo-abc` brings"
    ) in waited.out


def test_who_answers_for_an_agent_is_kept(desk: Desk) -> None:
    created = desk.call("agent", "create", "claude", "-e", "production", "-a", "write", "--owner", "ann", "--json")
    assert created.code == 0
    assert [agent["owner"] for agent in desk.call("agent", "list", "--json").json] == ["ann"]
    ann = desk.enrol("ann")
    made = desk.ask(Ask(**{**fields(ASK), "environment": "production"}), needed=2)
    own = desk.call("approvals", "approve", made.id, "--person", "ann", code=ann.code(now()))
    assert (own.code, "ann answers for claude" in own.err) == (1, True)
    bad = desk.call("agent", "create", "gpt", "-e", "production", "-a", "write", "--owner", "Not A Name")
    assert (bad.code, "is not a name of a person" in bad.err) == (2, True)


def test_on_a_terminal_the_code_is_drawn_and_asked_for(desk: Desk) -> None:
    """The way in which a human uses it: QR, first code, then a held statement shown and approved."""
    added = Terminal("user", "add", "ann", folder=desk.folder)
    screen = added.read_until("Code of ann")
    secret = re.search(r"by hand: ([A-Z2-7]{32})", screen)
    assert secret is not None
    assert "█" in screen or "▀" in screen or "\x1b[7m" in screen
    ann = Phone("ann", secret[1])
    added.type("000000" if ann.code(now()) != "000000" else "000001")
    assert "tries are left" in added.read_until("Code of ann")
    added.type(ann.code(now()))
    assert "ann is enrolled and may decide." in added.finish(0)

    made = desk.ask()
    approving = Terminal("approvals", "approve", made.id, "--person", "ann", folder=desk.folder)
    assert "statement, exactly as it would run" in approving.read_until("Code of ann")
    code = ann.code(now(), steps=1)
    approving.type(code)
    rest = approving.finish(0)
    assert "is approved; it runs once" in rest
    assert code not in rest
    assert desk.approvals.get(made.id).state is State.APPROVED


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *words: str, folder: Path) -> None:
        self.master, side = pty.openpty()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from dbshield.cli.main import main; main()", *words],
            stdin=side,
            stdout=side,
            stderr=side,
            cwd=folder,
            env=environment | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "50"},
            start_new_session=True,
        )
        os.close(side)

    def read_until(self, text: str) -> str:
        """What came, up to this text."""
        read = b""
        while text.encode() not in read:
            piece = self._read()
            assert piece, f"the terminal ended without {text!r}: {read.decode(errors='replace')}"
            read += piece
        return read.decode()

    def type(self, text: str) -> None:
        # what is typed before the command has switched the echo off is thrown away with it
        assert until(lambda: not termios.tcgetattr(self.master)[3] & termios.ECHO)
        os.write(self.master, f"{text}\n".encode())

    def finish(self, code: int) -> str:
        read = b""
        while piece := self._read():
            read += piece
        assert self.process.wait(30) == code, read.decode(errors="replace")
        os.close(self.master)
        return read.decode()

    def _read(self) -> bytes:
        """The next piece; nothing at the end. Fails after half a minute of silence."""
        ready, _, _ = select.select([self.master], [], [], 30)
        assert ready, "the terminal is silent"
        try:
            return os.read(self.master, 65536)
        except OSError:
            # Linux reports the end of a terminal as an I/O error
            return b""
