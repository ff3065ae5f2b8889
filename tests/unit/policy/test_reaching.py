"""What reaches functions that write: read from rows as a server gives them, and what the judge makes of it."""

from __future__ import annotations

import pytest

from dbshield.model import AccessLevel, Counted, ObjectName
from dbshield.policy.functions import Function, FunctionCatalogue, Volatility
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.policy.reaching import BODY, EDGES, NAMED, Reach, reach

Row = tuple[str, ...]
NOTHING = Reach()
WIPES = "begin DELETE from t; return 1; end"


def body(oid: int, text: str, volatility: str = "s", language: str = "plpgsql", trusted: str = "true") -> Row:
    return (BODY, trusted, "", volatility, str(oid), language, "", "", "", text)


def named(oid: int, name: str, letter: str = "r") -> Row:
    return (NAMED, "", name, letter, str(oid), "", "", "", "", "")


def edges(*pairs: tuple[int, int]) -> Row:
    return (EDGES, "", "", "", "", "", "", "", "", " ".join(f"{begin}>{end}" for begin, end in pairs))


def functions(*rows: Row, **names: int) -> set[str]:
    """Those that are reached, VOLATILE ones by a function that names them."""
    callers = {str(1_000 + oid): f"calls_{name}" for name, oid in names.items()}
    callings = [body(1_000 + oid, f"select {name}()") for name, oid in names.items()]
    found = reach({str(oid): name for name, oid in names.items()} | callers, [*rows, *callings]).functions
    return {name for name in names if f"calls_{name}" in found}


@pytest.mark.parametrize(
    ("text", "volatility", "language", "writes"),
    [
        (WIPES, "v", "plpgsql", True),
        ("select 1", "v", "sql", False),
        ("select clock_timestamp(), random()", "v", "sql", False),
        ("select deleted_at, update_count from t", "v", "sql", False),
        ("with gone as (delete/**/from t returning 1) select count(*) from gone", "v", "sql", True),
        ("begin perform 1; update t set a = 1; end", "v", "plpgsql", True),
        ("insert into t values (1)", "v", "sql", True),
        ("begin execute a || b; end", "v", "plpgsql", True),
        ('select u&"\\0077ipe"()', "v", "sql", True),
        ("return 1", "v", "plperl", True),
        # The server keeps these from writing themselves; nothing here writes for them.
        (WIPES, "s", "plpgsql", False),
        ("begin execute a; end", "i", "plpgsql", False),
        ("return 1", "s", "plperl", False),
    ],
)
def test_what_writes_itself(text: str, volatility: str, language: str, writes: bool) -> None:
    assert functions(body(1, text, volatility, language), f=1) == ({"f"} if writes else set())


def test_an_untrusted_language_keeps_no_promise() -> None:
    assert functions(body(1, "return 1", "i", "plpython3u", "false"), f=1) == {"f"}


@pytest.mark.parametrize(
    ("text", "reaches"),
    [
        ("return wipe()", True),
        ("return Shop . WIPE ()", True),
        ('return "wipe"()', True),
        ("return wipe_not() + wiper + a.wipe2", False),
        ("begin execute x; end", True),
        ("begin fetch c into x; return x; end", True),
        ("select query_to_xml(a, true, true, '')", True),
        ('select u&"w\\0069pe"()', True),
        ("select 'nothing'", False),
    ],
)
@pytest.mark.parametrize("volatility", ["s", "i", "v"])
def test_what_calls_by_name(text: str, reaches: bool, volatility: str) -> None:
    rows = (body(1, WIPES, "v"), body(2, text, volatility))
    assert functions(*rows, wipe=1, f=2) == ({"wipe", "f"} if reaches else {"wipe"})


def test_names_as_people_write_them() -> None:
    long = "n" * 63
    cut = (body(1, WIPES, "v"), body(2, f"select {long}nn()"))
    assert reach({"1": long, "2": "f"}, cut).functions == {"f"}, "the server cuts it"
    odd = 'Wipe "it" all'
    rows = (body(1, WIPES, "v"), body(2, 'select "Wipe ""it"" all"()'), body(3, 'select "Wipe it all"()'))
    assert reach({"1": odd, "2": "f", "3": "g"}, rows).functions == {"f"}


def test_by_what_the_catalogue_tells_and_back() -> None:
    """A view calls, a function reads the view, a policy calls that function, and an operator is called by its sign."""
    found = reach(
        {"1": "wipe", "2": "reads", "3": "behind_sign", "4": "signs", "5": "total", "6": "calm"},
        [
            body(1, WIPES, "v"),
            body(2, "select count(*) from seen"),
            body(3, "select reads()"),
            body(4, "select a <%> b"),
            body(6, "select a from plain"),
            named(20, "seen"),
            named(21, "guarded"),
            named(22, "plain"),
            named(23, "kept", "m"),
            named(30, "<%>", "t"),
            edges((1, 100), (100, 20), (100, 23), (2, 101), (101, 21), (3, 30), (1, 5), (22, 102)),
        ],
    )
    assert found.functions == {"reads", "behind_sign", "signs", "total"}, "a call of what is VOLATILE has a rule of its own"
    assert found.relations == {"seen", "guarded"}
    assert found.filled == {"kept"}


def test_nothing_is_reached_where_nothing_writes() -> None:
    rows = [body(1, "begin execute a; end"), body(2, "select f()"), named(20, "seen"), edges((1, 20))]
    assert reach({"1": "f", "2": "g"}, rows) == NOTHING
    assert not FunctionCatalogue.from_rows([("0", "", "plpgsql", "", "", "", "", "", "", "")]).reaches


FOUND = Reach(functions=frozenset({"settled"}), relations=frozenset({"seen"}))


def catalogue(found: Reach | None = FOUND) -> FunctionCatalogue:
    def of(name: str, volatility: Volatility, **more: object) -> Function:
        return Function(schema="shop", name=name, volatility=volatility, language="plpgsql", **more)  # type: ignore[arg-type]

    return FunctionCatalogue(
        [
            (1, of("wipe", Volatility.VOLATILE)),
            (2, of("settled", Volatility.STABLE, behind=("mark::", "<%>"))),
            (3, of("calm", Volatility.STABLE)),
        ],
        reach=found,
    )


PLANNED = (Counted(statement=0, planned=True),)


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("select * from seen", PLANNED),
        ("select * from shop.seen s join plain using (id)", PLANNED),
        ("select 1 from plain where exists (select from seen)", PLANNED),
        ("copy seen to stdout", PLANNED),
        ("explain select * from seen", PLANNED),
        ("select shop.settled()", PLANNED),
        ("select a <%> b from plain", PLANNED),
        ("select a::mark from plain", PLANNED),
        ("insert into plain select id from seen", PLANNED),
        ("update plain set a = shop.settled() where id = 1", PLANNED),
        ("delete from seen where id = 1", PLANNED),
        ("declare c cursor for select * from seen", PLANNED),
        ("fetch all from c", (Counted(statement=0),)),
        ("execute p", PLANNED),
        ("prepare p as select * from seen", PLANNED),
        ("prepare p as select * from plain", ()),
        ("select * from plain", ()),
        ("select shop.calm(), now(), random() from plain", ()),
        ("with seen as (select 1) select * from seen", ()),
        ("insert into plain values (1)", ()),
        ("update plain set a = 1 where id = 1", (Counted(statement=0),)),
        ("declare c cursor with hold for select * from plain", ()),
        ("select 1; select * from seen; select 2", (Counted(statement=1, planned=True),)),
        ("begin", ()),
        ("deallocate p", ()),
    ],
)
@pytest.mark.parametrize("access", [AccessLevel.READ, AccessLevel.WRITE])
def test_what_is_counted(text: str, counted: tuple[Counted, ...], access: AccessLevel) -> None:
    if access is AccessLevel.READ and text.startswith(("insert", "update", "delete")):
        access = AccessLevel.MIGRATE
    judgement = Judge(policy=Policy(access=access), functions=catalogue()).judge(text.encode())
    assert judgement.counted == counted
    assert judgement.verdict.word == ("limit" if counted else "allow")
    assert judgement.writes or not counted, "what may change rows is written down before it runs"


@pytest.mark.parametrize("text", ["select * from plain", "insert into plain select * from plain", "fetch all from c"])
def test_everything_is_counted_where_nobody_could_read_the_catalogue(text: str) -> None:
    judge = Judge(policy=Policy(access=AccessLevel.WRITE), functions=FunctionCatalogue.from_rows([]))
    assert judge.judge(text.encode()).verdict.word == "limit"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("select shop.wipe()", "DS605"),
        ("declare c cursor with hold for select * from seen", "DS226"),
        ("declare c cursor with hold for select shop.settled()", "DS226"),
        ("create domain d as text check (shop.settled() = value)", "DS605"),
    ],
)
def test_what_cannot_be_counted_is_stopped(text: str, rule: str) -> None:
    judgement = Judge(policy=Policy(access=AccessLevel.MIGRATE), functions=catalogue()).judge(text.encode())
    assert {finding.rule for finding in judgement.findings} == {rule}
    assert judgement.counted == ()


def test_a_frozen_agent_reads_what_only_reads() -> None:
    judge = Judge(policy=Policy(access=AccessLevel.READ, frozen=True), functions=catalogue())
    assert judge.judge(b"select shop.calm() from plain").verdict.word == "allow"
    for text in (b"select * from seen", b"select shop.settled()"):
        assert [finding.rule for finding in judge.judge(text).findings] == ["DS313"]


def test_a_relation_that_is_made_is_counted_until_the_catalogue_tells() -> None:
    judge = Judge(policy=Policy(access=AccessLevel.MIGRATE), functions=catalogue())
    told: list[object] = []
    judge.on_made = told.append
    before = judge.judge(b"select * from fresh")
    assert before.verdict.word == "allow"
    assert judge.only_reads(before)
    judge.judge(b"create view fresh as select * from seen")
    assert not judge.only_reads(before)
    assert judge.judge(b"select * from fresh").verdict.word == "limit"
    assert told == [{"fresh"}]
    judge.judge(b"create function shop.mine() returns text language sql stable as 'select shop.settled()'")
    assert judge.judge(b"select shop.mine()").counted == PLANNED
    calm = Judge(policy=Policy(access=AccessLevel.MIGRATE), functions=catalogue(NOTHING))
    calm.on_made = told.append
    calm.judge(b"create view fresh as select * from seen")
    assert calm.judge(b"select * from fresh").verdict.word == "allow", "there is nothing that it could call"


def test_what_a_human_let_through_is_not_kept_beyond_its_transaction() -> None:
    allowed = frozenset({ObjectName(schema="shop", name="wipe")})
    judge = Judge(policy=Policy(access=AccessLevel.WRITE, functions_allowed=allowed), functions=catalogue(NOTHING))
    assert judge.judge(b"declare c cursor for select shop.wipe()").verdict.word == "limit"
    assert judge.judge(b"declare c cursor with hold for select shop.wipe()").findings[0].rule == "DS226"
