"""Every setting that a plain role may change on a real server was thought about, and none that is on a list is misspelt."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql
from support.servers import Server

from dbshield.model import AccessLevel
from dbshield.policy.functions import CATALOGUE_QUERY, FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.policy.setting_lists import EXTENSIONS_HARMLESS, HARMLESS, HARMLESS_BEGINNINGS, REFUSED
from dbshield.policy.settings import LOOKED_AT, refusal

NOT_SHOWN = {
    "seed": "SET SEED is its only face",
    "default_with_oids": "gone since 12, and only taken so that old dumps can be read",
    "force_parallel_mode": "the name of debug_parallel_query before 16",
    "restrict_nonsystem_relation_kind": "came with the minor releases of August 2024",
}


def test_no_setting_of_a_server_was_forgotten(server: Server) -> None:
    with server.connect("postgres") as connection:
        rows = connection.execute("select name from pg_catalog.pg_settings where context = 'user'").fetchall()
    names = {str(name).lower() for (name,) in rows}
    known = {
        name
        for name in names
        if name in HARMLESS or name in REFUSED or name in LOOKED_AT or name.startswith(tuple(HARMLESS_BEGINNINGS))
    }
    assert names - known == set()
    assert len(names) > 100


def test_no_list_names_a_setting_that_there_is_not(server: Server) -> None:
    with server.connect("postgres") as connection:
        rows = connection.execute("select name, context from pg_catalog.pg_settings").fetchall()
    contexts = {str(name).lower(): context for name, context in rows}
    newer = {
        "file_copy_method",
        "md5_password_warnings",
        "io_combine_limit",
        "icu_validation_level",
        "scram_iterations",
        "transaction_timeout",
        "createrole_self_grant",
        "event_triggers",
        "debug_logical_replication_streaming",
    }
    for name in {*HARMLESS, *REFUSED} - NOT_SHOWN.keys():
        assert name in contexts or name in newer, name


@pytest.mark.parametrize("name", sorted({"hnsw.ef_search", "app.user_id", "request.jwt.claims"} | set(EXTENSIONS_HARMLESS)))
def test_a_server_takes_what_applications_set(server: Server, name: str) -> None:
    """The names are well formed: an empty server keeps them as placeholders."""
    assert refusal(name, "1") is None
    with server.connect("postgres") as connection:
        assert connection.execute("select pg_catalog.set_config(%s, '1', true)", [name]).fetchone() == ("1",)


def test_a_server_tells_which_words_its_extensions_have_taken(server: Server, database: str) -> None:
    """As a plain role sees it, with an application's own setting that must not count as taken."""
    with server.connect(database) as connection:
        connection.execute("create extension citext")
        connection.execute(sql.SQL("alter database {} set acme.tenant = '7'").format(sql.Identifier(database)))
    with psycopg.connect(server.agent_dsn("read", database)) as connection:
        connection.execute("select set_config('other.setting', 'x', false)")
        rows = connection.execute(CATALOGUE_QUERY).fetchall()
    catalogue = FunctionCatalogue.from_rows(rows)
    assert {"plpgsql", "citext"} <= catalogue.taken
    assert not {"acme", "other", ""} & catalogue.taken
    judge = Judge(policy=Policy(access=AccessLevel.READ), functions=catalogue)
    assert judge.judge(b"set citext.anything = 1").verdict.word == "deny"
    assert judge.judge(b"select set_config('citext.anything', '1', true)").verdict.word == "deny"
    assert judge.judge(b"set acme.tenant = 1").verdict.word == "allow"
