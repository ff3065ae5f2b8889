"""The doctor at work: connects, asks every check, and never changes anything (its sessions are read-only).

What the role may not read becomes a finding of its own; an environment that cannot be reached at all is named in `unreached`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from sqlalchemy import select

from dbshield.guard import doctor_objects, doctor_roles, doctor_server
from dbshield.guard.doctor import AGENTS_ROLE, Agents, Check, Finding, Scope, Severity, agents_of, not_looked
from dbshield.guard.doctor_environments import Identity, identity_findings, recorded_findings
from dbshield.guard.doctor_hba import QUERY as HBA_QUERY
from dbshield.guard.doctor_hba import HbaRule, hba_findings
from dbshield.guard.verify import OLD, verify
from dbshield.model import AccessLevel, Upstream
from dbshield.store.database import Database
from dbshield.store.schema import environments

CHECKS: tuple[Check, ...] = (*doctor_roles.CHECKS, *doctor_objects.CHECKS, *doctor_server.CHECKS)
"""Every question there is, in the order in which equally bad answers are shown."""

CONNECT_SECONDS = 10
STATEMENT_TIMEOUT = "30s"
"""The catalogues of the largest databases answer in seconds; a doctor that hangs helps nobody."""

Connection = psycopg.Connection[tuple[Any, ...]]

_MEMBERS = """
    with recursive member(oid) as (
        select m.member from pg_auth_members m join pg_roles g on g.oid = m.roleid where g.rolname = %(group)s
        union
        select m.member from pg_auth_members m join member on m.roleid = member.oid
    )
    select rolname::text from pg_roles join member using (oid) where rolcanlogin
"""
_GROUPS = """
    with recursive above(role, oid) as (
        select oid, oid from pg_roles where rolname = any(%(agents)s)
        union
        select above.role, m.roleid from pg_auth_members m join above on m.member = above.oid
    )
    select r.rolname::text, g.rolname::text from above join pg_roles r on r.oid = above.role join pg_roles g on g.oid = above.oid
"""
_GUARD = """
    select exists (
        select from pg_class where relnamespace = to_regnamespace('dbshield') and relname = 'installation'
    ), exists (
        select from pg_event_trigger join pg_proc p on p.oid = evtfoid
        where p.pronamespace = to_regnamespace('dbshield') and p.proname <> 'catalogue_changed'
    )
"""
"""Asked of the catalogue: a name in the guard's schema is looked up by those alone who may use the schema. catalogue_changed only
tells proxies of what has changed (sql/catalogue_notify.sql); it guards nothing."""
_INSTALLATION = "select environment, system_identifier::text from dbshield.installation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """One environment to look at. `dsn` has the password; `logins` are None where the control database could not tell them.

    `recorded` is the system identifier that the control database keeps; `group` is the role that makes its members agents.
    """

    environment: str
    server: Upstream
    databases: Sequence[str]
    dsn: str = field(repr=False)
    password: str | None = field(default=None, repr=False)
    logins: Sequence[tuple[str, AccessLevel]] | None = None
    recorded: int | None = None
    group: str = AGENTS_ROLE


@dataclass(slots=True)
class Examination:
    """What was found, in the order in which it was asked; how many questions were answered, and where nobody could be asked."""

    findings: list[Finding] = field(default_factory=list)
    answered: int = 0
    unreached: list[str] = field(default_factory=list)


def examine(patients: Sequence[Patient]) -> Examination:
    """Looks at every environment, and then at what they share."""
    examination = Examination()
    identities = [_Look(patient, examination).all() for patient in patients]
    examination.findings += identity_findings(identities)
    return examination


def recorded_identifiers(database: Database) -> Mapping[str, int]:
    """The system identifiers that the control database keeps, by environment."""
    with database.transaction() as connection:
        rows = connection.execute(select(environments.c.name, environments.c.system_identifier))
        return {row.name: row.system_identifier for row in rows if row.system_identifier is not None}


class _Look:
    """One environment, asked from its first question to its last."""

    def __init__(self, patient: Patient, examination: Examination) -> None:
        self._patient = patient
        self._examination = examination
        self._agents = Agents(access={})
        self._left_behind: list[str] = []
        self._identifier: int | None = None

    def all(self) -> Identity:
        with self._connected(None) as connection:
            if connection is not None:
                self._know_agents(connection)
                self._ask(connection, Scope.CLUSTER)
                self._access(connection)
                self._identifier = self._identify(connection)
        if connection is not None:
            for database in self._patient.databases:
                with self._connected(database) as connection:
                    if connection is not None:
                        self._ask(connection, Scope.DATABASE, database)
        return Identity(
            environment=self._patient.environment,
            server=self._patient.server,
            databases=self._patient.databases,
            system_identifier=self._identifier,
            recorded=self._patient.recorded,
            roles=frozenset(self._agents.roles),
            password=self._patient.password,
        )

    @contextmanager
    def _connected(self, database: str | None) -> Iterator[Connection | None]:
        """A read-only session, or None and a finding that says why not."""
        changes = {"dbname": database} if database is not None else {}
        try:
            connection = psycopg.connect(
                make_conninfo(self._patient.dsn, connect_timeout=CONNECT_SECONDS, application_name="dbshield doctor", **changes),
                autocommit=True,
            )
        except psycopg.Error as error:
            self._unreached(database, error)
            yield None
            return
        with connection:
            connection.execute("select set_config('default_transaction_read_only', 'on', false)")
            connection.execute("select set_config('statement_timeout', %s, false)", [STATEMENT_TIMEOUT])
            # Names come out qualified, and nobody's function is called by the name of a built-in one.
            connection.execute("select set_config('search_path', 'pg_catalog, pg_temp', false)")
            yield connection

    def _unreached(self, database: str | None, error: psycopg.Error) -> None:
        self._examination.unreached.append(self._patient.environment)
        self._add(
            not_looked(
                "look.connect",
                self._patient.environment,
                f"no connection: {_reason(error)}",
                mend="mend upstream and its password in dbshield.toml, or name an administrator by --dsn",
                database=database or "",
            )
        )

    def _know_agents(self, connection: Connection) -> None:
        members = [row[0] for row in connection.execute(_MEMBERS, {"group": self._patient.group})]
        logins = self._patient.logins
        self._agents = agents_of(logins or (), members)
        if logins is None:
            mend = "dbshield init, or reach the control database" + ("" if members else ", or dbshield guard install")
            what = "which roles agents have: the control database could not be asked"
            self._add(not_looked("look.agents", self._patient.environment, what, mend=mend))
        else:
            self._left_behind = sorted(set(members) - {role for role, _ in logins})

    def _ask(self, connection: Connection, scope: Scope, database: str = "") -> None:
        guard = scope is Scope.DATABASE and self._guarded(connection, database)
        major = connection.info.server_version // 10_000
        parameters = {
            **self._agents.parameters(),
            "upstream": self._patient.server.user,
            "left_behind": self._left_behind,
        }
        for check in CHECKS:
            if check.scope is not scope or major < check.since:
                continue
            try:
                rows = [(str(subject), str(mend)) for subject, mend in connection.execute(check.query, parameters)]
            except psycopg.Error as error:
                self._could_not(check.name, check.what, error, database)
                continue
            self._examination.answered += 1
            if rows:
                self._add(check.finding(rows, environment=self._patient.environment, database=database, guard=guard))

    def _guarded(self, connection: Connection, database: str) -> bool:
        """Whether event triggers of the guard are there; a finding where none is."""
        installed, triggers = connection.execute(_GUARD).fetchone() or (False, False)
        self._examination.answered += 1
        if installed:
            self._recorded(connection, database)
            self._verified(connection, database, complete=bool(triggers))
        if not triggers:
            self._add(
                Finding(
                    check="guard.incomplete" if installed else "guard.missing",
                    severity=Severity.WARNING,
                    environment=self._patient.environment,
                    database=database,
                    what="the guard has no event triggers" if installed else "the guard is not installed",
                    why="Around the proxy, DROP, ALTER and the like are stopped by grants alone"
                    + ("." if installed else ", and DELETE and TRUNCATE as well."),
                    mends=(f"dbshield guard install --environment {self._patient.environment}, as a superuser",),
                )
            )
        return bool(triggers)

    def _verified(self, connection: Connection, database: str, *, complete: bool) -> None:
        """Whether what is installed is what is shipped. `complete` says whether there are event triggers."""
        try:
            problems = verify(connection)
        except psycopg.Error as error:
            self._could_not("guard.changed", "whether the guard is as it was installed", error, database)
            return
        self._examination.answered += 1
        # Everything else in an older guard differs because it is older.
        old = [problem for problem in problems if problem.mend == OLD]
        # That event triggers are missing where there are none is a finding of its own.
        problems = tuple(old) or tuple(p for p in problems if complete or not p.what.startswith("the event trigger "))
        if problems:
            self._add(
                Finding(
                    check="guard.changed",
                    severity=Severity.CRITICAL if complete and not old else Severity.WARNING,
                    environment=self._patient.environment,
                    database=database,
                    what="the guard is an older one" if old else "the guard is not as it was installed",
                    why="What is missing or was changed does not hold agents, and somebody changed it."
                    if not old
                    else "What later versions close is open.",
                    subjects=tuple(problem.what for problem in problems),
                    mends=tuple(problem.mend for problem in problems),
                )
            )

    def _recorded(self, connection: Connection, database: str) -> None:
        """What the guard wrote down when it was installed, against what is configured and what the server says now."""
        try:
            rows = connection.execute(_INSTALLATION).fetchall()
        except psycopg.Error as error:
            self._could_not("environments.recorded-name", "which environment the guard was installed for", error, database)
            return
        self._examination.answered += 1
        for environment, identifier in rows:
            self._examination.findings += recorded_findings(
                self._patient.environment,
                database,
                environment=environment,
                system_identifier=identifier,
                is_now=None if self._identifier is None else str(self._identifier),
            )

    def _access(self, connection: Connection) -> None:
        names = ("line", "type", "databases", "users", "address", "netmask", "method", "error")
        try:
            rules = [HbaRule(**dict(zip(names, row, strict=True))) for row in connection.execute(HBA_QUERY)]
        except psycopg.Error as error:
            self._could_not("access", "pg_hba.conf: who may reach the server around the proxy", error)
            return
        groups: dict[str, set[str]] = {role: set() for role in self._agents.roles}
        for role, group in connection.execute(_GROUPS, {"agents": self._agents.roles}):
            groups[role].add(group)
        self._examination.answered += 1
        self._examination.findings += hba_findings(
            rules,
            agents={role: frozenset(names) for role, names in groups.items()},
            databases=self._patient.databases,
            environment=self._patient.environment,
        )

    def _identify(self, connection: Connection) -> int | None:
        try:
            row = connection.execute("select system_identifier from pg_control_system()").fetchone()
        except psycopg.Error as error:
            self._could_not("environments.identity", "the system identifier: which cluster this is", error)
            return None
        self._examination.answered += 1
        return int(row[0]) if row is not None else None

    def _could_not(self, check: str, what: str, error: psycopg.Error, database: str = "") -> None:
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            mend = "look as an administrator: --dsn DSN --password-env VARIABLE"
        else:
            mend = "look at the server's log"
        self._add(not_looked(check, self._patient.environment, f"{what} ({_reason(error)})", mend=mend, database=database))

    def _add(self, finding: Finding) -> None:
        self._examination.findings.append(finding)


def _reason(error: psycopg.Error) -> str:
    """The server's sentence in one line; it never has a password in it."""
    return " ".join((error.diag.message_primary or str(error)).split())[:300]
