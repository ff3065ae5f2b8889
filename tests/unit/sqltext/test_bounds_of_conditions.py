"""What bounds a DELETE, an UPDATE or a MERGE, and that both readers think so."""

from __future__ import annotations

import pytest

from dbshield.model import Operation
from dbshield.sqltext.agreement import agree
from dbshield.sqltext.postgres import read

BOUNDED = """
id = 7
id = $1
7 = id
t.id = 7
id > 7 and true
true and 1 = 1 and id = 9
id = 1 or id = 2
id in (1, 2)
id not in (1, 2)
id = any ($1)
id = any (array[1, 2])
id <> all (array[1, 2])
id between 1 and 5
id not between 1 and 5
not id = 1
not (a = 1 and b = 2)
active
not active
active is true
active is not true
(id = 5) is true
deleted_at is null
deleted_at is not null
lower(email) = 'x'
email like 'a%'
email like $1
email like '%' || $1
email ~ '^a'
payload ->> 'k' = 'v'
payload ? 'n'
total > paid
(a, b) = (1, 2)
coalesce(a, b) = 1
id in (select id from (select id, row_number() over (partition by email order by id) as n from t) x where n > 1)
id in (select x.id from t x join other o on o.id = x.other and o.at > now())
exists (select 1 from other o join another a on a.id = o.id and o.t_id = t.id)
ip <<= '10.0.0.0/8'::cidr
embedding <#> $1 < 5
a -|- b and |/ c = 2
case when a = 1 then b else c end = 1
(id = 5) = true
id = (select o.t_id from other o where o.t_id = t.id)
id in (select o.t_id from other o where o.at < now() limit 5)
email in (select x.email from t x where x.id <> t.id and x.spam)
a is not distinct from b
coalesce(active, false)
coalesce(email, '') = 'x'
case when id = 1 then b = 2 else c = 3 end
id in (select order_id from other)
id in (select id from t where status = 'new' order by at limit 10)
id in (select id from t where status = 'new')
id in (select id from t limit 10)
id in (values (1), (2))
id = (select max(id) from t)
ctid = any (array(select ctid from t order by id limit 50))
exists (select 1 from other o where o.id = t.id)
not exists (select 1 from other o where o.id = t.id)
exists (select 1 from t x where x.parent = t.id)
1=1 and id = $1 and ($2::text is null or status = $2::text)
id operator(pg_catalog.=) 7
starts_with(email, 'x')
at < now() - interval '30 days'
email collate "C" = 'x'
tags[1] = 'x'
id = 5 is not false
xmin = '5' and id = 1
payload is json
payload is not json object
note is document
(a, b) overlaps ($1, $2)
current of c
""".strip().splitlines()

UNBOUNDED = """
true
1 = 1
$1
not false
null is null
id = id
t.id = id
id is not distinct from id
(id, a) is not distinct from (id, a)
(id, a) = (id, a)
id = id + 0
id >= id - 1
id between id and id
id in (id, 5)
1 in (1, id)
id = any (array[id, 5])
5 not between 1 and 2
id = 7 or 1 = 1
id = 7 or true
not (id = id)
(id = id) = true
(id = id) is true
(id = 5) is not null
(id = 5) is unknown
id - id = 0
nullif(id, id) = 1
coalesce(true, active)
coalesce(1, id) = 1
case when true then true else id = 1 end
case when id > 0 then 1 else 1 end = 1
exists (select 1)
exists (select count(*) from other o where o.id = t.id)
exists (select 1 from other o where o.id = t.id group by ())
exists (select 1 from other)
exists (select 1 from t x where x.id = t.id)
exists (select 1 from other o where o.id = 1)
id in (select id from t)
id in (select id from t where true)
id in (select x.id from t x where x.id = x.id)
id in (select id from (select * from t) x)
id in (with w as (select * from t) select id from w)
id in (select id from t union select 1)
id in (select t.id)
id = any (array(select id from t))
id = (select t.id)
id not in (select id from t)
t is not null
t = t
ctid is not null
tableoid = 'x'::regclass
xmin = xmin
email like '%'
email ilike '%%'
email not like '%'
email ~ '.*'
email like '%' || '%'
now() > '2020-01-01'
current_date > '2020-01-01'
length('x') > 0
(select true)
$1::integer is null or id = $1::integer
id = 5 or (select true)
id in (select x.id from t x left join other o on o.id = x.other)
id in (select x.id from other o left join t x on o.id = x.other and false)
id <<= id
id = coalesce(null, id)
id = nullif(id, id)
id = (select coalesce(null, t.id) from other)
id = (select x.id from t x where x.id = t.id)
email = (select x.email from t x where x.id = t.id)
email in (select x.email from t x where x.id = t.id)
id in (select x.id from t x where x.id = t.id limit 1)
id = any (array(select x.id from t x where x.id = t.id limit 1))
id in (select z from (select t.id as z) s)
id in (select s.z from (select id as z) s)
id in (with w as (select t.id as z) select z from w)
id in (select v.z from (values (t.id)) v(z))
id in (select g from unnest(array[t.id]) g)
exists (select 1 from (select t.id as z) s where s.z = t.id)
exists (select 1 from generate_series(t.id, t.id) g where g = t.id)
exists (select 1 from other o where t.id = coalesce(null, t.id))
payload = json_query(payload, '$')
(id = 5) = (id = 5)
(select count(*) from t) > 0
id = case when id > 0 then id else id end
id = greatest(id, id)
""".strip().splitlines()

BESIDE_BOUNDED = [
    "delete from t using u where u.id = t.id",
    "delete from t using u where u.id = t.id and u.name = 'x'",
    "update t set a = 1 from u where u.id = t.id",
    "update t x set a = 1 from t y where y.parent = x.id",
    "delete from t a using t b where a.id < b.id and a.email = b.email",
    "with w as (select id from t limit 10) delete from t using w where w.id = t.id",
    "merge into t using u on t.id = u.id when matched then delete",
    "merge into t using u on true when matched and t.id = 1 then delete",
    "update t set a = 1 where current of c returning id",
    "with w as (delete from u where id = 1 returning id) delete from t where id in (select id from w)",
]
BESIDE_BOUNDED += [
    "with recursive w as (select id from t where id = $1 union all select c.id from t c join w on c.parent = w.id) "
    "delete from t where id in (select id from w)",
    "merge into t using u on t.id = u.id when matched then delete returning merge_action(), t.*",
]
BESIDE_UNBOUNDED = [
    "delete from t using u where u.name = 'x'",
    "delete from t using u where name = 'x'",
    "update t set a = 1 from u where u.a = u.b",
    "delete from t x using t y where x.id = y.id",
    "delete from t using (select * from t) y where t.id = y.id",
    "with w as (select id from t) delete from t using w where w.id = t.id",
    "with w as (select id from t) delete from t where id in (select id from w)",
    "with recursive w as (select id from t union select id from w) delete from t where id in (select id from w)",
    "merge into t using u on true when matched then delete",
    "merge into t using t x on t.id = x.id when matched then delete",
    "merge into t using u on t.id = u.id when not matched by source then delete",
    "delete from only (t)",
    'delete from t as "where id = 1"',
]


def bounded(text: str) -> bool:
    """Whether PostgreSQL's reader finds every DELETE and UPDATE bounded; raises when the readers differ."""
    statements = read(text.encode())
    agree(text.encode(), statements)
    found = [effect.bounded for effect in statements[0].effects if effect.operation in {Operation.DELETE, Operation.UPDATE}]
    assert found
    return all(found)


@pytest.mark.parametrize("condition", BOUNDED)
@pytest.mark.parametrize("statement", ["delete from t where {}", "update s.t set a = 1 where {}"])
def test_a_condition_that_bounds(statement: str, condition: str) -> None:
    assert bounded(statement.format(condition))


@pytest.mark.parametrize("condition", UNBOUNDED)
@pytest.mark.parametrize("statement", ["delete from t where {}", "update s.t set a = 1 where {}"])
def test_a_condition_that_bounds_nothing(statement: str, condition: str) -> None:
    assert not bounded(statement.format(condition))


@pytest.mark.parametrize("text", BESIDE_BOUNDED)
def test_other_relations_that_bound(text: str) -> None:
    assert bounded(text)


@pytest.mark.parametrize("text", BESIDE_UNBOUNDED)
def test_other_relations_that_bound_nothing(text: str) -> None:
    assert not bounded(text)


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("delete from t where id = 1", False),
        ("delete from t where a like 'x%'", True),
        ("delete from t where id in (select id from t limit 5)", True),
        ("select * from t where a like 'x%' limit 5", False),
    ],
)
def test_a_literal_that_was_read_is_told(text: str, literal: bool) -> None:
    assert read(text.encode())[0].literal is literal
