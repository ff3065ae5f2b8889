"""A protected database, a control database and an executor between them, all on real servers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from dbshield.config import EnvironmentConfig
from dbshield.control import undo as undoing
from dbshield.control.agents import register_environments
from dbshield.control.approval import Approval
from dbshield.control.approvals import Approvals
from dbshield.control.asking import Ask, Parameter
from dbshield.control.executor import Executor
from dbshield.control.undo_store import UndoStore
from dbshield.model import AccessLevel
from dbshield.store.database import Database
from support.cases import facts, oracle
from support.control import tables_database
from support.servers import Server

ENVIRONMENT = "production"
PERSON = "ann"


MORE_FACTS = {
    "index": "select schemaname || '.' || indexname, indexdef from pg_indexes where schemaname in ('shop', 'archive')",
    "comment": """select pg_describe_object(classoid, objoid, objsubid), description from pg_description
        where objoid >= 16384""",
    "default": """select attrelid::regclass || '.' || attname, pg_get_expr(adbin, adrelid) from pg_attrdef
        join pg_attribute on attrelid = adrelid and attnum = adnum where attrelid::regclass::text ~ '^(shop|archive)[.]'""",
    "right on a column": """select attrelid::regclass || '.' || attname, attacl::text from pg_attribute where attacl is not null
        and attrelid::regclass::text ~ '^(shop|archive)[.]'""",
    "owned sequence": """select objid::regclass::text, refobjid::regclass || '.' || refobjsubid from pg_depend
        where classid = 'pg_class'::regclass and deptype in ('a', 'i')
        and objid in (select oid from pg_class where relkind = 'S')""",
    "what an index is for": """select indexrelid::regclass::text, indisclustered::text || indisreplident || array(
        select attstattarget from pg_attribute where attrelid = indexrelid and attstattarget >= 0)::text
        from pg_index where indexrelid::regclass::text ~ '^(shop|archive)[.]'""",
    "right on an object": """select oid::regclass::text, relacl::text from pg_class where relacl is not null
        and oid::regclass::text ~ '^(shop|archive)[.]'
        union all select oid::regprocedure::text, proacl::text from pg_proc where pronamespace >= 16384 and proacl is not null
        union all select oid::regclass || ' by default', 'none' from pg_class where relacl is null
        and oid::regclass::text ~ '^(shop|archive)[.]'""",
    "state of a trigger": """select tgrelid::regclass || '.' || tgname, tgenabled::text from pg_trigger
        where not tgisinternal and tgrelid::regclass::text ~ '^(shop|archive)[.]'""",
    "statistics": "select stxname, pg_get_statisticsobjdef(oid) from pg_statistic_ext",
    "owner of a function": "select oid::regprocedure::text, proowner::regrole::text from pg_proc where pronamespace >= 16384",
}
"""What the oracle of the cases does not look at, and an undo has to bring back."""


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """`database` is the protected one's name; `folder` keeps the undo points."""

    server: Server
    database: str
    control_dsn: str
    control: Database
    settings: EnvironmentConfig
    folder: Path

    @property
    def approvals(self) -> Approvals:
        return Approvals(self.control)

    def executor(self, at: Callable[[str], None] = lambda _: None, **changed: Any) -> Executor:
        settings = self.settings.model_copy(update=changed)
        return Executor(self.control, self.control_dsn, {ENVIRONMENT: settings}, self.folder, at=at)

    def ask(
        self, statement: str, parameters: Sequence[Parameter] | None = None, terms: Mapping[str, str] | None = None
    ) -> Approval:
        ask = Ask(
            environment=ENVIRONMENT,
            agent="claude",
            access=AccessLevel.WRITE,
            database=self.database,
            statement=statement,
            parameters=None if parameters is None else tuple(parameters),
            settings=terms or {},
        )
        return self.approvals.request(ask, now=now(), ttl=timedelta(hours=1), needed=1)

    def approve(self, approval: Approval, *, without_undo: bool = False) -> None:
        """A human's yes, as the tables keep it; how it is given is not tested here."""
        with self.control.transaction() as connection:
            connection.execute(
                text("insert into dbshield.decisions (approval, person, decision, at) values (:id, :person, 'approve', now())"),
                {"id": approval.id, "person": PERSON},
            )
            connection.execute(
                text(
                    "update dbshield.approvals set state = 'approved', decided_at = now(), without_undo = :without where id = :id"
                ),
                {"id": approval.id, "without": without_undo},
            )

    def run(
        self,
        statement: str,
        parameters: Sequence[Parameter] | None = None,
        *,
        without_undo: bool = False,
        preview: bool = False,
        between: str = "",
        terms: Mapping[str, str] | None = None,
        **changed: Any,
    ) -> Approval:
        """Asks, approves and executes; what became of it. `between` runs after the preview, before the execution."""
        approval = self.ask(statement, parameters, terms)
        executor = self.executor(**changed)
        if preview:
            executor.preview()
        self.approve(approval, without_undo=without_undo)
        if between:
            self.sql(between)
        executor.work()
        return self.approvals.get(approval.id)

    def undo(self, approval: Approval, **attempt: Any) -> undoing.Undone:
        """Brings back what it destroyed, recorded nowhere; `attempt` is what `undo` is told of this one and an earlier one."""
        point = UndoStore(self.control).get(approval.id)
        assert point.sha256 is not None
        return undoing.undo(self.folder / approval.id, point.sha256, self.settings, environment=ENVIRONMENT, **attempt)

    def sql(self, query: str) -> list[Any]:
        with self.server.connect(self.database) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def facts(self) -> Any:
        with self.server.connect(self.database) as connection:
            seen = facts(connection)
            for kind, query in MORE_FACTS.items():
                seen["facts"][kind] = {row[0]: row[1] for row in connection.execute(query.encode())}
            return seen

    def lost(self, before: Any) -> list[str]:
        """What is not as it was, also what a row limit would let pass."""
        return list(oracle.losses(before, self.facts(), row_limit=0))


def people(control: Database) -> None:
    """One environment, and one person who may decide."""
    register_environments(control, [ENVIRONMENT])
    with control.transaction() as connection:
        connection.execute(
            text(
                "insert into dbshield.people (name, sealed_totp, created_by, enrolled_at)"
                " values (:name, 'x', 'test', now() - interval '1 day')"
            ),
            {"name": PERSON},
        )


@contextmanager
def control_of(server: Server) -> Iterator[str]:
    """The DSN of a control database with one environment and one person who may decide."""
    with tables_database(server) as dsn:
        control = Database(dsn)
        try:
            people(control)
        finally:
            control.close()
        yield dsn


@contextmanager
def stage(server: Server, control_dsn: str, folder: Path) -> Iterator[Stage]:
    """A clone of the seeded database, protected by an executor that asks this control database."""
    name = f"protected_{secrets.token_hex(6)}"
    server.clone(name)
    address = f"host={server.cluster.socket_folder} port={server.cluster.port}"
    settings = EnvironmentConfig(
        upstream=f"{address} user=agent_write dbname={name}",
        executor=f"{address} user=postgres dbname={name}",
        execution_lock_timeout=5.0,
    )
    control = Database(control_dsn)
    try:
        yield Stage(
            server=server, database=name, control_dsn=control_dsn, control=control, settings=settings, folder=folder / "undo"
        )
    finally:
        control.close()
        server.drop(name)
