"""psql through the proxy: its meta commands, \\copy, large objects, and what a person reads when stopped."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.shield import Shield, libpq_environment


def psql(
    shield: Shield, agent: str, *commands: str, stdin: str | None = None, footer: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run psql, over TLS where its libpq can."""
    program = shield.server.cluster.binaries.program("psql")
    words = [word for command in commands for word in ("-c", command)]
    return subprocess.run(
        [program, "-X", "-A", *([] if footer else ["-t"]), "-v", "ON_ERROR_STOP=1", *words],
        env=libpq_environment(shield.dsn(agent, tls=shield.server.tls)),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def good(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_query(shield: Shield) -> None:
    assert good(psql(shield, "read", "select count(*) from shop.orders")) == "6000\n"


@pytest.mark.parametrize(
    "command, shows",
    [
        (r"\d shop.orders", "orders_pkey"),
        (r"\d+ shop.active_customers", "active"),
        (r"\d shop.events", "Partition key"),
        (r"\dt shop.*", "order_items"),
        (r"\dv shop.*", "active_customers"),
        (r"\di shop.*", "orders_customer"),
        (r"\df shop.*", "order_count"),
        (r"\dn+", "archive"),
        (r"\du", "agent_read"),
        (r"\l", "template0"),
        (r"\dp shop.secrets", "own_rows"),
        (r"\ds shop.*", "invoice_number"),
        (r"\dx", "plpgsql"),
        (r"\conninfo", "read.test"),
        (r"\sf shop.order_count", "customer_id"),
    ],
)
def test_the_meta_commands(shield: Shield, command: str, shows: str) -> None:
    assert shows in good(psql(shield, "read", command, footer=True))


def test_copy_out_to_a_file(shield: Shield, tmp_path: Path) -> None:
    target = tmp_path / "products.csv"
    good(psql(shield, "read", rf"\copy shop.products to '{target}' csv"))
    assert len(target.read_text().splitlines()) == 300


def test_copy_in_from_a_file(app: Shield, tmp_path: Path) -> None:
    source = tmp_path / "products.csv"
    source.write_text("".join(f"{i},NEW-{i},Title {i},1.50,3\n" for i in range(9001, 9051)))
    good(psql(app, "write", rf"\copy shop.products from '{source}' csv"))
    assert good(psql(app, "read", "select count(*), sum(stock) from shop.products where sku like 'NEW-%'")) == "50|150\n"


def test_a_large_object_is_exported(shield: Shield, tmp_path: Path) -> None:
    """psql reads large objects with FunctionCall messages, in which there is no SQL to judge."""
    target = tmp_path / "object"
    good(psql(shield, "migrate", rf"\lo_export 424242 '{target}'"))
    assert target.read_text() == "the only copy"


def test_a_large_object_is_not_unlinked(shield: Shield) -> None:
    done = psql(shield, "migrate", r"\lo_unlink 424242")
    assert done.returncode != 0
    with shield.server.connect(shield.database) as conn:
        assert conn.execute("select lo_get(424242)").fetchone() == (b"the only copy",)


def test_a_script_in_a_transaction(app: Shield) -> None:
    script = "begin;\nupdate shop.products set stock = 77 where id = 5;\nsavepoint one;\n"
    script += "update shop.products set stock = 78 where id = 5;\nrollback to one;\ncommit;\n"
    good(psql(app, "write", stdin=script))
    assert good(psql(app, "read", "select stock from shop.products where id = 5")) == "77\n"


def test_bind_parameters(shield: Shield) -> None:
    r"""The extended protocol from psql: \bind since 16."""
    if shield.server.major < 16:
        done = psql(shield, "read", stdin="prepare p(int) as select title from shop.products where id = $1;\nexecute p(7);\n")
        assert good(done) == "PREPARE\nProduct 7\n"
    else:
        done = psql(shield, "read", stdin="select title from shop.products where id = $1 \\bind 7 \\g\n")
        assert good(done) == "Product 7\n"


@pytest.mark.parametrize(
    "agent, command",
    [
        ("migrate", "drop table shop.orders"),
        ("migrate", "truncate shop.orders cascade"),
        ("write", "delete from shop.orders"),
        ("write", "update shop.products set price = 0"),
        ("migrate", "select 1; drop table shop.orders"),
    ],
)
def test_what_a_stopped_person_reads(shield: Shield, fingerprint: Callable[[], dict[str, str]], agent: str, command: str) -> None:
    before = fingerprint()
    done = psql(shield, agent, command)
    assert done.returncode == 1
    assert "ERROR:  dbshield" in done.stderr
    assert "DETAIL:  rule=DS" in done.stderr
    assert "HINT:  " in done.stderr
    assert fingerprint() == before


def test_the_session_goes_on_after_a_refusal(shield: Shield) -> None:
    done = psql(shield, "migrate", stdin="\\set ON_ERROR_STOP 0\ndrop table shop.orders;\nselect 'still here';\n")
    assert "ERROR:  dbshield" in done.stderr
    assert done.stdout == "still here\n"
