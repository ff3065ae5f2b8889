"""What the rules say of PostgreSQL is so on real servers."""

from __future__ import annotations

from support.servers import Server

from dbshield.model import AccessLevel
from dbshield.policy.extension_lists import HARMLESS_EXTENSIONS
from dbshield.policy.functions import CATALOGUE_QUERY, FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy


def test_alter_index_renames_a_table_too(server: Server, database: str) -> None:
    """So DS107 holds it, although a new name of an index would hurt nobody."""
    with server.connect(database) as connection:
        connection.execute("alter index shop.orders rename to gone")
        assert connection.execute("select pg_catalog.to_regclass('shop.orders')").fetchone() == (None,)
        connection.execute("alter table shop.gone rename constraint orders_pkey to orders_key")
        assert connection.execute("select pg_catalog.to_regclass('shop.gone') is not null").fetchone() == (True,)


def test_a_setting_of_the_guard_given_back_is_the_one_of_the_start(server: Server, database: str) -> None:
    """RESET and DISCARD ALL give back what the start-up packet said, so they pass."""
    with server.connect(database) as connection:
        connection.execute("set standard_conforming_strings = off")
        connection.execute("discard all")
        assert connection.execute("show standard_conforming_strings").fetchone() == ("on",)


def test_what_a_harmless_extension_brings_only_computes(server: Server, database: str) -> None:
    """Of those that this server has: no function of theirs has a name that is denied, and what is volatile is held by itself."""
    with server.connect(database) as connection:
        available = {row[0] for row in connection.execute("select name from pg_catalog.pg_available_extensions")}
        present = sorted(set(HARMLESS_EXTENSIONS) & available)
        assert len(present) >= 14
        for name in present:
            connection.execute(f'create extension if not exists "{name}" schema public cascade')
        rows = [[None if value is None else str(value) for value in row] for row in connection.execute(CATALOGUE_QUERY)]
        brought = connection.execute(
            """select p.proname::text, p.provolatile::text, p.prosecdef from pg_catalog.pg_proc p
            join pg_catalog.pg_depend d on d.objid = p.oid and d.deptype = 'e'
            where d.classid = 'pg_catalog.pg_proc'::regclass and not 'internal'::regtype = any (p.proargtypes)"""
        ).fetchall()
    judge = Judge(policy=Policy(access=AccessLevel.MIGRATE), functions=FunctionCatalogue.from_rows(rows))
    assert len(brought) > 500
    assert not any(definer for _, _, definer in brought)
    calls = {
        "pgcrypto": b"select digest('x', 'sha256'), gen_random_bytes(8)",
        "pg_trgm": b"select similarity('a', 'b')",
        "citext": b"select 'a'::citext = 'A'::citext",
        "hstore": b"select hstore('a', 'b') -> 'a'",
    }
    assert {"pg_trgm", "citext", "hstore"} <= set(present), "pgcrypto needs a server with OpenSSL"
    for name in present:
        assert judge.judge(calls.get(name, b"select 1")).findings == ()
    volatile = {str(name) for name, volatility, _ in brought if volatility == "v"}
    beginnings = ("gen_", "pgp_", "uuid_generate", "unaccent_", "plpgsql_", "set_limit", "isn_weak")
    assert {name for name in volatile if not name.startswith(beginnings)} == set()
