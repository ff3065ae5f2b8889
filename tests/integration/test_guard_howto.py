"""docs/how-to/guard.md: every command in it is run, in its order, by the roles that it names, on real servers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support import servers
from support.servers import Server

from dbshield.cli.main import run
from dbshield.guard.steps import VERSION

pytestmark = pytest.mark.one_server(by="module")

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "guard.md").read_text()
COMMANDS = re.findall(r"^dbshield (guard .+)$", PAGE, re.MULTILINE)
DSN = re.compile(r"postgresql://(?P<user>\w+)@db\.example\.com/shop")
MANAGED = "## Managed PostgreSQL"


@pytest.fixture(scope="module", params=servers.majors(), ids=lambda major: f"pg{major}")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of its own: the guard's roles belong to the whole cluster."""
    with servers.own_server(request.param, f"howto-{request.param}") as server:
        with server.connect() as admin:
            admin.execute("create role claude login; create role shop_owner login createrole password 'owner'")
        yield server


@pytest.fixture
def shop(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The database of the page."""
    server.clone("shop")
    monkeypatch.setenv("ADMIN_PASSWORD", "of no use over a socket")
    monkeypatch.setenv("OWNER_PASSWORD", "owner")
    yield "shop"
    server.drop("shop")
    with server.connect() as admin:
        admin.execute("drop role if exists dbshield_owner, dbshield_agents")


def command(server: Server, text: str) -> int:
    """Run one command of the page against the server; its exit code."""

    def place(found: re.Match[str]) -> str:
        if found["user"] == "postgres":
            return shlex.quote(server.dsn("shop"))
        cluster = server.cluster
        return shlex.quote(make_conninfo("", host=cluster.host, port=cluster.port, dbname="shop", user=found["user"]))

    return run(shlex.split(DSN.sub(place, text)))


def statements(text: str) -> list[str]:
    return re.findall(r"```sql\n(.*?)```", text, re.DOTALL)


def test_as_a_superuser(server: Server, shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    before, _, rest = PAGE.partition(MANAGED)
    dry, installed, verified, shown = re.findall(r"^dbshield (guard .+)$", before, re.MULTILINE)
    assert command(server, dry) == 0
    assert "create event trigger" in capsys.readouterr().out
    assert command(server, installed) == 0
    with server.connect(shop) as admin:
        for statement in statements(before):
            admin.execute(statement.encode())
        assert admin.execute("select * from dbshield.limits").fetchall() == [("claude", 20)]
        assert admin.execute("select pg_has_role('claude', 'dbshield_agents', 'member')").fetchone() == (True,)
    assert command(server, verified) == 0
    assert command(server, shown) == 0
    assert "row guard" in capsys.readouterr().out
    with server.connect() as admin:
        admin.execute("revoke dbshield_agents from claude")
    (removed,) = re.findall(r"^dbshield (guard uninstall.+)$", rest, re.MULTILINE)
    assert command(server, removed) == 0
    assert command(server, verified) == 1


def test_as_the_owner_of_the_tables(server: Server, shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    managed = PAGE.partition(MANAGED)[2].partition("## Copies")[0]
    installed, verified = re.findall(r"^dbshield (guard .+)$", managed, re.MULTILINE)
    with server.connect(shop) as admin:
        for statement in statements(managed):
            admin.execute(statement.encode())
        admin.execute("reassign owned by app_owner to shop_owner")
        tables = admin.execute(
            "select count(*) from pg_class where relnamespace = 'shop'::regnamespace and relkind in ('r', 'p')"
        ).fetchone()
    assert command(server, installed) == 0
    said = capsys.readouterr().out
    assert tables is not None
    assert f"shop: version {VERSION} of the guard stands, {tables[0]} more tables are guarded." in said
    # What the page shows as printed, and the things that its table has a row for.
    shown = re.search(r"```\n(shop: .*?)```", managed, re.DOTALL)
    assert shown is not None
    for line in shown[1].replace("…", "").splitlines():
        assert line.strip() in said
    for missing in re.findall(r"^  not installed: (.*?) \(", said, re.MULTILINE):
        assert f"| {missing} |" in managed or missing == "the event trigger on login"
    assert command(server, verified) == 1
    with psycopg.connect(server.agent_dsn("write", shop), autocommit=True) as agent, server.connect(shop) as admin:
        admin.execute("grant usage on schema shop to agent_write; grant select, delete on shop.order_items to agent_write")
        admin.execute("grant dbshield_agents to agent_write")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="dbshield: agent_write may not change 102 rows"):
            agent.execute("delete from shop.order_items where order_id <= 51")
        admin.execute("revoke dbshield_agents from agent_write; drop owned by shop_owner cascade")


def test_before_a_copy_is_restored(server: Server) -> None:
    (text,) = statements(PAGE.partition("## Copies")[2])
    with server.connect() as admin, admin.transaction(force_rollback=True):
        admin.execute(text.encode())


def test_no_command_of_the_page_is_left_out() -> None:
    assert len(COMMANDS) == 7
    assert all(DSN.search(text) for text in COMMANDS)
