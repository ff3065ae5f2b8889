"""Functions are judged by what the catalogue says of them, by name and by number."""

from __future__ import annotations

import pytest

from dbshield.model import AccessLevel, ObjectName
from dbshield.policy.function_lists import DENIED, VOLATILE_ALLOWED
from dbshield.policy.functions import Function, FunctionCatalogue, Volatility
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy

ROWS = (
    # oid, schema, name, volatility, definer, language, owner, shadowed, of row, behind
    ("20001", "app", "stable_one", "s", "f", "sql", "owner", "f", "f", ""),
    ("20002", "app", "definer_one", "s", "t", "sql", "owner", "f", "f", ""),
    ("20003", "app", "volatile_one", "v", "f", "plpgsql", "owner", "f", "f", ""),
    ("20004", "app", "wipe", "v", "f", "sql", "owner", "f", "t", ""),
    ("20005", "app", "lower", "v", "f", "sql", "owner", "f", "f", ""),
    ("20006", "app", "upper", "v", "f", "sql", "owner", "t", "f", ""),
    ("20007", "app", "twice", "s", "f", "sql", "owner", "f", "f", ""),
    ("20008", "other", "twice", "v", "f", "sql", "owner", "f", "f", ""),
    ("20009", "public", "uuid_generate_v4", "v", "f", "c", "owner", "f", "f", ""),
    ("20010", "fake", "uuid_generate_v4", "v", "f", "sql", "owner", "f", "f", ""),
    ("20013", "app", "json_value", "v", "f", "sql", "owner", "f", "f", ""),
    ("20012", "app", "untrusted", "i", "f", "plpython3u", "owner", "f", "f", ""),
    ("20014", "app", "same", "v", "f", "sql", "owner", "f", "f", "=="),
    ("20015", "app", "fair", "i", "f", "sql", "owner", "f", "f", "~~~"),
    ("20016", "app", "vouched", "v", "f", "c", "owner", "f", "f", "<->"),
    ("20017", "app", "to_parcel", "s", "t", "sql", "owner", "f", "f", "parcel::\nbox::"),
    ("20018", "app", "python", "s", "f", "plpython3u", "owner", "f", "f", "@@@"),
    ("20011", "app", "full_name", "i", "f", "sql", "owner", "f", "t", ""),
)


@pytest.fixture
def judge() -> Judge:
    return Judge(policy=Policy(access=AccessLevel.WRITE), functions=FunctionCatalogue.from_rows(ROWS))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("select app.stable_one()", None),
        ("select stable_one()", None),
        ("select app.definer_one()", "DS605"),
        ("select app.volatile_one()", "DS605"),
        ("select app.nothing()", "DS606"),
        ("select lower('X')", "DS605"),  # The argument's type may choose app.lower.
        ("select pg_catalog.lower('X')", None),
        ("select upper('X')", None),  # The same arguments: pg_catalog comes first.
        ("select app.upper('X')", "DS605"),
        ("select app.untrusted()", "DS605"),
        ("select json_value('{}', '$')", "DS605"),  # Syntax since 17, a call before.
        ("select json_array(1, 2)", None),
        ("select twice(1)", "DS605"),
        ("select app.twice(1)", None),
        ("select public.uuid_generate_v4()", None),
        ("select uuid_generate_v4()", "DS605"),
        ("select t.wipe from t", "DS605"),
        ("select (t).wipe from t", "DS605"),
        ("select wipe from t", None),
        ("select t.full_name from t", None),
        ("select now(), clock_timestamp(), random(), gen_random_uuid()", None),
        ("select nextval('s')", None),
        ("select setval('s', 1)", "DS604"),
        ("select information_schema._pg_truetypid(a, t) from a, t", None),
        ("update t set a = app.volatile_one() where id = 1", "DS605"),
        ("insert into t values (app.volatile_one())", "DS605"),
        ("select pg_advisory_lock(1)", "DS504"),
        ("select pg_advisory_xact_lock(1)", None),
        ("select table_to_xml('t', true, false, '')", "DS604"),
        ("select pg_stat_get_xact_numscans(1)", None),
        ("select pg_catalog.pg_no_such_thing()", "DS606"),
        ("select a == b from t", "DS605"),
        ("select a ~~~ b from t", None),
        ("select a <-> b from t", None),
        ("select a @@@ b from t", "DS605"),
        ("select * from t order by a using ==", "DS605"),
        ("select a == any (select b from u) from t", "DS605"),
        ("select a operator(pg_catalog.=) b from t", None),
        ("select a::shop.parcel from t", "DS605"),
        ("select parcel 'x'", "DS605"),
        ("select cast(a as box) from t", "DS605"),
    ],
)
def test_a_call_by_name(judge: Judge, text: str, rule: str | None) -> None:
    findings = {finding.rule for finding in judge.judge(text.encode()).findings}
    assert findings == ({rule} if rule else set())


def test_a_read_agent_takes_no_numbers() -> None:
    judge = Judge(policy=Policy(access=AccessLevel.READ), functions=FunctionCatalogue.builtin())
    assert judge.judge(b"select nextval('s')").verdict.word == "hold"
    assert judge.judge(b"select currval('s')").verdict.word == "allow"


READ_MODE, WRITE_MODE = 0x40000, 0x20000


@pytest.mark.parametrize(
    ("oid", "arguments", "formats", "rule"),
    [
        (952, [b"424242", b"%d" % READ_MODE], [], None),  # lo_open, as text
        (952, [b"\0\0\0\1", READ_MODE.to_bytes(4, "big")], [1], None),  # as psql sends it
        (952, [b"424242", READ_MODE.to_bytes(4, "big")], [0, 1], None),
        (952, [b"424242", b"%d" % WRITE_MODE], [], "DS604"),
        (952, [b"\0\0\0\1", WRITE_MODE.to_bytes(4, "big")], [1], "DS604"),
        (952, [b"\0\0\0\1", (READ_MODE | WRITE_MODE).to_bytes(4, "big")], [1], "DS604"),
        (952, [b"424242", None], [], "DS604"),
        (952, [b"424242"], [], "DS604"),
        (952, [], [], "DS604"),
        (952, [b"\xff", b"\xff"], [0], "DS604"),
        (954, [b"0", b"100"], [], None),  # loread
        (956, [b"0", b"0", b"2"], [], None),  # lo_lseek
        (3170, [b"0", b"0", b"2"], [], None),  # lo_lseek64
        (958, [b"0"], [], None),  # lo_tell
        (953, [b"0"], [], None),  # lo_close
        (3458, [b"1"], [], None),  # lo_get
        (957, [b"1"], [], "DS604"),  # lo_creat
        (715, [b"1"], [], "DS604"),  # lo_create
        (955, [b"0", b"x"], [], "DS604"),  # lowrite
        (964, [b"424242"], [], "DS604"),  # lo_unlink
        (1004, [b"0", b"0"], [], "DS604"),  # lo_truncate
        (764, [b"/etc/passwd"], [], "DS604"),  # lo_import
        (765, [b"1", b"/tmp/x"], [], "DS604"),  # lo_export
        (870, [b"X"], [], None),  # lower of pg_catalog, whatever else has its name
        (1299, [], [], None),  # now
        (20001, [], [], None),
        (20003, [], [], "DS605"),
        (20002, [], [], "DS605"),
        (2078, [b"standard_conforming_strings", b"off", b"f"], [], "DS304"),  # set_config
        (2078, [b"application_name", b"x", b"f"], [], None),
        (2078, [b"role", b"app_owner", b"f"], [], "DS303"),
        (1, [], [], "DS909"),
    ],
)
def test_a_call_by_number(judge: Judge, oid: int, arguments: list[bytes | None], formats: list[int], rule: str | None) -> None:
    findings = {finding.rule for finding in judge.judge_function(oid, arguments, formats).findings}
    assert findings == ({rule} if rule else set())


def test_what_postgresql_brings() -> None:
    catalogue = FunctionCatalogue.builtin()
    assert [function.volatility for function in catalogue.named("", "lower")] == [Volatility.IMMUTABLE]
    assert [function.volatility for function in catalogue.named("pg_catalog", "now")] == [Volatility.STABLE]
    assert catalogue.named("", "no_such_function") == ()
    found = catalogue.numbered(764)
    assert found is not None
    assert found.name == "lo_import"


def test_the_lists_name_functions_that_exist() -> None:
    """Of PostgreSQL 15 and 18; names that others bring, or that older servers had, are listed here."""
    elsewhere = {"pg_start_backup", "pg_stop_backup", "pg_logdir_ls", "connectby", "xpath_table"}
    catalogue = FunctionCatalogue.builtin()
    names = {name for name in (*VOLATILE_ALLOWED, *DENIED) if not name.endswith("*")} - elsewhere
    assert {name for name in names if not catalogue.named("pg_catalog", name)} == set()


def test_every_volatile_function_is_decided() -> None:
    """What PostgreSQL marks volatile and nobody has listed is held; nothing passes by being forgotten."""
    judge = Judge(policy=Policy(access=AccessLevel.MIGRATE), functions=FunctionCatalogue.builtin())
    for name in ("pg_get_backend_memory_contexts", "pg_control_system", "currtid2", "brin_summarize_new_values"):
        assert judge.judge(f"select {name}(1)".encode()).verdict.word == "hold", name


MAKE = b"create function app.label(a text) returns text language sql %s return a || 'x'"


def test_a_function_is_known_as_soon_as_it_is_created() -> None:
    """The catalogue shows it only when its transaction has ended, and a migration calls it before."""
    judge = Judge(policy=Policy(access=AccessLevel.MIGRATE), functions=FunctionCatalogue.builtin())
    assert judge.judge(b"select app.label('a')").verdict.word == "hold"
    for name in (b"label", b"other"):
        assert judge.judge(MAKE.replace(b"label", name) % b"immutable").verdict.word == "allow"
    assert judge.judge(b"select app.label('a')").verdict.word == "allow"
    judge.use(FunctionCatalogue.builtin())
    assert judge.judge(b"select app.label('a')").verdict.word == "allow", "another's change must not hide it"
    assert judge.judge(MAKE % b"stable").verdict.word == "allow", "the first may have been rolled back"
    judge.use(FunctionCatalogue.from_rows([("20001", "app", "label", "i", "f", "sql", "owner", "f", "f", "")]))
    assert [finding.rule for finding in judge.judge(MAKE % b"stable").findings] == ["DS611"]


def test_what_the_catalogue_says_counts_more() -> None:
    judge = Judge(policy=Policy(access=AccessLevel.MIGRATE), functions=FunctionCatalogue.builtin())
    judge.judge(MAKE % b"immutable")
    judge.use(FunctionCatalogue.from_rows([("20001", "app", "label", "v", "f", "sql", "owner", "f", "f", "")]))
    assert judge.judge(b"select app.label('a')").verdict.word == "hold"
    judge.use(FunctionCatalogue.builtin())
    assert judge.judge(b"select app.label('a')").verdict.word == "hold", "it was dropped"


def test_a_volatile_function_is_held_however_it_came() -> None:
    judge = Judge(policy=Policy(access=AccessLevel.MIGRATE), functions=FunctionCatalogue.builtin())
    assert judge.judge(MAKE % b"volatile").verdict.word == "allow"
    assert [finding.rule for finding in judge.judge(b"select app.label('a')").findings] == ["DS605"]


def test_of_two_functions_with_one_name_the_harder_counts() -> None:
    judge = Judge(policy=Policy(access=AccessLevel.MIGRATE), functions=FunctionCatalogue.builtin())
    for word in (b"volatile", b"immutable"):
        assert judge.judge(MAKE % word).verdict.word == "allow"
    assert [finding.rule for finding in judge.judge(b"select app.label('a')").findings] == ["DS605"]


def test_what_was_not_let_through_is_not_known() -> None:
    judge = Judge(policy=Policy(access=AccessLevel.WRITE), functions=FunctionCatalogue.builtin())
    assert judge.judge(MAKE % b"immutable").verdict.word != "allow"
    assert [finding.rule for finding in judge.judge(b"select app.label('a')").findings] == ["DS606"]


def test_a_function_that_a_human_allowed() -> None:
    allowed = frozenset({ObjectName(schema="app", name="volatile_one"), ObjectName(schema="pg_catalog", name="setval")})
    judge = Judge(
        policy=Policy(
            access=AccessLevel.MIGRATE, functions_allowed=allowed | {ObjectName(schema="pg_catalog", name="lo_unlink")}
        ),
        functions=FunctionCatalogue.from_rows(ROWS),
    )
    assert judge.judge(b"select app.volatile_one()").verdict.word == "limit"
    assert judge.judge(b"select setval('s', 1)").verdict.word == "limit"
    assert judge.judge(b"select lo_unlink(1)").verdict.word == "deny"
    assert judge.judge(b"select app.wipe()").verdict.word == "hold"
    later = b"create function app.later() returns void language sql as 'select app.volatile_one()'"
    assert [finding.rule for finding in judge.judge(later).findings] == ["DS605"], "it runs uncounted, which nobody allowed"


def test_what_another_catalogue_confirms() -> None:
    policy = Policy(access=AccessLevel.MIGRATE)
    before = Judge(policy=policy, functions=FunctionCatalogue.from_rows(ROWS))
    more = ("20099", "app", "new_one", "v", "f", "sql", "owner", "f", "f", "")
    changed = [row if row[2] != "stable_one" else (*row[:3], "v", *row[4:]) for row in ROWS]
    grown = Judge(policy=policy, functions=FunctionCatalogue.from_rows([*ROWS, more]))
    other = Judge(policy=policy, functions=FunctionCatalogue.from_rows(changed))
    stricter = Judge(policy=Policy(access=AccessLevel.MIGRATE, max_rows=1), functions=before.functions)
    for text in (b"select app.stable_one()", b"update t set a = app.stable_one() where b = 1"):
        judgement = before.judge(text)
        assert grown.confirms(judgement, before)
        assert not other.confirms(judgement, before)
        assert not stricter.confirms(judgement, before)
        assert not grown.confirms(judgement, object())
    assert other.confirms(before.judge(b"update t set a = 1 where b = 1"), before)
    assert not grown.confirms(before.judge(MAKE % b"stable"), before), "its name may be taken now"


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        (b"insert into shop.log values (1)", True),
        (b"insert into log select 1", True),
        (b"with x as (insert into audit.log values (1) returning 1) select * from x", True),
        (b"insert into shop.orders values (1)", False),
        (b"select * from shop.log", False),
    ],
)
def test_an_insert_is_counted_where_something_runs_with_it(text: bytes, counted: bool) -> None:
    """The rows about relations (policy/firing.py) have a name alone, whatever the schema."""
    firing = FunctionCatalogue.from_rows([*ROWS, ("r", "", "log", "", "", "", "", "", "", None)])
    for functions in (firing, firing.with_created([Function(schema="app", name="fresh", volatility=Volatility.STABLE)])):
        judge = Judge(policy=Policy(access=AccessLevel.WRITE), functions=functions)
        assert judge.judge(text).verdict.word == ("limit" if counted else "allow")


def test_where_nobody_could_read_the_catalogue_every_insert_is_counted() -> None:
    judge = Judge(policy=Policy(access=AccessLevel.WRITE), functions=FunctionCatalogue.from_rows([]))
    assert judge.judge(b"insert into shop.orders values (1)").verdict.word == "limit"
