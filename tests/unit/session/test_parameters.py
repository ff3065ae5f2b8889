"""What drivers bring passes; what would change the reading, the rights or the session is refused by name."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbshield.errors import Refused
from dbshield.policy import settings as policy
from dbshield.policy.setting_lists import HARMLESS
from dbshield.session.parameters import FORBIDDEN, FORCED, check_taken, marked, split_options, startup_settings

Pairs = list[tuple[str, str]]


def settings(*pairs: tuple[str, str]) -> dict[str, str]:
    return startup_settings([("user", "claude.staging"), *pairs], agent="claude")


@pytest.mark.parametrize(
    "driver, pairs",
    [
        ("psql", [("database", "shop"), ("application_name", "psql")]),
        ("libpq with PGDATESTYLE PGTZ PGGEQO", [("datestyle", "ISO"), ("timezone", "UTC"), ("geqo", "off")]),
        ("asyncpg", [("client_encoding", "'utf-8'"), ("user", "claude.staging"), ("database", "shop")]),
        (
            "pgjdbc",
            [("client_encoding", "UTF8"), ("DateStyle", "ISO"), ("TimeZone", "Europe/Berlin"), ("extra_float_digits", "2")],
        ),
        ("R2DBC", [("client_encoding", "utf8"), ("DateStyle", "ISO"), ("extra_float_digits", "2"), ("TimeZone", "UTC")]),
        ("sqlx", [("DateStyle", "ISO, MDY"), ("client_encoding", "UTF8"), ("TimeZone", "UTC"), ("extra_float_digits", "3")]),
        ("lib/pq", [("client_encoding", "UTF8"), ("datestyle", "ISO, MDY"), ("extra_float_digits", "2")]),
        ("Npgsql", [("client_encoding", "UTF8"), ("search_path", "shop, public"), ("TimeZone", "UTC")]),
        (
            "node-postgres",
            [
                ("statement_timeout", "1000"),
                ("lock_timeout", "10"),
                ("idle_in_transaction_session_timeout", "5"),
                ("client_encoding", "UTF8"),
            ],
        ),
        ("options", [("options", "-c statement_timeout=5s --search-path=a,b -cjit=off")]),
        ("libpq 19", [("_pq_.test_protocol_negotiation", "")]),
        ("SQLAlchemy", [("options", r"-c default_transaction_isolation=repeatable\ read")]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_drivers_bring_passes(driver: str, pairs: Pairs) -> None:
    result = settings(*pairs)
    assert result["client_encoding"] == "UTF8"
    assert result["standard_conforming_strings"] == "on"
    assert result["application_name"].startswith("dbshield:claude")
    assert not {"user", "database", "options"} & set(result)
    assert not any(name.startswith("_pq_.") for name in result)


def test_a_setting_has_one_spelling() -> None:
    result = settings(("DateStyle", "ISO"), ("options", "-c TIMEZONE=UTC"))
    assert result["datestyle"] == "ISO"
    assert result["timezone"] == "UTC"


def test_nothing_brought_is_the_forced_settings_and_the_mark() -> None:
    assert settings() == {"application_name": "dbshield:claude", **FORCED}


@pytest.mark.parametrize("name", sorted(FORBIDDEN))
@pytest.mark.parametrize("spell", [str.lower, str.upper])
@pytest.mark.parametrize("inside", [False, True])
def test_forbidden_ones_are_refused_with_a_reason(name: str, spell: object, inside: bool) -> None:
    spelled = spell(name)  # type: ignore[operator]
    with pytest.raises(Refused) as caught:
        settings(("options", f"-c {spelled}=on") if inside else (spelled, "on"))
    assert caught.value.sqlstate == "42501"
    assert spelled in caught.value.message
    assert FORBIDDEN[name] in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("value", ["true", "database", "false", "0", ""])
def test_trap_10_replication_is_refused_whatever_its_value(value: str) -> None:
    with pytest.raises(Refused, match="replication connection"):
        settings(("replication", value))


@pytest.mark.parametrize("name", ["dbshield.agent", "no_such_setting", "USER", "log_statement", "", "jit ", "ſeed"])
def test_unknown_ones_are_refused_by_name(name: str) -> None:
    with pytest.raises(Refused) as caught:
        settings((name, "x"))
    assert caught.value.sqlstate == "42704"
    assert f'"{name}"' in caught.value.message


@pytest.mark.parametrize("value", ["UTF8", "utf-8", "UTF_8", "unicode", "'utf-8'", "Utf8"])
def test_client_encoding_is_utf8_in_any_spelling(value: str) -> None:
    assert settings(("client_encoding", value))["client_encoding"] == "UTF8"


@pytest.mark.parametrize("value", ["SQL_ASCII", "sql_ascii"])
def test_no_encoding_in_particular_is_utf8(value: str) -> None:
    """What psql brings under LC_ALL=C; only at start-up, not in a SET."""
    assert settings(("client_encoding", value))["client_encoding"] == "UTF8"
    assert policy.refusal("client_encoding", value) is not None


@pytest.mark.parametrize("value", ["SJIS", "GBK", "BIG5", "LATIN1", "auto", "", "UTF16", "ＵＴＦ８"])
def test_another_client_encoding_is_refused(value: str) -> None:
    for pair in (("client_encoding", value), ("CLIENT_ENCODING", value), ("options", f"-c client_encoding={value}")):
        with pytest.raises(Refused, match="client_encoding") as caught:
            settings(pair)
        assert caught.value.sqlstate == "22023"
        assert "PGCLIENTENCODING" in caught.value.hint


@pytest.mark.parametrize("value", ["off", "false", "0", "no", "", "o"])
def test_standard_conforming_strings_stay_on(value: str) -> None:
    for pair in (("standard_conforming_strings", value), ("options", f"--standard-conforming-strings={value}")):
        with pytest.raises(Refused, match="standard_conforming_strings"):
            settings(pair)
    assert settings(("standard_conforming_strings", "true"))["standard_conforming_strings"] == "on"


def test_every_double_is_judged_and_the_last_counts() -> None:
    assert settings(("TimeZone", "UTC"), ("timezone", "CET"))["timezone"] == "CET"
    with pytest.raises(Refused):
        settings(("client_encoding", "SJIS"), ("client_encoding", "UTF8"))
    with pytest.raises(Refused):
        settings(("options", "-c role=postgres"), ("options", ""))


def test_a_parameter_counts_more_than_an_option() -> None:
    assert settings(("jit", "on"), ("options", "-c jit=off"))["jit"] == "on"


@pytest.mark.parametrize(
    "options, pairs",
    [
        ("", []),
        ("  \t\n", []),
        ("-c a=b", [("a", "b")]),
        ("-ca=b", [("a", "b")]),
        ("--a-b=c-d", [("a_b", "c-d")]),
        ("-c a-b=c", [("a_b", "c")]),
        (r"-c a=b\ c  --d=e", [("a", "b c"), ("d", "e")]),
        (r"-c a=b\\c", [("a", r"b\c")]),
        ("-c a=b\\", [("a", "b")]),
        (r"-c\ta=\-c", [("ta", "-c")]),
        ("-c a=", [("a", "")]),
        ("-c a=b=c", [("a", "b=c")]),
        ("-c a=b\u00a0-c", [("a", "b\u00a0-c")]),
        ("-c", None),
        ("-c a", None),
        ("-c =b", None),
        ("--a", None),
        ("--", None),
        ("-e", None),
        ("-d 5", None),
        ("-S 64", None),
        ("-f s", None),
        ("a=b", None),
        ("-c a=b rest", None),
        ("\\", None),
    ],
)
def test_options_are_split_as_the_server_does(options: str, pairs: Pairs | None) -> None:
    if pairs is None:
        with pytest.raises(Refused, match="options"):
            settings(("options", options))
    else:
        assert split_options(options) == pairs


def test_messages_quote_only_a_little_of_the_client() -> None:
    with pytest.raises(Refused) as caught:
        settings(("x\n\x1b" * 3000, "y"))
    assert len(caught.value.message) < 200
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "name, result",
    [
        ("psql", "dbshield:claude psql"),
        ("", "dbshield:claude"),
        ("é\n", "dbshield:claude ??"),
        ("x" * 100, "dbshield:claude " + "x" * 47),
    ],
)
def test_the_mark(name: str, result: str) -> None:
    assert marked(name, agent="claude") == result


def test_a_client_cannot_pass_for_another_agent() -> None:
    assert settings(("application_name", "dbshield:other"))["application_name"] == "dbshield:claude dbshield:other"


def test_what_may_be_set_may_be_brought() -> None:
    """One list: a driver's connection string and a SET are refused alike."""
    values = {"client_encoding": "utf8", "standard_conforming_strings": "on", "search_path": "shop"}
    for name in [*HARMLESS, *policy.LOOKED_AT, "enable_seqscan", "app.tenant"]:
        assert name in settings((name, values.get(name, "1")))
    assert not any(policy.refusal(name, "on") is None for name in FORBIDDEN)


@pytest.mark.parametrize("value", ["shop, pg_catalog", "shop,PG_Catalog", 'shop, "pg_catalog"', "pg_temp, shop", "Pg_Temp,shop"])
def test_a_search_path_that_hides_pg_catalog_is_refused(value: str) -> None:
    """An agent's own lower() in front of PostgreSQL's would be called by a statement that was read as harmless."""
    for pair in (("search_path", value), ("options", "--search_path=" + value.replace(" ", "\\ "))):
        with pytest.raises(Refused, match="pg_catalog comes first") as caught:
            settings(pair)
        assert caught.value.sqlstate == "22023"


@pytest.mark.parametrize("value", ["shop", '"$user", public', "pg_catalog, shop", "shop, pg_temp", ""])
def test_other_search_paths_pass_as_they_are(value: str) -> None:
    assert settings(("search_path", value))["search_path"] == value


@given(st.lists(st.tuples(st.sampled_from(["options", "client_encoding", "Role"]) | st.text(), st.text()), max_size=4))
def test_property_fuzz_refused_or_only_known_settings(pairs: Pairs) -> None:
    result: dict[str, str] = {}
    with contextlib.suppress(Refused):
        result = settings(*pairs)
    assert all(policy.refusal(name, value) is None for name, value in result.items() if name != "search_path")
    assert not result or FORCED.items() <= result.items()


def test_a_word_that_the_server_itself_has_taken_is_no_applications() -> None:
    check_taken(("app.tenant", "work_mem", "myext"), {"myext"})
    with pytest.raises(Refused, match=r'"myext\.library" is refused: it belongs to an extension'):
        check_taken(("app.tenant", "myext.library"), {"myext"})
