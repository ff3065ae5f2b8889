"""Which statements somebody else than their session can run."""

from __future__ import annotations

import pytest

from dbshield.model import AccessLevel
from dbshield.policy.functions import FunctionCatalogue
from dbshield.policy.judge import Judge
from dbshield.policy.policy import Policy
from dbshield.sqltext.alone import Answer, answer

JUDGE = Judge(policy=Policy(access=AccessLevel.MIGRATE), functions=FunctionCatalogue.builtin())


@pytest.mark.parametrize(
    "text, expected",
    [
        ("drop table orders cascade", Answer.TAG),
        ("truncate orders", Answer.TAG),
        ("delete from orders", Answer.TAG),
        ("delete from orders returning id", Answer.ROWS),
        ("with gone as (delete from orders returning id) update items set n = 0", Answer.TAG),
        ("insert into orders select 1 on conflict do nothing returning *", Answer.ROWS),
        ("merge into orders using items on true when matched then delete returning *", Answer.ROWS),
        ("merge into orders using items on true when matched then delete", Answer.TAG),
        ("do $$ begin delete from orders; end $$", Answer.TAG),
        ("select purge()", Answer.ROWS),
        ("call purge()", Answer.ROWS),
        ("explain analyze delete from orders", Answer.ROWS),
        ("create table kept as select 1", Answer.TAG),
        ("alter table orders drop column note;", Answer.TAG),
        # what only the session knows
        ("execute p", None),
        ("explain analyze execute p", None),
        ("create table kept as execute p", None),
        ("prepare p as delete from orders", None),
        ("declare c cursor for select 1", None),
        ("explain declare c cursor for select 1", None),
        ("fetch all from c", None),
        ("copy orders from stdin", None),
        ("copy (delete from orders returning id) to stdout", None),
        ("begin", None),
        ("commit", None),
        ("set role postgres", None),
        ("lock table orders", None),
        ("discard all", None),
        ("drop table pg_temp.orders", None),
        # what it is depends on who runs it
        ("delete from orders where owner = current_user", None),
        ("delete from orders where owner in (select session_user::text)", None),
        ("delete from orders where owner = user", None),
        ("update orders set owner = current_role", None),
        ("delete from orders where tenant = pg_catalog.current_setting('app.tenant', true)", None),
        ("delete from orders where id = lastval()", None),
        ("delete from orders where has_table_privilege('orders', 'select')", None),
        ("alter table orders owner to current_user", None),
        ("grant all on orders to session_user", None),
        ("do $$ begin delete from orders where owner = Current_User; end $$", None),
        ("delete from orders where schema = current_schema", Answer.TAG),
        ("delete from orders where note = 'current_user'", Answer.TAG),
        # not one statement
        ("", None),
        ("delete from orders; select 1", None),
        ("delete frm orders", None),
        ("(" * 5_000, None),
    ],
)
def test_each(text: str, expected: Answer | None) -> None:
    effects = JUDGE.judge(text.encode()).effects
    assert answer(text.encode(), effects) is expected


@pytest.mark.parametrize("text", [b"delete from orders where note = '\xff'", b"delete from orders\0", b"\xff"])
def test_what_is_no_text(text: bytes) -> None:
    """Whatever a policy makes of it."""
    assert answer(text, ()) is None
