"""Database roles of least privilege for agents: made, brought up to date, and removed.

Laws:
- A password is never sent in clear: libpq computes its SCRAM verifier here, so neither the network nor the server's log has it.
- A role that dbshield did not make is never changed or dropped: its mark (`roles_look.Mark`) names the agent that it is for.
- Nothing is half there. `create` and `renew` are context managers: what the server was asked to do is committed behind their
  body, in which the caller writes its own store; a body that raises leaves the server as it was.

Roles belong to the cluster and rights to a database. With one database everything is one transaction. With several, a role that
nobody can log in as is committed first, because the other databases' transactions cannot see it otherwise; it becomes usable in
the last commit, and goes again if anything fails.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

import psycopg
from psycopg import sql

from dbshield.errors import Refused
from dbshield.guard.install import LOCK_TIMEOUT, Connection, Open, server_of, set_limit
from dbshield.guard.roles_apply import INHERIT_SINCE, Grantee, allowed, give, share_what_it_makes
from dbshield.guard.roles_look import Mark, Place, exists, known_schemas, look, mark_of, search_path
from dbshield.guard.roles_owners import join_owners
from dbshield.guard.roles_public import beyond, close_execute
from dbshield.guard.steps import AGENTS, DEFAULT_LIMIT
from dbshield.model import AccessLevel

LONGEST: Final = 63
"""Bytes of an identifier: NAMEDATALEN - 1."""
DIGEST: Final = 8
"""Hex digits that keep a cut name unique."""

DUPLICATE_OBJECT: Final = "42710"
UNDEFINED_OBJECT: Final = "42704"
INVALID_AUTHORIZATION: Final = "28000"

ATTRIBUTES: Final = ("superuser", "createdb", "createrole", "replication", "bypassrls")
"""What no agent's role has; `rolsuper` is the catalogue's name of the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a role may take up. Times in seconds, 0 for no end; `max_rows` is the guard's, for write and migrate."""

    connections: int
    statement: float
    lock: float
    idle_in_transaction: float
    temp_file_mb: int
    max_rows: int = DEFAULT_LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSpec:
    """The role of one agent. `schemas` are those that it gets rights on, none: all of people's. `today` is an ISO date."""

    agent_id: UUID
    agent: str
    environment: str
    access: AccessLevel
    limits: Limits
    today: str
    schemas: tuple[str, ...] = ()
    name: str = ""
    """Empty: `role_name` of the agent."""

    @property
    def role(self) -> str:
        return self.name or role_name(self.environment, self.agent)

    @property
    def mark(self) -> Mark:
        return Mark(
            id=str(self.agent_id),
            agent=self.agent,
            environment=self.environment,
            schemas=self.schemas,
            password_set=self.today,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What stands, or is about to: the role, what could not be given or closed, and the functions that PUBLIC may not call any
    more."""

    role: str
    open: tuple[Open, ...] = field(default=())
    closed: tuple[str, ...] = field(default=())


def role_name(environment: str, agent: str) -> str:
    """The name of an agent's role, at most 63 bytes and the agent's alone: neither name may hold an underscore."""
    name = f"dbshield_{environment}_{agent}"
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - DIGEST - 1]}_{hashlib.sha256(name.encode()).hexdigest()[:DIGEST]}"


@contextmanager
def create(connections: Sequence[Connection], spec: RoleSpec, password: str) -> Iterator[Made]:
    """Make the role; `connections` are the administrator's to each database of the environment, in autocommit mode.

    Raises:
        Refused: a role of this name is there already, or the administrator may not make an agent's role.
        ConfigError: a schema that is named does not exist, or the server is too old.
        psycopg.Error: anything else that the server did not do; nothing has changed then.
    """
    first = connections[0]
    prepare(connections)
    if exists(first, spec.role):
        raise _taken(first, spec)
    places = [look(conn, spec.schemas) for conn in connections]
    known_schemas(places, spec.schemas)
    if len(connections) == 1:
        with together(connections):
            _make(first, spec)
            yield _complete(connections, places, spec, password)
        return
    try:
        with together([first]):
            _make(first, spec)
        with together(connections):
            yield _complete(connections, [look(conn, spec.schemas) for conn in connections], spec, password)
    except BaseException:
        # Where even that fails, a role is left that nobody can log in as; whoever tries again is told of it.
        with suppress(psycopg.Error):
            _unmake(connections, spec)
        raise


@contextmanager
def renew(connections: Sequence[Connection], spec: RoleSpec, password: str) -> Iterator[Made]:
    """Give the role a new password, and everything else as it belongs: attributes, settings, rights, also on what is new since.

    The schemas are those that it was made for. Raises as `create`; Refused where dbshield did not make the role.
    """
    first = connections[0]
    prepare(connections)
    spec = replace(spec, schemas=own_mark(first, spec).schemas)
    places = [look(conn, spec.schemas) for conn in connections]
    with together(connections):
        _demote(first, spec.role)
        yield _complete(connections, places, spec, password)


def prepare(connections: Sequence[Connection]) -> None:
    """Refuses an administrator who would be held as an agent; nobody's function is called by the name of a built-in one."""
    for conn in connections:
        conn.execute("select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)")
        server = server_of(conn)
        if server.superuser:
            continue
        row = conn.execute(
            "select coalesce(pg_has_role(session_user, to_regrole(%s), 'member'), false) and exists ("
            " select from pg_event_trigger t join pg_proc p on p.oid = evtfoid where pronamespace = to_regnamespace('dbshield')"
            " and evtenabled <> 'D')",
            [AGENTS],
        ).fetchone()
        if row and row[0]:
            raise Refused(
                f"{conn.info.user} is a member of {AGENTS} itself, so the guard in {server.database} holds it as an agent",
                hint="Connect as a superuser, or as a role that is no member.",
            )


@contextmanager
def together(connections: Sequence[Connection]) -> Iterator[None]:
    """One transaction on each; the first connection's is committed last."""
    with ExitStack() as stack:
        for conn in connections:
            stack.enter_context(conn.transaction())
            conn.execute(sql.SQL("set local lock_timeout = {}").format(LOCK_TIMEOUT))
        yield


def _taken(conn: Connection, spec: RoleSpec) -> Refused:
    mark = mark_of(conn, spec.role)
    whose = f"dbshield made it for {mark.agent} in {mark.environment}" if mark else "dbshield did not make it"
    return Refused(
        f"there is a role {spec.role} on the server already, and {whose}",
        sqlstate=DUPLICATE_OBJECT,
        hint=f"If nobody needs it: drop owned by {spec.role}; drop role {spec.role}; else name another with --role.",
    )


def own_mark(conn: Connection, spec: RoleSpec) -> Mark:
    """The mark of the agent's role. Raises Refused where the role is gone or somebody else's."""
    if not exists(conn, spec.role):
        raise Refused(
            f"there is no role {spec.role} on the server",
            sqlstate=UNDEFINED_OBJECT,
            hint=f"Remove the agent {spec.agent} and create it again.",
        )
    mark = mark_of(conn, spec.role)
    if mark is None or mark.id != str(spec.agent_id):
        raise Refused(
            f"dbshield did not make the role {spec.role} for {spec.agent}, so it leaves it alone",
            hint="Whoever made it gives it its password and rights.",
        )
    return mark


def _make(conn: Connection, spec: RoleSpec) -> None:
    """The bare role: nobody can log in as it, and it is an agent from its first moment."""
    role = sql.Identifier(spec.role)
    inherit = spec.access is AccessLevel.MIGRATE and conn.info.server_version // 10_000 < INHERIT_SINCE
    group = conn.execute("select to_regrole(%s) is null", [AGENTS]).fetchone()
    statements = [sql.SQL("create role {} nologin").format(sql.Identifier(AGENTS))] if group and group[0] else []
    words = " ".join(f"no{word}" for word in ATTRIBUTES)
    statements.append(
        sql.SQL("create role {} nologin {} {} connection limit 0").format(
            role, sql.SQL(words), sql.SQL("inherit" if inherit else "noinherit")
        )
    )
    how = " with inherit false, set false" if conn.info.server_version // 10_000 >= INHERIT_SINCE else ""
    statements.append(sql.SQL("grant {} to {}{}").format(sql.Identifier(AGENTS), role, sql.SQL(how)))
    statements.append(sql.SQL("comment on role {} is {}").format(role, str(spec.mark)))
    for statement in statements:
        why = allowed(conn, statement)
        if why is not None:
            raise Refused(
                f"{conn.info.user} may not make a role for an agent: {why}",
                sqlstate=INVALID_AUTHORIZATION,
                hint=f"Connect as a superuser, or as a role with CREATEROLE and ADMIN on {AGENTS}.",
            )


def _demote(conn: Connection, role: str) -> None:
    """Takes away the attributes that somebody gave the role since, and the settings that it gave itself."""
    columns = ["rolsuper", *(f"rol{word}" for word in ATTRIBUTES[1:])]
    row = conn.execute(
        sql.SQL("select {} from pg_roles where rolname = %s").format(sql.SQL(", ").join(map(sql.Identifier, columns))), [role]
    ).fetchone()
    for word, has in zip(ATTRIBUTES, row or (), strict=False):
        if has:
            conn.execute(sql.SQL("alter role {} {}").format(sql.Identifier(role), sql.SQL(f"no{word}")))
    # The doctor advises an end for passwords that people keep; this one is new, and ends with the next rotation.
    dated = conn.execute("select from pg_roles where rolname = %s and rolvaliduntil is not null", [role]).fetchone()
    if dated is not None:
        conn.execute(sql.SQL("alter role {} valid until 'infinity'").format(sql.Identifier(role)))
    conn.execute(sql.SQL("alter role {} reset all").format(sql.Identifier(role)))


def _complete(connections: Sequence[Connection], places: Sequence[Place], spec: RoleSpec, password: str) -> Made:
    """Everything that makes the bare role an agent's, inside the transactions of the caller."""
    first = connections[0]
    stands = all(place.installed and not place.problems for place in places)
    grantee = Grantee(role=spec.role, access=spec.access, guarded=stands)
    left: list[Open] = []
    closed: list[str] = []
    for conn, place in zip(connections, places, strict=True):
        left += give(conn, place, grantee)
        if spec.access is AccessLevel.MIGRATE and stands:
            left += share_what_it_makes(conn, place, grantee)
        shut, kept = close_execute(conn, place)
        closed += shut
        left += [*kept, *beyond(conn, grantee), *_row_limit(conn, place, spec)]
    if spec.access is AccessLevel.MIGRATE:
        left += join_owners(first, spec.role, places, stands=stands)
    left += _settings(first, spec)
    role = sql.Identifier(spec.role)
    verifier = first.pgconn.encrypt_password(password.encode(), spec.role.encode(), b"scram-sha-256").decode()
    first.execute(sql.SQL("comment on role {} is {}").format(role, str(spec.mark)))
    first.execute(
        sql.SQL("alter role {} login connection limit {} password {}").format(
            role, sql.Literal(spec.limits.connections), sql.Literal(verifier)
        )
    )
    return Made(role=spec.role, open=tuple(dict.fromkeys(left)), closed=tuple(closed))


def _settings(conn: Connection, spec: RoleSpec) -> Iterator[Open]:
    """What a session of the role begins with. The role may change most of it again; neither proxy nor guard rests on it."""
    limits = spec.limits
    pinned = {
        "statement_timeout": _milliseconds(limits.statement),
        "lock_timeout": _milliseconds(limits.lock),
        "idle_in_transaction_session_timeout": _milliseconds(limits.idle_in_transaction),
        "standard_conforming_strings": "on",
        "row_security": "on",
        # No defence, as a role can take it back; it makes a mistake fail early and by a clear name.
        "default_transaction_read_only": "on" if spec.access is AccessLevel.READ else "off",
        # This one only a superuser can change, in either direction.
        "temp_file_limit": f"{limits.temp_file_mb}MB",
    }
    role = sql.Identifier(spec.role)
    path = sql.SQL(", ").join(map(sql.Identifier, search_path(conn, spec.schemas)))
    conn.execute(sql.SQL("alter role {} set search_path to {}").format(role, path))
    for name, value in pinned.items():
        statement = sql.SQL("alter role {} set {} to {}").format(role, sql.Identifier(name), sql.Literal(value))
        why = allowed(conn, statement)
        if why is not None:
            yield Open(what=f"the setting {name} = {value}", why=why, leaves="the role has the server's own value")


def _milliseconds(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _row_limit(conn: Connection, place: Place, spec: RoleSpec) -> Iterator[Open]:
    """How many rows the guard lets the role change in one transaction."""
    if not place.installed:
        if spec.access is not AccessLevel.READ:
            yield Open(
                what=f"the row limit in {place.database}",
                why="the guard is not installed there",
                leaves="around the proxy the role may change any number of rows; run `dbshield guard install`, then "
                "`dbshield agent rotate`",
            )
        return
    allowed_rows = 0 if spec.access is AccessLevel.READ else spec.limits.max_rows
    try:
        set_limit(conn, spec.role, None if allowed_rows == DEFAULT_LIMIT else allowed_rows)
    except psycopg.errors.InsufficientPrivilege as error:
        yield Open(
            what=f"the row limit of {allowed_rows} in {place.database}",
            why=error.diag.message_primary or str(error),
            leaves=f"the guard lets the role change {DEFAULT_LIMIT} rows in a transaction",
        )


def _unmake(connections: Sequence[Connection], spec: RoleSpec) -> None:
    """Takes back the role that was committed before the rest failed. Nobody could ever log in as it, so it owns nothing."""
    role = sql.Identifier(spec.role)
    first = connections[0]
    mark = mark_of(first, spec.role)
    if mark is None or mark.id != str(spec.agent_id):
        return
    for conn in reversed(connections):
        with conn.transaction():
            conn.execute(sql.SQL("drop owned by {}").format(role))
            if conn is first:
                conn.execute(sql.SQL("drop role {}").format(role))
